namespace Lancet;

/// <summary>
/// An output cannot be written: the disk is full, the folder is not writable, the file grows past what the file system takes, the hub that is to
/// have it cannot be reached. What was there before is untouched. The command line maps it to exit code 1.
/// </summary>
/// <param name="message">What the user will read.</param>
/// <param name="innerException">What the operating system said.</param>
public sealed class OutputException(string message, Exception? innerException = null) : LancetException(message, innerException)
{
    /// <summary>
    /// Whether an error of a file operation is about the outside world. .NET reports a file too large for its file system (or for the
    /// process's limit) as an <see cref="ArgumentOutOfRangeException"/> with this parameter name.
    /// </summary>
    internal static bool IsFrom(Exception error) => error is IOException or UnauthorizedAccessException or ArgumentOutOfRangeException { ParamName: "value" };
}
