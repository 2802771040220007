namespace Lancet;

/// <summary>
/// Bad input or a condition the user can mend: a missing file, a malformed checkpoint, options that contradict each other, a model that
/// does not fit. The message says what, where, what was expected and what to do. The command line maps it to exit code 2.
/// </summary>
public class LancetException : Exception
{
    /// <summary>Creates an exception with the message that the user will read.</summary>
    public LancetException(string message)
        : base(message)
    {
    }

    /// <summary>Creates an exception with the message that the user will read, keeping the error that led to it.</summary>
    public LancetException(string message, Exception? innerException)
        : base(message, innerException)
    {
    }
}
