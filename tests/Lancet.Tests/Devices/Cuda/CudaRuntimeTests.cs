using Lancet.Devices;
using Lancet.Devices.Cpu;
using Lancet.Devices.Cuda;
using Lancet.Devices.Cuda.SelfTest;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Tests.Devices.Cuda;

/// <summary>What of the CUDA runtime can be tested without a GPU.</summary>
public sealed class CudaRuntimeTests : IDisposable
{
    private readonly string _folder = Path.Combine(Path.GetTempPath(), $"lancet-{Guid.NewGuid():N}");

    public void Dispose()
    {
        if (Directory.Exists(_folder)) Directory.Delete(_folder, true);
    }

    [Fact]
    public void Compiled_kernels_are_kept_by_ptx_driver_and_architecture()
    {
        var cache = new CubinCache(_folder, 13000, 90);
        Assert.Null(cache.Find("ptx"));
        cache.Add("ptx", new Cubin([1, 2, 3], "Used 40 registers"));
        var found = cache.Find("ptx")!;
        Assert.Equal([1, 2, 3], found.Image);
        Assert.Equal("Used 40 registers", found.Log);
        Assert.Null(cache.Find("ptx "));
        Assert.Null(new CubinCache(_folder, 12040, 90).Find("ptx"));
        Assert.Null(new CubinCache(_folder, 13000, 80).Find("ptx"));
    }

    [Fact]
    public void A_damaged_entry_is_as_good_as_absent()
    {
        var cache = new CubinCache(_folder, 13000, 90);
        cache.Add("ptx", new Cubin([1, 2, 3, 4, 5, 6, 7, 8], "a log"));
        var path = cache.PathOf("ptx");
        var bytes = File.ReadAllBytes(path);
        for (var i = 0; i < bytes.Length; i++)
        {
            var damaged = (byte[])bytes.Clone();
            damaged[i] ^= 0x40;
            File.WriteAllBytes(path, damaged);
            Assert.Null(cache.Find("ptx"));
            File.WriteAllBytes(path, bytes[..i]);
            Assert.Null(cache.Find("ptx"));
        }
        File.WriteAllBytes(path, bytes);
        Assert.NotNull(cache.Find("ptx"));
    }

    [Fact]
    public void Without_a_writable_folder_nothing_is_kept_and_nothing_fails()
    {
        Directory.CreateDirectory(_folder);
        File.WriteAllText(Path.Combine(_folder, "file"), "");
        var cache = new CubinCache(Path.Combine(_folder, "file", "cubin"), 13000, 90);
        cache.Add("ptx", new Cubin([1], ""));
        Assert.Null(cache.Find("ptx"));
    }

    [Fact]
    public void Chosen_algorithms_outlive_the_process_and_first_choices_stay()
    {
        var path = Path.Combine(_folder, "algorithms.txt");
        byte[] first = [.. Enumerable.Range(0, 64).Select(i => (byte)i)], second = new byte[64];
        AlgorithmCache one = new(path), two = new(path);
        Assert.Equal(first, one.Add("a", first));
        // Another process has chosen meanwhile; its choice wins, so both go on with the same bits.
        Assert.Equal(first, two.Add("a", second));
        two.Add("b", second);
        File.AppendAllText(path, "not a line\nc\tzz\n");
        var three = new AlgorithmCache(path);
        Assert.Equal(2, three.Count);
        Assert.Equal(first, three.Find("a"));
        Assert.Equal(second, three.Find("b"));
    }

    [Theory]
    [InlineData(7, 7)]
    [InlineData(64, 64)]
    [InlineData(65, 72)]
    [InlineData(777, 832)]
    [InlineData(4096, 4096)]
    [InlineData(14336, 14336)]
    public void Extents_that_differ_a_little_share_an_algorithm(int extent, int bucket) => Assert.Equal(bucket, AlgorithmCache.Bucket(extent));

    [Theory]
    [InlineData(13000, 90, CudaStatus.Ready, "ready")]
    [InlineData(11080, 90, CudaStatus.DriverTooOld, "CUDA 11.8, Test GPU needs 12.0 (driver 525)")]
    [InlineData(11080, 80, CudaStatus.Ready, "ready")]
    [InlineData(12040, 120, CudaStatus.DriverTooOld, "needs 12.8 (driver 570)")]
    [InlineData(11020, 86, CudaStatus.DriverTooOld, "needs 11.4 (driver 470)")]
    [InlineData(13000, 75, CudaStatus.DeviceTooOld, "compute capability 7.5; 8.0 (Ampere, 2020) or newer is needed")]
    [InlineData(13000, 0, CudaStatus.NoDevice, "shows no GPU")]
    public void The_platform_is_judged_in_words(int version, int capability, CudaStatus status, string words)
    {
        CudaDeviceInfo[] devices = capability == 0 ? [] : [new(0, "Test GPU", capability, 80L << 30, 132, 227 << 10)];
        var platform = CudaPlatform.Judge(version, devices, "libcublasLt.so.13");
        Assert.Equal(status, platform.Status);
        Assert.Contains(words, platform.Message);
        if (status == CudaStatus.Ready) Assert.Contains("cuda:0", Assert.Throws<LancetException>(() => platform.Require(1)).Message);
        else Assert.Contains("--device cuda: ", Assert.Throws<LancetException>(() => platform.Require(null)).Message);
        Assert.Contains("tile-language", CudaPlatform.Judge(13000, [new(0, "Test GPU", 90, 1, 1, 1)], null).Message);
    }

    [Theory]
    [InlineData("cpu", true, false, null)]
    [InlineData("cuda", true, true, null)]
    [InlineData("cuda:3", true, true, 3)]
    [InlineData("cuda:", false, false, null)]
    [InlineData("cuda:-1", false, false, null)]
    [InlineData("gpu", false, false, null)]
    public void Device_names_are_read(string text, bool isValid, bool isCuda, int? ordinal)
    {
        Assert.Equal(isValid, DeviceChoice.TryParse(text, out var choice));
        if (!isValid) return;
        Assert.Equal(new DeviceChoice(isCuda, ordinal), choice);
        Assert.Equal(text, choice.ToString());
        Assert.Equal(isCuda ? DType.BFloat16 : DType.Float32, choice.DefaultDType);
    }

    [Fact]
    public void Without_a_driver_the_message_says_what_to_do()
    {
        if (CudaPlatform.Current.Status != CudaStatus.NoDriver) Assert.Skip("This machine has an NVIDIA driver.");
        Assert.False(DeviceChoice.Automatic.IsCuda);
        var error = Assert.Throws<LancetException>(() => new CudaDevice());
        Assert.Contains("libcuda.so.1 was not found. Install the driver", error.Message);
        Assert.Contains("--device cpu", error.Message);
    }

    [Theory]
    [InlineData("Driver.cuMemAlloc(out address, (nuint)bytes)", "cuMemAlloc")]
    [InlineData("Interop.Driver.cuInit(0)", "cuInit")]
    [InlineData("nameof", "nameof")]
    public void A_call_is_named_from_its_source(string text, string name) => Assert.Equal(name, CudaCheck.Name(text));

    [Fact]
    public void Graphs_run_first_directly_then_recorded_then_replayed()
    {
        using var device = new FakeGraphDevice();
        using var graphs = new GraphCache(device, 2);
        void Run(int key) => graphs.Run(key, () => device.Log.Add($"work {key}"));
        foreach (var key in (int[])[1, 1, 1, 2, 2, 3, 3, 1]) Run(key);
        Assert.Equal(["work 1", "record", "work 1", "replay", "replay", "work 2", "record", "work 2", "replay", "work 3", "free", "record", "work 3", "replay", "work 1"], device.Log);
        Assert.Equal(2, graphs.Count);
    }

    [Fact]
    public void Without_graphs_work_always_runs()
    {
        using var device = new CpuDevice();
        using var graphs = new GraphCache(device, 2);
        var runs = 0;
        for (var i = 0; i < 4; i++) graphs.Run(1, () => runs++);
        Assert.Equal(4, runs);
    }

    private sealed class FakeGraphDevice : Device
    {
        public List<string> Log { get; } = [];

        public override string Name => "fake";

        public override long AllocatedBytes => 0;

        public override long PeakAllocatedBytes => 0;

        public override long AvailableBytes => 0;

        public override bool HasGraphs => true;

        public override DeviceGraph Capture(Action work)
        {
            Log.Add("record");
            work();
            return new Graph(this);
        }

        public override DeviceBuffer Allocate(long bytes, string purpose) => throw new NotSupportedException();

        public override void Launch(Kernel kernel, Grid grid, ReadOnlySpan<KernelArgument> arguments) => throw new NotSupportedException();

        public override void MatMul(in MatMul product) => throw new NotSupportedException();

        public override void CopyFromHost(ReadOnlySpan<byte> source, Tensor destination) => throw new NotSupportedException();

        public override void CopyToHost(Tensor source, Span<byte> destination) => throw new NotSupportedException();

        public override void Copy(Tensor source, Tensor destination) => throw new NotSupportedException();

        public override void Clear(Tensor destination) => throw new NotSupportedException();

        public override void Synchronize()
        {
        }

        private sealed class Graph(FakeGraphDevice device) : DeviceGraph
        {
            public override int NodeCount => 1;

            public override void Replay() => device.Log.Add("replay");

            protected override void Dispose(bool disposing) => device.Log.Add("free");
        }
    }
}
