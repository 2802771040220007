using System.Globalization;

namespace Lancet.Formats;

/// <summary>Room on disk, asked for before hours of work rather than found missing after them.</summary>
public static class DiskSpace
{
    /// <summary>Checks that a file or folder of a size can be written.</summary>
    /// <param name="path">File or folder, which need not exist.</param>
    /// <param name="bytes">Bytes that will be written; what stands there now stays until they are.</param>
    /// <exception cref="OutputException">There is too little room.</exception>
    public static void Require(string path, long bytes)
    {
        var folder = Path.GetFullPath(path);
        while (!Directory.Exists(folder) && Path.GetDirectoryName(folder) is { } parent) folder = parent;
        long free;
        try
        {
            free = new DriveInfo(folder).AvailableFreeSpace;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException or ArgumentException)
        {
            // A file system that does not say is no reason to refuse; writing will.
            return;
        }
        if (free < bytes) throw new OutputException($"{path}: {Size(bytes)} are needed, {Size(free)} are free on {folder}. Free some space or choose another folder.", new IOException("The disk has too little room."));
    }

    private static string Size(long bytes) => bytes < 10_000_000 ? string.Create(CultureInfo.InvariantCulture, $"{bytes:N0} bytes") : string.Create(CultureInfo.InvariantCulture, $"{bytes / 1e9:F2} GB");
}
