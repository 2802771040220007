using System.IO.Compression;
using System.Text;
using System.Text.Json.Nodes;

namespace Lancet.Cli.Tests;

/// <summary>lancet data stats and lancet data validate.</summary>
public class DataCommandTests
{
    private static readonly string s_bundled = Path.Combine(Workspace.Checkout, "models", "lancet-dotnet-base");

    [Fact]
    public void Stats_count_tokens_truncation_training_and_duplicates()
    {
        using var work = new Workspace();
        var rows = work.Rows(
            "{\"input_ids\": [1, 2, 3]}",
            "{\"id\": 7, \"labels\": [1, 2, 3], \"input_ids\": [1, 2, 3]}", // the first again, said otherwise
            "{\"input_ids\": [1, 2, 3], \"labels\": [-100, 2, 3]}", // 2 trained, as the first token never is, yet not the same labels
            "{\"input_ids\": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}", // cut to 4
            "{\"input_ids\": [1, 2, 3, 4, 5, 6, 7, 8, 9, 11]}", // the same only after cutting
            "{\"input_ids\": [1, 2, 3, 4, 5], \"labels\": [-100, -100, -100, -100, 5]}", // nothing trained after cutting
            "{\"input_ids\": [1]}"); // nothing trained: the first token never is
        var json = Json("stats", work, rows, "--max-seq-length", "4");
        Assert.Equal(7, json["rows"]!.GetValue<int>());
        Assert.Equal("{\"tokens\":7}", json["shapes"]!.ToJsonString());
        Assert.Equal(35, json["tokens"]!.GetValue<int>());
        Assert.Equal(22, json["kept_tokens"]!.GetValue<int>());
        Assert.Equal(12, json["trained_tokens"]!.GetValue<int>());
        Assert.Equal(12 / 22.0, json["trained_share"]!.GetValue<double>(), 1e-12);
        Assert.Equal("{\"min\":1,\"median\":3,\"p95\":10,\"max\":10}", json["length"]!.ToJsonString());
        Assert.Equal("[{\"from\":1,\"to\":1,\"rows\":1},{\"from\":2,\"to\":3,\"rows\":3},{\"from\":4,\"to\":7,\"rows\":1},{\"from\":8,\"to\":15,\"rows\":2}]", json["histogram"]!.ToJsonString());
        Assert.Equal(4, json["max_seq_length"]!.GetValue<int>());
        Assert.Equal(3, json["truncated_rows"]!.GetValue<int>());
        Assert.Equal(2, json["rows_without_trained_tokens"]!.GetValue<int>());
        Assert.Equal(1, json["duplicate_rows"]!.GetValue<int>());

        var text = Data("stats", work, rows, "--max-seq-length", "4");
        Assert.Equal(0, text.ExitCode);
        foreach (var line in (string[])["35, 22 after cutting", "12 (54.5%)", "min 1, median 3, p95 10, max 10", "3 rows (42.9%) are longer than 4 tokens", "1 rows repeat an earlier one", $" 2–3 tokens  {new string('█', 40)} 3\n", "8–15 tokens  "])
            Assert.Contains(line, text.Output, StringComparison.Ordinal);
        Assert.Contains("rows.jsonl: 7 rows: tokens (input_ids)", text.Error, StringComparison.Ordinal);
    }

    [Fact]
    public void Stats_agree_with_preview_on_conversations()
    {
        using var work = new Workspace();
        var rows = work.Rows("{\"prompt\": \"What is Abs?\", \"completion\": \"A method.\"}", "{\"text\": \"Some text.\"}");
        var preview = LancetCommand.Run("data", "preview", "--model", s_bundled, "--data", rows, "--json").Output.Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => JsonNode.Parse(line)!).ToList();
        var result = LancetCommand.Run("data", "stats", "--model", s_bundled, "--data", rows, "--json");
        Assert.True(result.ExitCode == 0, result.Error);
        var json = JsonNode.Parse(result.Output)!;
        Assert.Equal(preview.Sum(row => row["input_ids"]!.AsArray().Count), json["tokens"]!.GetValue<int>());
        Assert.Equal(preview.Sum(row => row["labels"]!.AsArray().Skip(1).Count(label => label!.GetValue<int>() != -100)), json["trained_tokens"]!.GetValue<int>());
        Assert.Equal("{\"prompt_completion\":1,\"text\":1}", json["shapes"]!.ToJsonString());
        Assert.Contains("mixes shapes", result.Error, StringComparison.Ordinal);
    }

    [Fact]
    public void A_good_file_validates()
    {
        using var work = new Workspace();
        var result = Data("validate", work, work.Data);
        Assert.True(result.ExitCode == 0, result.Error);
        var rows = File.ReadLines(work.Data).Count();
        Assert.Contains($"data.jsonl: {rows} rows, all good", result.Output, StringComparison.Ordinal);
        var json = Json("validate", work, work.Data);
        Assert.Equal(rows, json["rows"]!.GetValue<int>());
        Assert.Equal(0, json["bad_rows"]!.GetValue<int>());
        Assert.Empty(json["errors"]!.AsArray());
    }

    [Fact]
    public void Every_bad_row_is_named_by_file_and_line()
    {
        using var work = new Workspace();
        var rows = work.Rows(
            "{\"input_ids\": [1, 2, 3]}",
            "{\"input_ids\": [1, 2,",
            "",
            "[1, 2]",
            "{\"question\": \"a\"}",
            "{\"input_ids\": [1, 2, 999999]}",
            "{\"input_ids\": [1, 2, 3], \"labels\": [-100, -100, -100]}",
            "BYTES",
            "{\"input_ids\": [1, 2, 3]}");
        var bytes = File.ReadAllBytes(rows);
        bytes[bytes.AsSpan().IndexOf("BYTES"u8)] = 0xFF;
        File.WriteAllBytes(rows, bytes);
        var result = Data("validate", work, rows);
        Assert.Equal(2, result.ExitCode);
        var lines = result.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        (int Line, string Reason)[] expected = [(2, "not valid JSON"), (4, "a JSON object is expected"), (5, "unknown row shape"), (6, "999999"), (7, "no token of this row is trained"), (8, "not valid UTF-8")];
        Assert.Equal(expected.Length, lines.Length);
        foreach (var ((line, reason), said) in expected.Zip(lines))
        {
            Assert.StartsWith($"{rows}:{line}: ", said, StringComparison.Ordinal);
            Assert.Contains(reason, said, StringComparison.Ordinal);
        }
        Assert.Contains($"lancet: {rows}: 6 of 8 rows cannot be used.", result.Error, StringComparison.Ordinal);

        // Fewer are named than there are; all are counted.
        var few = Data("validate", work, rows, "--max-errors", "2");
        Assert.Equal(2, few.ExitCode);
        Assert.Equal([lines[0], lines[1], "and 4 more"], few.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries));
        var machine = Data("validate", work, rows, "--json");
        Assert.Equal(2, machine.ExitCode);
        var json = JsonNode.Parse(machine.Output)!;
        Assert.Equal(8, json["rows"]!.GetValue<int>());
        Assert.Equal(6, json["bad_rows"]!.GetValue<int>());
        Assert.Equal(lines, json["errors"]!.AsArray().Select(error => error!.GetValue<string>()));

        // Stats stop at the first, as training does.
        var stats = Data("stats", work, rows);
        Assert.Equal(2, stats.ExitCode);
        Assert.StartsWith($"lancet: {rows}:2: not valid JSON", stats.Error, StringComparison.Ordinal);
        Assert.Equal("", stats.Output);
    }

    [Fact]
    public void Other_formats_go_on_behind_a_bad_row_and_a_damaged_file_ends_alone()
    {
        using var work = new Workspace();
        Directory.CreateDirectory(work.At("rows"));
        File.WriteAllText(work.At("rows", "a.csv"), "prompt,completion\nq,a\nq\nq,a\"b\nq,a\n");
        using (var zipped = new GZipStream(File.Create(work.At("rows", "b.jsonl.gz")), CompressionLevel.Fastest)) zipped.Write(Encoding.UTF8.GetBytes("{\"text\": \"t\"}\n"));
        File.WriteAllBytes(work.At("rows", "c.jsonl.gz"), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        File.WriteAllText(work.At("rows", "d.json"), "[{\"text\": \"t\"}, 5, {\"text\": \"t\"}]");
        File.WriteAllText(work.At("rows", "e.json"), "[{");
        File.WriteAllText(work.At("rows", "f.jsonl"), "{\"text\": \"t\"}\n");
        var result = LancetCommand.Run("data", "validate", "--model", s_bundled, "--data", work.At("rows"));
        Assert.Equal(2, result.ExitCode);
        var lines = result.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        string[] expected = ["a.csv:3: ", "a.csv:4: ", "c.jsonl.gz:1: ", "d.json: row 2: ", "e.json: not valid JSON"];
        Assert.Equal(expected.Length, lines.Length);
        foreach (var (start, line) in expected.Zip(lines)) Assert.StartsWith(work.At("rows", start), line, StringComparison.Ordinal);
        Assert.Contains("5 of 10 rows cannot be used", result.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("stats")]
    [InlineData("validate")]
    public void Missing_models_and_files_and_empty_files_are_refused_and_help_has_an_example(string command)
    {
        using var work = new Workspace();
        AssertRefused(Data(command, work, work.Rows()), "rows.jsonl: no rows.");
        AssertRefused(Data(command, work, work.At("absent.jsonl")), "absent.jsonl: data file not found");
        AssertRefused(LancetCommand.Run("data", command, "--model", work.At("absent"), "--data", work.Data), "absent");
        AssertRefused(LancetCommand.Run("data", command, "--data", work.Data), "--model is needed");
        Assert.Contains($"lancet data {command} --", LancetCommand.Run("data", command, "--help").Output, StringComparison.Ordinal);
        AssertRefused(Data(command, work, work.Data, "--max-seq-length", "1"), "--max-seq-length is 1; expected");

        static void AssertRefused(CommandResult result, string expected)
        {
            Assert.Equal(2, result.ExitCode);
            var line = Assert.Single(result.Error.Split('\n', StringSplitOptions.RemoveEmptyEntries));
            Assert.StartsWith("lancet: ", line, StringComparison.Ordinal);
            Assert.Contains(expected, line, StringComparison.Ordinal);
            Assert.Equal("", result.Output);
        }
    }

    private static CommandResult Data(string command, Workspace work, string rows, params string[] more) => LancetCommand.Run(["data", command, "--model", work.Model, "--data", rows, .. more]);

    private static JsonNode Json(string command, Workspace work, string rows, params string[] more)
    {
        var result = Data(command, work, rows, [.. more, "--json"]);
        Assert.True(result.ExitCode == 0, result.Error);
        return JsonNode.Parse(result.Output)!;
    }
}
