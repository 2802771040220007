namespace Lancet.Layers;

/// <summary>When copies of activations between device and host memory are awaited and started: more time for them takes more memory. All give the same bits.</summary>
/// <param name="Lag">Halves of layers after which a layer's copies to host memory are awaited and what they copied is freed on the device: 0 for at once.</param>
/// <param name="FetchesEarly">Whether what attention's backward pass reads starts to come with what the layer's MLP reads, and not only when the MLP's largest buffers are gone.</param>
public readonly record struct CopyTiming(int Lag, bool FetchesEarly);
