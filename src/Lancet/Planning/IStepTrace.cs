namespace Lancet.Planning;

/// <summary>Is told by layers how far a dry run is, and what their kernels cannot say.</summary>
internal interface IStepTrace
{
    /// <summary>What follows belongs to this piece of the step.</summary>
    void Begin(StepPhase phase, int layer = 0);

    /// <summary>Attention of a layer.</summary>
    /// <param name="tokens">Tokens of the batch.</param>
    /// <param name="width">Query heads times head dimension.</param>
    /// <param name="window">Sliding window, or 0.</param>
    /// <param name="isBackward">Which pass.</param>
    void Attention(int tokens, int width, int window, bool isBackward);
}
