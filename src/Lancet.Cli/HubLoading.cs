using System.Globalization;
using Lancet.Data;
using Lancet.Formats.Hub;

namespace Lancet.Cli;

/// <summary>Models and data sets of the hub, where a name is no local path. Only then is there any network.</summary>
internal static class HubLoading
{
    /// <summary>The folder of --model or --adapter, downloaded if it is a name on the hub.</summary>
    public static string Folder(string text) => HubId.TryParse(text, HubRepositoryKind.Model) is { } id ? Download(id, HubFiles.OfModel).Folder : text;

    /// <summary>Makes --adapter a folder, downloaded if it is a name on the hub.</summary>
    public static void ResolveAdapter(Settings settings)
    {
        if (settings.Text("adapter") is { } adapter) settings.Resolve("adapter", Folder(adapter));
    }

    /// <summary>The sources of --data or --eval-data, downloaded where they are names on the hub.</summary>
    public static DataSources Data(string text) => DataSources.Parse(text).With(FilesOf);

    private static IReadOnlyList<string>? FilesOf(string path)
    {
        // A typing error in the name of a file is no data set.
        if (RowReader.IsDataFile(path) || HubId.TryParse(path, HubRepositoryKind.Dataset) is not { } id) return null;
        var (_, files) = Download(id, HubFiles.OfDataset);
        return files.Count > 0 ? files : throw new LancetException($"{id}: the data set has no file that can be read (.parquet, .jsonl, .json, .csv, .tsv).");
    }

    private static (string Folder, IReadOnlyList<string> Files) Download(HubId id, Func<IReadOnlyList<string>, IReadOnlyList<string>> choose)
    {
        using var progress = new Progress(id);
        return new HubDownloader(HubOptions.FromEnvironment()).DownloadAsync(id, choose, progress).GetAwaiter().GetResult();
    }

    /// <summary>A line on stderr, rewritten on a terminal, else one for each tenth.</summary>
    private sealed class Progress(HubId id) : IProgress<HubProgress>, IDisposable
    {
        private readonly Lock _lock = new();
        private long _shown = -1;

        public void Report(HubProgress value)
        {
            lock (_lock)
            {
                var step = value.TotalBytes == 0 ? 0 : value.Bytes * (Console.IsErrorRedirected ? 10 : 1000) / value.TotalBytes;
                if (step == _shown) return;
                _shown = step;
                var line = string.Create(CultureInfo.InvariantCulture, $"{id}: {value.Bytes / 1e6:N1} of {value.TotalBytes / 1e6:N1} MB");
                if (Console.IsErrorRedirected) Console.Error.WriteLine(line);
                else Console.Error.Write($"\r{line}\e[K");
            }
        }

        public void Dispose()
        {
            if (!Console.IsErrorRedirected && _shown >= 0) Console.Error.WriteLine();
        }
    }
}
