namespace Lancet.Formats.Hub;

/// <summary>Kinds of repositories on the hub.</summary>
public enum HubRepositoryKind
{
    /// <summary>Weights, configuration and tokenizer.</summary>
    Model,

    /// <summary>Data files.</summary>
    Dataset,
}

/// <summary>A repository on the hub at a revision, written <c>org/name</c> or <c>org/name@revision</c>.</summary>
/// <param name="Kind">Model or data set.</param>
/// <param name="Name"><c>org/name</c>.</param>
/// <param name="Revision">Branch, tag or commit.</param>
public sealed record HubId(HubRepositoryKind Kind, string Name, string Revision)
{
    /// <summary>Reads an id, unless the text is a local path: one that exists, one in a folder that exists, or one that no repository can be called.</summary>
    /// <param name="text">As on the command line.</param>
    /// <param name="kind">What is looked for.</param>
    public static HubId? TryParse(string text, HubRepositoryKind kind)
    {
        // A typing error in a path must not reach the network.
        return File.Exists(text) || Directory.Exists(text) || Directory.Exists(text.Split('/')[0]) ? null : Read(text, kind);
    }

    /// <summary>Reads an id that can be nothing else.</summary>
    /// <param name="text">As on the command line.</param>
    /// <param name="kind">What it names.</param>
    /// <exception cref="LancetException">No repository can be called so.</exception>
    public static HubId Parse(string text, HubRepositoryKind kind) => Read(text, kind) ?? throw new LancetException($"{text}: the name of a repository on the hub is expected: org/name, or org/name@branch.");

    private static HubId? Read(string text, HubRepositoryKind kind)
    {
        var at = text.IndexOf('@', StringComparison.Ordinal);
        var (name, revision) = at < 0 ? (text, "main") : (text[..at], text[(at + 1)..]);
        var parts = name.Split('/');
        if (parts.Length != 2 || !parts.All(IsName)) return null;
        return revision.Length > 0 && !revision.Contains("..", StringComparison.Ordinal) && revision[0] != '/' && revision.All(c => char.IsAsciiLetterOrDigit(c) || c is '.' or '-' or '_' or '/') ? new(kind, name, revision) : null;
    }

    /// <summary>What others should call a model folder: its name on the hub where it lies in the hub's cache, else its path.</summary>
    public static string NameOf(string folder)
    {
        var parts = Path.TrimEndingDirectorySeparator(folder).Replace(Path.DirectorySeparatorChar, '/').Split('/');
        return parts is [.., var repository, "snapshots", _] && repository.Split("--") is ["models", var owner, var name] ? $"{owner}/{name}" : folder;
    }

    /// <summary>Whether the revision is a commit, which never changes.</summary>
    public bool IsCommit => Revision.Length == 40 && Revision.All(char.IsAsciiHexDigit);

    /// <summary>Name of the repository's folder in the cache.</summary>
    internal string Folder => (Kind == HubRepositoryKind.Model ? "models--" : "datasets--") + Name.Replace("/", "--", StringComparison.Ordinal);

    internal string ApiPath => (Kind == HubRepositoryKind.Model ? "/api/models/" : "/api/datasets/") + Name;

    internal string FilesPath => (Kind == HubRepositoryKind.Model ? "/" : "/datasets/") + Name;

    /// <inheritdoc/>
    public override string ToString() => Revision == "main" ? Name : $"{Name}@{Revision}";

    private static bool IsName(string part) => part.Length is > 0 and <= 96 && part[0] is not ('.' or '-') && part[^1] is not ('.' or '-') && !part.Contains("--", StringComparison.Ordinal) && part.All(c => char.IsAsciiLetterOrDigit(c) || c is '.' or '-' or '_');
}
