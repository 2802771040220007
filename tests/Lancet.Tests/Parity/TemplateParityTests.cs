using System.Text.Json;
using Lancet.ChatTemplates.Jinja;

namespace Lancet.Tests.Parity;

/// <summary>
/// The chat templates of published models and the cases of tests/parity/templates.json against @huggingface/jinja, and against Jinja2 where
/// templates.json says that the package does something else.
/// </summary>
public class TemplateParityTests
{
    [Fact]
    public void Texts_are_those_of_the_reference()
    {
        var wrong = new List<string>();
        var count = 0;
        foreach (var line in ParityData.Lines("templates.jsonl"))
        {
            count++;
            var expected = line.TryGetProperty("jinja2", out var text) || line.TryGetProperty("text", out text) ? text.GetString() : null;
            string? actual = null;
            var reason = "";
            try
            {
                actual = Template.Parse(line.GetProperty("template").GetString()!).Render((Dictionary<string, object?>)Values.FromJson(line.GetProperty("data"))!);
            }
            catch (LancetException error)
            {
                reason = error.Message;
            }
            if (actual != expected) wrong.Add($"{line.GetProperty("name").GetString()}: expected {JsonSerializer.Serialize(expected)}, got {JsonSerializer.Serialize(actual)} {reason}");
        }
        Assert.True(count >= 340, $"{count} renderings only");
        Assert.True(wrong.Count == 0, $"{wrong.Count} of {count} differ\n{string.Join('\n', wrong.Take(12))}");
    }
}
