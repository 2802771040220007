namespace Lancet.Layers;

/// <summary>When copies of activations between device and host memory are awaited and started: more time for them takes more memory. All give the same bits.</summary>
/// <param name="Lag">Halves of layers after which a layer's copies to host memory are awaited and what they copied is freed on the device: 0 for at once.</param>
/// <param name="FetchesEarly">Whether what attention's backward pass reads starts to come with what the layer's MLP reads, and not only when the MLP's largest buffers are gone.</param>
/// <param name="Lead">Layers between the one whose backward pass runs and the one whose copies from host memory start meanwhile: 0 where that is the next. More of them even out layers with more and less to bring.</param>
public readonly record struct CopyTiming(int Lag, bool FetchesEarly, int Lead = 0);
