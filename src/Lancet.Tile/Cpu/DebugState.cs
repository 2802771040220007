namespace Lancet.Tile.Cpu;

/// <summary>How an operation touches memory.</summary>
internal enum AccessKind
{
    /// <summary>A load.</summary>
    Read,

    /// <summary>A store.</summary>
    Write,

    /// <summary>An atomic read and write, which programs may share.</summary>
    Atomic,
}

/// <summary>Bookkeeping of a checked launch, which runs on one thread.</summary>
internal static unsafe class DebugState
{
    /// <summary>The last program that wrote to each address, and whether by an atomic.</summary>
    [ThreadStatic]
    private static Dictionary<long, (int X, int Y, int Z, bool IsAtomic)>? t_writers;

    public static void Begin() => t_writers = [];

    public static void End() => t_writers = null;

    /// <summary>Checks accesses to <paramref name="count"/> elements that are <paramref name="stride"/> elements apart.</summary>
    public static void Check(AccessPattern pattern, ref Frame frame, byte* address, long stride, int lane, int count, int elementSize, AccessKind kind)
    {
        var (start, extent) = pattern.Range.Of(ref frame);
        for (var i = 0; i < count; i++)
        {
            var at = (long)address + (i * stride * elementSize);
            var index = (at - start) / elementSize;
            if (at < start || index >= extent)
            {
                if (at < start) index = -((start - at + elementSize - 1) / elementSize);
                throw Error(pattern, ref frame, $"element {lane + i} of the tile touches index {index} of {pattern.Range.Name}, which has {extent} elements");
            }
            if (pattern.Range.IsScratch) continue;
            if (kind != AccessKind.Write && !UninitializedMemory.IsDefined((nint)at, elementSize))
                throw Error(pattern, ref frame, $"element {lane + i} of the tile reads index {index} of {pattern.Range.Name}, which nothing has written yet");
            if (kind == AccessKind.Read) continue;
            var program = (frame.X, frame.Y, frame.Z, kind == AccessKind.Atomic);
            if (t_writers!.TryGetValue(at, out var other) && (other.X, other.Y, other.Z) != (frame.X, frame.Y, frame.Z) && !(other.IsAtomic && kind == AccessKind.Atomic) && !pattern.Operation.IsOpaque)
                throw Error(pattern, ref frame, $"programs ({other.X}, {other.Y}, {other.Z}) and ({frame.X}, {frame.Y}, {frame.Z}) both write index {index} of {pattern.Range.Name}");
            t_writers[at] = program;
            UninitializedMemory.MarkDefined((nint)at, elementSize);
        }
    }

    private static TileException Error(AccessPattern pattern, ref Frame frame, string message) =>
        new($"kernel {pattern.KernelName}, {pattern.Operation.Opcode} at {pattern.Operation.Location}: {message} (program {frame.X}, {frame.Y}, {frame.Z}).");
}
