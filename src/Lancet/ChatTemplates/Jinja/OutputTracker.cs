using System.Text;

namespace Lancet.ChatTemplates.Jinja;

/// <summary>
/// Watches where the output comes from while a template runs: which characters a <c>{% generation %}</c> block wrote, and which the turn of a
/// loop over the messages. Text that is collected aside (in a macro, a filter or a <c>set</c> block) has no place in the output yet and is
/// seen only as a part of what writes it.
/// </summary>
/// <param name="output">The text that the template writes.</param>
/// <param name="messages">The messages as the template sees them.</param>
internal sealed class OutputTracker(StringBuilder output, List<object?> messages)
{
    private readonly (int Start, int End)?[] _turns = new (int Start, int End)?[messages.Count];
    private readonly bool[] _isAmbiguous = new bool[messages.Count];
    private readonly List<(int Start, int End)> _generated = [];

    /// <summary>What generation blocks wrote, in order.</summary>
    public IReadOnlyList<(int Start, int End)> Generated => _generated;

    /// <summary>Whether a generation block wrote text whose place is not known.</summary>
    public bool HasLostGeneration { get; private set; }

    /// <summary>Where the last message's loop turn ends; 0 if no message has one.</summary>
    public int LastTurnEnd { get; private set; }

    /// <summary>The output of a message's turn of the loop; null if there is none, or more than one.</summary>
    public (int Start, int End)? Turn(int message) => _isAmbiguous[message] ? null : _turns[message];

    /// <summary>Notes what a turn of a loop wrote.</summary>
    public void EndTurn(object? item, StringBuilder written, int start)
    {
        if (!ReferenceEquals(written, output) || written.Length == start || item is not Dictionary<string, object?>) return;
        var message = messages.FindIndex(other => ReferenceEquals(other, item));
        if (message < 0) return;
        _isAmbiguous[message] |= _turns[message] is not null;
        _turns[message] = (start, written.Length);
        LastTurnEnd = written.Length;
    }

    /// <summary>Notes what a generation block wrote.</summary>
    public void EndGeneration(StringBuilder written, int start)
    {
        if (ReferenceEquals(written, output)) _generated.Add((start, written.Length));
        else HasLostGeneration = true;
    }
}
