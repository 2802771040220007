using System.Text.Json;
using Lancet.Data;

namespace Lancet.Tests.Data;

/// <summary>Parquet files of other writers (tests/parquet/writers, whose README says what is in them), whole and damaged.</summary>
public class ParquetWriterTests
{
    private static readonly string s_folder = Path.Combine(TestFiles.Root(), "tests", "parquet", "writers");

    public static TheoryData<string> Files => [.. Directory.GetFiles(s_folder, "*.parquet").Select(path => Path.GetFileNameWithoutExtension(path)).Order(StringComparer.Ordinal)];

    [Theory]
    [MemberData(nameof(Files))]
    public void Every_row_is_what_was_written(string name)
    {
        var rows = RowReader.Read(Path.Combine(s_folder, name + ".parquet")).Select(item => item.Row).ToList();
        Assert.Equal(60, rows.Count);
        for (var n = 0; n < 60; n++)
        {
            Assert.True(JsonElement.DeepEquals(Row(n), rows[n]), $"row {n + 1}: {rows[n]}");
            Assert.Equal(2 * (1 + (n % 2)), Conversation.Read(rows[n], ColumnMapping.None, "").Messages.Count);
        }
    }

    [Theory]
    [InlineData("arrow-rs-v2-zstd")]
    [InlineData("arrow-rs-v2-snappy")]
    [InlineData("arrow-rs-v2-lz4")]
    [InlineData("arrow-rs-delta")]
    [InlineData("hyparquet")]
    public void Damage_in_pages_of_the_second_version_is_an_error_of_ours(string name)
    {
        var bytes = File.ReadAllBytes(Path.Combine(s_folder, name + ".parquet"));
        var damaged = Path.Combine(Directory.CreateTempSubdirectory("lancet-parquet").FullName, "damaged.parquet");
        var random = new Random(7);
        var refusals = 0;
        for (var i = 0; i < 400; i++)
        {
            var changed = (byte[])bytes.Clone();
            changed[random.Next(bytes.Length)] ^= (byte)(1 << random.Next(8));
            File.WriteAllBytes(damaged, changed);
            foreach (var _ in RowReader.Read(damaged, error =>
            {
                Assert.StartsWith(damaged, error.Message);
                refusals++;
            }))
            {
                // Some bits matter to no value.
            }
        }
        Assert.InRange(refusals, 40, 400 * 60);
        Directory.Delete(Path.GetDirectoryName(damaged)!, true);
    }

    /// <summary>As in write.mjs.</summary>
    private static JsonElement Row(int n) => JsonSerializer.SerializeToElement(new Dictionary<string, object?>
    {
        ["id"] = n,
        ["source"] = n % 3 == 0 ? null : n % 2 == 0 ? "web" : "book",
        ["messages"] = Enumerable.Range(0, 2 * (1 + (n % 2))).Select(i => i % 2 == 0 ? new { role = "user", content = $"Frage {n} ä 🎉" } : new { role = "assistant", content = $"Antwort {n % 4}" }),
        ["tags"] = n % 5 == 0 ? null : Enumerable.Range(0, n % 3).Select(i => i == 1 ? null : $"t{n}"),
        ["info"] = n % 4 == 0 ? null : new { score = n / 8.0, url = n % 2 == 1 ? null : $"u{n}" },
    });
}
