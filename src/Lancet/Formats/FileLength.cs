namespace Lancet.Formats;

/// <summary>Lengths of files that are about to be read.</summary>
internal static class FileLength
{
    /// <summary>Bytes of a file; of a link, as in the hub's cache, those of the file that it leads to. <see cref="FileInfo.Length"/> would be the link's own.</summary>
    /// <exception cref="LancetException">There is no such file, or it cannot be read.</exception>
    public static long Of(string path)
    {
        try
        {
            using var handle = File.OpenHandle(path);
            return RandomAccess.GetLength(handle);
        }
        catch (Exception error) when (error is FileNotFoundException or DirectoryNotFoundException)
        {
            throw new LancetException($"{path}: not found.", error);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw new LancetException($"{path}: cannot be read: {error.Message}", error);
        }
    }
}
