namespace Lancet.Devices.Cuda;

/// <summary>Files that save work when they are there and harm nobody when they are not: compiled kernels, chosen algorithms.</summary>
internal static class CacheFolder
{
    /// <summary>LANCET_CACHE, else lancet in the user's cache folder.</summary>
    public static string Path { get; } = Locate();

    /// <summary>Replaces a file in one piece; a disk that is full or read-only is no error.</summary>
    public static void TryWrite(string path, ReadOnlySpan<byte> contents)
    {
        // Other processes may write the same file at the same time: each has a temporary name of its own, and the last rename wins.
        var temporary = $"{path}.{Environment.ProcessId}.{Guid.NewGuid():N}.tmp";
        try
        {
            Directory.CreateDirectory(System.IO.Path.GetDirectoryName(path)!);
            File.WriteAllBytes(temporary, contents);
            File.Move(temporary, path, true);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException or ArgumentException or NotSupportedException)
        {
            try
            {
                File.Delete(temporary);
            }
            catch (Exception second) when (second is IOException or UnauthorizedAccessException or ArgumentException or NotSupportedException)
            {
                // It is a cache.
            }
        }
    }

    /// <summary>A file's contents, or null.</summary>
    public static byte[]? TryRead(string path)
    {
        try
        {
            return File.Exists(path) ? File.ReadAllBytes(path) : null;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    private static string Locate()
    {
        if (Environment.GetEnvironmentVariable("LANCET_CACHE") is { Length: > 0 } own) return System.IO.Path.GetFullPath(own);
        if (Environment.GetEnvironmentVariable("XDG_CACHE_HOME") is { Length: > 0 } cache) return System.IO.Path.Combine(cache, "lancet");
        if (OperatingSystem.IsWindows()) return System.IO.Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.LocalApplicationData), "lancet", "cache");
        var home = Environment.GetFolderPath(Environment.SpecialFolder.UserProfile);
        return System.IO.Path.Combine(home.Length > 0 ? home : System.IO.Path.GetTempPath(), ".cache", "lancet");
    }
}
