using Lancet.Tile.Lowering;
using Lancet.Tile.Lowering.Threads;
using Lancet.Tile.Ptx;
using static Lancet.Tile.TileMath;

namespace Lancet.Tile.Tests.Lowering;

/// <summary>Products of warp groups (wgmma): lowered ones against the tile executor, and what the simulator holds against wrong ones.</summary>
public class WarpGroupTests
{
    /// <summary>A·B·C with all places of operands: A in shared memory as rows or transposed, A·B in registers, B and C as rows of either extent.</summary>
    [Theory]
    [InlineData(4, 16, 16, 16, false, false, false)]
    [InlineData(4, 64, 32, 8, false, true, true)]
    [InlineData(4, 128, 64, 128, false, true, false)]
    [InlineData(4, 32, 128, 64, true, false, true)]
    [InlineData(8, 64, 64, 256, false, true, false)]
    [InlineData(8, 256, 32, 32, true, true, true)]
    public void Chained_products_compute_what_the_executor_computes(int warps, int inner, int middle, int columns, bool isATransposed, bool isBTransposed, bool isCTransposed)
    {
        foreach (var dtype in (DType[])[DType.BFloat16, DType.Float16])
        {
            var rows = 16 * warps;
            var kernel = Kernel.Trace("chain", k =>
            {
                k.Warps = warps;
                Pointer a = k.Pointer(dtype), b = k.Pointer(dtype), c = k.Pointer(dtype), d = k.Pointer(DType.Float32);
                Tile Matrix(Pointer from, int height, int width, bool isTransposed)
                {
                    var (storedRows, storedColumns) = isTransposed ? (width, height) : (height, width);
                    var loaded = k.Load(from + ((k.Range(storedRows) * storedColumns).AsColumn() + k.Range(storedColumns).AsRow()));
                    return isTransposed ? loaded.Transposed() : loaded;
                }
                // Twice over in a loop, so that the sum is carried and added up in place.
                var sum = k.For(0, 2, 1, [k.Zeros(DType.Float32, rows, columns)], (i, carried) =>
                {
                    var first = Dot(Matrix(a + i * (rows * inner), rows, inner, isATransposed), Matrix(b, inner, middle, isBTransposed));
                    return [Dot(first.To(dtype), Matrix(c, middle, columns, isCTransposed), carried[0] * 0.5f)];
                })[0];
                k.Store(d + ((k.Range(rows) * columns).AsColumn() + k.Range(columns).AsRow()), sum);
            });
            using var a = RandomHalves.Of(2 * rows * inner, dtype, 1);
            using var b = RandomHalves.Of(inner * middle, dtype, 2);
            using var c = RandomHalves.Of(middle * columns, dtype, 3);
            using var d = new HostArray<float>(rows * columns, DType.Float32);
            var report = LoweringCheck.Run(kernel, new Grid(1), [a.Argument, b.Argument, c.Argument, d.Argument], PtxTarget.Sm90);
            Assert.Equal(2L * warps * ((inner / 16) + (middle / 16)), report.Counts[ThreadOpcode.WarpGroupMultiply]);
            Assert.DoesNotContain(ThreadOpcode.MatrixMultiply, report.Counts.Keys);
        }
    }

    /// <summary>What was computed in rows goes to products, as it is and transposed, through shared memory in pieces of 16 bytes, without a conflict of banks, and with or without warp groups.</summary>
    [Theory]
    [InlineData(false, 64, 64)]
    [InlineData(true, 64, 64)]
    [InlineData(false, 32, 64)]
    [InlineData(true, 128, 64)]
    public void Operands_computed_in_rows_reach_products_in_pieces(bool hasWarpGroups, int rows, int inner)
    {
        const int columns = 16;
        var kernel = Kernel.Trace("computed", k =>
        {
            k.Warps = 4;
            Pointer a = k.Pointer(DType.BFloat16), b = k.Pointer(DType.BFloat16), c = k.Pointer(DType.Float32), d = k.Pointer(DType.Float32);
            Tile Matrix(Pointer from, int height, int width) => k.Load(from + ((k.Range(height) * width).AsColumn() + k.Range(width).AsRow()));
            var sums = k.For(0, 3, 1, [k.Zeros(DType.Float32, rows, columns), k.Zeros(DType.Float32, inner, columns)], (i, carried) =>
            {
                var x = (Matrix(a + i * (rows * inner), rows, inner).To(DType.Float32) * 2).To(DType.BFloat16);
                return [Dot(x, Matrix(b, inner, columns), carried[0]), Dot(x.Transposed(), Matrix(b + inner * columns, rows, columns), carried[1])];
            });
            k.Store(c + ((k.Range(rows) * columns).AsColumn() + k.Range(columns).AsRow()), sums[0]);
            k.Store(d + ((k.Range(inner) * columns).AsColumn() + k.Range(columns).AsRow()), sums[1]);
        });
        using var a = RandomHalves.Of(3 * rows * inner, DType.BFloat16, 1);
        using var b = RandomHalves.Of((rows + inner) * columns, DType.BFloat16, 2);
        using HostArray<float> c = new(rows * columns, DType.Float32), d = new(inner * columns, DType.Float32);
        KernelArgument[] arguments = [a.Argument, b.Argument, c.Argument, d.Argument];
        var target = hasWarpGroups ? PtxTarget.Sm90 : PtxTarget.Sm80;
        var report = LoweringCheck.Run(kernel, new Grid(1), arguments, target);
        Assert.Equal(0, LoweringCheck.Lower(kernel, arguments, target).LayoutConversions);
        Assert.Equal(0, report.BankConflicts);
        Assert.True(hasWarpGroups == report.Counts.ContainsKey(ThreadOpcode.WarpGroupMultiply));
    }

    /// <summary>A stored transpose is read where it lies if its panels are a warp group wide, and an operand in registers goes to shared memory once for two products.</summary>
    [Theory]
    [InlineData(4)]
    [InlineData(8)]
    public void Operands_are_read_from_shared_memory_where_they_are_there_already(int warps)
    {
        var (rows, inner, columns) = (16 * warps, 64, 32);
        var kernel = Kernel.Trace("both", k =>
        {
            k.Warps = warps;
            Pointer a = k.Pointer(DType.BFloat16), b = k.Pointer(DType.BFloat16), c = k.Pointer(DType.Float32), d = k.Pointer(DType.Float32);
            Tile Matrix(Pointer from, int height, int width) => k.Load(from + ((k.Range(height) * width).AsColumn() + k.Range(width).AsRow()));
            // x [rows, columns] is made in registers; aᵀ·x reads it as B, x·(bᵀ) as A.
            var stored = Matrix(a, rows, rows);
            var x = Dot(stored, Matrix(b, rows, columns)).To(DType.BFloat16);
            var first = Dot(stored.Transposed(), x);
            var second = Dot(x, Matrix(b + rows * columns, inner, columns).Transposed());
            k.Store(c + ((k.Range(rows) * columns).AsColumn() + k.Range(columns).AsRow()), first);
            k.Store(d + ((k.Range(rows) * inner).AsColumn() + k.Range(inner).AsRow()), second);
        });
        using var a = RandomHalves.Of(rows * rows, DType.BFloat16, 1);
        using var b = RandomHalves.Of((rows + inner) * columns, DType.BFloat16, 2);
        using HostArray<float> c = new(rows * columns, DType.Float32), d = new(rows * inner, DType.Float32);
        var report = LoweringCheck.Run(kernel, new Grid(1), [a.Argument, b.Argument, c.Argument, d.Argument], PtxTarget.Sm90);
        Assert.DoesNotContain(ThreadOpcode.LoadMatrix, report.Counts.Keys);
        Assert.Contains(", 1, 1, 1, 1;", PtxCompiler.Compile(kernel, PtxTarget.Sm90).Text, StringComparison.Ordinal);
    }

    [Fact]
    public void Other_gpus_and_shapes_keep_the_products_of_warps()
    {
        var kernel = Kernel.Trace("square", k =>
        {
            k.Warps = 4;
            Pointer a = k.Pointer(DType.BFloat16), c = k.Pointer(DType.Float32);
            var address = (k.Range(32) * 32).AsColumn() + k.Range(32).AsRow();
            var x = k.Load(a + address);
            k.Store(c + address, Dot(x, x));
        });
        Assert.Contains("mma.sync.aligned.m16n8k16", PtxCompiler.Compile(kernel, PtxTarget.Sm90).Text, StringComparison.Ordinal);
        Assert.DoesNotContain("wgmma", PtxCompiler.Compile(kernel, PtxTarget.Sm90).Text, StringComparison.Ordinal);
        Assert.False(new PtxTarget(100, 1 << 17).HasWarpGroups);
        Assert.False(PtxTarget.Sm80.HasWarpGroups);
    }

    /// <summary>The descriptor's addresses are those of the tiles in shared memory, whatever the pitch, the step and the operand's direction.</summary>
    [Theory]
    [InlineData(16)]
    [InlineData(32)]
    [InlineData(64)]
    [InlineData(256)]
    public void Descriptors_and_tiles_agree_on_every_element(int columns)
    {
        const int rows = 64;
        var tile = new SharedTile(rows, columns, DType.BFloat16, Source.Constant(0));
        var addresses = LayoutTests.Addresses(tile);
        for (var step = 0; step < columns / 16; step++)
        {
            var (bits, bytes) = tile.Step(0, 16 * step);
            var alongRows = new MatrixDescriptor(tile.Pitch, 0, 8 * tile.Pitch, bits + bytes);
            for (var row = 0; row < rows; row++)
                for (var k = 0; k < 16; k++) Assert.Equal(addresses[row, (16 * step) + k], alongRows.Of(row, k, false));
        }
        for (var step = 0; step < rows / 16; step++)
        {
            var across = new MatrixDescriptor(tile.Pitch, tile.PanelBytes, 8 * tile.Pitch, tile.Step(16 * step, 0).Bytes);
            for (var column = 0; column < columns; column++)
                for (var k = 0; k < 16; k++) Assert.Equal(addresses[(16 * step) + k, column], across.Of(column, k, true));
        }
        var sample = new MatrixDescriptor(tile.Pitch, tile.PanelBytes, 8 * tile.Pitch, 2048);
        Assert.Equal(sample, MatrixDescriptor.Of((ulong)(sample.HighBits << 32 | sample.LowBits) | (2048 / MatrixDescriptor.AddressUnit)));
    }

    [Fact]
    public void A_right_program_passes() => Assert.Equal([.. Enumerable.Repeat(16f, 128 * 4)], Run(Fault.None));

    [Theory]
    [InlineData(Fault.NoProxyFence, "without a proxy fence")]
    [InlineData(Fault.NoBarrier, "written since the last barrier")]
    [InlineData(Fault.NoRegisterFence, "registers that were written after the last fence")]
    [InlineData(Fault.NoWait, "has no value")]
    [InlineData(Fault.EarlyOverwrite, "overwrites what a pending product still reads")]
    [InlineData(Fault.EarlyAssignment, "overwrites a register that a pending product uses")]
    [InlineData(Fault.NeverAwaited, "ends before this product was waited for")]
    public void What_is_wrong_is_found(object fault, string message) =>
        Assert.Contains(message, Assert.Throws<TileException>(() => Run((Fault)fault)).Message, StringComparison.Ordinal);

    internal enum Fault
    {
        None,
        NoProxyFence,
        NoBarrier,
        NoRegisterFence,
        NoWait,
        EarlyOverwrite,
        EarlyAssignment,
        NeverAwaited,
    }

    // 64 × 16 ones times 16 × 8 ones, both in shared memory from 0 and 2048 on; each thread writes a row's half, and the first ones B.
    private static float[] Run(Fault fault)
    {
        using var c = new HostArray<float>(128 * 4, DType.Float32);
        var lab = new ThreadLab(4, 4096) { Target = PtxTarget.Sm90 };
        var pc = lab.Pointer(DType.Float32);
        var id = lab.ThreadId();
        Source ones = Source.Constant(0x3F803F80);
        Source[] four = [ones, ones, ones, ones];
        var place = lab.Emit(ThreadOpcode.Multiply, ThreadType.U32, [id, Source.Constant(16)]);
        lab.Do(ThreadOpcode.StoreShared, ThreadType.B32, [], [place, .. four]);
        lab.Do(ThreadOpcode.StoreShared, ThreadType.B32, [], [place, .. four], 2048);
        if (fault != Fault.NoProxyFence) lab.Do(ThreadOpcode.ProxyFence);
        if (fault != Fault.NoBarrier) lab.Barrier();
        var fields = new MatrixDescriptor(32, 0, 8 * 32, 0);
        Source Descriptor(int address) => lab.Emit(ThreadOpcode.DescribeMatrix, ThreadType.B64, [lab.Emit(ThreadOpcode.SharedUnits, ThreadType.U32, [Source.Constant(address)])], fields.HighBits);
        Source a = Descriptor(0), b = Descriptor(2048);
        var sums = Enumerable.Range(0, 4).Select(_ => lab.Constant(ThreadType.F32, 0)).ToArray();
        if (fault != Fault.NoRegisterFence) lab.Do(ThreadOpcode.WarpGroupFence);
        lab.Do(ThreadOpcode.WarpGroupMultiply, ThreadType.BF16, sums, [a, b], 1, width: 8);
        lab.Do(ThreadOpcode.CommitProducts);
        if (fault == Fault.EarlyOverwrite) lab.Do(ThreadOpcode.StoreShared, ThreadType.B32, [], [place, .. four]);
        if (fault == Fault.EarlyAssignment) lab.Do(ThreadOpcode.Move, ThreadType.F32, [sums[0]], [Source.Constant(0)]);
        if (fault is not (Fault.NoWait or Fault.NeverAwaited)) lab.Do(ThreadOpcode.WaitProducts);
        if (fault != Fault.NeverAwaited)
            for (var i = 0; i < 4; i++) lab.Store(ThreadOpcode.StoreGlobal, ThreadType.B32, lab.Address(pc, id, 16), sums[i], 4 * i);
        lab.Run(c.Argument);
        return c.Span.ToArray();
    }
}
