using Lancet.Data;
using Lancet.Formats.Hub;
using Lancet.Models;

namespace Lancet.Cli;

/// <summary>Models and data sets of the hub, where a name is no local path. Only then is there any network.</summary>
internal static class HubLoading
{
    /// <summary>The folder of --model, downloaded if it is a name on the hub. Of a model that Lancet cannot read only its configuration is.</summary>
    /// <param name="text">Folder or name.</param>
    /// <param name="hasWeights">Whether weights are needed, which are most of it.</param>
    public static string Folder(string text, bool hasWeights = true) => IdOf(text) is { } id
        ? Download(id, hasWeights ? HubFiles.OfModel : HubFiles.OfModelWithoutWeights, folder => ModelConfig.Load(folder)).Folder : text;

    /// <summary>Makes --adapter a folder, downloaded if it is a name on the hub.</summary>
    public static void ResolveAdapter(Settings settings)
    {
        // A config.json beside an adapter is some other program's, and says nothing about it.
        if (settings.Text("adapter") is { } adapter && IdOf(adapter) is { } id) settings.Resolve("adapter", Download(id, HubFiles.OfModel).Folder);
    }

    /// <summary>The sources of --data or --eval-data, downloaded where they are names on the hub.</summary>
    public static DataSources Data(string text) => DataSources.Parse(text).With(FilesOf);

    private static HubId? IdOf(string text) => HubId.TryParse(text, HubRepositoryKind.Model);

    private static IReadOnlyList<string>? FilesOf(string path)
    {
        // A typing error in the name of a file is no data set.
        if (RowReader.IsDataFile(path) || HubId.TryParse(path, HubRepositoryKind.Dataset) is not { } id) return null;
        var (_, files) = Download(id, HubFiles.OfDataset);
        return files.Count > 0 ? files : throw new LancetException($"{id}: the data set has no file that can be read (.parquet, .jsonl, .json, .csv, .tsv).");
    }

    private static (string Folder, IReadOnlyList<string> Files) Download(HubId id, Func<IReadOnlyList<string>, IReadOnlyList<string>> choose, Action<string>? check = null)
    {
        using var progress = new HubProgressLine(id);
        return new HubDownloader(HubOptions.FromEnvironment()).DownloadAsync(id, choose, progress, check).GetAwaiter().GetResult();
    }
}
