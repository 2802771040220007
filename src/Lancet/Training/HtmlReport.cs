using System.Globalization;
using System.Net;
using System.Text;
using System.Text.Json;

namespace Lancet.Training;

/// <summary>report.html: one self-contained page about a run, curves as SVG, no script and no network.</summary>
public static class HtmlReport
{
    private const int Width = 460;
    private const int Height = 180;
    private const int Margin = 48;

    /// <summary>Writes the page.</summary>
    /// <param name="path">File.</param>
    /// <param name="output">Output folder of the run, whose metrics.jsonl is drawn; it covers interrupted and resumed runs as a whole.</param>
    /// <param name="configuration">Resolved options as text.</param>
    /// <param name="result">The run.</param>
    /// <param name="answers">Questions with the answers before and after.</param>
    public static void Write(string path, string output, string configuration, SftResult result, IReadOnlyList<(string Question, string Before, string After)> answers)
    {
        var rows = ReadMetrics(Path.Combine(output, "metrics.jsonl"));
        var page = new StringBuilder();
        page.Append("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>Lancet run</title><style>")
            .Append("body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem;color:#1c2733;background:#fff}h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}")
            .Append(".charts{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0;border:1px solid #d8dee6;border-radius:6px;padding:.5rem}figcaption{font-weight:600}table{border-collapse:collapse}")
            .Append("table.answers{table-layout:fixed;width:100%}td,th{padding:.25rem .75rem;border-bottom:1px solid #e4e8ee;text-align:left;vertical-align:top;overflow-wrap:break-word}.held{color:#d9622b;font-weight:400}td.n{text-align:right;font-variant-numeric:tabular-nums}pre{background:#f5f7fa;padding:1rem;border-radius:6px;overflow:auto}")
            .Append("@media(prefers-color-scheme:dark){body{background:#12171d;color:#dfe6ee}pre{background:#1b222b}figure,td,th{border-color:#2c3642}}</style></head><body>");
        page.Append("<h1>Lancet run</h1><p>").Append(Summary(result, Series(rows, "eval_loss"))).Append("</p><div class=\"charts\">");
        page.Append(Chart("Loss", Series(rows, "loss"), Series(rows, "eval_loss"))).Append(Chart("Learning rate", Series(rows, "learning_rate")))
            .Append(Chart("Gradient norm", Series(rows, "grad_norm"))).Append(Chart("Tokens per second", Series(rows, "tokens_per_second"))).Append("</div>");
        if (answers.Count > 0)
        {
            page.Append("<h2>Answers</h2><table class=\"answers\"><tr><th>Question</th><th>Before</th><th>After</th></tr>");
            foreach (var (question, before, after) in answers) page.Append("<tr><td>").Append(Encode(question)).Append("</td><td>").Append(Encode(before)).Append("</td><td>").Append(Encode(after)).Append("</td></tr>");
            page.Append("</table>");
        }
        page.Append("<h2>Memory</h2><table>");
        foreach (var entry in result.Run.Plan.Entries) page.Append(CultureInfo.InvariantCulture, $"<tr><td>{Encode(entry.Purpose)}</td><td class=\"n\">{entry.Bytes / 1048576.0:N1} MiB</td></tr>");
        page.Append(CultureInfo.InvariantCulture, $"<tr><th>planned peak</th><td class=\"n\">{result.Run.Plan.PeakBytes / 1048576.0:N1} MiB</td></tr>");
        if (result.Steps.Count > 0) page.Append(CultureInfo.InvariantCulture, $"<tr><th>measured peak</th><td class=\"n\">{result.Steps[^1].PeakMemoryBytes / 1048576.0:N1} MiB</td></tr>");
        page.Append("</table><p>Activations: ").Append(Encode(result.Run.Plan.ActivationPolicy)).Append("</p><h2>Configuration</h2><pre>").Append(Encode(configuration)).Append("</pre></body></html>\n");
        Formats.AtomicFile.WriteText(path, page.ToString());
    }

    private static string Summary(SftResult result, List<(double Step, double Loss)> evaluations)
    {
        var text = new StringBuilder();
        text.Append(CultureInfo.InvariantCulture, $"{result.Run.FirstStep + result.Steps.Count} of {result.Run.TotalSteps} steps over {result.Run.Rows} rows; {result.Run.TrainableParameters:N0} of {result.Run.Parameters:N0} parameters trained.");
        if (evaluations.Count > 1) text.Append(CultureInfo.InvariantCulture, $" Held-out loss {evaluations[0].Loss:F4} before, {evaluations[^1].Loss:F4} after.");
        if (result.IsInterrupted) text.Append(" Interrupted; a checkpoint holds its state.");
        return text.ToString();
    }

    private static List<Dictionary<string, double>> ReadMetrics(string path) => [.. File.ReadLines(path).Where(line => line.Length > 0).Select(line =>
    {
        using var document = JsonDocument.Parse(line);
        return document.RootElement.EnumerateObject().Where(item => item.Value.ValueKind == JsonValueKind.Number).ToDictionary(item => item.Name, item => item.Value.GetDouble());
    })];

    private static List<(double X, double Y)> Series(List<Dictionary<string, double>> rows, string key) => [.. rows.Where(row => row.ContainsKey(key)).Select(row => (row["step"], row[key]))];

    private static string Chart(string title, params List<(double X, double Y)>[] series)
    {
        var points = series.SelectMany(line => line).ToList();
        if (points.Count == 0) return "";
        var (left, right) = (points.Min(point => point.X), points.Max(point => point.X));
        var (low, high) = (points.Min(point => point.Y), points.Max(point => point.Y));
        if (high <= low) high = low + Math.Max(1e-12, Math.Abs(low));
        if (right <= left) right = left + 1;
        double X(double x) => Margin + ((x - left) / (right - left) * (Width - Margin - 8));
        double Y(double y) => Height - 20 - ((y - low) / (high - low) * (Height - 32));
        var svg = new StringBuilder();
        svg.Append(CultureInfo.InvariantCulture, $"<figure><figcaption>{title}{(series.Length > 1 && series[1].Count > 0 ? " <span class=\"held\">— held-out</span>" : "")}</figcaption><svg viewBox=\"0 0 {Width} {Height}\" width=\"{Width}\" height=\"{Height}\" role=\"img\" aria-label=\"{title} by step\" font-size=\"11\" fill=\"currentColor\">");
        for (var i = 0; i <= 2; i++)
        {
            var value = low + ((high - low) * i / 2);
            svg.Append(CultureInfo.InvariantCulture, $"<line x1=\"{Margin}\" x2=\"{Width - 8}\" y1=\"{Y(value):F1}\" y2=\"{Y(value):F1}\" stroke=\"#8884\"/><text x=\"{Margin - 4}\" y=\"{Y(value) + 4:F1}\" text-anchor=\"end\">{Label(value)}</text>");
        }
        svg.Append(CultureInfo.InvariantCulture, $"<text x=\"{Margin}\" y=\"{Height - 4}\">{left:F0}</text><text x=\"{Width - 8}\" y=\"{Height - 4}\" text-anchor=\"end\">step {right:F0}</text>");
        string[] colours = ["#2f6fde", "#d9622b"];
        for (var i = 0; i < series.Length; i++)
        {
            svg.Append(CultureInfo.InvariantCulture, $"<polyline fill=\"none\" stroke-width=\"1.5\"{(i > 0 ? " stroke-dasharray=\"4 3\"" : "")} stroke=\"{colours[i]}\" points=\"");
            foreach (var (x, y) in series[i]) svg.Append(CultureInfo.InvariantCulture, $"{X(x):F1},{Y(y):F1} ");
            svg.Append("\"/>");
            if (i > 0) foreach (var (x, y) in series[i]) svg.Append(CultureInfo.InvariantCulture, $"<circle cx=\"{X(x):F1}\" cy=\"{Y(y):F1}\" r=\"3\" fill=\"{colours[i]}\"><title>held-out {y:F4}</title></circle>");
        }
        return svg.Append("</svg></figure>").ToString();
    }

    /// <summary>Three digits that count: 4.02, 16,400, 0.0002, 1.5e-05.</summary>
    private static string Label(double value) => Math.Abs(value) switch
    {
        0 => "0",
        >= 100 => value.ToString("N0", CultureInfo.InvariantCulture),
        < 1e-4 => value.ToString("0.##e-00", CultureInfo.InvariantCulture),
        _ => value.ToString("G3", CultureInfo.InvariantCulture),
    };

    private static string Encode(string text) => WebUtility.HtmlEncode(text);
}
