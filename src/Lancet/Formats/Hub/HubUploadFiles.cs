namespace Lancet.Formats.Hub;

/// <summary>A file of this machine that a repository is to hold.</summary>
/// <param name="Path">Path in the repository.</param>
/// <param name="Source">Path here.</param>
/// <param name="Size">Bytes.</param>
/// <param name="Modified">When it was last written; a file that changes while it is sent is not committed.</param>
public sealed record HubLocalFile(string Path, string Source, long Size, DateTime Modified)
{
    /// <summary>A file as it is now; of a link, what it leads to.</summary>
    internal static HubLocalFile Of(string path, string source)
    {
        var info = new FileInfo(File.ResolveLinkTarget(source, true)?.FullName ?? source);
        return new(path, info.FullName, info.Length, info.LastWriteTimeUtc);
    }

    internal bool HasChanged => Of(Path, Source) != this;

    internal FileStream Open() => new(Source, FileMode.Open, FileAccess.Read, FileShare.Read, 0, FileOptions.Asynchronous);
}

/// <summary>Which files of a folder are for the hub.</summary>
/// <param name="Files">What is uploaded, by path.</param>
/// <param name="LeftOut">Files and folders that are not, and why.</param>
public sealed record HubUploadFiles(IReadOnlyList<HubLocalFile> Files, IReadOnlyList<(string Path, string Why)> LeftOut)
{
    // The hub takes nothing below them.
    private static readonly string[] s_refused = [".git", ".cache"];

    /// <summary>Looks through a folder, or takes a single file.</summary>
    /// <param name="source">What training or an export left: a folder, or a file such as a GGUF model.</param>
    /// <param name="includesEverything">Whether checkpoints, the run's own records and hidden files go, too.</param>
    /// <exception cref="LancetException">There is no such folder, or nothing in it.</exception>
    public static HubUploadFiles Find(string source, bool includesEverything)
    {
        if (File.Exists(source)) return new([HubLocalFile.Of(Path.GetFileName(source), source)], []);
        if (!Directory.Exists(source)) throw new LancetException($"{source}: there is no such folder.");
        var (files, leftOut) = (new List<HubLocalFile>(), new List<(string, string)>());
        Search(source, "");
        if (files.Count == 0) throw new LancetException($"{source}: there is nothing to upload{(leftOut.Count > 0 ? $"; left out are {string.Join(", ", leftOut.Select(item => $"{item.Item1} ({item.Item2})"))}" : "")}.");
        files.Sort((a, b) => string.CompareOrdinal(a.Path, b.Path));
        leftOut.Sort();
        return new(files, leftOut);

        void Search(string folder, string prefix)
        {
            foreach (var info in new DirectoryInfo(folder).EnumerateFileSystemInfos())
            {
                var path = prefix + info.Name;
                var isFolder = Directory.Exists(info.FullName);
                if (WhyNot(path, info.Name, isFolder, includesEverything) is { } why) leftOut.Add((isFolder ? path + "/" : path, why));
                // A link to a folder may lead in a circle.
                else if (isFolder && info.LinkTarget is not null) leftOut.Add((path + "/", "a link to a folder"));
                else if (isFolder) Search(info.FullName, path + "/");
                else if (info.LinkTarget is not null && info.ResolveLinkTarget(true) is not { Exists: true }) leftOut.Add((path, "a link that leads nowhere"));
                else files.Add(HubLocalFile.Of(path, info.FullName));
            }
        }
    }

    private static string? WhyNot(string path, string name, bool isFolder, bool includesEverything)
    {
        if (isFolder && s_refused.Contains(name)) return "the hub takes no such folder";
        if (includesEverything) return null;
        if (name[0] == '.') return "hidden";
        if (name.EndsWith(".tmp", StringComparison.Ordinal) || name.EndsWith(".incomplete", StringComparison.Ordinal)) return "unfinished";
        return path switch
        {
            "checkpoints" when isFolder => "checkpoints with the optimiser's state",
            "training_state.safetensors" or "training_state.json" => "the optimiser's state",
            // Where files lie on the machine that trained is nobody's business, nor are rows of its data.
            "config.resolved.yaml" => "names paths of this machine; the card has the rest",
            "report.html" => "names paths of this machine and shows rows of the data",
            _ => null,
        };
    }
}
