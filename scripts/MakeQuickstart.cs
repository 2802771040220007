// Makes what the quickstart's base model is trained on: a corpus, a tokenizer, a config.json and the question/answer rows,
// all from the API documentation (XML) in the .NET SDK's reference packs.
// usage: dotnet run scripts/MakeQuickstart.cs -- WORK_FOLDER DATASET_FOLDER
#:project ../src/Lancet/Lancet.csproj
#:property PublishAot=false
#:property NoWarn=CS1591;IDE0005;CA1050
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.RegularExpressions;
using System.Xml;
using System.Xml.Linq;
using Lancet;
using Lancet.Tokenization;

const int VocabularySize = 4096;
const int TrainingRows = 2000;
const int HeldOutRows = 200;
const int ParagraphCharacters = 700;
const string ChatTemplate =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

var (work, dataset) = (args[0], args[1]);
var sdk = Path.GetDirectoryName(Path.GetDirectoryName(Path.GetDirectoryName(typeof(object).Assembly.Location)!)!)!;
var pack = new[] { Path.Combine(sdk, "..", "packs"), Path.Combine(sdk, "packs") }.Select(folder => Path.Combine(folder, "Microsoft.NETCore.App.Ref")).First(Directory.Exists);
var files = Directory.EnumerateFiles(Directory.EnumerateDirectories(pack).Order(StringComparer.Ordinal).Last(), "*.xml", SearchOption.AllDirectories)
    .Where(file => !file.Contains("/analyzers/", StringComparison.Ordinal) && !file.EndsWith("System.Runtime.Intrinsics.xml", StringComparison.Ordinal)).Order(StringComparer.Ordinal).ToList();
Console.Error.WriteLine($"{files.Count} documentation files");

var members = files.SelectMany(ReadMembers).DistinctBy(member => member.Id).ToList();
var paragraphs = Paragraphs(members);
Directory.CreateDirectory(work);
Directory.CreateDirectory(dataset);
WriteRows(Path.Combine(work, "corpus.jsonl"), paragraphs.Select(text => (Action<Utf8JsonWriter>)(json => json.WriteString("text", text))));

var questions = Questions(members);
var random = new DeterministicRandom(1);
for (var i = questions.Count - 1; i > 0; i--)
{
    var j = random.NextInt32(i + 1);
    (questions[i], questions[j]) = (questions[j], questions[i]);
}
WriteRows(Path.Combine(dataset, "train.jsonl"), questions.Skip(HeldOutRows).Take(TrainingRows).Select(Row));
WriteRows(Path.Combine(dataset, "held-out.jsonl"), questions.Take(HeldOutRows).Select(Row));

BpeTrainer.Train(paragraphs.Concat(questions.Select(item => item.Question)), VocabularySize, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "<|endoftext|>", ChatTemplate, work);
File.WriteAllText(Path.Combine(work, "config.json"), """
    {
      "architectures": ["LlamaForCausalLM"],
      "model_type": "llama",
      "vocab_size": 4096,
      "hidden_size": 256,
      "intermediate_size": 704,
      "num_hidden_layers": 9,
      "num_attention_heads": 4,
      "num_key_value_heads": 2,
      "head_dim": 64,
      "hidden_act": "silu",
      "max_position_embeddings": 1024,
      "rms_norm_eps": 1e-05,
      "rope_theta": 10000.0,
      "tie_word_embeddings": true,
      "attention_bias": false,
      "mlp_bias": false,
      "eos_token_id": 4093,
      "bos_token_id": 4093,
      "initializer_range": 0.02,
      "dtype": "float32"
    }

    """);
Console.Error.WriteLine($"{members.Count} members, {paragraphs.Count} paragraphs of {paragraphs.Sum(text => (long)text.Length):N0} characters, {questions.Count} possible questions");

static IEnumerable<Member> ReadMembers(string file)
{
    XDocument document;
    try
    {
        document = XDocument.Load(file);
    }
    catch (XmlException)
    {
        yield break;
    }
    foreach (var element in document.Descendants("member"))
    {
        var id = element.Attribute("name")?.Value ?? "";
        if (id.Length < 3 || id[1] != ':' || id[0] is not ('T' or 'M' or 'P' or 'F' or 'E')) continue;
        var summary = Text(element.Element("summary"));
        if (summary.Length == 0) continue;
        yield return new Member(
            id, summary, Text(element.Element("returns")), Text(element.Element("value")),
            [.. element.Elements("param").Select(parameter => (parameter.Attribute("name")?.Value ?? "", Text(parameter))).Where(item => item.Item2.Length > 0)]);
    }
}

// The words of a documentation element; references by their short names.
static string Text(XElement? element)
{
    if (element is null) return "";
    var text = new StringBuilder();
    foreach (var node in element.DescendantNodes())
    {
        if (node is XText words) text.Append(words.Value);
        else if (node is XElement { HasElements: false, Value: "" } reference)
            text.Append(Short(reference.Attribute("cref")?.Value ?? reference.Attribute("langword")?.Value ?? reference.Attribute("name")?.Value ?? ""));
    }
    return Regex.Replace(text.ToString(), @"\s+", " ").Trim();
}

static string Short(string reference)
{
    var name = reference.Length > 2 && reference[1] == ':' ? reference[2..] : reference;
    var parenthesis = name.IndexOf('(');
    if (parenthesis > 0) name = name[..parenthesis];
    var parts = Regex.Replace(name, @"`+\d+", "").Split('.');
    return reference.StartsWith("T:", StringComparison.Ordinal) || parts.Length < 2 ? parts[^1] : $"{parts[^2]}.{parts[^1]}".Replace(".#ctor", " constructor", StringComparison.Ordinal);
}

static string Full(string id)
{
    var name = Regex.Replace(id[2..], @"`+\d+", "").Replace("#ctor", "constructor", StringComparison.Ordinal).Replace('{', '<').Replace('}', '>').Replace("@", "", StringComparison.Ordinal);
    return Regex.Replace(name, @"(?<=[(,<])(?:[A-Za-z_]\w*\.)+", "").Replace(",", ", ", StringComparison.Ordinal);
}

static string TypeOf(string id)
{
    if (id[0] == 'T') return id[2..];
    var name = id.Split('(')[0];
    return name[2..name.LastIndexOf('.')];
}

// Runs of members of one type, each a line, cut into paragraphs that fit the context of the base model.
static List<string> Paragraphs(List<Member> members)
{
    var result = new List<string>();
    foreach (var type in members.GroupBy(member => TypeOf(member.Id)))
    {
        var text = new StringBuilder();
        foreach (var member in type)
        {
            var line = new StringBuilder($"{Full(member.Id)}: {member.Summary}");
            foreach (var (name, meaning) in member.Parameters) line.Append($" {name}: {meaning}");
            if (member.Returns.Length > 0) line.Append($" Returns: {member.Returns}");
            if (text.Length > 0 && text.Length + line.Length > ParagraphCharacters)
            {
                result.Add(text.ToString());
                text.Clear();
            }
            if (text.Length > 0) text.Append('\n');
            text.Append(line.Length > ParagraphCharacters ? line.ToString(0, ParagraphCharacters) : line);
        }
        if (text.Length > 0) result.Add(text.ToString());
    }
    return result;
}

static List<(string Question, string Answer)> Questions(List<Member> members) =>
    [.. members.Where(member => member.Id[2..].StartsWith("System.", StringComparison.Ordinal) && member.Summary.Length is >= 30 and <= 160 && !member.Id.Contains("#ctor", StringComparison.Ordinal) && !member.Id.Contains("op_", StringComparison.Ordinal))
        .GroupBy(member => member.Id.Split('(')[0]).Select(group => group.First())
        .Select(member => (Name: Full(member.Id).Split('(')[0], member))
        .Where(item => item.Name.Length <= 60)
        .Select(item => (item.member.Id[0] == 'M' ? $"What does {item.Name} do?" : $"What is {item.Name}?", item.member.Summary))];

static Action<Utf8JsonWriter> Row((string Question, string Answer) item) => json =>
{
    json.WriteStartArray("messages");
    foreach (var (role, content) in new[] { ("user", item.Question), ("assistant", item.Answer) })
    {
        json.WriteStartObject();
        json.WriteString("role", role);
        json.WriteString("content", content);
        json.WriteEndObject();
    }
    json.WriteEndArray();
};

static void WriteRows(string path, IEnumerable<Action<Utf8JsonWriter>> rows)
{
    using var stream = File.Create(path);
    foreach (var row in rows)
    {
        using (var json = new Utf8JsonWriter(stream, new JsonWriterOptions { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping }))
        {
            json.WriteStartObject();
            row(json);
            json.WriteEndObject();
        }
        stream.WriteByte((byte)'\n');
    }
}

internal sealed record Member(string Id, string Summary, string Returns, string Value, IReadOnlyList<(string Name, string Meaning)> Parameters);
