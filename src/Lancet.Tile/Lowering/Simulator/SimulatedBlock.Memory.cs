using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering.Simulator;

internal sealed unsafe partial class SimulatedBlock
{
    private const long Untouched = -1;

    private readonly byte[] _shared;
    private readonly ShadowByte[] _sharedShadow;

    private void Load(Step step, int index, int warp, uint active)
    {
        var instruction = step.Instruction!;
        var isGlobal = instruction.Opcode == ThreadOpcode.LoadGlobal;
        var (size, count) = (instruction.Type.Bytes(), step.Destinations.Length);
        Span<ulong> addresses = stackalloc ulong[32];
        Lanes(step.Sources[0], warp).CopyTo(addresses);
        Span<long> touched = stackalloc long[32];
        touched.Fill(Untouched);
        for (var lane = 0; lane < 32; lane++)
        {
            if ((active >> lane & 1) == 0) continue;
            ReadOnlySpan<byte> bytes;
            if (isGlobal)
            {
                var address = (long)addresses[lane] + instruction.Immediate;
                ReadGlobal(step, index, warp, lane, address, size * count, instruction.IsReadOnly);
                bytes = new((void*)address, size * count);
                touched[lane] = address;
            }
            else
            {
                var offset = SharedOffset(step, warp, lane, addresses[lane], size * count);
                ReadShared(step, index, warp, lane, offset, size * count);
                bytes = _shared.AsSpan(offset, size * count);
                touched[lane] = offset;
            }
            for (var element = 0; element < count; element++) Lanes(step.Destinations[element], warp)[lane] = Extended(bytes.Slice(element * size, size), instruction.Type);
        }
        CountTraffic(step, touched, size * count, isGlobal);
    }

    private static ulong Extended(ReadOnlySpan<byte> bytes, ThreadType type) => type switch
    {
        ThreadType.U8 => bytes[0],
        ThreadType.S8 => (uint)(sbyte)bytes[0],
        _ => bytes.Length switch
        {
            2 => BitConverter.ToUInt16(bytes),
            4 => BitConverter.ToUInt32(bytes),
            _ => BitConverter.ToUInt64(bytes),
        },
    };

    private void Store(Step step, int index, int warp, uint active)
    {
        var instruction = step.Instruction!;
        var isGlobal = instruction.Opcode == ThreadOpcode.StoreGlobal;
        var (size, count) = (instruction.Type.Bytes(), step.Sources.Length - 1);
        var addresses = Lanes(step.Sources[0], warp);
        Span<long> touched = stackalloc long[32];
        touched.Fill(Untouched);
        Span<byte> bytes = stackalloc byte[32];
        bytes = bytes[..(size * count)];
        for (var lane = 0; lane < 32; lane++)
        {
            if ((active >> lane & 1) == 0) continue;
            for (var element = 0; element < count; element++)
            {
                var value = Lanes(step.Sources[element + 1], warp)[lane];
                for (var i = 0; i < size; i++) bytes[element * size + i] = (byte)(value >> i * 8);
            }
            if (isGlobal)
            {
                var address = (long)addresses[lane] + instruction.Immediate;
                touched[lane] = address;
                WriteGlobal(step, index, warp, lane, address, bytes);
            }
            else
            {
                var offset = SharedOffset(step, warp, lane, addresses[lane], bytes.Length);
                touched[lane] = offset;
                WriteShared(step, new Access(_epoch, index, _serial, warp, lane), offset, bytes, WriteKind.Ordinary);
            }
        }
        CountTraffic(step, touched, size * count, isGlobal);
    }

    private void AddAtomically(Step step, int index, int warp, uint active)
    {
        var instruction = step.Instruction!;
        var size = instruction.Type.Bytes();
        Span<ulong> addresses = stackalloc ulong[32];
        Lanes(step.Sources[0], warp).CopyTo(addresses);
        Span<ulong> added = stackalloc ulong[32];
        Lanes(step.Sources[1], warp).CopyTo(added);
        for (var lane = 0; lane < 32; lane++)
        {
            if ((active >> lane & 1) == 0) continue;
            var address = (long)addresses[lane] + instruction.Immediate;
            var buffer = FindGlobal(step, warp, lane, address, size, size);
            var access = new Access(_epoch, index, _serial, warp, lane);
            for (var i = 0; i < size; i++)
            {
                if (MemoryShadow.Write(ref buffer.Shadow(address + i), access, WriteKind.Atomic, false, true, out var other) is { } problem)
                    throw Race(step, warp, lane, $"global address {Where(buffer, address)}", problem, other);
            }
            ref var result = ref Lanes(step.Destinations[0], warp)[lane];
            if (size == 8)
            {
                result = *(ulong*)address;
                *(ulong*)address += added[lane];
            }
            else
            {
                result = *(uint*)address;
                *(uint*)address += (uint)added[lane];
            }
        }
    }

    private void AddToGlobal(Step step, int index, int warp, uint active)
    {
        Span<byte> bytes = stackalloc byte[sizeof(float)];
        for (var lane = 0; lane < 32; lane++)
        {
            if ((active >> lane & 1) == 0) continue;
            var address = (long)Lanes(step.Sources[0], warp)[lane] + step.Instruction!.Immediate;
            FindGlobal(step, warp, lane, address, sizeof(float) * (step.Sources.Length - 1), sizeof(float) * (step.Sources.Length - 1));
            for (var element = 1; element < step.Sources.Length; element++, address += sizeof(float))
            {
                var sum = *(float*)address + BitConverter.UInt32BitsToSingle((uint)Lanes(step.Sources[element], warp)[lane]);
                BitConverter.TryWriteBytes(bytes, sum);
                WriteGlobal(step, index, warp, lane, address, bytes);
            }
        }
    }

    // Programs run one after the other, so a signal that has not been given yet is one that may never come.
    private void CheckFlag(Step step, int warp)
    {
        var address = (long)Lanes(step.Sources[0], warp)[0];
        var buffer = FindGlobal(step, warp, 0, address, sizeof(int), sizeof(int));
        var (found, awaited) = (*(int*)address, (int)Lanes(step.Sources[1], warp)[0]);
        if (found < awaited) throw Error(warp, 0, step, $"waits for {awaited} at {Where(buffer, address)} from a program that has not started, and finds {found}");
    }

    private void SetFlag(Step step, int warp, uint active)
    {
        for (var lane = 0; lane < 32; lane++)
        {
            if ((active >> lane & 1) == 0) continue;
            var address = (long)Lanes(step.Sources[0], warp)[lane];
            FindGlobal(step, warp, lane, address, sizeof(int), sizeof(int));
            *(int*)address = (int)Lanes(step.Sources[1], warp)[lane];
        }
    }

    private void ReadGlobal(Step step, int index, int warp, int lane, long address, int bytes, bool isConstant, int alignment = 0)
    {
        var buffer = FindGlobal(step, warp, lane, address, bytes, alignment == 0 ? bytes : alignment);
        if (buffer.IsTable) return;
        var access = new Access(_epoch, index, _serial, warp, lane);
        for (var i = 0; i < bytes; i++)
            if (MemoryShadow.Read(ref buffer.Shadow(address + i), access, isConstant, out var other) is { } problem)
                throw Race(step, warp, lane, $"global address {Where(buffer, address)}", problem, other);
    }

    private void WriteGlobal(Step step, int index, int warp, int lane, long address, ReadOnlySpan<byte> bytes)
    {
        var buffer = FindGlobal(step, warp, lane, address, bytes.Length, bytes.Length);
        var access = new Access(_epoch, index, _serial, warp, lane);
        for (var i = 0; i < bytes.Length; i++)
        {
            ref var target = ref *(byte*)(address + i);
            if (MemoryShadow.Write(ref buffer.Shadow(address + i), access, WriteKind.Ordinary, target == bytes[i], true, out var other) is { } problem)
                throw Race(step, warp, lane, $"global address {Where(buffer, address)}", problem, other);
            target = bytes[i];
        }
    }

    private GlobalBuffer FindGlobal(Step step, int warp, int lane, long address, int bytes, int alignment)
    {
        if (address % alignment != 0) throw Error(warp, lane, step, $"global address 0x{address:X} is not aligned to {alignment} bytes");
        return _global.Find(address, bytes) ?? throw Error(warp, lane, step, $"{bytes} bytes at {Nearest(address)} are outside every argument");
    }

    private string Nearest(long address)
    {
        var nearest = _global.Buffers.MinBy(buffer => address < buffer.Start ? buffer.Start - address : Math.Max(0, address - buffer.End));
        return nearest is null ? $"global address 0x{address:X}" : $"{Where(nearest, address)} of {nearest.End - nearest.Start}";
    }

    private static string Where(GlobalBuffer buffer, long address) => $"{buffer.Name} + {address - buffer.Start} bytes";

    private int SharedOffset(Step step, int warp, int lane, ulong register, int bytes)
    {
        var offset = (long)(uint)register + step.Instruction!.Immediate;
        if (offset < 0 || offset + bytes > _shared.Length) throw Error(warp, lane, step, $"{bytes} bytes at shared address {offset} are outside the {_shared.Length} bytes of shared memory");
        if (offset % bytes != 0) throw Error(warp, lane, step, $"shared address {offset} is not aligned to {bytes} bytes");
        return (int)offset;
    }

    private void ReadShared(Step step, int index, int warp, int lane, int offset, int bytes, bool isByProduct = false)
    {
        var access = new Access(_epoch, index, _serial, warp, lane);
        for (var i = offset; i < offset + bytes; i++)
        {
            ref var shadow = ref _sharedShadow[i];
            if (shadow.IsPending) throw Race(step, warp, lane, $"shared address {i}", "reads what an asynchronous copy is still bringing: a wait is missing or covers too few groups", shadow.WriteStep);
            if (isByProduct && shadow.WriteEpoch == _epoch) throw Race(step, warp, lane, $"shared address {i}", "reads through a descriptor what was written since the last barrier", shadow.WriteStep);
            if (!shadow.IsInitialized) throw Error(warp, lane, step, $"shared address {i} was never written");
            if (MemoryShadow.Read(ref shadow, access, false, out var other) is { } problem) throw Race(step, warp, lane, $"shared address {i}", problem, other);
        }
    }

    private void WriteShared(Step step, Access access, int offset, ReadOnlySpan<byte> bytes, WriteKind kind)
    {
        for (var i = 0; i < bytes.Length; i++)
        {
            ref var shadow = ref _sharedShadow[offset + i];
            if (shadow.IsPending) throw Race(step, access.Warp, access.Lane, $"shared address {offset + i}", "overwrites what an asynchronous copy is still bringing: a wait is missing or covers too few groups", shadow.WriteStep);
            if (MemoryShadow.Write(ref shadow, access, kind, _shared[offset + i] == bytes[i], false, out var other) is { } problem)
                throw Race(step, access.Warp, access.Lane, $"shared address {offset + i}", problem, other);
            CheckNotReadByProducts(step, access.Warp, access.Lane, offset + i, shadow);
            (shadow.IsInitialized, shadow.IsUnfenced) = (true, true);
            _shared[offset + i] = bytes[i];
        }
        if (_hasProxyFences) _unfenced[access.Warp].Add((offset, bytes.Length));
    }

    private void CheckNotReadByProducts(Step step, int warp, int lane, int place, in ShadowByte shadow)
    {
        if (shadow.PendingReads > 0) throw Race(step, warp, lane, $"shared address {place}", "overwrites what a pending product still reads", -1);
    }

    private TileException Race(Step step, int warp, int lane, string place, string problem, int other) =>
        Error(warp, lane, step, $"{place}: {problem}{(other >= 0 ? $" (the other is {_steps[other]})" : "")}");

    /// <summary>Counts what a warp's access costs; addresses by lane.</summary>
    private static void CountTraffic(Step step, ReadOnlySpan<long> addresses, int bytes, bool isGlobal)
    {
        Span<int> offsets = stackalloc int[32];
        if (isGlobal)
        {
            Span<long> sectors = stackalloc long[32];
            var (count, lanes) = (0, 0);
            foreach (var address in addresses)
            {
                if (address == Untouched) continue;
                lanes++;
                if (!sectors[..count].Contains(address >> 5)) sectors[count++] = address >> 5;
            }
            step.ActualTraffic += count;
            step.IdealTraffic += Math.Min(count, (lanes * bytes + 31) / 32);
            return;
        }
        // 128 bytes go through at a time: all lanes for 4 bytes each, half of them for 8, a quarter for 16.
        var atOnce = Math.Min(32, 128 / bytes);
        for (var first = 0; first < 32; first += atOnce)
        {
            var count = 0;
            foreach (var address in addresses.Slice(first, atOnce))
                if (address != Untouched) offsets[count++] = (int)address;
            if (count > 0) CountWavefronts(step, offsets[..count], bytes);
        }
    }

    /// <summary>Adds the wavefronts of accesses made together: as many as the different 4-byte words of the busiest of 32 banks.</summary>
    private static void CountWavefronts(Step step, ReadOnlySpan<int> offsets, int bytes)
    {
        Span<int> words = stackalloc int[64];
        Span<byte> load = stackalloc byte[32];
        var (count, most) = (0, 0);
        foreach (var offset in offsets)
        {
            for (var word = offset >> 2; word <= offset + bytes - 1 >> 2; word++)
            {
                if (words[..count].Contains(word)) continue;
                words[count++] = word;
                most = Math.Max(most, ++load[word & 31]);
            }
        }
        step.IdealTraffic++;
        step.ActualTraffic += most;
    }
}
