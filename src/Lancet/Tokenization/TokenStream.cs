namespace Lancet.Tokenization;

/// <summary>Turns generated tokens into text as they come, never splitting a character.</summary>
/// <param name="tokenizer">Tokenizer.</param>
/// <param name="skipsSpecialTokens">Whether special tokens are left out.</param>
public sealed class TokenStream(Tokenizer tokenizer, bool skipsSpecialTokens = true)
{
    private readonly TokenDecoder.State _state = new(tokenizer.Decoder, waitsForRuns: false);

    /// <summary>Text that is complete after one more token; may be empty.</summary>
    public string Add(int id)
    {
        if (tokenizer.TextOf(id, skipsSpecialTokens) is { } token) _state.Add(token);
        return _state.Take();
    }

    /// <summary>What is left at the end.</summary>
    public string Finish() => _state.Finish();
}
