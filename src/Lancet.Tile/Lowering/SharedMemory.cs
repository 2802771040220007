using System.Numerics;
using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering;

/// <summary>
/// A matrix in shared memory. 16-bit matrices lie in panels of at most 64 columns, one panel behind the other, so that rows have 128 bytes or
/// less, and rows are swizzled: the 16-byte piece c of row r lies at place c xor phase(r). Eight rows of an 8×8 matrix, or eight neighbouring
/// pieces of one row, are then in different banks, and the panels are what the matrix descriptors of Hopper describe as 128-, 64- and 32-byte
/// swizzle (PTX ISA, "Shared Memory Matrix Layout"). Rows of fp32 are padded by 16 bytes instead.
/// </summary>
/// <param name="Rows">Stored rows.</param>
/// <param name="Columns">Stored columns.</param>
/// <param name="DType">bf16, fp16 or fp32.</param>
/// <param name="Offset">First byte, from the start of shared memory: constant, or a register where the stage varies.</param>
internal sealed record SharedTile(int Rows, int Columns, DType DType, Source Offset)
{
    private const int MostPanelColumns = 64;

    /// <summary>Room for a matrix, or for a vector as one row, at no place yet.</summary>
    public static SharedTile Of(TileType type) => new(type.Rank == 1 ? 1 : type.Dimensions[0], type.Dimensions[^1], type.Element, default);

    public int ElementSize => DType.SizeInBytes();

    /// <summary>Columns of a panel.</summary>
    public int PanelColumns => IsSwizzled ? Math.Min(Columns, MostPanelColumns) : Columns;

    /// <summary>Bytes from panel to panel.</summary>
    public int PanelBytes => Rows * Pitch;

    /// <summary>Bytes from row to row of a panel.</summary>
    public int Pitch => (PanelColumns * ElementSize) + (IsSwizzled ? 0 : 16);

    /// <summary>Bytes in all.</summary>
    public int Bytes => PanelBytes * (Columns / PanelColumns);

    private bool IsSwizzled => ElementSize == 2;

    /// <summary>Rows that share one line of all banks.</summary>
    private int RowsPerLine => Math.Max(1, 128 / Pitch);

    /// <summary>Different phases.</summary>
    private int Phases => Math.Min(8, Pitch / 16);

    /// <summary>Byte address of an element; the row and column are registers or constants.</summary>
    public Source Address(ThreadBuilder builder, Source row, Source column)
    {
        var start = builder.Add(ThreadType.U32, Offset, builder.Multiply(ThreadType.U32, row, Source.Constant(Pitch)));
        if (!IsSwizzled) return builder.Add(ThreadType.U32, start, builder.Multiply(ThreadType.U32, column, Source.Constant(ElementSize)));
        if (Columns > PanelColumns)
        {
            var panel = builder.ShiftRight(ThreadType.U32, column, BitOperations.Log2((uint)PanelColumns));
            start = builder.Add(ThreadType.U32, start, builder.Multiply(ThreadType.U32, panel, Source.Constant(PanelBytes)));
            column = builder.And(ThreadType.B32, column, Source.Constant(PanelColumns - 1));
        }
        var within = builder.Multiply(ThreadType.U32, column, Source.Constant(ElementSize));
        var phase = builder.And(ThreadType.B32, builder.ShiftRight(ThreadType.U32, row, BitOperations.Log2((uint)RowsPerLine)), Source.Constant(Phases - 1));
        return builder.Add(ThreadType.U32, start, builder.Xor(ThreadType.B32, within, builder.ShiftLeft(ThreadType.B32, phase, 4)));
    }

    /// <summary>Whether there is a <see cref="Step"/>.</summary>
    public bool CanStep => IsSwizzled;

    /// <summary>
    /// What steps of rows and columns change in the address of an element: bits to be changed by exclusive or, then bytes to add. Rows and columns
    /// only by bits that the element's row and column lack (rows start at multiples of their power-of-two pitch).
    /// </summary>
    public (int Bits, int Bytes) Step(int rows, int columns) => IsSwizzled
        ? ((columns % PanelColumns * ElementSize) ^ ((rows / RowsPerLine) & (Phases - 1)) << 4, (rows * Pitch) + (columns / PanelColumns * PanelBytes))
        : throw new InvalidOperationException("Rows that are padded have no steps.");
}

/// <summary>Hands out shared memory: tiles that live as long as the kernel, and one scratch area that reductions and conversions share.</summary>
internal sealed class SharedMemory(ThreadBuilder builder)
{
    /// <summary>Tiles start at multiples of this, so that bits within a row can be changed by exclusive or.</summary>
    public const int Alignment = 1024;

    private int _tiles;
    private int _scratch;
    private Action<int>? _placeScratch;
    private bool _isDirty;

    /// <summary>Bytes for tiles so far.</summary>
    public int TileBytes => _tiles;

    /// <summary>Offset of a new tile area.</summary>
    public int Allocate(int bytes)
    {
        var offset = _tiles;
        _tiles += Align(bytes);
        return offset;
    }

    /// <summary>Bytes that a tile takes up.</summary>
    public static int Align(int bytes) => (bytes + Alignment - 1) / Alignment * Alignment;

    /// <summary>Makes the scratch area free to be written: waits until all threads have read what was there. Returns its address, which is known only at the end and is a register until then.</summary>
    public Source BeginScratch(int bytes)
    {
        if (_isDirty) Barrier();
        _scratch = Math.Max(_scratch, bytes);
        return ScratchBase();
    }

    /// <summary>To be called after the scratch area was read: the next writer has to wait.</summary>
    public void EndScratch() => _isDirty = true;

    /// <summary>At the start of a loop body, where a previous iteration may have read the scratch area.</summary>
    public void AssumeDirty() => _isDirty = true;

    public void Barrier()
    {
        builder.Effect(ThreadOpcode.Barrier, ThreadType.B32, [], []);
        NoteBarrier();
    }

    /// <summary>After all threads of the program, and maybe others, have met.</summary>
    public void NoteBarrier()
    {
        Barriers++;
        _isDirty = false;
        BarrierPassed?.Invoke();
    }

    /// <summary>Barriers so far that every thread surely passes; whoever lowers a branch or a loop takes those inside it back.</summary>
    public int Barriers { get; set; }

    /// <summary>Told of every barrier.</summary>
    public Action? BarrierPassed { get; set; }

    /// <summary>Fixes the layout: tiles first, scratch behind them.</summary>
    public int Finish()
    {
        _placeScratch?.Invoke(_tiles);
        return _tiles + _scratch;
    }

    // The scratch area starts after the last tile, whose place is known only when all of the kernel is lowered: a register is set at the
    // kernel's start, and its constant filled in at the end.
    private Source ScratchBase()
    {
        if (_base.Exists) return _base;
        _base = builder.New(RegisterClass.Bits32);
        builder.SetDivisor(_base, Alignment);
        _placeScratch = offset => builder.Program.Body.Insert(0, new ThreadInstruction(ThreadOpcode.Move, ThreadType.B32, [_base], [Source.Constant(offset)]));
        return _base;
    }

    private Register _base;
}
