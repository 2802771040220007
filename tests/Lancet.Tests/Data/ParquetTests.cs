using System.Text;
using System.Text.Json;
using Lancet.Data;
using Parquet;
using Parquet.Schema;
using Parquet.Serialization;

namespace Lancet.Tests.Data;

/// <summary>Parquet files as rows, whole and damaged. The files in tests/parquet, which CI gives to the native binary, are written as here.</summary>
public sealed class ParquetTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lancet-parquet").FullName;

    public static TheoryData<CompressionMethod> Methods => [CompressionMethod.None, CompressionMethod.Snappy, CompressionMethod.Gzip, CompressionMethod.Zstd, CompressionMethod.Brotli, CompressionMethod.Lz4Raw];

    public void Dispose() => Directory.Delete(_folder, true);

    [Theory]
    [MemberData(nameof(Methods))]
    public async Task Nested_rows_are_read_whatever_the_compression_over_several_row_groups(CompressionMethod method)
    {
        var path = Path.Combine(_folder, "chats.parquet");
        var chats = Enumerable.Range(0, 25).Select(Chat.Nth).ToList();
        await ParquetSerializer.SerializeAsync(chats, path, new ParquetOptions { CompressionMethod = method, RowGroupSize = 10 });
        var rows = RowReader.Read(path).ToList();
        Assert.Equal(Enumerable.Range(1, 25).Select(row => $"{path}: row {row}"), rows.Select(item => item.Place));
        Assert.Equal(chats.Select(chat => JsonSerializer.Serialize(chat)), rows.Select(item => JsonSerializer.Serialize(JsonSerializer.Deserialize<Chat>(item.Row))));
        Assert.Equal("ä 1 🎉", rows[1].Row.GetProperty("messages")[0].GetProperty("content").GetString());
        Assert.Equal("user", Conversation.Read(rows[1].Row, ColumnMapping.None, "").Messages[0].Role);
    }

    [Fact]
    public async Task Values_of_every_type_become_json()
    {
        var path = Path.Combine(_folder, "values.parquet");
        Field[] fields =
        [
            new DataField<bool>("flag"), new DataField<int>("int"), new DataField<int?>("maybe"), new DataField<long>("long"), new DataField<uint>("unsigned"), new DataField<ulong>("big"), new DataField<byte>("small"),
            new DataField<float>("float"), new DataField<double>("double"), new DecimalDataField("price", 9, 2), new DecimalDataField("amount", 30, 5),
            new DateTimeDataField("at", DateTimeFormat.DateAndTimeMicros), new DateTimeDataField("day", DateTimeFormat.Date), new DateTimeDataField("impala", DateTimeFormat.Impala),
            new DataField<string>("text"), new DataField<byte[]>("bytes"), new DataField<Guid>("id"),
        ];
        var time = new DateTime(2024, 2, 29, 12, 34, 56, DateTimeKind.Utc);
        var id = new Guid("00112233-4455-6677-8899-aabbccddeeff");
        await using (var stream = File.Create(path))
        await using (var writer = await ParquetWriter.CreateAsync(new ParquetSchema(fields), stream))
        using (var group = writer.CreateRowGroup())
        {
            var at = 0;
            await Write<bool>([true, false]);
            await Write<int>([-1, int.MaxValue]);
            await group.WriteAsync<int>((DataField)fields[at++], new int?[] { null, 7 });
            await Write([long.MinValue, 1]);
            await Write<uint>([uint.MaxValue, 1]);
            await Write<ulong>([ulong.MaxValue, 1]);
            await Write<byte>([200, 1]);
            await Write([0.1f, float.NaN]);
            await Write([1e300, double.PositiveInfinity]);
            await Write<decimal>([-0.05m, 12.3m]);
            await Write<decimal>([-123456789012345.00001m, 0m]);
            await Write([time, DateTime.UnixEpoch]);
            await Write([time.Date, new DateTime(1969, 12, 31)]);
            await Write([time, time]);
            await group.WriteAsync((DataField)fields[at++], ["a\"\n", "b"]);
            await group.WriteAsync((DataField)fields[at++], [[1, 2, 255], []]);
            await Write([id, id]);

            async Task Write<T>(T[] values) where T : struct
            {
                var field = (DataField)fields[at++];
                if (field.IsNullable) await group.WriteAsync<T>(field, Array.ConvertAll(values, value => (T?)value));
                else await group.WriteAsync<T>(field, values);
            }
        }
        var rows = RowReader.Read(path).Select(item => item.Row).ToList();
        string[] first = ["true", "-1", "null", "-9223372036854775808", "4294967295", "18446744073709551615", "200", "0.1", "1E+300", "-0.05", "-123456789012345.00001", "\"2024-02-29T12:34:56Z\"", "\"2024-02-29\"", "\"2024-02-29T12:34:56Z\"", "\"a\\u0022\\n\"", "\"AQL/\"", $"\"{id}\""];
        string[] second = ["false", "2147483647", "7", "1", "1", "1", "1", "null", "null", "12.30", "0.00000", "\"1970-01-01T00:00:00Z\"", "\"1969-12-31\"", "\"2024-02-29T12:34:56Z\"", "\"b\"", "\"\"", $"\"{id}\""];
        Assert.Equal(fields.Select(field => field.Name).Zip(first), rows[0].EnumerateObject().Select(property => (property.Name, property.Value.GetRawText())));
        Assert.Equal(fields.Select(field => field.Name).Zip(second), rows[1].EnumerateObject().Select(property => (property.Name, property.Value.GetRawText())));
    }

    [Fact]
    public async Task Text_that_is_no_utf8_spoils_its_own_row_only()
    {
        var path = Path.Combine(_folder, "bytes.parquet");
        await WriteTexts(path, ["good", "spoiled-here", "also good"]);
        var bytes = File.ReadAllBytes(path);
        // The text is in statistics too.
        while (bytes.AsSpan().IndexOf("spoiled-here"u8) is var at and >= 0) bytes[at + 7] = 0xff;
        File.WriteAllBytes(path, bytes);
        var refused = new List<string>();
        Assert.Equal(["good", "also good"], RowReader.Read(path, error => refused.Add(error.Message)).Select(item => item.Row.GetProperty("text").GetString()!));
        Assert.Equal([$"{path}: row 2: text is not valid UTF-8."], refused);
    }

    [Fact]
    public async Task Parquet_stands_in_folders_and_patterns_and_misnamed_files_are_told()
    {
        await WriteTexts(Path.Combine(_folder, "2.parquet"), ["b"]);
        File.WriteAllText(Path.Combine(_folder, "1.jsonl"), "{\"text\":\"a\"}\n");
        Assert.Equal(["a", "b"], RowReader.Read(_folder).Select(item => item.Row.GetProperty("text").GetString()!));
        Assert.Equal(["b"], RowReader.Read(Path.Combine(_folder, "*.parquet")).Select(item => item.Row.GetProperty("text").GetString()!));
        Assert.Contains("unpack the file first", Message(Write("a.parquet.gz", [1])));
        Assert.Contains("text.parquet: not readable as Parquet: it does not begin with PAR1", Message(Write("text.parquet", Encoding.UTF8.GetBytes("{\"text\":\"abc\"}\n"))));
        Assert.Contains("short.parquet: not readable as Parquet: it is too short", Message(Write("short.parquet", "PAR1"u8.ToArray())));
        await WriteTexts(Path.Combine(_folder, "none.parquet"), []);
        Assert.Contains("none.parquet: no rows", Message(Path.Combine(_folder, "none.parquet")));
    }

    [Fact]
    public async Task Damage_is_one_error_that_names_the_file()
    {
        var whole = Path.Combine(_folder, "whole.parquet");
        await ParquetSerializer.SerializeAsync(Enumerable.Range(0, 40).Select(Chat.Nth), whole, new ParquetOptions { RowGroupSize = 20 });
        var bytes = File.ReadAllBytes(whole);
        var damaged = Path.Combine(_folder, "damaged.parquet");
        for (var length = 0; length < bytes.Length; length += 37)
        {
            File.WriteAllBytes(damaged, bytes[..length]);
            Assert.StartsWith($"{damaged}: not readable as Parquet", Message(damaged));
            // Cut in the middle, with the footer kept.
            File.WriteAllBytes(damaged, [.. bytes[..(length / 2)], .. bytes[^Math.Min(bytes.Length, 3000)..]]);
            Assert.StartsWith(damaged, Message(damaged));
        }
        // Bits that are flipped may leave readable rows, but never end in anything but an error of ours.
        var random = new Random(5);
        var refusals = 0;
        for (var i = 0; i < 1500; i++)
        {
            var changed = (byte[])bytes.Clone();
            changed[random.Next(bytes.Length)] ^= (byte)(1 << random.Next(8));
            File.WriteAllBytes(damaged, changed);
            var isBroken = false;
            foreach (var _ in RowReader.Read(damaged, Refuse)) Assert.False(isBroken);

            void Refuse(LancetException error)
            {
                Assert.StartsWith(damaged, error.Message);
                isBroken = error.Message.Contains("not readable as Parquet", StringComparison.Ordinal);
                refusals++;
            }
        }
        Assert.InRange(refusals, 100, 1500);
    }

    private static string Message(string path) => Assert.Throws<LancetException>(() => RowReader.Read(path).ToList()).Message;

    private static async Task WriteTexts(string path, string[] texts)
    {
        var field = new DataField<string>("text");
        await using var stream = File.Create(path);
        await using var writer = await ParquetWriter.CreateAsync(new ParquetSchema(field), stream, new ParquetOptions { CompressionMethod = CompressionMethod.None });
        using var group = writer.CreateRowGroup();
        await group.WriteAsync(field, texts);
    }

    private string Write(string name, byte[] bytes)
    {
        var path = Path.Combine(_folder, name);
        File.WriteAllBytes(path, bytes);
        return path;
    }

#pragma warning disable IDE1006 // Columns are named as in data files.
    private sealed class Chat
    {
        public int id { get; set; }

        public string? source { get; set; }

        public List<Turn>? messages { get; set; }

        public List<int>? scores { get; set; }

        public List<List<string>>? nested { get; set; }

        public Info? info { get; set; }

        public Dictionary<string, int>? counts { get; set; }

        // Every mixture of missing, empty, one and several.
        public static Chat Nth(int n) => new()
        {
            id = n,
            source = n % 3 == 0 ? null : $"s{n % 5}",
            messages = n % 7 == 0 ? null : [.. Enumerable.Range(0, n % 4).Select(i => new Turn { role = i % 2 == 0 ? "user" : "assistant", content = i == 2 ? null : $"ä {n + i} 🎉", tags = i % 3 == 0 ? null : [.. Enumerable.Repeat("t", i - 1)] })],
            scores = n % 5 == 0 ? null : [.. Enumerable.Range(n, n % 3)],
            nested = n % 6 == 0 ? null : [.. Enumerable.Range(0, n % 3).Select(i => (List<string>)[.. Enumerable.Range(0, i).Select(j => $"{n}.{i}.{j}")])],
            info = n % 4 == 0 ? null : new Info { score = n % 8 == 1 ? null : n / 8.0, origin = n % 2 == 0 ? null : new Origin { url = $"u{n}" } },
            counts = n % 5 == 1 ? null : Enumerable.Range(0, n % 3).ToDictionary(i => $"k{i}", i => n + i),
        };
    }

    private sealed class Turn
    {
        public string? role { get; set; }

        public string? content { get; set; }

        public List<string>? tags { get; set; }
    }

    private sealed class Info
    {
        public double? score { get; set; }

        public Origin? origin { get; set; }
    }

    private sealed class Origin
    {
        public string? url { get; set; }
    }
#pragma warning restore IDE1006
}
