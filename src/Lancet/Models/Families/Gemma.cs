using Lancet.Kernels;

namespace Lancet.Models.Families;

/// <summary>Gemma 1: embeddings scaled by √hidden, norms that scale by 1 + w, GeGLU in the tanh form, tied embeddings.</summary>
internal sealed class Gemma : ModelFamily
{
    public override string ModelType => "gemma";

    public override bool TiesWordEmbeddings => true;

    // Early configs say hidden_act "gelu", but the model was trained with the tanh form, and hidden_activation says so where it is present.
    public override ModelConfig Configure(ConfigReader reader, ModelConfig config) => config with
    {
        Activation = reader.Text("hidden_activation") is null ? GatedActivation.GeluTanh : reader.Activation("hidden_activation", "gelu_pytorch_tanh"),
        Norm = NormKind.RootMeanSquarePlusOne,
        EmbeddingScale = Math.Sqrt(config.HiddenSize),
        IsEmbeddingScaleRounded = true,
        HasQueryKeyValueBias = reader.Boolean("attention_bias") ?? false,
        HasOutputBias = reader.Boolean("attention_bias") ?? false,
    };
}
