namespace Lancet.Tile.Cpu;

internal sealed unsafe class SetLaneInstruction(int target, long bits, bool is64) : Instruction
{
    public override void Execute(ref Frame frame)
    {
        if (is64) *frame.At<long>(target) = bits;
        else *frame.At<int>(target) = (int)bits;
    }
}

/// <summary>A counted loop.</summary>
internal sealed unsafe class ForInstruction(int low, int high, int step, int index, Instruction[] body, string name) : Instruction
{
    public override void Execute(ref Frame frame)
    {
        var (from, to, by) = (frame.At<AffineValue>(low)->Offset, frame.At<AffineValue>(high)->Offset, frame.At<AffineValue>(step)->Offset);
        if (by <= 0) throw new TileException($"{name}: the loop's step is {by}; it must be above 0.");
        for (var i = from; i < to; i += by)
        {
            *frame.At<AffineValue>(index) = new AffineValue { Offset = i };
            Run(body, ref frame);
        }
    }
}

/// <summary>A branch that the whole program takes or not.</summary>
internal sealed unsafe class IfInstruction(int condition, Instruction[] then, Instruction[] otherwise) : Instruction
{
    public override void Execute(ref Frame frame) => Run(*frame.At<int>(condition) != 0 ? then : otherwise, ref frame);
}

/// <summary>Waits for another program's signal, or gives one. A checked launch runs programs one after the other, so what is not there yet never comes.</summary>
internal sealed unsafe class FlagInstruction(int pointer, int value, bool waits, string name, bool isChecked) : Instruction
{
    public override void Execute(ref Frame frame)
    {
        ref var flag = ref *(int*)*frame.At<long>(pointer);
        var number = (int)frame.At<AffineValue>(value)->Offset;
        if (!waits)
        {
            Volatile.Write(ref flag, number);
            return;
        }
        var spin = new SpinWait();
        while (Volatile.Read(ref flag) < number)
        {
            if (isChecked) throw new TileException($"{name}: waits for {number} from a program that has not started, and finds {flag} (program {frame.X}, {frame.Y}, {frame.Z}).");
            spin.SpinOnce(-1);
        }
    }
}

/// <summary>A scalar of each program of the cluster, from their scratch memory, as a vector.</summary>
internal sealed unsafe class GatherInstruction<T>(int source, int target) : Instruction
    where T : unmanaged
{
    public override void Execute(ref Frame frame)
    {
        for (var program = 0; program < frame.Cluster; program++) frame.At<T>(target)[program] = *(T*)(frame.ClusterScratch + (program * frame.ScratchBytes) + source);
    }
}

/// <summary>Address tile moved by an offset tile that is not affine.</summary>
internal sealed unsafe class AddressInstruction(LaneView address, LaneView offset, LaneView z, bool isOffset32, int elementSize) : Instruction
{
    public override void Execute(ref Frame frame)
    {
        var pz = frame.At<long>(z.Offset);
        for (var row = 0; row < z.Rows; row++)
        {
            var pa = frame.At<long>(address.Offset) + ((long)row * address.RowStride);
            for (var i = 0; i < z.Cols; i++)
            {
                var at = ((long)row * offset.RowStride) + ((long)i * offset.ColStride);
                var by = isOffset32 ? frame.At<int>(offset.Offset)[at] : frame.At<long>(offset.Offset)[at];
                *pz++ = pa[(long)i * address.ColStride] + (by * elementSize);
            }
        }
    }
}

internal sealed unsafe class LookupInstruction(float[] table, LaneView index, LaneView z) : Instruction
{
    public override void Execute(ref Frame frame)
    {
        var pi = frame.At<int>(index.Offset);
        var pz = frame.At<float>(z.Offset);
        for (var i = 0; i < z.Count; i++) pz[i] = table[pi[i]];
    }
}

/// <summary>Philox-4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", 2011).</summary>
internal sealed unsafe class PhiloxInstruction(LaneView counter, int seed, LaneView z) : Instruction
{
    private const uint Multiplier0 = 0xD2511F53, Multiplier1 = 0xCD9E8D57, Weyl0 = 0x9E3779B9, Weyl1 = 0xBB67AE85;

    public override void Execute(ref Frame frame)
    {
        var key = (ulong)frame.At<AffineValue>(seed)->Offset;
        var counters = frame.At<long>(counter.Offset);
        var target = frame.At<uint>(z.Offset);
        var words = stackalloc uint[4];
        ulong block = 0;
        var hasBlock = false;
        for (var i = 0; i < z.Count; i++)
        {
            var c = (ulong)counters[i];
            if (!hasBlock || c >> 2 != block)
            {
                (block, hasBlock) = (c >> 2, true);
                Block(block, key, words);
            }
            target[i] = words[c & 3];
        }
    }

    private static void Block(ulong counter, ulong key, uint* words)
    {
        uint c0 = (uint)counter, c1 = (uint)(counter >> 32), c2 = 0, c3 = 0, k0 = (uint)key, k1 = (uint)(key >> 32);
        for (var round = 0; round < 10; round++)
        {
            ulong p0 = (ulong)Multiplier0 * c0, p1 = (ulong)Multiplier1 * c2;
            (c0, c1, c2, c3) = ((uint)(p1 >> 32) ^ c1 ^ k0, (uint)p1, (uint)(p0 >> 32) ^ c3 ^ k1, (uint)p0);
            k0 += Weyl0;
            k1 += Weyl1;
        }
        (words[0], words[1], words[2], words[3]) = (c0, c1, c2, c3);
    }
}
