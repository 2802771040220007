using System.Globalization;
using System.Text.Json;
using Lancet.Formats;
using Lancet.Formats.Hub;

namespace Lancet.Cli.Commands;

/// <summary>lancet push: what training or an export left goes to the hub.</summary>
internal static class PushCommand
{
    private const string Card = "README.md";
    private const string AdapterConfig = "adapter_config.json";

    public static int Run(Settings settings)
    {
        var source = settings.Required("folder");
        var id = IdOf(settings);
        var how = new HubUploadOptions { IsPrivate = settings.Flag("private"), Message = settings.Required("message"), CreatesPullRequest = settings.Flag("create-pr") };
        var (isDryRun, isJson) = (settings.Flag("dry-run"), settings.Flag("json"));
        var found = Prepare(source, id, settings.Flag("all"), isDryRun, isDryRun && !isJson ? Console.Out : Console.Error);
        if (isDryRun)
        {
            if (isJson) WriteJson(id, found, null, "");
            return 0;
        }
        var (result, address) = Upload(id, found, how);
        if (isJson) WriteJson(id, found, result, address);
        return 0;
    }

    /// <summary>Where --push of another command leads; null for nowhere. What cannot go there is refused before the work begins.</summary>
    public static HubId? TargetOf(Settings settings)
    {
        if (settings.Text("push") is not { } text)
        {
            if (settings.Flag("push-private")) throw new LancetException("--push-private is given, but not --push.");
            return null;
        }
        var id = HubId.Parse(text, HubRepositoryKind.Model);
        new HubUploader(HubOptions.FromEnvironment()).Check(id);
        return id;
    }

    /// <summary>Uploads what another command left in --output.</summary>
    public static void Push(Settings settings, HubId? target)
    {
        if (target is null) return;
        var output = settings.Required("output");
        try
        {
            Upload(target, Prepare(output, target, false, false, Console.Error), new HubUploadOptions { IsPrivate = settings.Flag("push-private") });
        }
        catch (LancetException error)
        {
            // The work itself is done.
            throw new OutputException($"{error.Message}\n{output} is complete; lancet push {output} {target} tries again.", error);
        }
    }

    /// <summary>Chooses files and shows them, and sees to the card.</summary>
    private static HubUploadFiles Prepare(string source, HubId id, bool includesEverything, bool isDryRun, TextWriter list)
    {
        if (Directory.Exists(source)) CheckCard(source, isDryRun);
        var found = HubUploadFiles.Find(source, includesEverything);
        Show(list, id, found);
        return found;
    }

    private static (HubUploadResult Result, string Address) Upload(HubId id, HubUploadFiles found, HubUploadOptions how)
    {
        var options = HubOptions.FromEnvironment();
        HubUploadResult result;
        using (var progress = new HubProgressLine(id)) result = new HubUploader(options).UploadAsync(id, found.Files, how, progress).GetAwaiter().GetResult();
        var address = result.PullRequest ?? new Uri(options.Endpoint, $"/{id.Name}/commit/{result.Commit}").ToString();
        Console.Error.WriteLine($"{(result.IsNew ? "created; " : "")}{string.Join(", ", result.Files.GroupBy(file => file.Outcome).OrderBy(group => group.Key).Select(group => $"{group.Count()} {NameOf(group.Key)} ({Size(group.Sum(file => file.File.Size))})"))}");
        Console.Error.WriteLine(address);
        return (result, address);
    }

    private static HubId IdOf(Settings settings)
    {
        var id = HubId.Parse(settings.Required("repository"), HubRepositoryKind.Model);
        if (!settings.IsGiven("revision")) return id;
        if (id.Revision != "main") throw new LancetException($"{id} names a branch already; leave --revision out.");
        return HubId.Parse($"{id.Name}@{settings.Required("revision")}", HubRepositoryKind.Model);
    }

    /// <summary>Writes the card of an adapter that has none, and says what its reader would miss.</summary>
    private static void CheckCard(string folder, bool isDryRun)
    {
        var baseModel = BaseModelOf(Path.Combine(folder, AdapterConfig));
        if (baseModel is not null && HubId.TryParse(baseModel, HubRepositoryKind.Model) is null)
            Console.Error.WriteLine($"{AdapterConfig} calls the base model {baseModel}, which means nothing elsewhere; set base_model_name_or_path to its name on the hub.");
        var path = Path.Combine(folder, Card);
        if (File.Exists(path)) return;
        if (baseModel is null)
        {
            Console.Error.WriteLine($"{folder} has no {Card}, so the hub shows no model card. lancet train and lancet export write one.");
            return;
        }
        if (!isDryRun) AtomicFile.WriteText(path, ModelCard.Create(baseModel, folder, []));
        Console.Error.WriteLine($"{path}: {(isDryRun ? "would be written" : "written")} as the model card, since there was none.");
    }

    private static string? BaseModelOf(string path)
    {
        if (!File.Exists(path)) return null;
        try
        {
            using var document = JsonDocument.Parse(File.ReadAllBytes(path));
            return document.RootElement.GetProperty("base_model_name_or_path").GetString();
        }
        catch (Exception error) when (error is JsonException or KeyNotFoundException or InvalidOperationException)
        {
            throw new LancetException($"{path}: base_model_name_or_path is expected: {error.Message}", error);
        }
    }

    private static void Show(TextWriter to, HubId id, HubUploadFiles found)
    {
        to.WriteLine($"{id}: {found.Files.Count} {(found.Files.Count == 1 ? "file" : "files")}, {Size(found.Files.Sum(file => file.Size))}");
        var width = found.Files.Max(file => file.Path.Length) + 2;
        foreach (var file in found.Files) to.WriteLine($"  {file.Path.PadRight(width)}{Size(file.Size),10}");
        foreach (var (path, why) in found.LeftOut) to.WriteLine($"  not {path}: {why}");
    }

    private static string NameOf(HubUploadOutcome outcome) => outcome switch
    {
        HubUploadOutcome.Sent => "sent",
        HubUploadOutcome.Linked => "there already",
        HubUploadOutcome.Unchanged => "unchanged",
        _ => "left out by .gitignore",
    };

    private static string Size(long bytes) => bytes < 100_000 ? string.Create(CultureInfo.InvariantCulture, $"{bytes:N0} bytes") : string.Create(CultureInfo.InvariantCulture, $"{bytes / 1e6:N1} MB");

    private static void WriteJson(HubId id, HubUploadFiles found, HubUploadResult? result, string address)
    {
        using var json = new Utf8JsonWriter(Console.OpenStandardOutput(), new JsonWriterOptions { Indented = true });
        json.WriteStartObject();
        json.WriteString("repository", id.Name);
        json.WriteString("revision", id.Revision);
        json.WriteBoolean("dry_run", result is null);
        if (result is not null)
        {
            json.WriteBoolean("created", result.IsNew);
            json.WriteString("commit", result.Commit);
            json.WriteString("url", address);
        }
        var outcomes = result?.Files.ToDictionary(file => file.File.Path, file => file.Outcome);
        json.WriteStartArray("files");
        foreach (var file in found.Files)
        {
            json.WriteStartObject();
            json.WriteString("path", file.Path);
            json.WriteNumber("size", file.Size);
            if (outcomes is not null) json.WriteString("outcome", outcomes[file.Path].ToString().ToLowerInvariant());
            json.WriteEndObject();
        }
        json.WriteEndArray();
        json.WriteStartArray("left_out");
        foreach (var (path, why) in found.LeftOut)
        {
            json.WriteStartObject();
            json.WriteString("path", path);
            json.WriteString("why", why);
            json.WriteEndObject();
        }
        json.WriteEndArray();
        json.WriteEndObject();
    }
}
