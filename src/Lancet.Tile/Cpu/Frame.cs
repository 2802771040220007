namespace Lancet.Tile.Cpu;

/// <summary>What one running program sees: its scratch memory and that of its cluster, the launch's arguments and its place in the grid.</summary>
internal unsafe struct Frame
{
    public byte* Scratch;

    /// <summary>Scratch memory of the cluster's first program; that of the others follows, <see cref="ScratchBytes"/> each.</summary>
    public byte* ClusterScratch;
    public long ScratchBytes;
    public int Cluster;
    public long* Arguments;
    public long* Counts;
    public int X, Y, Z;
    public Grid Grid;

    public readonly T* At<T>(int offset)
        where T : unmanaged => (T*)(Scratch + offset);

    public readonly int ProgramId(int axis) => axis switch { 0 => X, 1 => Y, _ => Z };

    public readonly int ProgramCount(int axis) => axis switch { 0 => Grid.X, 1 => Grid.Y, _ => Grid.Z };
}

/// <summary>
/// How a tile's lanes lie in scratch memory: Rows × Cols elements (the last axis is the columns) with element strides. A stride of 0
/// repeats, so broadcasts cost nothing.
/// </summary>
internal readonly record struct LaneView(int Offset, int Rows, int Cols, int RowStride, int ColStride)
{
    public int Count => Rows * Cols;

    public bool IsDense => (ColStride == 1 || Cols == 1) && (RowStride == Cols || Rows == 1);

    public bool IsScalar => (ColStride == 0 || Cols == 1) && (RowStride == 0 || Rows == 1);

    public bool IsRowWise => ColStride is 0 or 1 || Cols == 1;

    public static LaneView Dense(int offset, int rows, int cols) => new(offset, rows, cols, cols, 1);
}

/// <summary>One step of a compiled kernel.</summary>
internal abstract class Instruction
{
    public abstract void Execute(ref Frame frame);

    /// <summary>Runs a list in order.</summary>
    public static void Run(Instruction[] instructions, ref Frame frame)
    {
        foreach (var instruction in instructions) instruction.Execute(ref frame);
    }
}
