using System.Runtime.InteropServices;

namespace Lancet.Tile.Lowering.Simulator;

/// <summary>How a byte was last written.</summary>
internal enum WriteKind : byte
{
    Ordinary,
    Atomic,

    /// <summary>By a cp.async that has landed: until the next barrier only the thread that waited for it sees it.</summary>
    Asynchronous,
}

/// <summary>Who touched one byte of memory, and when. An epoch is the time between two barriers of one program.</summary>
[StructLayout(LayoutKind.Auto)]
internal struct ShadowByte
{
    public int WriteEpoch, WriteStep, WriteSerial, WriteThread;
    public int ReadEpoch, ReadStep, ReadWarp;
    public WriteKind WriteKind;
    public bool IsInitialized, IsPending, WasWritten, WasReadAsConstant;

    /// <summary>Written since the writer's last proxy fence, so that products do not see it yet.</summary>
    public bool IsUnfenced;

    /// <summary>Pending products that read the byte.</summary>
    public int PendingReads;
}

/// <summary>The access being checked.</summary>
/// <param name="Epoch">Number of the epoch, unique over all programs of the launch.</param>
/// <param name="Step">Index of the instruction.</param>
/// <param name="Serial">Number of this execution of it by one warp, unique over the launch.</param>
/// <param name="Warp">Warp within the program.</param>
/// <param name="Lane">Lane within the warp.</param>
internal readonly record struct Access(int Epoch, int Step, int Serial, int Warp, int Lane)
{
    public int Thread => Warp * 32 + Lane;
}

/// <summary>Finds races: two warps touching one byte in one epoch, at least one of them writing.</summary>
internal static class MemoryShadow
{
    /// <summary>Notes a read; returns what is wrong with it, or null. <paramref name="other"/> is then the step that it conflicts with, or −1.</summary>
    public static string? Read(ref ShadowByte shadow, in Access access, bool isConstant, out int other)
    {
        other = shadow.WriteStep;
        if (shadow.WriteEpoch == access.Epoch)
        {
            if (shadow.WriteThread >> 5 != access.Warp) return "races with a write by another warp: a barrier is missing between them";
            if (shadow.WriteKind == WriteKind.Asynchronous && shadow.WriteThread != access.Thread) return "reads what an asynchronous copy of another thread brought: a barrier is missing after the wait";
        }
        if (isConstant && shadow.WasWritten) return "reads memory declared read-only that the kernel writes";
        shadow.WasReadAsConstant |= isConstant;
        if (shadow.ReadEpoch != access.Epoch) (shadow.ReadEpoch, shadow.ReadStep, shadow.ReadWarp) = (access.Epoch, access.Step, access.Warp);
        return null;
    }

    /// <summary>Notes a write; returns what is wrong with it, or null.</summary>
    /// <param name="shadow">The byte's record.</param>
    /// <param name="access">The write.</param>
    /// <param name="kind">How it is written.</param>
    /// <param name="isSameValue">Whether the byte already has the value.</param>
    /// <param name="allowsEqualWrites">Whether several warps may write one value (global memory).</param>
    /// <param name="other">The step that it conflicts with.</param>
    public static string? Write(ref ShadowByte shadow, in Access access, WriteKind kind, bool isSameValue, bool allowsEqualWrites, out int other)
    {
        other = shadow.WriteStep;
        if (shadow.WriteEpoch == access.Epoch && !(kind == WriteKind.Atomic && shadow.WriteKind == WriteKind.Atomic))
        {
            if (shadow.WriteThread >> 5 != access.Warp && !(allowsEqualWrites && isSameValue && kind == WriteKind.Ordinary && shadow.WriteKind == WriteKind.Ordinary))
                return "races with a write by another warp";
            if (shadow.WriteSerial == access.Serial && !isSameValue) return "writes different values to one place from several lanes";
        }
        if (shadow.ReadEpoch == access.Epoch && shadow.ReadWarp != access.Warp)
        {
            other = shadow.ReadStep;
            return "overwrites what another warp reads: a barrier is missing between them";
        }
        if (shadow.WasReadAsConstant)
        {
            other = -1;
            return "writes memory that was declared read-only";
        }
        (shadow.WriteEpoch, shadow.WriteStep, shadow.WriteSerial, shadow.WriteThread, shadow.WriteKind) = (access.Epoch, access.Step, access.Serial, access.Thread, kind);
        shadow.WasWritten = true;
        return null;
    }
}
