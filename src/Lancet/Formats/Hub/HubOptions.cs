namespace Lancet.Formats.Hub;

/// <summary>Where the hub is and where its files go, by the variables that Python's huggingface_hub reads.</summary>
public sealed record HubOptions
{
    /// <summary>Address of the hub: HF_ENDPOINT.</summary>
    public Uri Endpoint { get; init; } = new("https://huggingface.co");

    /// <summary>Folder of the cache: HF_HUB_CACHE, else <c>hub</c> in HF_HOME.</summary>
    public required string CacheFolder { get; init; }

    /// <summary>Token of the user: HF_TOKEN, else the file that a login wrote; null for none.</summary>
    public string? Token { get; init; }

    /// <summary>Whether only the cache is used: HF_HUB_OFFLINE.</summary>
    public bool IsOffline { get; init; }

    /// <summary>Files at a time.</summary>
    public int Parallelism { get; init; } = 8;

    /// <summary>Attempts at a request before it is given up.</summary>
    public int Attempts { get; init; } = 6;

    /// <summary>How long a connection may be silent.</summary>
    public TimeSpan Silence { get; init; } = TimeSpan.FromSeconds(60);

    /// <summary>Waits between attempts.</summary>
    internal Func<TimeSpan, CancellationToken, Task> Wait { get; init; } = Task.Delay;

    /// <summary>The options that environment variables say.</summary>
    /// <exception cref="LancetException">HF_ENDPOINT is no address.</exception>
    public static HubOptions FromEnvironment()
    {
        var home = Variable("HF_HOME") ?? Path.Combine(Variable("XDG_CACHE_HOME") ?? Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".cache"), "huggingface");
        var tokenFile = Variable("HF_TOKEN_PATH") ?? Path.Combine(home, "token");
        var token = Variable("HF_TOKEN") ?? Variable("HUGGING_FACE_HUB_TOKEN") ?? (File.Exists(tokenFile) ? File.ReadAllText(tokenFile) : null);
        var endpoint = Variable("HF_ENDPOINT") ?? "https://huggingface.co";
        return new()
        {
            Endpoint = Uri.TryCreate(endpoint, UriKind.Absolute, out var uri) && uri.Scheme is "http" or "https" ? uri : throw new LancetException($"HF_ENDPOINT is {endpoint}; expected an address such as https://huggingface.co."),
            CacheFolder = Variable("HF_HUB_CACHE") ?? Variable("HUGGINGFACE_HUB_CACHE") ?? Path.Combine(home, "hub"),
            Token = token?.Trim() is { Length: > 0 } text ? text : null,
            IsOffline = (Variable("HF_HUB_OFFLINE") ?? "").ToUpperInvariant() is "1" or "ON" or "YES" or "TRUE",
        };

        static string? Variable(string name) => Environment.GetEnvironmentVariable(name) is { Length: > 0 } value ? value : null;
    }
}
