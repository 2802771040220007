using System.Text.RegularExpressions;
using CsCheck;
using Lancet.Tile.Ptx;
using Lancet.Tile.Tests.Lowering;

namespace Lancet.Tile.Tests.Cpu;

/// <summary>The generator against a plain one, which the published vectors of Random123 (kat_vectors, "philox4x32 10") vouch for.</summary>
public class PhiloxTests
{
    private const string Multiplication = @"mul\.wide\.u32 .*, (3528531795|3449720151);";

    [Theory]
    [InlineData(0u, 0u, 0u, 0u, 0u, 0u, 0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u)]
    [InlineData(0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu, 0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu)]
    [InlineData(0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u, 0xa4093822u, 0x299f31d0u, 0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u)]
    public void The_reference_gives_the_published_vectors(uint c0, uint c1, uint c2, uint c3, uint k0, uint k1, uint w0, uint w1, uint w2, uint w3) =>
        Assert.Equal([w0, w1, w2, w3], Philox([c0, c1, c2, c3], k0, k1));

    [Fact]
    public void Words_of_any_counters_in_any_order() => Gen.Select(Gen.Int[0, int.MaxValue], Gen.Int[0, 3], Gen.Long).Sample(
        (seed, rank, key) =>
        {
            var lab = new TileLab(seed);
            var shape = lab.Shape(rank);
            var counter = lab.Operand(DType.Int64, shape);
            var output = lab.Buffer(DType.UInt32, new long[counter.Values.Length]);
            lab.Launch(
                (k, p) =>
                {
                    var scalar = k.Scalar(DType.Int64);
                    TileLab.Store(k, p[output], k.RandomBits(scalar, counter.Make(k, p)));
                },
                scalars: [key]);
            for (var i = 0; i < counter.Values.Length; i++)
            {
                var block = (ulong)counter.Values[i] >> 2;
                var words = Philox([(uint)block, (uint)(block >> 32), 0, 0], (uint)key, (uint)((ulong)key >> 32));
                Assert.Equal(words[counter.Values[i] & 3], (uint)lab.Read(output, i));
            }
        },
        iter: 100,
        threads: 1);

    [Fact]
    public void Uniform_numbers_are_the_upper_24_bits_over_2_to_the_24()
    {
        var lab = new TileLab(1);
        var (bits, uniform) = (lab.Buffer(DType.UInt32, new long[256]), lab.Buffer(DType.Float32, new long[256]));
        lab.Launch((k, p) =>
        {
            var (seed, counter) = (k.Constant(DType.Int64, 42L), k.Range(256).ToInt64());
            k.Store(p[bits] + k.Range(256), k.RandomBits(seed, counter));
            k.Store(p[uniform] + k.Range(256), k.RandomUniform(seed, counter));
        });
        for (var i = 0; i < 256; i++) Assert.Equal((lab.Read(bits, i) >> 8) / 16777216.0, Elements.ToDouble(DType.Float32, lab.Read(uniform, i)));
    }

    /// <summary>Lowered to threads: where blocks are known to begin, the four neighbours that a thread has of one share its ten rounds.</summary>
    [Theory]
    [InlineData(1L << 40, 1, 1)]
    [InlineData(-16L, 1, 1)]
    [InlineData(-32L, 2, 2)]
    [InlineData((1L << 40) + 1, 1, 4)]
    [InlineData(-7L, 1, 4)]
    public void Neighbours_share_a_block(long start, int step, int blocksOfFour)
    {
        const int count = 1024, threads = 128;
        const long key = 0x0123456789abcdef;
        var kernel = Kernel.Trace("words", k =>
        {
            var (words, first) = (k.Pointer(DType.UInt32, "words"), k.Scalar(DType.Int64, "first"));
            k.Store(words + k.Range(count), k.RandomBits(k.Constant(DType.Int64, key), first + (k.Range(count).ToInt64() * step)));
        });
        using HostArray<uint> words = new(count, DType.UInt32);
        KernelArgument[] arguments = [words.Argument, start];
        LoweringCheck.Run(kernel, new Grid(1), arguments);
        for (var i = 0; i < count; i++)
        {
            var counter = (ulong)(start + (i * step));
            Assert.Equal(Philox([(uint)(counter >> 2), (uint)(counter >> 34), 0, 0], unchecked((uint)key), (uint)(key >> 32))[counter & 3], words.Span[i]);
        }
        var text = PtxCompiler.Compile(kernel, PtxTarget.Sm80, PtxCompiler.Divisible(arguments)).Text;
        // Two products a round, but for one of 0 in the first.
        Assert.Equal(count / threads / 4 * blocksOfFour * 19, Regex.Count(text, Multiplication));
    }

    /// <summary>Where lanes have halves of blocks, as in a product's result, two neighbours make a block each and exchange halves.</summary>
    [Theory]
    [InlineData(1L << 40, 1)]
    [InlineData(-16L, 1)]
    [InlineData((1L << 40) + 2, 4)]
    [InlineData(-7L, 4)]
    public void Lanes_exchange_halves_of_blocks(long start, int blocksOfFour)
    {
        const int rows = 64, columns = 32, threads = 128;
        var kernel = Kernel.Trace("halves", k =>
        {
            var (a, words, first) = (k.Pointer(DType.BFloat16, "a"), k.Pointer(DType.Float32, "words"), k.Scalar(DType.Int64, "first"));
            var element = (k.Range(rows) * columns).AsColumn() + k.Range(columns).AsRow();
            var bits = k.RandomBits(k.Constant(DType.Int64, 7L), first + element.ToInt64());
            var product = TileMath.Dot(k.Load(a + ((k.Range(rows) * 16).AsColumn() + k.Range(16).AsRow())), k.Load(a + ((k.Range(16) * columns).AsColumn() + k.Range(columns).AsRow())));
            k.Store(words + element, TileMath.Select((bits >> 8).To(DType.Int32) >= 1 << 23, product + 1, 0));
        });
        using HostArray<ushort> a = new(rows * 16, DType.BFloat16);
        using HostArray<float> words = new(rows * columns, DType.Float32);
        KernelArgument[] arguments = [a.Argument, words.Argument, start];
        LoweringCheck.Run(kernel, new Grid(1), arguments, PtxTarget.Sm80);
        for (var i = 0; i < rows * columns; i++)
        {
            var counter = (ulong)(start + i);
            Assert.Equal(Philox([(uint)(counter >> 2), (uint)(counter >> 34), 0, 0], 7, 0)[counter & 3] >> 8 >= 1 << 23 ? 1 : 0, words.Span[i]);
        }
        var text = PtxCompiler.Compile(kernel, PtxTarget.Sm80, PtxCompiler.Divisible(arguments)).Text;
        Assert.Equal(rows * columns / threads / 4 * blocksOfFour * 19, Regex.Count(text, Multiplication));
    }

    private static uint[] Philox(uint[] counter, uint k0, uint k1)
    {
        for (var round = 0; round < 10; round++)
        {
            var first = counter[0] * (ulong)0xD2511F53;
            var second = counter[2] * (ulong)0xCD9E8D57;
            counter = [(uint)(second >> 32) ^ counter[1] ^ k0, (uint)second, (uint)(first >> 32) ^ counter[3] ^ k1, (uint)first];
            (k0, k1) = (k0 + 0x9E3779B9, k1 + 0xBB67AE85);
        }
        return counter;
    }
}
