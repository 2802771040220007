using Lancet.Devices;
using Lancet.Devices.Cpu;
using Lancet.Models;
using Lancet.Tensors;
using Lancet.Tests.Training;
using Lancet.Tile;
using Lancet.Tile.Lowering;
using Lancet.Tile.Lowering.Threads;
using Lancet.Tile.Ptx;
using Lancet.Training;

namespace Lancet.Tests.Lowering;

/// <summary>Every kernel that training launches can be lowered for a GPU, within its shared memory, whatever is known of its arguments.</summary>
public class LoweringTests
{
    [Theory]
    [InlineData("llama", DType.BFloat16, false, false)]
    [InlineData("gemma2", DType.BFloat16, true, false)]
    [InlineData("qwen2", DType.Float32, true, true)]
    [InlineData("qwen3", DType.Float16, false, true)]
    public void Kernels_of_a_step_can_be_lowered(string name, DType dtype, bool isFullyTrained, bool hasEightBitState)
    {
        var fixture = new Fixture(name);
        using var device = new RecordingDevice();
        using var model = LanguageModel.Load(fixture.Model, new LoadOptions { Device = device, DType = dtype, IsFullyTrained = isFullyTrained, QuantizesToNf4 = !isFullyTrained });
        if (!isFullyTrained) model.LoadAdapter(fixture.Adapter, dropout: 0.1);
        using var engine = new TrainingEngine(model, new EngineOptions { MaxTokens = fixture.MaxBatchTokens, MaxSequenceLength = fixture.MaxBatchTokens, HasEightBitState = hasEightBitState });
        var batch = fixture.Batch([0, 1]);
        engine.BeginStep(1, batch.LabelTokenCount);
        engine.Accumulate(batch);
        engine.EndStep(0.001);
        Assert.NotEmpty(device.Kernels);
        foreach (var kernel in device.Kernels)
        {
            if (kernel.Parameters.Any(p => p.Value.Type.Element == DType.Float64) && kernel.Name != "sum" && kernel.Name != "nf4_mean") continue;
            foreach (var divisible in (ulong[])[0, ulong.MaxValue])
            {
                var program = KernelLowering.Lower(kernel, PtxTarget.Sm80, divisible);
                Assert.True(Count(program.Body) > 0);
            }
        }
    }

    private static int Count(List<ThreadNode> nodes) => nodes.Sum(node => node switch { ThreadLoop loop => Count(loop.Header) + Count(loop.Body), ThreadBranch branch => Count(branch.Body), _ => 1 });

    private sealed class RecordingDevice : Device
    {
        private readonly CpuDevice _cpu = new();

        public HashSet<Kernel> Kernels { get; } = [];

        public override string Name => _cpu.Name;

        public override long AllocatedBytes => _cpu.AllocatedBytes;

        public override long PeakAllocatedBytes => _cpu.PeakAllocatedBytes;

        public override long AvailableBytes => _cpu.AvailableBytes;

        public override DeviceBuffer Allocate(long bytes, string purpose) => _cpu.Allocate(bytes, purpose);

        public override void Launch(Kernel kernel, Grid grid, ReadOnlySpan<KernelArgument> arguments)
        {
            Kernels.Add(kernel);
            _cpu.Launch(kernel, grid, arguments);
        }

        public override void MatMul(in MatMul product) => _cpu.MatMul(product);

        public override void CopyFromHost(ReadOnlySpan<byte> source, Tensor destination) => _cpu.CopyFromHost(source, destination);

        public override void CopyToHost(Tensor source, Span<byte> destination) => _cpu.CopyToHost(source, destination);

        public override void Copy(Tensor source, Tensor destination) => _cpu.Copy(source, destination);

        public override void Clear(Tensor destination) => _cpu.Clear(destination);

        public override void Synchronize() => _cpu.Synchronize();
    }
}
