using System.IO.Compression;
using System.Text;
using Lancet.Data;
using ZstdSharp;

namespace Lancet.Tests.Data;

/// <summary>Data files of every kind, whole and damaged.</summary>
public sealed class RowReaderTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lancet-rows").FullName;

    public void Dispose() => Directory.Delete(_folder, true);

    [Theory]
    [InlineData("a.csv", "prompt,completion\n\"one, two\",\"line\nbreak \"\"quoted\"\"\"\nä,\n", ",")]
    [InlineData("a.tsv", "prompt\tcompletion\n\"one, two\"\t\"line\nbreak \"\"quoted\"\"\"\nä\t\n", "\t")]
    [InlineData("b.csv", "prompt;completion\r\n\"one, two\";\"line\nbreak \"\"quoted\"\"\"\r\nä;\r\n", ";")]
    public void Separated_values_have_a_header_quotes_and_line_breaks(string name, string text, string separator)
    {
        Assert.Contains("prompt" + separator, text);
        var rows = RowReader.Read(Write(name, text)).ToList();
        Assert.Equal(["one, two", "ä"], rows.Select(item => item.Row.GetProperty("prompt").GetString()!));
        Assert.Equal(["line\nbreak \"quoted\"", ""], rows.Select(item => item.Row.GetProperty("completion").GetString()!));
        Assert.Equal([Path.Combine(_folder, name) + ":2", Path.Combine(_folder, name) + ":4"], rows.Select(item => item.Place));
    }

    [Fact]
    public void Folders_and_patterns_stand_for_their_files_in_order_and_compressed_ones_are_read()
    {
        Write("2.jsonl", "{\"text\":\"b\"}\n");
        Compress("1.jsonl.gz", "{\"text\":\"a\"}\n\n{\"text\":\"a2\"}\n");
        Compress("3.csv.gz", "text\nc\n");
        Compress("4.jsonl.zst", "{\"text\":\"d\"}\n");
        Compress("5.csv.zst", "text\ne\n");
        Compress("6.json.zst", "[{\"text\":\"f\"}]");
        Write("notes.md", "# not data");
        Assert.Equal(["a", "a2", "b", "c", "d", "e", "f"], Texts(_folder));
        Assert.Equal(["a", "a2", "b", "d"], Texts(Path.Combine(_folder, "*.jsonl*")));
        Assert.Equal(["b"], Texts(Path.Combine(_folder, "?.jsonl")));
    }

    [Fact]
    public void Damaged_files_are_named_with_the_row()
    {
        Assert.Contains("ragged.csv:5: 1 values, but the header names 2", Message(Write("ragged.csv", "a,b\n1,\"2\nx\"\n\n3\n4,5\n")));
        Assert.Contains("open.csv:3: the quote that opens b is never closed", Message(Write("open.csv", "a,b\n1,2\n3,\"4\n5,6\n")));
        Assert.Contains("stray.csv:3: b has a quote inside", Message(Write("stray.csv", "a,b\n1,say \"hi\"\n3,5\" pipe\n5,6\n7,8\" pipe\n")));
        Assert.Contains("after.csv:2: b goes on after its closing quote", Message(Write("after.csv", "a,b\n1,\"2\"x\n")));
        Assert.Contains("twice.csv:1: Col name 'a'", Message(Write("twice.csv", "a,a\n1,2\n")));
        Assert.Contains("bytes.jsonl:2: not valid UTF-8", Message(Write("bytes.jsonl", [.. "{\"text\":\"a\"}\n"u8, .. new byte[] { (byte)'"', 0xff, 0xfe, (byte)'"' }])));
        var text = string.Concat(Enumerable.Range(0, 5000).Select(i => $"{{\"text\":\"{i * 7919 % 10007}\"}}\n"));
        var whole = Compress("whole.jsonl.gz", text);
        Assert.Equal(5000, RowReader.Read(whole).Count());
        Assert.Contains("cut.jsonl.gz:", Message(Write("cut.jsonl.gz", File.ReadAllBytes(whole)[..5000])));
        Assert.Contains("plain.jsonl.gz:1", Message(Write("plain.jsonl.gz", "{\"text\":\"a\"}\n")));
        var zstandard = Compress("whole.jsonl.zst", text);
        Assert.Equal(5000, RowReader.Read(zstandard).Count());
        Assert.Contains("cut.jsonl.zst:", Message(Write("cut.jsonl.zst", File.ReadAllBytes(zstandard)[..5000])));
        Assert.Contains("plain.jsonl.zst:1", Message(Write("plain.jsonl.zst", "{\"text\":\"a\"}\n")));
        Assert.Contains(".csv", Message(Write("a.xlsx", "")));
        Assert.Contains("no data file matches", Message(Path.Combine(_folder, "*.parquet")));
        Assert.Contains("there is no folder", Message(Path.Combine(_folder, "none", "*.csv")));
        Assert.Contains("not found", Message(Path.Combine(_folder, "none.jsonl")));
        Assert.Contains("the folder holds no data file", Message(Directory.CreateDirectory(Path.Combine(_folder, "empty")).FullName));
        Assert.Contains("empty.csv", Message(Write("empty.csv", "")));
    }

    [Fact]
    public void Lines_are_decoded_as_utf8_or_by_their_byte_order_mark()
    {
        const string Text = "ä 漢字 🎉 \u0085 \ufffd";
        var line = $"{{\"text\":\"{Text}\"}}\n";
        foreach (var encoding in (Encoding[])[new UTF8Encoding(false), new UTF8Encoding(true), Encoding.Unicode, Encoding.BigEndianUnicode])
            Assert.Equal([Text, Text], Texts(Write("marked.jsonl", [.. encoding.GetPreamble(), .. encoding.GetBytes(line + line)])));
    }

    // Rows are cut out of a buffer that moves and grows: every place of its end, in text of several bytes a character too.
    [Fact]
    public void Arrays_are_read_row_by_row_wherever_the_buffer_ends()
    {
        var random = new Random(8);
        foreach (var longest in (int[])[10, 3000, 200_000])
        {
            var texts = Enumerable.Range(0, longest > 100_000 ? 12 : 400).Select(_ => string.Concat(Enumerable.Repeat("ä🎉]\"x", random.Next(longest / 5)))).ToList();
            var json = "[\n" + string.Join(",\n  ", texts.Select(text => "{\"text\":\"" + text.Replace("\"", "\\\"", StringComparison.Ordinal) + "\"}")) + "\n]  \n\n";
            foreach (var encoding in (Encoding[])[new UTF8Encoding(false), Encoding.Unicode, Encoding.UTF32]) Assert.Equal(texts, Texts(Write("rows.json", [.. encoding.GetPreamble(), .. encoding.GetBytes(json)])));
        }
        Assert.Empty(Texts(Write("rows.json", " [ ] ")));
    }

    [Fact]
    public void Damaged_arrays_give_their_rows_up_to_one_error()
    {
        var row = "{\"text\":\"" + new string('a', 30_000) + "\"}";
        foreach (var (json, message) in (ReadOnlySpan<(string, string)>)[
            ($"[{row},{row},{row}", "not valid JSON"), ($"[{row},{row},{{\"text\":", "not valid JSON"), ($"[{row},{row}] x", "not valid JSON"), ($"[{row},{row}][", "not valid JSON"),
            ($"[{row},{row},]", "not valid JSON"), ($"[{row},{row} {row}]", "not valid JSON"), ($"[{row},1,{row}]", "row 2: a JSON object is expected")])
        {
            var path = Write("rows.json", json);
            var refused = new List<string>();
            Assert.InRange(RowReader.Read(path, error => refused.Add(error.Message)).Count(), 2, 3);
            Assert.StartsWith(path, Assert.Single(refused));
            Assert.Contains(message, refused[0]);
        }
        Assert.Contains("a JSON array of rows is expected", Message(Write("rows.json", row)));
        Assert.Contains("not valid JSON", Message(Write("rows.json", "")));
    }

    [Fact]
    public void Bytes_that_are_no_text_are_refused_behind_a_byte_order_mark_too()
    {
        foreach (var name in (string[])["a.jsonl", "a.json", "a.csv"])
        {
            byte[] utf8 = [0xef, 0xbb, 0xbf, .. Encoding.UTF8.GetBytes(name == "a.csv" ? "text\na" : name == "a.json" ? "[\n{\"text\":\"a" : "\n{\"text\":\"a"), 0xff, .. Encoding.UTF8.GetBytes(name == "a.csv" ? "\n" : "\"}]\n")];
            Assert.Contains($"{name}:2: not valid UTF-8", Message(Write(name, utf8)));
            // Half of a surrogate pair.
            byte[] utf16 = [0xff, 0xfe, .. Encoding.Unicode.GetBytes("text\n{}"), 0x00, 0xd8, .. Encoding.Unicode.GetBytes("\n")];
            Assert.Contains($"{name}: not valid UTF-16, which its byte order mark says it is", Message(Write(name, utf16)));
        }
    }

    [Fact]
    public void Reading_goes_on_behind_what_is_refused()
    {
        var bytes = Write("bytes.jsonl", [.. "{\"text\":\"a\"}\n"u8, 0xff, .. "\n{\"text\":\"b\"}\n["u8, 0xfe, .. "\n{\"text\":\"c\"}\n"u8]);
        var (texts, refused) = Tolerant(bytes);
        Assert.Equal(["a", "b", "c"], texts);
        Assert.Equal([$"{bytes}:2: not valid UTF-8.", $"{bytes}:4: not valid UTF-8."], refused);
        var ragged = Write("ragged.csv", "text,b\na,1\n2\nb,\"3\"4\nc,5\n");
        (texts, refused) = Tolerant(ragged);
        Assert.Equal(["a", "c"], texts);
        Assert.Equal([$"{ragged}:3", $"{ragged}:4"], refused.Select(message => message[..(ragged.Length + 2)]));
        Assert.Throws<LancetException>(() => RowReader.Read(Path.Combine(_folder, "none.jsonl"), _ => { }).ToList());

        static (List<string> Texts, List<string> Refused) Tolerant(string path)
        {
            var refused = new List<string>();
            return ([.. RowReader.Read(path, error => refused.Add(error.Message)).Select(item => item.Row.GetProperty("text").GetString()!)], refused);
        }
    }

    private static string Message(string path) => Assert.Throws<LancetException>(() => RowReader.Read(path).ToList()).Message;

    private static List<string> Texts(string path) => [.. RowReader.Read(path).Select(item => item.Row.GetProperty("text").GetString()!)];

    private string Write(string name, string text) => Write(name, Encoding.UTF8.GetBytes(text));

    private string Write(string name, byte[] bytes)
    {
        var path = Path.Combine(_folder, name);
        File.WriteAllBytes(path, bytes);
        return path;
    }

    private string Compress(string name, string text)
    {
        var path = Path.Combine(_folder, name);
        using Stream stream = name.EndsWith(".zst", StringComparison.Ordinal) ? new CompressionStream(File.Create(path), leaveOpen: false) : new GZipStream(File.Create(path), CompressionLevel.Fastest);
        stream.Write(Encoding.UTF8.GetBytes(text));
        return path;
    }
}
