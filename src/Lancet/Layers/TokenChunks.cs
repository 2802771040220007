using System.Globalization;

namespace Lancet.Layers;

/// <summary>
/// Chunks in which a batch is taken, the last ones perhaps empty: as many as the largest batch has, so that every batch asks for the same buffers. A chunk's gradients of weights are sums
/// of their own, added up in order, whatever layers keep: so activation policies agree to the bit.
/// </summary>
/// <param name="Count">Chunks.</param>
/// <param name="Tokens">Tokens of each but the last.</param>
internal readonly record struct TokenChunks(int Count, int Tokens)
{
    /// <summary>Tokens of a chunk where nothing else is asked for: enough for products at full speed. <c>LANCET_MLP_CHUNK</c> is another number, to compare.</summary>
    public static int DefaultTokens { get; } = int.TryParse(Environment.GetEnvironmentVariable("LANCET_MLP_CHUNK"), NumberStyles.None, CultureInfo.InvariantCulture, out var tokens) && tokens > 0 ? tokens : 8192;

    /// <summary>Batches in one piece.</summary>
    public static TokenChunks One => new(1, int.MaxValue);

    /// <summary>Chunks of batches of at most <paramref name="mostTokens"/>.</summary>
    public static TokenChunks Of(int mostTokens, int tokens) => new((mostTokens + tokens - 1) / tokens, tokens);

    /// <summary>A chunk of a batch.</summary>
    public (int Start, int Count) Rows(int chunk, int tokens)
    {
        var start = (int)Math.Min((long)chunk * Tokens, tokens);
        return (start, Math.Min(Tokens, tokens - start));
    }
}
