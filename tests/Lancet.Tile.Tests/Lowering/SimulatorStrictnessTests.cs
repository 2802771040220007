using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Tests.Lowering;

/// <summary>What is undefined on a GPU must fail here, with a message that names the instructions.</summary>
public class SimulatorStrictnessTests
{
    /// <summary>64 threads exchange numbers through shared memory: thread i writes word i and reads word 63 − i.</summary>
    private static ThreadLab Exchange(bool hasBarrier)
    {
        var lab = new ThreadLab(2, 256);
        var pointer = lab.Pointer(DType.Int32);
        var id = lab.ThreadId();
        lab.Store(ThreadOpcode.StoreShared, ThreadType.B32, lab.Emit(ThreadOpcode.ShiftLeft, ThreadType.B32, [id, Source.Constant(2)]), id, line: 10);
        if (hasBarrier) lab.Barrier();
        var mirrored = lab.Emit(ThreadOpcode.ShiftLeft, ThreadType.B32, [lab.Emit(ThreadOpcode.Subtract, ThreadType.S32, [Source.Constant(63), id]), Source.Constant(2)]);
        lab.Store(ThreadOpcode.StoreGlobal, ThreadType.B32, lab.Address(pointer, id, 4), lab.Load(ThreadOpcode.LoadShared, ThreadType.B32, mirrored, line: 20));
        return lab;
    }

    [Fact]
    public void A_barrier_makes_shared_writes_visible()
    {
        using var result = new HostArray<int>(64, DType.Int32);
        var report = Exchange(true).Run(result.Argument);
        Assert.Equal(Enumerable.Range(0, 64).Select(i => 63 - i), result.Span.ToArray());
        Assert.Equal(1, report.Barriers);
        Assert.Equal(2, report.Counts[ThreadOpcode.LoadShared]);
    }

    [Fact]
    public void A_missing_barrier()
    {
        using var result = new HostArray<int>(64, DType.Int32);
        var message = Exchange(false).Failure(result.Argument);
        Assert.Contains("LoadShared.B32 at Lab.cs:20", message, StringComparison.Ordinal);
        Assert.Contains("never written", message, StringComparison.Ordinal);

        // With old contents there: found as a race, whichever warp runs first.
        var lab = new ThreadLab(2, 4);
        var id = lab.ThreadId();
        var isFirst = lab.Emit(ThreadOpcode.Compare, ThreadType.U32, [id, Source.Constant(0)]);
        var isLast = lab.Emit(ThreadOpcode.Compare, ThreadType.U32, [id, Source.Constant(63)]);
        lab.Guard = isFirst;
        lab.Store(ThreadOpcode.StoreShared, ThreadType.B32, Source.Constant(0), id);
        lab.Guard = default;
        lab.Barrier();
        lab.Guard = isFirst;
        lab.Store(ThreadOpcode.StoreShared, ThreadType.B32, Source.Constant(0), id, line: 10);
        lab.Guard = isLast;
        lab.Load(ThreadOpcode.LoadShared, ThreadType.B32, Source.Constant(0), line: 20);
        message = lab.Failure();
        Assert.Contains("Lab.cs:10", message, StringComparison.Ordinal);
        Assert.Contains("Lab.cs:20", message, StringComparison.Ordinal);
        Assert.Contains("barrier is missing", message, StringComparison.Ordinal);
    }

    [Fact]
    public void Two_warps_writing_one_word()
    {
        var lab = new ThreadLab(2, 4);
        lab.Store(ThreadOpcode.StoreShared, ThreadType.B32, Source.Constant(0), Source.Constant(1));
        Assert.Contains("races with a write by another warp", lab.Failure(), StringComparison.Ordinal);
    }

    [Fact]
    public void Two_lanes_writing_different_values_at_once()
    {
        var lab = new ThreadLab(1, 4);
        lab.Store(ThreadOpcode.StoreShared, ThreadType.B32, Source.Constant(0), lab.ThreadId());
        Assert.Contains("from several lanes", lab.Failure(), StringComparison.Ordinal);
    }

    [Fact]
    public void Global_memory_races_unless_the_values_are_equal()
    {
        using var memory = new HostArray<int>(64, DType.Int32);
        var equal = new ThreadLab(2);
        equal.Store(ThreadOpcode.StoreGlobal, ThreadType.B32, equal.Pointer(DType.Int32), Source.Constant(5));
        equal.Run(memory.Argument);
        Assert.Equal(5, memory.Span[0]);
        var different = new ThreadLab(2);
        var pointer = different.Pointer(DType.Int32);
        different.Store(ThreadOpcode.StoreGlobal, ThreadType.B32, pointer, different.Emit(ThreadOpcode.ShiftRight, ThreadType.U32, [different.ThreadId(), Source.Constant(5)]));
        Assert.Contains("races", different.Failure(memory.Argument), StringComparison.Ordinal);

        // Reading its own element and another warp's.
        var shifted = new ThreadLab(2);
        pointer = shifted.Pointer(DType.Int32);
        var id = shifted.ThreadId();
        shifted.Store(ThreadOpcode.StoreGlobal, ThreadType.B32, shifted.Address(pointer, id, 4), shifted.Load(ThreadOpcode.LoadGlobal, ThreadType.B32, shifted.Address(pointer, shifted.Emit(ThreadOpcode.Xor, ThreadType.B32, [id, Source.Constant(32)]), 4)));
        Assert.Contains("another warp", shifted.Failure(memory.Argument), StringComparison.Ordinal);
    }

    [Fact]
    public void Read_only_memory_is_not_written()
    {
        using var memory = new HostArray<int>(32, DType.Int32);
        var lab = new ThreadLab();
        var address = lab.Address(lab.Pointer(DType.Int32), lab.ThreadId(), 4);
        lab.Store(ThreadOpcode.StoreGlobal, ThreadType.B32, address, lab.Load(ThreadOpcode.LoadGlobal, ThreadType.B32, address, readOnly: true));
        Assert.Contains("read-only", lab.Failure(memory.Argument), StringComparison.Ordinal);
    }

    [Fact]
    public void Accesses_out_of_bounds_and_misaligned()
    {
        using var memory = new HostArray<int>(31, DType.Int32);
        var lab = new ThreadLab(name: "stray");
        lab.Load(ThreadOpcode.LoadGlobal, ThreadType.B32, lab.Address(lab.Pointer(DType.Int32), lab.ThreadId(), 4), line: 42);
        var message = lab.Failure(memory.Argument);
        Assert.Contains("kernel stray, program (0, 0, 0), warp 0, lane 31, LoadGlobal.B32 at Lab.cs:42", message, StringComparison.Ordinal);
        Assert.Contains("p0 + 124 bytes of 124", message, StringComparison.Ordinal);

        var vector = new ThreadLab();
        Register[] pair = [vector.New(ThreadType.B32), vector.New(ThreadType.B32)];
        vector.Do(ThreadOpcode.LoadGlobal, ThreadType.B32, pair, [vector.Pointer(DType.Int32)], 4);
        Assert.Contains("aligned to 8", vector.Failure(memory.Argument), StringComparison.Ordinal);

        var shared = new ThreadLab(1, 8);
        shared.Store(ThreadOpcode.StoreShared, ThreadType.B32, Source.Constant(4), Source.Constant(1), 4);
        Assert.Contains("outside the 8 bytes", shared.Failure(), StringComparison.Ordinal);
        var odd = new ThreadLab(1, 8);
        odd.Store(ThreadOpcode.StoreShared, ThreadType.B32, Source.Constant(2), Source.Constant(1));
        Assert.Contains("aligned to 4", odd.Failure(), StringComparison.Ordinal);
    }

    [Fact]
    public void A_branch_that_threads_disagree_on()
    {
        var lab = new ThreadLab();
        lab.Branch(lab.Emit(ThreadOpcode.Compare, ThreadType.U32, [lab.ThreadId(), Source.Constant(7)], comparison: Comparison.Less), () => lab.Barrier());
        Assert.Contains("differs between threads", lab.Failure(), StringComparison.Ordinal);

        var warps = new ThreadLab(2);
        warps.Branch(warps.Emit(ThreadOpcode.Compare, ThreadType.U32, [warps.ThreadId(), Source.Constant(32)], comparison: Comparison.Less), () => warps.Constant(ThreadType.B32, 1));
        Assert.Contains("differs between warps", warps.Failure(), StringComparison.Ordinal);
    }

    [Fact]
    public void Registers_without_a_value()
    {
        var lab = new ThreadLab();
        lab.Guard = lab.Emit(ThreadOpcode.Compare, ThreadType.U32, [lab.ThreadId(), Source.Constant(3)], comparison: Comparison.NotEqual);
        var value = lab.Constant(ThreadType.B32, 1);
        lab.Guard = default;
        lab.Emit(ThreadOpcode.Add, ThreadType.S32, [value, value], line: 9);
        var message = lab.Failure();
        Assert.Contains("lane 3, Add.S32 at Lab.cs:9: source 0 has no value", message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_loop_that_does_not_end()
    {
        var lab = new ThreadLab();
        lab.Loop(() => lab.Emit(ThreadOpcode.Move, ThreadType.Predicate, [Source.Constant(1)]), () => { });
        Assert.Contains("still running", lab.Failure(), StringComparison.Ordinal);
    }

    [Fact]
    public void A_loop_sums()
    {
        using var result = new HostArray<int>(1, DType.Int32);
        var lab = new ThreadLab(2);
        var pointer = lab.Pointer(DType.Int32);
        var count = lab.Parameter(DType.Int32, false);
        var (sum, i) = (lab.Constant(ThreadType.S32, 0), lab.Constant(ThreadType.S32, 0));
        lab.Loop(() => lab.Emit(ThreadOpcode.Compare, ThreadType.S32, [i, count], comparison: Comparison.Less), () =>
        {
            lab.Do(ThreadOpcode.Add, ThreadType.S32, [sum], [sum, i]);
            lab.Do(ThreadOpcode.Add, ThreadType.S32, [i], [i, Source.Constant(1)]);
        });
        lab.Store(ThreadOpcode.StoreGlobal, ThreadType.B32, pointer, sum);
        lab.Run(result.Argument, 10);
        Assert.Equal(45, result.Span[0]);
    }

    /// <summary>Each thread copies its word in each of <paramref name="groups"/> groups; waits for all but some; then reads a word of one group.</summary>
    private static ThreadLab Copies(int groups, int? allowed, int readGroup, bool readsOwn, bool hasBarrier, int count = 4)
    {
        var lab = new ThreadLab(1, groups * 128);
        var (source, target, id) = (lab.Pointer(DType.Int32), lab.Pointer(DType.Int32), lab.ThreadId());
        var place = lab.Emit(ThreadOpcode.ShiftLeft, ThreadType.B32, [id, Source.Constant(2)]);
        for (var group = 0; group < groups; group++)
        {
            lab.Do(ThreadOpcode.CopyAsync, ThreadType.B32, [], [place, lab.Emit(ThreadOpcode.Add, ThreadType.U64, [lab.Address(source, id, 4), Source.Constant(group * 128)]), Source.Constant(count)], group * 128, width: 4, line: 100 + group);
            lab.Do(ThreadOpcode.CommitCopies);
        }
        if (allowed is { } pending) lab.Do(ThreadOpcode.WaitCopies, pending);
        if (hasBarrier) lab.Barrier();
        var read = readsOwn ? place : lab.Emit(ThreadOpcode.Xor, ThreadType.B32, [place, Source.Constant(4)]);
        lab.Store(ThreadOpcode.StoreGlobal, ThreadType.B32, lab.Address(target, id, 4), lab.Load(ThreadOpcode.LoadShared, ThreadType.B32, read, readGroup * 128, line: 200));
        if (allowed != 0) lab.Do(ThreadOpcode.WaitCopies, 0);
        return lab;
    }

    [Theory]
    [InlineData(3, 0, 2, true, false)]
    [InlineData(3, 0, 2, false, true)]
    [InlineData(3, 1, 1, true, false)]
    [InlineData(3, 2, 0, false, true)]
    public void Copies_that_are_waited_for_arrive(int groups, int allowed, int readGroup, bool readsOwn, bool hasBarrier)
    {
        using var source = new HostArray<int>([.. Enumerable.Range(0, groups * 32)], DType.Int32);
        using var target = new HostArray<int>(32, DType.Int32);
        Copies(groups, allowed, readGroup, readsOwn, hasBarrier).Run(source.Argument, target.Argument);
        Assert.Equal(Enumerable.Range(0, 32).Select(i => (readGroup * 32) + (readsOwn ? i : i ^ 1)), target.Span.ToArray());
    }

    [Theory]
    [InlineData(3, null, 0, true, true, "still bringing")]
    [InlineData(3, 1, 2, true, true, "still bringing")]
    [InlineData(3, 2, 1, true, true, "still bringing")]
    [InlineData(3, 0, 0, false, false, "asynchronous copy of another thread")]
    public void Copies_that_are_not_waited_for_long_enough(int groups, int? allowed, int readGroup, bool readsOwn, bool hasBarrier, string complaint)
    {
        using var source = new HostArray<int>(groups * 32, DType.Int32);
        using var target = new HostArray<int>(32, DType.Int32);
        var message = Copies(groups, allowed, readGroup, readsOwn, hasBarrier).Failure(source.Argument, target.Argument);
        Assert.Contains(complaint, message, StringComparison.Ordinal);
        Assert.Contains($"Lab.cs:{100 + readGroup}", message, StringComparison.Ordinal);
    }

    [Fact]
    public void Copies_bring_zeros_beyond_their_count_and_touch_nothing_there()
    {
        using var source = new HostArray<int>([-1, -1], DType.Int32);
        using var target = new HostArray<int>(32, DType.Int32);
        var lab = new ThreadLab(1, 16);
        var (from, to) = (lab.Pointer(DType.Int32), lab.Pointer(DType.Int32));
        lab.Guard = lab.Emit(ThreadOpcode.Compare, ThreadType.U32, [lab.ThreadId(), Source.Constant(0)]);
        lab.Do(ThreadOpcode.CopyAsync, ThreadType.B32, [], [Source.Constant(0), from, Source.Constant(6)], width: 16);
        lab.Guard = default;
        lab.Do(ThreadOpcode.CommitCopies);
        lab.Do(ThreadOpcode.WaitCopies);
        lab.Barrier();
        var place = lab.Emit(ThreadOpcode.And, ThreadType.B32, [lab.Emit(ThreadOpcode.ShiftLeft, ThreadType.B32, [lab.ThreadId(), Source.Constant(2)]), Source.Constant(12)]);
        lab.Store(ThreadOpcode.StoreGlobal, ThreadType.B32, lab.Address(to, lab.ThreadId(), 4), lab.Load(ThreadOpcode.LoadShared, ThreadType.B32, place));
        lab.Run(source.Argument, target.Argument);
        Assert.Equal([-1, 0xFFFF, 0, 0], target.Span[..4].ToArray());
    }

    [Fact]
    public void Copies_nobody_waits_for()
    {
        using var source = new HostArray<int>(32, DType.Int32);
        var lab = new ThreadLab(1, 128);
        var pointer = lab.Pointer(DType.Int32);
        var id = lab.ThreadId();
        lab.Do(ThreadOpcode.CopyAsync, ThreadType.B32, [], [lab.Emit(ThreadOpcode.ShiftLeft, ThreadType.B32, [id, Source.Constant(2)]), lab.Address(pointer, id, 4), Source.Constant(4)], width: 4);
        Assert.Contains("before this asynchronous copy was waited for", lab.Failure(source.Argument), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(4, 1, 1)]
    [InlineData(32, 8, 1)]
    [InlineData(128, 32, 1)]
    [InlineData(0, 1, 1)]
    public void Bank_conflicts_of_words(int stride, int wavefronts, int ideal)
    {
        // Lane i touches the word at i · stride: 32 bytes apart, lanes share one of 4 banks 8-fold.
        var lab = new ThreadLab(1, 128 * 32);
        lab.Store(ThreadOpcode.StoreShared, ThreadType.B32, lab.Emit(ThreadOpcode.Multiply, ThreadType.U32, [lab.ThreadId(), Source.Constant(stride)]), Source.Constant(1), line: 5);
        var line = Assert.Single(lab.Run().Traffic);
        Assert.Equal((5, ThreadOpcode.StoreShared, 1L, (long)ideal, (long)wavefronts), (line.Location.Line, line.Opcode, line.Executions, line.Ideal, line.Actual));
    }

    [Theory]
    [InlineData(16, 4)]
    [InlineData(128, 32)]
    [InlineData(144, 4)]
    public void Bank_conflicts_of_matrix_rows(int stride, int wavefronts)
    {
        // Rows of 8 matrices' elements: 128 bytes apart all in the same banks, 144 bytes apart (padded) in different ones.
        var lab = new ThreadLab(1, 144 * 32);
        var id = lab.ThreadId();
        var address = lab.Emit(ThreadOpcode.Multiply, ThreadType.U32, [id, Source.Constant(stride)]);
        lab.Do(ThreadOpcode.StoreShared, ThreadType.B32, [], [address, id, id, id, id]);
        lab.Barrier();
        lab.Do(ThreadOpcode.LoadMatrix, ThreadType.B32, [lab.New(ThreadType.B32), lab.New(ThreadType.B32), lab.New(ThreadType.B32), lab.New(ThreadType.B32)], [address]);
        var line = lab.Run().Traffic.Single(line => line.Opcode == ThreadOpcode.LoadMatrix);
        Assert.Equal((4, wavefronts), (line.Ideal, line.Actual));
    }

    [Fact]
    public void Sectors_of_global_accesses()
    {
        using var memory = new HostArray<int>(32 * 32, DType.Int32);
        var lab = new ThreadLab();
        var (pointer, id) = (lab.Pointer(DType.Int32), lab.ThreadId());
        lab.Load(ThreadOpcode.LoadGlobal, ThreadType.B32, lab.Address(pointer, id, 4), line: 1);
        lab.Load(ThreadOpcode.LoadGlobal, ThreadType.B32, lab.Address(pointer, id, 128), line: 2);
        var traffic = lab.Run(memory.Argument).Traffic;
        Assert.Equal([(4, 4), (4, 32)], traffic.Select(line => (line.Ideal, line.Actual)));
    }

    [Fact]
    public void Narrow_elements_are_extended_and_atomics_return_the_former_value()
    {
        using var bytes = new HostArray<byte>([.. Enumerable.Range(0, 32).Select(i => (byte)(i * 9))], DType.UInt8);
        using var sums = new HostArray<int>(3, DType.Int32);
        using var totals = new HostArray<long>(1, DType.Int64);
        using var formers = new HostArray<int>(32, DType.Int32);
        var lab = new ThreadLab();
        Register b = lab.Pointer(DType.UInt8), s = lab.Pointer(DType.Int32), t = lab.Pointer(DType.Int64), f = lab.Pointer(DType.Int32);
        var id = lab.ThreadId();
        var address = lab.Address(b, id, 1);
        lab.Emit(ThreadOpcode.AtomicAdd, ThreadType.S32, [s, lab.Load(ThreadOpcode.LoadGlobal, ThreadType.U8, address)]);
        lab.Emit(ThreadOpcode.AtomicAdd, ThreadType.S32, [s, lab.Load(ThreadOpcode.LoadGlobal, ThreadType.S8, address)], 4);
        lab.Store(ThreadOpcode.StoreGlobal, ThreadType.B32, lab.Address(f, id, 4), lab.Emit(ThreadOpcode.AtomicAdd, ThreadType.S32, [s, Source.Constant(1)], 8));
        lab.Emit(ThreadOpcode.AtomicAdd, ThreadType.U64, [t, Source.Constant(-2)]);
        lab.Run(bytes.Argument, sums.Argument, totals.Argument, formers.Argument);
        Assert.Equal(bytes.Span.ToArray().Sum(x => x), sums.Span[0]);
        Assert.Equal(bytes.Span.ToArray().Sum(x => (sbyte)x), sums.Span[1]);
        Assert.Equal(32, sums.Span[2]);
        Assert.Equal(-64, totals.Span[0]);
        Assert.Equal(Enumerable.Range(0, 32), formers.Span.ToArray());
    }

    [Fact]
    public void Shuffles_tables_and_special_registers()
    {
        using var result = new HostArray<float>(2 * 3 * 64, DType.Float32);
        var lab = new ThreadLab(2);
        lab.Tables.Add([.. Enumerable.Range(0, 16).Select(i => i + 0.5f)]);
        var (pointer, id) = (lab.Pointer(DType.Float32), lab.ThreadId());
        Register Special(SpecialRegister register) => lab.Emit(ThreadOpcode.ReadSpecial, ThreadType.U32, [], (long)register);
        var table = lab.Emit(ThreadOpcode.TableAddress, ThreadType.U64, []);
        var swapped = lab.Emit(ThreadOpcode.ShuffleXor, ThreadType.B32, [id], 5);
        var value = lab.Load(ThreadOpcode.LoadGlobal, ThreadType.B32, lab.Address(table, lab.Emit(ThreadOpcode.And, ThreadType.B32, [swapped, Source.Constant(15)]), 4), readOnly: true);
        var program = lab.Emit(ThreadOpcode.MultiplyAdd, ThreadType.U32, [Special(SpecialRegister.ProgramY), Special(SpecialRegister.ProgramCountX), Special(SpecialRegister.ProgramX)]);
        var index = lab.Emit(ThreadOpcode.MultiplyAdd, ThreadType.U32, [program, Source.Constant(64), id]);
        lab.Store(ThreadOpcode.StoreGlobal, ThreadType.B32, lab.Address(pointer, index, 4), value);
        lab.Run(new Grid(2, 3), result.Argument);
        for (var i = 0; i < result.Span.Length; i++) Assert.Equal(((i ^ 5) & 15) + 0.5f, result.Span[i]);
    }
}
