using System.Text;

namespace Lancet.Tokenization;

/// <summary>Turns generated tokens into text as they come, never splitting a character.</summary>
/// <param name="tokenizer">Tokenizer.</param>
/// <param name="skipsSpecialTokens">Whether special tokens are left out.</param>
public sealed class TokenStream(Tokenizer tokenizer, bool skipsSpecialTokens = true)
{
    private readonly List<byte> _pending = [];
    private bool _isStart = tokenizer.StripsLeadingSpace;

    /// <summary>Text that is complete after one more token; may be empty.</summary>
    public string Add(int id)
    {
        tokenizer.AppendBytes(id, skipsSpecialTokens, _pending);
        if (_isStart && _pending.Count > 0)
        {
            // As in decoding: the space before the first word is the vocabulary's, not the text's.
            if (_pending[0] == ' ') _pending.RemoveAt(0);
            _isStart = false;
        }
        var bytes = _pending.ToArray();
        var complete = bytes.Length;
        // An unfinished UTF-8 sequence at the end waits for its rest.
        for (var back = 1; back <= Math.Min(3, bytes.Length); back++)
        {
            var lead = bytes[^back];
            if (lead < 0x80) break;
            if (lead < 0xC0) continue;
            var length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
            if (length > back) complete = bytes.Length - back;
            break;
        }
        _pending.RemoveRange(0, complete);
        return Encoding.UTF8.GetString(bytes, 0, complete);
    }

    /// <summary>What is left at the end.</summary>
    public string Finish()
    {
        var text = Encoding.UTF8.GetString([.. _pending]);
        _pending.Clear();
        return text;
    }
}
