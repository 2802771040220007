using System.Buffers.Binary;
using System.Text;
using Lancet.Formats.Gguf;

namespace Lancet.Tests.Export;

/// <summary>Writing and reading GGUF files, and files that are not what they say.</summary>
public sealed class GgufFileTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lancet-test-").FullName;

    private string FilePath => Path.Combine(_folder, "model.gguf");

    public void Dispose() => Directory.Delete(_folder, true);

    [Fact]
    public void Every_type_of_value_comes_back()
    {
        var metadata = new GgufMetadata(FilePath);
        object[] values = [(byte)200, (sbyte)-3, (ushort)60000, (short)-30000, 4_000_000_000u, -5, 1.5f, true, "text ✓", ulong.MaxValue, long.MinValue, Math.PI,
            new byte[] { 1, 255 }, new sbyte[] { -1 }, new ushort[] { 65535 }, new short[] { -1 }, new[] { 1u, 2u }, new[] { -1, 3 }, new[] { 0.5f }, new[] { true, false }, new[] { "a", "" }, new[] { 7ul }, new[] { -7L }, new[] { 0.25 },
            new object[] { new[] { 1, 2 }, new[] { "nested" } }, Array.Empty<float>()];
        for (var i = 0; i < values.Length; i++) metadata.Add($"key.{i}", values[i]);
        GgufWriter.Write(FilePath, metadata, []);
        using var file = GgufFile.Open(FilePath);
        Assert.Equal(metadata.Items, file.Header.Metadata.Items.ToArray());
        Assert.Equal(values.Select(value => value.GetType()), file.Header.Metadata.Items.Select(item => item.Value.GetType()));
    }

    [Fact]
    public void Tensors_lie_aligned_with_their_shapes_and_bytes()
    {
        float[] a = [1, 2, 3, 4, 5, 6], b = [.. Enumerable.Range(0, 64).Select(i => i - 31.5f)];
        var metadata = new GgufMetadata(FilePath);
        metadata.Add("general.architecture", "llama");
        GgufWriter.Write(FilePath, metadata,
        [
            new("a", GgufTensorType.Float32, [2, 3], stream => stream.Write(Bytes(GgufTensorType.Float32, a))),
            new("b", GgufTensorType.Q80, [2, 32], stream => stream.Write(Bytes(GgufTensorType.Q80, b))),
            new("c", GgufTensorType.BFloat16, [6], stream => stream.Write(Bytes(GgufTensorType.BFloat16, a))),
        ]);
        using var file = GgufFile.Open(FilePath);
        Assert.Equal([2, 3], file.Header.Tensors["a"].Dimensions);
        Assert.All(file.Header.Tensors.Values, tensor => Assert.Equal(0, tensor.Offset % 32));
        Assert.Equal(a, file.Read("a"));
        Assert.Equal(a, file.Read("c"));
        Assert.All(b.Zip(file.Read("b")), pair => Assert.Equal(pair.First, pair.Second, 31.5f / 127 / 2 * 1.01f));
        // The format's order is the other way round: the fastest extent first.
        var bytes = File.ReadAllBytes(FilePath);
        var at = bytes.AsSpan().IndexOf(Encoding.UTF8.GetBytes("\u0001\0\0\0\0\0\0\0a\u0002\0\0\0"));
        Assert.Equal((3L, 2L), (BinaryPrimitives.ReadInt64LittleEndian(bytes.AsSpan(at + 13)), BinaryPrimitives.ReadInt64LittleEndian(bytes.AsSpan(at + 21))));
    }

    [Fact]
    public void A_tensor_of_the_wrong_size_leaves_no_file()
    {
        Assert.Throws<InvalidOperationException>(() => GgufWriter.Write(FilePath, new GgufMetadata(FilePath), [new("a", GgufTensorType.Float32, [2], stream => stream.WriteByte(0))]));
        Assert.Empty(Directory.GetFiles(_folder));
    }

    [Fact]
    public void Too_little_room_is_said_before_anything_is_written()
    {
        var written = false;
        var error = Assert.Throws<OutputException>(() => GgufWriter.Write(FilePath, new GgufMetadata(FilePath), [new("a", GgufTensorType.Float32, [1L << 50], _ => written = true)]));
        Assert.Contains("are free on", error.Message, StringComparison.Ordinal);
        Assert.False(written);
    }

    [Fact]
    public void A_file_cut_short_anywhere_is_one_clear_error()
    {
        var bytes = Sample();
        var end = GgufHeader.Read(bytes, bytes.Length, "m.gguf").Tensors.Values.Max(tensor => tensor.Offset + tensor.Bytes);
        for (var length = 0; length < end; length++)
        {
            File.WriteAllBytes(FilePath, bytes[..length]);
            var error = Assert.Throws<LancetException>(() => GgufFile.Open(FilePath).Dispose());
            Assert.StartsWith(FilePath + ": ", error.Message, StringComparison.Ordinal);
        }
        File.WriteAllBytes(FilePath, bytes);
        GgufFile.Open(FilePath).Dispose();
    }

    [Theory]
    [InlineData(0, 0x46554748u, "does not begin with \"GGUF\"")]
    [InlineData(4, 1u, "GGUF version 1; 2 and 3 are supported")]
    [InlineData(4, 0x03000000u, "big-endian")]
    [InlineData(12, 1u, "more than fit into the file")]
    [InlineData(20, 1u, "more than fit into the file")]
    public void A_header_of_another_kind_says_what_it_is(int at, uint value, string expected)
    {
        var bytes = Sample();
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(at), value);
        Assert.Contains(expected, Assert.Throws<LancetException>(() => GgufHeader.Read(bytes, bytes.Length, "m.gguf")).Message, StringComparison.Ordinal);
    }

    /// <summary>A million headers with some of their bytes changed: each is read or refused with a <see cref="LancetException"/>, and none takes memory that its length does not account for.</summary>
    [Fact]
    public void A_million_damaged_headers_are_read_or_refused()
    {
        const int count = 1_000_000;
        var sample = Sample();
        uint[] numbers = [0, 1, 2, 7, 9, 12, 13, 31, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF];
        int read = 0, refused = 0;
        var before = GC.GetTotalAllocatedBytes();
        Parallel.For(0, Environment.ProcessorCount, worker =>
        {
            var random = new DeterministicRandom(41, worker + 1);
            var bytes = new byte[sample.Length];
            for (var i = worker; i < count; i += Environment.ProcessorCount)
            {
                sample.CopyTo(bytes, 0);
                for (var change = random.NextInt32(4); change >= 0; change--)
                {
                    if (random.NextInt32(2) == 0) bytes[random.NextInt32(bytes.Length)] ^= (byte)(1 << random.NextInt32(8));
                    else BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(random.NextInt32(bytes.Length - 4)), numbers[random.NextInt32(numbers.Length)]);
                }
                var length = random.NextInt32(8) == 0 ? random.NextInt32(bytes.Length) : bytes.Length;
                try
                {
                    var header = GgufHeader.Read(bytes.AsSpan(0, length), length, "m.gguf");
                    foreach (var tensor in header.Tensors.Values) Assert.True(tensor.Offset >= 0 && tensor.Offset + tensor.Bytes <= length);
                    Interlocked.Increment(ref read);
                }
                catch (LancetException)
                {
                    Interlocked.Increment(ref refused);
                }
            }
        });
        Assert.Equal(count, read + refused);
        Assert.True(read > count / 20 && refused > count / 20, $"{read} read, {refused} refused");
        Assert.True(GC.GetTotalAllocatedBytes() - before < count * 20_000L);
    }

    private static byte[] Bytes(GgufTensorType type, float[] values)
    {
        var result = new byte[type.Bytes(values.Length)];
        Lancet.Formats.Gguf.Blocks.BlockCodec.Quantize(type, values, result);
        return result;
    }

    /// <summary>A small file with keys of every type that models have, and two tensors.</summary>
    private byte[] Sample()
    {
        var path = Path.Combine(_folder, "sample.gguf");
        var metadata = new GgufMetadata(path);
        metadata.Add("general.architecture", "llama");
        metadata.Add("general.alignment", 32u);
        metadata.Add("a.text", new[] { "one", "two" });
        metadata.Add("a.int", new[] { 1, 2, 3 });
        metadata.Add("a.float", new[] { 0.5f });
        metadata.Add("a.nested", new object[] { new[] { 1, 2 } });
        metadata.Add("flag", true);
        metadata.Add("eps", 1e-5f);
        GgufWriter.Write(path, metadata, [new("a", GgufTensorType.Float32, [2, 4], stream => stream.Write(new byte[32])), new("b", GgufTensorType.Q80, [32], stream => stream.Write(new byte[34]))]);
        var bytes = File.ReadAllBytes(path);
        File.Delete(path);
        return bytes;
    }
}
