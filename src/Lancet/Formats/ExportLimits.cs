using Lancet.Formats.Gguf;
using Lancet.Tile;

namespace Lancet.Formats;

/// <summary>
/// How far an export may diverge from its model before it is called bad: about four times what rounding alone did to the bundled model on text that it knows nothing of,
/// where it suffers more than large models do on anything.
/// </summary>
public static class ExportLimits
{
    /// <summary>Most nats a token for NF4.</summary>
    public const double Nf4 = 2;

    /// <summary>Most nats a token for a dtype of safetensors.</summary>
    public static double Of(DType dtype) => dtype switch { DType.Float32 => 1e-5, DType.Float16 => 1e-3, _ => 0.02 };

    /// <summary>Most nats a token for a GGUF mix.</summary>
    public static double Of(GgufMix mix) => mix.Type switch
    {
        GgufTensorType.Float32 => Of(DType.Float32),
        GgufTensorType.Float16 => Of(DType.Float16),
        GgufTensorType.BFloat16 => Of(DType.BFloat16),
        GgufTensorType.Q80 => 0.02,
        GgufTensorType.Q6K => 0.15,
        GgufTensorType.Q5K or GgufTensorType.Q50 or GgufTensorType.Q51 => 0.6,
        GgufTensorType.Q4K or GgufTensorType.Q40 or GgufTensorType.Q41 => 2,
        GgufTensorType.Q3K => 4,
        _ => 8,
    };
}
