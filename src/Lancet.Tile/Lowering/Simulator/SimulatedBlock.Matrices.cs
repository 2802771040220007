using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering.Simulator;

// Fragment layouts are those of the PTX ISA, sections on mma.m16n8k16 with 16-bit operands and on ldmatrix.
internal sealed partial class SimulatedBlock
{
    private readonly uint[][] _matrixResults = [new uint[32], new uint[32], new uint[32], new uint[32]];

    private void MultiplyMatrices(Step step, int warp)
    {
        var isBFloat16 = step.Instruction!.Type == ThreadType.BF16;
        var a = new float[16 * 16];
        var b = new float[16 * 8];
        var c = new float[16 * 8];
        for (var lane = 0; lane < 32; lane++)
        {
            int group = lane >> 2, pair = (lane & 3) * 2;
            for (var register = 0; register < 4; register++)
            {
                int row = group + (register & 1) * 8, column = pair + (register >> 1) * 8;
                (a[row * 16 + column], a[row * 16 + column + 1]) = Halves(Lanes(step.Sources[register], warp)[lane], isBFloat16);
                (row, column) = (group + (register >> 1) * 8, pair + (register & 1));
                c[row * 8 + column] = BitConverter.UInt32BitsToSingle((uint)Lanes(step.Sources[6 + register], warp)[lane]);
            }
            for (var register = 0; register < 2; register++)
            {
                var row = pair + register * 8;
                (b[row * 8 + group], b[(row + 1) * 8 + group]) = Halves(Lanes(step.Sources[4 + register], warp)[lane], isBFloat16);
            }
        }
        // Products of 16-bit numbers are exact in fp32; sums are rounded one by one. Hardware sums in another order, which it does not document.
        for (var row = 0; row < 16; row++)
            for (var column = 0; column < 8; column++)
                for (var k = 0; k < 16; k++)
                    c[row * 8 + column] += a[row * 16 + k] * b[k * 8 + column];
        for (var lane = 0; lane < 32; lane++)
            for (var register = 0; register < 4; register++)
                Lanes(step.Destinations[register], warp)[lane] = BitConverter.SingleToUInt32Bits(c[((lane >> 2) + (register >> 1) * 8) * 8 + (lane & 3) * 2 + (register & 1)]);
    }

    private static (float Low, float High) Halves(ulong bits, bool isBFloat16) => isBFloat16
        ? (BFloat16.FromBits((ushort)bits), BFloat16.FromBits((ushort)(bits >> 16)))
        : ((float)BitConverter.UInt16BitsToHalf((ushort)bits), (float)BitConverter.UInt16BitsToHalf((ushort)(bits >> 16)));

    private void LoadMatrices(Step step, int index, int warp)
    {
        var instruction = step.Instruction!;
        var addresses = Lanes(step.Sources[0], warp);
        Span<int> rows = stackalloc int[8];
        for (var matrix = 0; matrix < step.Destinations.Length; matrix++)
        {
            for (var row = 0; row < 8; row++)
            {
                var lane = matrix * 8 + row;
                rows[row] = SharedOffset(step, warp, lane, addresses[lane], 16);
                ReadShared(step, index, warp, lane, rows[row], 16);
            }
            CountWavefronts(step, rows, 16);
            var results = _matrixResults[matrix];
            for (var lane = 0; lane < 32; lane++)
            {
                int major = lane >> 2, minor = (lane & 3) * 2;
                results[lane] = instruction.IsTransposed
                    ? Element(rows[minor], major) | (uint)Element(rows[minor + 1], major) << 16
                    : Element(rows[major], minor) | (uint)Element(rows[major], minor + 1) << 16;
            }
        }
        // A destination may be the register of the addresses, so all matrices are read first.
        for (var matrix = 0; matrix < step.Destinations.Length; matrix++)
            for (var lane = 0; lane < 32; lane++)
                Lanes(step.Destinations[matrix], warp)[lane] = _matrixResults[matrix][lane];
    }

    private ushort Element(int row, int column) => BitConverter.ToUInt16(_shared, row + column * 2);
}
