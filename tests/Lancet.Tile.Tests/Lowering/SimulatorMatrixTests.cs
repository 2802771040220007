using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Tests.Lowering;

/// <summary>ldmatrix and mma together against a plain matrix product: 16 × 16 times 16 × 8, from shared memory, A as rows and B as rows of k or of n.</summary>
public class SimulatorMatrixTests
{
    [Theory]
    [InlineData(false, false)]
    [InlineData(false, true)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public void A_product_through_shared_memory(bool isFloat16, bool isBTransposed)
    {
        var random = new Random(1);
        using var a = new HostArray<ushort>(16 * 16, DType.BFloat16);
        using var b = new HostArray<ushort>(16 * 8, DType.BFloat16);
        using var c = new HostArray<float>(16 * 8, DType.Float32);
        ushort Number()
        {
            var value = random.Next(-64, 64) / 16f;
            return isFloat16 ? BitConverter.HalfToUInt16Bits((Half)value) : ((BFloat16)value).Bits;
        }
        float Value(ushort bits) => isFloat16 ? (float)BitConverter.UInt16BitsToHalf(bits) : BFloat16.FromBits(bits);
        foreach (ref var element in a.Span) element = Number();
        foreach (ref var element in b.Span) element = Number();
        foreach (ref var element in c.Span) element = random.Next(-8, 8);
        var expected = new float[16 * 8];
        for (var row = 0; row < 16; row++)
            for (var column = 0; column < 8; column++)
            {
                expected[row * 8 + column] = c.Span[row * 8 + column];
                for (var k = 0; k < 16; k++) expected[row * 8 + column] += Value(a.Span[row * 16 + k]) * Value(b.Span[isBTransposed ? column * 16 + k : k * 8 + column]);
            }

        // Shared memory: A at 0 (16 rows of 32 bytes), B at 512 (rows of k: 16 of 16 bytes; rows of n: 8 of 32 bytes). Each lane copies 16 and 8 bytes.
        var lab = new ThreadLab(1, 768);
        Register pa = lab.Pointer(DType.BFloat16), pb = lab.Pointer(DType.BFloat16), pc = lab.Pointer(DType.Float32);
        var id = lab.ThreadId();
        Register I(ThreadOpcode opcode, Source x, Source y) => lab.Emit(opcode, ThreadType.U32, [x, y]);
        Source K(long value) => Source.Constant(value);
        Register[] four = [lab.New(ThreadType.B32), lab.New(ThreadType.B32), lab.New(ThreadType.B32), lab.New(ThreadType.B32)];
        lab.Do(ThreadOpcode.LoadGlobal, ThreadType.B32, four, [lab.Address(pa, id, 16)], readOnly: true);
        lab.Do(ThreadOpcode.StoreShared, ThreadType.B32, [], [I(ThreadOpcode.Multiply, id, K(16)), four[0], four[1], four[2], four[3]]);
        Register[] two = [lab.New(ThreadType.B32), lab.New(ThreadType.B32)];
        lab.Do(ThreadOpcode.LoadGlobal, ThreadType.B32, two, [lab.Address(pb, id, 8)]);
        lab.Do(ThreadOpcode.StoreShared, ThreadType.B32, [], [I(ThreadOpcode.Multiply, id, K(8)), two[0], two[1]], 512);
        lab.Barrier();

        // A: matrices (rows 0–7, k 0–7), (rows 8–15, k 0–7), (rows 0–7, k 8–15), (rows 8–15, k 8–15).
        var rowOfA = I(ThreadOpcode.And, id, K(15));
        var addressOfA = I(ThreadOpcode.Add, I(ThreadOpcode.Multiply, rowOfA, K(32)), I(ThreadOpcode.Multiply, I(ThreadOpcode.ShiftRight, id, K(4)), K(16)));
        var fragmentA = new Register[4];
        for (var i = 0; i < 4; i++) fragmentA[i] = lab.New(ThreadType.B32);
        lab.Do(ThreadOpcode.LoadMatrix, ThreadType.B32, fragmentA, [addressOfA]);
        Register[] fragmentB = [lab.New(ThreadType.B32), lab.New(ThreadType.B32)];
        var laneOfB = I(ThreadOpcode.And, id, K(15));
        var addressOfB = isBTransposed
            ? I(ThreadOpcode.Add, I(ThreadOpcode.Multiply, I(ThreadOpcode.And, laneOfB, K(7)), K(32)), I(ThreadOpcode.Multiply, I(ThreadOpcode.ShiftRight, laneOfB, K(3)), K(16)))
            : I(ThreadOpcode.Multiply, laneOfB, K(16));
        lab.Do(ThreadOpcode.LoadMatrix, ThreadType.B32, fragmentB, [addressOfB], 512, transposed: !isBTransposed);

        // C and D: registers (row g, columns 2t and 2t + 1), (row g + 8, the same columns).
        var first = I(ThreadOpcode.Add, I(ThreadOpcode.Multiply, I(ThreadOpcode.ShiftRight, id, K(2)), K(8)), I(ThreadOpcode.Multiply, I(ThreadOpcode.And, id, K(3)), K(2)));
        var addressOfC = lab.Address(pc, first, 4);
        var accumulator = new Register[4];
        for (var i = 0; i < 4; i++) accumulator[i] = lab.New(ThreadType.F32);
        lab.Do(ThreadOpcode.LoadGlobal, ThreadType.B32, accumulator[..2], [addressOfC]);
        lab.Do(ThreadOpcode.LoadGlobal, ThreadType.B32, accumulator[2..], [addressOfC], 8 * 8 * 4);
        lab.Do(ThreadOpcode.MatrixMultiply, isFloat16 ? ThreadType.F16 : ThreadType.BF16, accumulator, [.. fragmentA, .. fragmentB, .. accumulator]);
        lab.Do(ThreadOpcode.StoreGlobal, ThreadType.B32, [], [addressOfC, accumulator[0], accumulator[1]]);
        lab.Do(ThreadOpcode.StoreGlobal, ThreadType.B32, [], [addressOfC, accumulator[2], accumulator[3]], 8 * 8 * 4);
        lab.Run(a.Argument, b.Argument, c.Argument);
        Assert.Equal(expected, c.Span.ToArray());
    }
}
