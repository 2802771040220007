namespace Lancet.Layers;

/// <summary>
/// What a layer keeps from its forward to its backward pass, and where. All give the same bits. Those that name host memory keep on the device what they
/// would send there if the device is a processor.
/// </summary>
public enum ActivationPolicy
{
    /// <summary>Everything the backward pass reads: fastest.</summary>
    Keep,

    /// <summary>All but the MLP's intermediate results, which are made again from x₂.</summary>
    RecomputeMlp,

    /// <summary>The layer's input only; the rest is made again.</summary>
    KeepInput,

    /// <summary>The layer's input and attention's output, in host memory: they leave and come back while layers compute. Little traffic, little memory.</summary>
    Offload,

    /// <summary>Input, queries, keys and values, and attention's output in host memory; the output projection and the MLP are made again.</summary>
    OffloadQkv,

    /// <summary>Everything but the MLP's intermediate results in host memory; those are made again.</summary>
    OffloadAttention,

    /// <summary>Everything but the MLP's intermediate results in host memory; those stay.</summary>
    OffloadKeepMlp,

    /// <summary>Everything in host memory: nothing is made again, most traffic.</summary>
    OffloadAll,

    /// <summary>Everything in host memory but the second half of the MLP's chunks (<see cref="TokenChunks"/>), which are made again. With one chunk <see cref="OffloadAttention"/>.</summary>
    OffloadHalfMlp,

    /// <summary>The first half of the MLP's chunks stay, the second half are made again, the rest is in host memory. With one chunk <see cref="OffloadAttention"/>.</summary>
    OffloadKeepHalfMlp,

    /// <summary>The layer's input, in host memory; attention, too, is made again. Least traffic and least memory, here and there.</summary>
    OffloadInput,
}

/// <summary>Where a part of what the backward pass reads is between the passes.</summary>
internal enum Place
{
    /// <summary>Where it was written.</summary>
    Device,

    /// <summary>In host memory, until shortly before it is read.</summary>
    Host,

    /// <summary>Nowhere: it is made again.</summary>
    Nowhere,
}

/// <summary>A policy, part by part.</summary>
/// <param name="Input">x; never made again.</param>
/// <param name="Qkv">q, k and v with what their norms and adapters keep.</param>
/// <param name="Attended">Attention's output and log-sum-exp.</param>
/// <param name="Middle">x₂, with what a norm behind the output projection keeps.</param>
/// <param name="Mlp">Gate and up, with what belongs to them.</param>
/// <param name="MlpShare">Share of the MLP's chunks that are there; the others are made again.</param>
internal readonly record struct SavedParts(Place Input, Place Qkv, Place Attended, Place Middle, Place Mlp, double MlpShare)
{
    /// <summary>Whether a part is in host memory.</summary>
    public bool UsesHost => Input == Place.Host || Mlp == Place.Host;

    /// <summary>The parts of a policy.</summary>
    /// <param name="policy">Policy.</param>
    /// <param name="staysOnDevice">Whether what would go to host memory stays: the last layer's backward pass follows its forward pass.</param>
    public static SavedParts Of(ActivationPolicy policy, bool staysOnDevice = false)
    {
        var host = staysOnDevice ? Place.Device : Place.Host;
        return policy switch
        {
            ActivationPolicy.Keep => default(SavedParts) with { MlpShare = 1 },
            ActivationPolicy.RecomputeMlp => default(SavedParts) with { Mlp = Place.Nowhere },
            ActivationPolicy.KeepInput => new(Place.Device, Place.Nowhere, Place.Nowhere, Place.Nowhere, Place.Nowhere, 0),
            ActivationPolicy.Offload => new(host, Place.Nowhere, host, Place.Nowhere, Place.Nowhere, 0),
            ActivationPolicy.OffloadQkv => new(host, host, host, Place.Nowhere, Place.Nowhere, 0),
            ActivationPolicy.OffloadAttention => new(host, host, host, host, Place.Nowhere, 0),
            ActivationPolicy.OffloadKeepMlp => new(host, host, host, host, Place.Device, 1),
            ActivationPolicy.OffloadAll => new(host, host, host, host, host, 1),
            ActivationPolicy.OffloadHalfMlp => new(host, host, host, host, host, 0.5),
            ActivationPolicy.OffloadKeepHalfMlp => new(host, host, host, host, Place.Device, 0.5),
            ActivationPolicy.OffloadInput => new(host, Place.Nowhere, Place.Nowhere, Place.Nowhere, Place.Nowhere, 0),
            _ => throw new ArgumentOutOfRangeException(nameof(policy)),
        };
    }

    /// <summary>The policy that does the same without host memory.</summary>
    public static ActivationPolicy OnDevice(ActivationPolicy policy) => policy switch
    {
        ActivationPolicy.Offload or ActivationPolicy.OffloadInput => ActivationPolicy.KeepInput,
        ActivationPolicy.OffloadQkv or ActivationPolicy.OffloadAttention or ActivationPolicy.OffloadHalfMlp or ActivationPolicy.OffloadKeepHalfMlp => ActivationPolicy.RecomputeMlp,
        ActivationPolicy.OffloadKeepMlp or ActivationPolicy.OffloadAll => ActivationPolicy.Keep,
        _ => policy,
    };
}

/// <summary>Policies as options name them.</summary>
public static class ActivationPolicies
{
    private static readonly string[] s_names = ["keep", "recompute-mlp", "keep-input", "offload", "offload-qkv", "offload-attention", "offload-keep-mlp", "offload-all", "offload-half-mlp", "offload-keep-half-mlp", "offload-input"];

    /// <summary>Names, in the order of <see cref="ActivationPolicy"/>.</summary>
    public static IReadOnlyList<string> Names => s_names;

    /// <summary>The policy of a name.</summary>
    /// <exception cref="LancetException">There is none.</exception>
    public static ActivationPolicy Parse(string name) => Array.IndexOf(s_names, name) is >= 0 and var index ? (ActivationPolicy)index : throw new LancetException($"{name}: expected {string.Join(", ", s_names)}.");

    /// <summary>The name of a policy.</summary>
    public static string NameOf(ActivationPolicy policy) => s_names[(int)policy];
}
