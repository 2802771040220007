using System.Text.Json.Nodes;

namespace Lancet.Formats.Gguf;

/// <summary>The configuration of a GGUF file's model as Hugging Face's config.json, so that it is read, trained and saved like any other.</summary>
internal static class GgufConfig
{
    /// <summary>The text of a config.json.</summary>
    /// <exception cref="LancetException">A key is missing or wrong, or the architecture is not supported.</exception>
    public static string ToJson(GgufFile file)
    {
        var (metadata, tensors) = (file.Header.Metadata, file.Header.Tensors);
        var name = metadata.RequiredText("general.architecture");
        var type = name == "llama" && metadata.Integer("llama.expert_count") is > 0 ? "mixtral" : GgufArchitecture.ModelTypeOf(name) ?? throw metadata.Error($"architecture {name} is not supported; {string.Join(", ", GgufArchitecture.Names)} are.");
        if (metadata.Integer("split.count") is > 1) throw metadata.Error("this is one part of a split model; join the parts first (llama-gguf-split --merge).");
        var prefix = metadata.RequiredText("general.architecture") + ".";
        double Number(string key, double fallback) => metadata.Number(prefix + key) ?? fallback;
        bool Has(string tensor) => tensors.ContainsKey(tensor);

        if (!tensors.TryGetValue("token_embd.weight", out var embedding) || embedding.Dimensions.Count != 2) throw metadata.Error("tensor token_embd.weight is missing or no matrix.");
        int hidden = metadata.Positive(prefix + "embedding_length"), heads = metadata.Positive(prefix + "attention.head_count"), layers = metadata.Positive(prefix + "block_count");
        var headDimension = metadata.Contains(prefix + "attention.key_length") ? metadata.Positive(prefix + "attention.key_length") : hidden / heads;
        var window = (int)Math.Clamp(Number("attention.sliding_window", 0), 0, int.MaxValue);
        if (type == "llama" && window > 0) type = "mistral";
        var config = new JsonObject
        {
            ["model_type"] = type,
            ["vocab_size"] = embedding.Dimensions[0],
            ["hidden_size"] = hidden,
            ["intermediate_size"] = metadata.Positive(prefix + "feed_forward_length"),
            ["num_hidden_layers"] = layers,
            ["num_attention_heads"] = heads,
            ["num_key_value_heads"] = metadata.Contains(prefix + "attention.head_count_kv") ? metadata.Positive(prefix + "attention.head_count_kv") : heads,
            ["head_dim"] = headDimension,
            ["max_position_embeddings"] = metadata.Positive(prefix + "context_length"),
            [metadata.Contains(prefix + "attention.layer_norm_epsilon") ? "layer_norm_eps" : "rms_norm_eps"] = Number("attention.layer_norm_epsilon", Number("attention.layer_norm_rms_epsilon", 1e-6)),
            ["tie_word_embeddings"] = !Has("output.weight"),
            ["hidden_act"] = type.StartsWith("gemma", StringComparison.Ordinal) ? "gelu_pytorch_tanh" : "silu",
            ["attention_bias"] = type != "qwen2" && Has("blk.0.attn_q.bias"),
            ["mlp_bias"] = Has("blk.0.ffn_up.bias"),
        };
        if (config["hidden_act"]!.GetValue<string>() != "silu") config["hidden_activation"] = "gelu_pytorch_tanh";
        var ends = ((string[])["eos", "eot", "eom"]).Select(name => metadata.Integer($"tokenizer.ggml.{name}_token_id")).OfType<long>().Distinct().ToList();
        if (ends.Count > 0) config["eos_token_id"] = ends.Count == 1 ? JsonValue.Create(ends[0]) : new JsonArray([.. ends.Select(end => JsonValue.Create(end))]);
        if (metadata.Integer("tokenizer.ggml.bos_token_id") is { } bos) config["bos_token_id"] = bos;
        AddFamily(config, type, metadata, prefix, Has);
        if (window > 0 || type == "gemma2") AddWindows(config, type, metadata, prefix, window, layers);
        AddRotary(config, type, file, prefix, headDimension);
        AddExperts(config, type, metadata, prefix);
        return config.ToJsonString();
    }

    private static void AddFamily(JsonObject config, string type, GgufMetadata metadata, string prefix, Func<string, bool> has)
    {
        double Number(string key, double fallback) => metadata.Number(prefix + key) ?? fallback;
        switch (type)
        {
            case "gemma2" or "gemma3_text":
                // Queries are stored so that llama.cpp's scale is right.
                int hidden = config["hidden_size"]!.GetValue<int>(), heads = config["num_attention_heads"]!.GetValue<int>();
                var isLargest = config["num_hidden_layers"]!.GetValue<int>() == (type == "gemma2" ? 46 : 62);
                config["query_pre_attn_scalar"] = isLargest ? hidden / heads : config["head_dim"]!.GetValue<int>();
                if (type == "gemma2") (config["attn_logit_softcapping"], config["final_logit_softcapping"]) = (Number("attn_logit_softcapping", 50), Number("final_logit_softcapping", 30));
                break;
            case "granite":
                (config["attention_multiplier"], config["embedding_multiplier"]) = (Number("attention.scale", 1), Number("embedding_scale", 1));
                (config["residual_multiplier"], config["logits_scaling"]) = (Number("residual_scale", 1), Number("logit_scale", 1));
                break;
            case "cohere" or "cohere2":
                config["logit_scale"] = Number("logit_scale", 0.0625);
                config["use_qk_norm"] = has("blk.0.attn_q_norm.weight");
                break;
        }
    }

    private static void AddWindows(JsonObject config, string type, GgufMetadata metadata, string prefix, int window, int layers)
    {
        config["sliding_window"] = window > 0 ? window : 4096;
        if (type is "qwen2" or "qwen3") (config["use_sliding_window"], config["max_window_layers"]) = (true, 0);
        if (type is not ("gemma2" or "gemma3_text" or "cohere2")) return;
        var fallback = type switch { "gemma2" => 2, "gemma3_text" => 6, _ => 4 };
        var pattern = metadata.Integers(prefix + "attention.sliding_window_pattern");
        if (pattern is { Length: > 1 } && pattern.Length < layers) throw metadata.Error($"{prefix}attention.sliding_window_pattern has {pattern.Length} entries for {layers} layers.");
        if (pattern is [<= 0]) throw metadata.Error($"{prefix}attention.sliding_window_pattern is {pattern[0]}; a positive integer is expected.");
        var types = new JsonArray();
        for (var layer = 0; layer < layers; layer++)
        {
            var slides = pattern is { Length: > 1 } ? pattern[layer] != 0 : (layer + 1) % (pattern is [var period] ? period : fallback) != 0;
            types.Add((JsonNode)(slides ? "sliding_attention" : "full_attention"));
        }
        config["layer_types"] = types;
    }

    private static void AddRotary(JsonObject config, string type, GgufFile file, string prefix, int headDimension)
    {
        var metadata = file.Header.Metadata;
        double Number(string key, double fallback) => metadata.Number(prefix + key) ?? fallback;
        var theta = Number("rope.freq_base", 10000);
        config["rope_theta"] = theta;
        if (metadata.Contains(prefix + "rope.freq_base_swa")) config["rope_local_base_freq"] = Number("rope.freq_base_swa", 10000);
        var dimension = Number("rope.dimension_count", headDimension);
        if (dimension != headDimension) config["partial_rotary_factor"] = dimension / headDimension;
        var original = (int)Math.Clamp(Number("rope.scaling.original_context_length", config["max_position_embeddings"]!.GetValue<int>()), 1, int.MaxValue);
        var factor = Number("rope.scaling.factor", 1);
        var scaling = metadata.Text(prefix + "rope.scaling.type");
        if (file.Header.Tensors.ContainsKey("rope_freqs.weight"))
        {
            // Divisors for every length: longrope with the same factors on both sides.
            var divisors = file.Read("rope_freqs.weight");
            config["rope_scaling"] = new JsonObject { ["rope_type"] = "longrope", ["short_factor"] = List(divisors), ["long_factor"] = List(divisors), ["original_max_position_embeddings"] = original, ["attention_factor"] = 1 };
        }
        else if (file.Header.Tensors.ContainsKey("rope_factors_long.weight"))
        {
            config["rope_scaling"] = new JsonObject
            {
                ["rope_type"] = "longrope",
                ["short_factor"] = List(file.Read("rope_factors_short.weight")),
                ["long_factor"] = List(file.Read("rope_factors_long.weight")),
                ["original_max_position_embeddings"] = original,
                ["attention_factor"] = Number("rope.scaling.attn_factor", 1),
            };
        }
        else if (scaling == "linear" && factor != 1)
        {
            config["rope_scaling"] = new JsonObject { ["rope_type"] = "linear", ["factor"] = factor };
        }
        else if (scaling == "yarn")
        {
            config["rope_scaling"] = new JsonObject
            {
                ["rope_type"] = "yarn",
                ["factor"] = factor,
                ["original_max_position_embeddings"] = original,
                ["beta_fast"] = Number("rope.scaling.yarn_beta_fast", 32),
                ["beta_slow"] = Number("rope.scaling.yarn_beta_slow", 1),
                ["attention_factor"] = Number("rope.scaling.attn_factor", 1) * (factor <= 1 ? 1 : 1 + (0.1 * Math.Log(factor))),
            };
        }
        else if (scaling is not (null or "none" or "linear" or "longrope"))
        {
            throw metadata.Error($"{prefix}rope.scaling.type is {scaling}; none, linear, yarn and longrope are supported.");
        }
        if (type == "phi3" && config["rope_scaling"] is null) config["original_max_position_embeddings"] = original;
    }

    private static void AddExperts(JsonObject config, string type, GgufMetadata metadata, string prefix)
    {
        if (metadata.Integer(prefix + "expert_count") is not > 0) return;
        if (type is not ("mixtral" or "qwen3_moe")) throw metadata.Error($"experts in models of architecture {metadata.Text("general.architecture")} are not supported.");
        config[type == "mixtral" ? "num_local_experts" : "num_experts"] = metadata.Positive(prefix + "expert_count");
        config["num_experts_per_tok"] = metadata.Positive(prefix + "expert_used_count");
        if (type != "qwen3_moe") return;
        config["moe_intermediate_size"] = metadata.Positive(prefix + "expert_feed_forward_length");
        config["norm_topk_prob"] = true;
    }

    private static JsonArray List(float[] values) => new([.. values.Select(value => (JsonNode)JsonValue.Create(value))]);
}
