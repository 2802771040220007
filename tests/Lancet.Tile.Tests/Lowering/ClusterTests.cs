using Lancet.Tile.Cpu;
using Lancet.Tile.IR;
using Lancet.Tile.Lowering;
using Lancet.Tile.Lowering.Threads;
using Lancet.Tile.Ptx;
using static Lancet.Tile.TileMath;

namespace Lancet.Tile.Tests.Lowering;

/// <summary>Programs of a cluster that gather each other's numbers.</summary>
public class ClusterTests
{
    private const int Width = 64;

    // y[row] = x[row] − the row's largest over their sum of powers; a row is the cluster's, and each program has Width columns of it.
    private static Kernel Rows(int cluster, DType dtype) => Kernel.Trace("rows", k =>
    {
        k.Cluster = cluster;
        Pointer x = k.Pointer(dtype, "x"), y = k.Pointer(dtype, "y"), places = k.Pointer(DType.Int32, "places");
        var program = k.ProgramId(1) * k.ProgramCount(0) + k.ProgramId(0);
        var column = program * Width + k.Range(Width);
        var value = k.Load(x + column);
        var largest = ReduceMax(value);
        var gathered = k.Gather([largest, program]);
        var ofRow = ReduceMax(gathered[0]);
        // A second meeting, of what the first one gave.
        var sum = Sum(k.Gather([Sum(Exp2(value - ofRow))])[0]);
        k.Store(y + column, (value - ofRow) / sum);
        k.Store(places + (program * cluster + k.Range(cluster)), gathered[1]);
    });

    private static double[] Expected(ReadOnlySpan<double> x, int columns)
    {
        var y = new double[x.Length];
        for (var first = 0; first < x.Length; first += columns)
        {
            var row = x.Slice(first, columns).ToArray();
            var (largest, sum) = (row.Max(), row.Sum(value => Math.Pow(2, value - row.Max())));
            for (var i = 0; i < columns; i++) y[first + i] = (row[i] - largest) / sum;
        }
        return y;
    }

    [Theory]
    [InlineData(2, false)]
    [InlineData(4, false)]
    [InlineData(8, false)]
    [InlineData(8, true)]
    public void The_processor_gathers(int cluster, bool debug)
    {
        var (grid, random) = (new Grid(2 * cluster, 3), new Random(1));
        double[] values = [.. Enumerable.Range(0, (int)grid.Count * Width).Select(_ => random.NextDouble() * 20)];
        using var x = new HostArray<double>(values, DType.Float64);
        using var y = new HostArray<double>(values.Length, DType.Float64);
        using var places = new HostArray<int>((int)grid.Count * cluster, DType.Int32);
        CpuExecutor.Launch(Rows(cluster, DType.Float64), grid, [x.Argument, y.Argument, places.Argument], debug: debug);
        var expected = Expected(values, cluster * Width);
        for (var i = 0; i < expected.Length; i++) Assert.Equal(expected[i], y.Span[i], 1e-13);
        Assert.Equal(Enumerable.Range(0, (int)grid.Count).SelectMany(program => Enumerable.Range(program / cluster * cluster, cluster)), places.Span.ToArray());
    }

    [Theory]
    [InlineData(2)]
    [InlineData(4)]
    [InlineData(8)]
    public void So_do_lowered_programs(int cluster)
    {
        var (grid, random) = (new Grid(2 * cluster, 2), new Random(2));
        float[] values = [.. Enumerable.Range(0, (int)grid.Count * Width).Select(_ => random.NextSingle() * 20)];
        using var x = new HostArray<float>(values, DType.Float32);
        using var y = new HostArray<float>(values.Length, DType.Float32);
        using var places = new HostArray<int>((int)grid.Count * cluster, DType.Int32);
        var report = LoweringCheck.Run(Rows(cluster, DType.Float32), grid, [x.Argument, y.Argument, places.Argument], PtxTarget.Sm90);
        var expected = Expected([.. values.Select(value => (double)value)], cluster * Width);
        for (var i = 0; i < expected.Length; i++) Assert.Equal(expected[i], y.Span[i], 1e-5);
        Assert.Equal(Enumerable.Range(0, (int)grid.Count).SelectMany(program => Enumerable.Range(program / cluster * cluster, cluster)), places.Span.ToArray());
        // At the start and for each gather, by all warps.
        Assert.Equal(3 * grid.Count * 4, report.Counts[ThreadOpcode.ClusterArrive]);
        Assert.Equal(0, report.BankConflicts);
    }

    [Theory]
    [InlineData(DType.Int32)]
    [InlineData(DType.Int64)]
    [InlineData(DType.Float64)]
    public void Numbers_of_32_and_64_bits(DType dtype)
    {
        const int cluster = 4;
        var kernel = Kernel.Trace("numbers", k =>
        {
            k.Cluster = cluster;
            Pointer x = k.Pointer(dtype), y = k.Pointer(dtype);
            var own = k.Load(x + k.ProgramId(0));
            var gathered = k.Gather([k.ProgramId(0), own, k.ProgramId(0).To(DType.Int64)]);
            k.Store(y + (k.ProgramId(0) * cluster + k.Range(cluster)), gathered[1] + gathered[2].To(dtype) - gathered[0].To(dtype));
        });
        using HostArray<long> x = new([.. Enumerable.Range(1, 8).Select(i => 0x0123456789ABCDEF * i)], dtype), y = new(64, dtype);
        LoweringCheck.Run(kernel, new Grid(8), [x.Argument, y.Argument], PtxTarget.Sm90);
        if (dtype == DType.Int64) Assert.Equal(Enumerable.Range(0, 32).Select(i => x.Span[(i / 16 * 4) + (i % 4)]), y.Span[..32].ToArray());
    }

    [Fact]
    public void Ptx_names_the_cluster_and_the_share_of_registers()
    {
        var kernel = Kernel.Trace("named", k =>
        {
            (k.Warps, k.Cluster, k.ProgramsPerMultiprocessor) = (8, 2, 2);
            var y = k.Pointer(DType.Float32);
            k.Store(y + k.ProgramId(0), Sum(k.Gather([k.Load(y + k.ProgramId(0))])[0]));
        });
        var ptx = PtxCompiler.Compile(kernel, PtxTarget.Sm90).Text;
        PtxChecker.Check(ptx);
        Assert.Contains(".maxntid 256, 1, 1\n.minnctapersm 2\n.explicitcluster\n.reqnctapercluster 2, 1, 1\n{", ptx, StringComparison.Ordinal);
        Assert.Contains("st.shared::cluster.b32", ptx, StringComparison.Ordinal);
        Assert.Contains("sm_90", Assert.Throws<TileException>(() => PtxChecker.Check(ptx.Replace("sm_90", "sm_80", StringComparison.Ordinal))).Message, StringComparison.Ordinal);
        Assert.Contains("sm_80 has no clusters", Assert.Throws<TileException>(() => PtxCompiler.Compile(kernel, PtxTarget.Sm80)).Message, StringComparison.Ordinal);
        Assert.StartsWith("kernel named(pointer0: *f32 %0) warps 8 cluster 2\n", kernel.ToString(), StringComparison.Ordinal);
    }

    [Fact]
    public void A_gather_that_nothing_uses_goes()
    {
        var kernel = Kernel.Trace("unused", k =>
        {
            k.Cluster = 2;
            k.Gather([k.ProgramId(0)]);
            k.Store(k.Pointer(DType.Int32) + k.ProgramId(0), k.ProgramId(0));
        });
        Assert.DoesNotContain("barrier.cluster", PtxCompiler.Compile(kernel, PtxTarget.Sm90).Text, StringComparison.Ordinal);
        Assert.Contains("sm_80 has no clusters", Assert.Throws<TileException>(() => PtxCompiler.Compile(kernel, PtxTarget.Sm80)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Misuse_is_named()
    {
        static string Fails(Action<KernelBuilder> body) => Assert.Throws<TileException>(() => Kernel.Trace("wrong", body)).Message;
        Assert.Contains("programs are alone", Fails(k => k.Gather([k.ProgramId(0)])), StringComparison.Ordinal);
        Assert.Contains("a scalar of 32 or 64 bits is needed", Fails(k => { k.Cluster = 2; k.Gather([k.Range(4)]); }), StringComparison.Ordinal);
        Assert.Contains("a scalar of 32 or 64 bits is needed", Fails(k => { k.Cluster = 2; k.Gather([k.Constant(DType.BFloat16, 1.0)]); }), StringComparison.Ordinal);
        Assert.Contains("outside of loops and branches", Fails(k => { k.Cluster = 2; k.If(k.ProgramId(0) > 3, () => k.Gather([k.ProgramId(0)])); }), StringComparison.Ordinal);
        Assert.Contains("a cluster of 16 programs", Fails(k => k.Cluster = 16), StringComparison.Ordinal);
        Assert.Contains("0 programs a multiprocessor", Fails(k => k.ProgramsPerMultiprocessor = 0), StringComparison.Ordinal);
        using var y = new HostArray<int>(8, DType.Int32);
        var kernel = Kernel.Trace("uneven", k => { k.Cluster = 4; k.Store(k.Pointer(DType.Int32) + k.ProgramId(0), k.ProgramId(0)); });
        Assert.Contains("a grid of 6 programs along x cannot be parted into clusters of 4", Assert.Throws<TileException>(() => CpuExecutor.Launch(kernel, new Grid(6), [y.Argument])).Message, StringComparison.Ordinal);
    }

    // Program i of two stores 5 in the other's first word, which reads it; what is left out is undefined.
    private static ThreadLab Exchange(bool meetsBefore = true, bool meetsAfter = true, bool readsEarly = false)
    {
        var lab = new ThreadLab(2, 8) { Cluster = 2, Target = PtxTarget.Sm90 };
        void Meet(int line)
        {
            lab.Do(ThreadOpcode.ClusterArrive, line: line);
            lab.Do(ThreadOpcode.ClusterWait, line: line);
        }
        if (readsEarly)
        {
            lab.Guard = lab.Emit(ThreadOpcode.Compare, ThreadType.U32, [lab.ThreadId(), Source.Constant(0)]);
            lab.Store(ThreadOpcode.StoreShared, ThreadType.B32, Source.Constant(0), Source.Constant(1), line: 5);
            lab.Guard = default;
        }
        if (meetsBefore) Meet(10);
        if (readsEarly) lab.Load(ThreadOpcode.LoadShared, ThreadType.B32, Source.Constant(0), line: 15);
        var id = lab.ThreadId();
        var program = lab.Emit(ThreadOpcode.ReadSpecial, ThreadType.U32, [], (long)SpecialRegister.ProgramX);
        // Where they read too early, program 0 alone stores, which comes second.
        lab.Guard = lab.Emit(ThreadOpcode.Compare, ThreadType.U32, [readsEarly ? lab.Emit(ThreadOpcode.Or, ThreadType.B32, [id, program]) : id, Source.Constant(0)]);
        lab.Do(ThreadOpcode.StoreCluster, ThreadType.B32, [], [Source.Constant(0), lab.Emit(ThreadOpcode.Subtract, ThreadType.U32, [Source.Constant(1), program]), Source.Constant(5)], line: 20);
        lab.Guard = default;
        if (meetsAfter) Meet(30);
        lab.Load(ThreadOpcode.LoadShared, ThreadType.B32, Source.Constant(0), line: 40);
        return lab;
    }

    private static string Failure(ThreadLab lab) => Assert.Throws<TileException>(() => lab.Run(new Grid(2))).Message;

    [Fact]
    public void The_simulator_knows_when_numbers_arrive()
    {
        Assert.Equal(4, Exchange().Run(new Grid(2)).Counts[ThreadOpcode.StoreCluster]);
        Assert.Contains("programs that may not have started", Failure(Exchange(meetsBefore: false)), StringComparison.Ordinal);
        Assert.Contains("Lab.cs:40", Failure(Exchange(meetsAfter: false)), StringComparison.Ordinal);
        var early = Failure(Exchange(readsEarly: true));
        Assert.Contains("overwrites what is read or written here before the cluster has met", early, StringComparison.Ordinal);
        Assert.Contains("Lab.cs:15", early, StringComparison.Ordinal);
    }

    [Fact]
    public void The_simulator_wants_every_meeting_whole()
    {
        static ThreadLab Lab(params ThreadOpcode[] opcodes)
        {
            var lab = new ThreadLab(2, 8) { Cluster = 2, Target = PtxTarget.Sm90 };
            foreach (var opcode in opcodes) lab.Do(opcode);
            return lab;
        }
        Assert.Contains("without having arrived", Failure(Lab(ThreadOpcode.ClusterWait)), StringComparison.Ordinal);
        Assert.Contains("a second time", Failure(Lab(ThreadOpcode.ClusterArrive, ThreadOpcode.ClusterArrive, ThreadOpcode.ClusterWait)), StringComparison.Ordinal);
        Assert.Contains("has not waited", Failure(Lab(ThreadOpcode.ClusterArrive)), StringComparison.Ordinal);

        // One program goes without the other.
        var lab = Lab();
        var program = lab.Emit(ThreadOpcode.ReadSpecial, ThreadType.U32, [], (long)SpecialRegister.ProgramX);
        lab.Branch(lab.Emit(ThreadOpcode.Compare, ThreadType.U32, [program, Source.Constant(0)]), () =>
        {
            lab.Do(ThreadOpcode.ClusterArrive);
            lab.Do(ThreadOpcode.ClusterWait);
        });
        Assert.Contains("the others wait for them", Failure(lab), StringComparison.Ordinal);
    }

    [Fact]
    public void There_is_no_program_outside_the_cluster()
    {
        var lab = new ThreadLab(1, 8) { Cluster = 2, Target = PtxTarget.Sm90 };
        lab.Do(ThreadOpcode.ClusterArrive);
        lab.Do(ThreadOpcode.ClusterWait);
        lab.Do(ThreadOpcode.StoreCluster, ThreadType.B32, [], [Source.Constant(0), Source.Constant(2), Source.Constant(5)]);
        Assert.Contains("no program 2 in a cluster of 2", Failure(lab), StringComparison.Ordinal);
    }
}
