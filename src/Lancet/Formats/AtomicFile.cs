namespace Lancet.Formats;

/// <summary>Files and folders that appear complete or not at all: written under a temporary name, flushed to disk, renamed.</summary>
public static class AtomicFile
{
    /// <summary>Replaces a file's contents. If writing fails the former file is untouched and the temporary one is removed.</summary>
    /// <param name="path">File.</param>
    /// <param name="write">Writes the contents.</param>
    /// <exception cref="OutputException">The file cannot be written, for example because the disk is full.</exception>
    public static void Write(string path, Action<Stream> write)
    {
        var temporary = path + ".tmp";
        try
        {
            Directory.CreateDirectory(Path.GetDirectoryName(Path.GetFullPath(path))!);
            using (var stream = new FileStream(temporary, FileMode.Create, FileAccess.Write, FileShare.None, 1 << 20))
            {
                write(stream);
                stream.Flush(true);
            }
            File.Move(temporary, path, true);
        }
        catch (Exception error) when (OutputException.IsFrom(error))
        {
            TryDelete(temporary);
            throw new OutputException($"{path}: cannot be written: {error.Message} What was there before is untouched.", error);
        }
        catch
        {
            TryDelete(temporary);
            throw;
        }
    }

    /// <summary>Replaces a text file.</summary>
    public static void WriteText(string path, string text) => Write(path, stream => stream.Write(System.Text.Encoding.UTF8.GetBytes(text)));

    /// <summary>Fills a new folder and renames it into place; an existing folder of that name is replaced only after the new one is complete.</summary>
    /// <param name="path">Folder.</param>
    /// <param name="fill">Receives the temporary folder's path.</param>
    /// <exception cref="OutputException">The folder cannot be written, for example because the disk is full.</exception>
    public static void WriteFolder(string path, Action<string> fill)
    {
        var temporary = path + ".tmp";
        try
        {
            if (Directory.Exists(temporary)) Directory.Delete(temporary, true);
            Directory.CreateDirectory(temporary);
            fill(temporary);
            // At every moment one complete folder exists, under its own name or beside it.
            var former = path + ".old";
            if (Directory.Exists(former)) Directory.Delete(former, true);
            if (Directory.Exists(path)) Directory.Move(path, former);
            Directory.Move(temporary, path);
            if (Directory.Exists(former)) Directory.Delete(former, true);
        }
        catch (Exception error)
        {
            try
            {
                if (Directory.Exists(temporary)) Directory.Delete(temporary, true);
            }
            catch (IOException)
            {
                // The message below matters more than the left-over folder.
            }
            if (OutputException.IsFrom(error)) throw new OutputException($"{path}: cannot be written: {error.Message} What was there before is untouched.", error);
            throw;
        }
    }

    private static void TryDelete(string path)
    {
        try
        {
            File.Delete(path);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            // The temporary file does not stand in anybody's way.
        }
    }
}
