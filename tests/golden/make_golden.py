#!/usr/bin/env python3
"""Make golden fixtures with Hugging Face transformers and PEFT in float64.

usage: make_golden.py OUTPUT_DIR [CASE ...]

Needs torch, transformers (5.x) and peft; no GPU. Without cases it makes the families of this folder ("base") and the variants
that try other dimensions, head counts, sequence lengths, rotary scalings, biases and adapters ("more"). Each folder then holds
model/, adapter/, data.jsonl, expected.json, logits.safetensors, gradients_step0.safetensors, adapter_after_training.safetensors, as
README.md describes; check_golden.py checks the lancet command against them.
"""
import copy, json, os, random, sys

import peft
import torch
import transformers
from safetensors.torch import save_file

LEARNING_RATE, WEIGHT_DECAY, MAX_STEPS, BATCH_SIZE, WARMUP, MAX_GRAD_NORM = 5e-3, 0.01, 12, 4, 3, 1.0
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SMALL = dict(hidden_size=64, intermediate_size=176, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, vocab_size=320,
             max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0)


def rope(**more):
    return dict(rope_theta=10000.0, rope_type="default") | more


NARROW = dict(intermediate_size=96)
FUSED = dict(target_modules=["qkv_proj", "o_proj", "gate_up_proj", "down_proj"])
ATTENTION = dict(target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])

# The class of a config that is not named as its model is.
CONFIGS = {"Gemma3": "Gemma3TextConfig"}

# name: (config class, changes to SMALL, changes to the adapter, longest row)
BASE = {
    "llama": ("Llama", dict(head_dim=16, rope_parameters=rope()), {}, 24),
    "llama31-rope": ("Llama", dict(head_dim=16, num_key_value_heads=1, tie_word_embeddings=True, rope_parameters=rope(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)), {}, 40),
    "mistral-swa": ("Mistral", dict(head_dim=16, sliding_window=6, rope_parameters=rope()), {}, 24),
    "gemma": ("Gemma", dict(head_dim=32, num_key_value_heads=1, rope_parameters=rope(), hidden_activation="gelu_pytorch_tanh"), {}, 24),
    "gemma2": ("Gemma2", dict(head_dim=32, sliding_window=6, query_pre_attn_scalar=24, rope_parameters=rope()), {}, 24),
    "qwen2": ("Qwen2", dict(rope_parameters=rope(rope_theta=1e6), tie_word_embeddings=True), {}, 24),
    "qwen3": ("Qwen3", dict(head_dim=32, rope_parameters=rope(rope_theta=1e6)), {}, 24),
    "phi3": ("Phi3", dict(NARROW, rope_parameters=rope()), FUSED, 24),
    "granite": ("Granite", dict(NARROW, embedding_multiplier=6.0, attention_multiplier=0.1, residual_multiplier=0.3, logits_scaling=4.0, rope_parameters=rope(), tie_word_embeddings=True), {}, 24),
    "smollm3": ("SmolLM3", dict(NARROW, no_rope_layer_interval=2, rope_parameters=rope(rope_theta=5e6), tie_word_embeddings=True), {}, 24),
    "olmo2": ("Olmo2", dict(NARROW, rope_parameters=rope(rope_theta=5e5)), {}, 24),
    "gemma3": ("Gemma3", dict(NARROW, head_dim=32, sliding_window=6, query_pre_attn_scalar=24, layer_types=["sliding_attention", "sliding_attention", "full_attention"], rope_parameters=dict(
        sliding_attention=rope(), full_attention=rope(rope_type="linear", factor=8.0, rope_theta=1e6))), {}, 24),
    "cohere": ("Cohere", dict(NARROW, logit_scale=0.25, rope_parameters=rope(), tie_word_embeddings=True), {}, 24),
    "cohere2": ("Cohere2", dict(NARROW, head_dim=24, logit_scale=0.25, sliding_window=6, layer_types=["sliding_attention", "full_attention", "sliding_attention"], rope_parameters=rope(),
                                tie_word_embeddings=True), {}, 24),
    "mixtral": ("Mixtral", dict(NARROW, intermediate_size=48, num_local_experts=4, num_experts_per_tok=2, rope_parameters=rope(rope_theta=1e6)), ATTENTION, 24),
    "qwen3-moe": ("Qwen3Moe", dict(NARROW, head_dim=32, moe_intermediate_size=40, num_experts=6, num_experts_per_tok=2, norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[],
                                   rope_parameters=rope(rope_theta=1e6), tie_word_embeddings=True), ATTENTION, 24),
}
MORE = {
    "llama-odd-heads": ("Llama", dict(hidden_size=60, intermediate_size=100, num_attention_heads=5, num_key_value_heads=5, head_dim=12, vocab_size=317, num_hidden_layers=2,
                                      rope_parameters=rope(), tie_word_embeddings=True), dict(r=3, lora_alpha=7), 70),
    "llama-nine-heads": ("Llama", dict(hidden_size=72, intermediate_size=130, num_attention_heads=9, num_key_value_heads=3, head_dim=8, vocab_size=1001, rope_parameters=rope(rope_theta=5e5)), dict(r=5), 150),
    "llama-biases": ("Llama", dict(head_dim=24, attention_bias=True, mlp_bias=True, rope_parameters=rope()), dict(target_modules=["q_proj", "v_proj", "down_proj"]), 33),
    "llama-linear": ("Llama", dict(head_dim=16, rope_parameters=rope(rope_type="linear", factor=4.0)), dict(use_rslora=True), 33),
    "llama-yarn": ("Llama", dict(head_dim=32, rope_parameters=rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)), {}, 90),
    "llama-one-layer": ("Llama", dict(num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, head_dim=64, rope_parameters=rope(), rms_norm_eps=1e-6), dict(r=1), 5),
    "mistral-wide-head": ("Mistral", dict(hidden_size=48, num_attention_heads=6, num_key_value_heads=2, head_dim=20, sliding_window=2, rope_parameters=rope()), {}, 40),
    "mistral-no-window": ("Mistral", dict(head_dim=16, sliding_window=None, rope_parameters=rope()), {}, 130),
    "gemma-odd": ("Gemma", dict(hidden_size=40, num_attention_heads=3, num_key_value_heads=3, head_dim=24, rope_parameters=rope(), hidden_activation="gelu_pytorch_tanh"), {}, 40),
    "gemma2-odd": ("Gemma2", dict(hidden_size=54, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=3, head_dim=16, sliding_window=9, query_pre_attn_scalar=50, final_logit_softcapping=5.0,
                                  attn_logit_softcapping=3.0, rope_parameters=rope()), {}, 60),
    "qwen2-untied": ("Qwen2", dict(hidden_size=84, num_attention_heads=7, num_key_value_heads=1, rope_parameters=rope(), tie_word_embeddings=False), dict(r=4, rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 3}), 65),
    "qwen2-window": ("Qwen2", dict(use_sliding_window=True, sliding_window=7, max_window_layers=1, rope_parameters=rope()), {}, 40),
    "qwen3-odd": ("Qwen3", dict(hidden_size=50, intermediate_size=70, num_attention_heads=5, num_key_value_heads=1, head_dim=18, rope_parameters=rope(), tie_word_embeddings=True), {}, 100),
    "phi3-longrope": ("Phi3", dict(NARROW, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=2, max_position_embeddings=256, original_max_position_embeddings=36, tie_word_embeddings=True, rope_parameters=rope(
        rope_type="longrope", partial_rotary_factor=0.75, original_max_position_embeddings=36, short_factor=[1.0 + 0.05 * i for i in range(12)], long_factor=[1.5 + 0.5 * i for i in range(12)])), FUSED, 50),
    "phi3-window": ("Phi3", dict(hidden_size=60, intermediate_size=70, num_attention_heads=5, num_key_value_heads=5, num_hidden_layers=2, sliding_window=7, rope_parameters=rope()), dict(r=3, target_modules=["qkv_proj", "down_proj"]), 40),
    "granite-odd": ("Granite", dict(hidden_size=72, intermediate_size=50, num_attention_heads=6, num_key_value_heads=3, num_hidden_layers=2, attention_bias=True, mlp_bias=True, embedding_multiplier=12.5, attention_multiplier=0.015,
                                    residual_multiplier=0.22, logits_scaling=1.3, rope_parameters=rope(), tie_word_embeddings=False), dict(r=5), 60),
    "smollm3-odd": ("SmolLM3", dict(hidden_size=60, intermediate_size=70, num_attention_heads=5, num_key_value_heads=1, no_rope_layers=[0, 1, 1], use_sliding_window=True, sliding_window=7, attention_bias=True,
                                    layer_types=["full_attention", "sliding_attention", "sliding_attention"], rope_parameters=rope(), tie_word_embeddings=False), dict(r=3), 40),
    "olmo2-odd": ("Olmo2", dict(hidden_size=60, intermediate_size=70, num_attention_heads=5, num_key_value_heads=5, num_hidden_layers=2, attention_bias=True, rope_parameters=rope(), tie_word_embeddings=True), dict(r=3), 60),
    "gemma3-odd": ("Gemma3", dict(hidden_size=54, intermediate_size=70, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=3, head_dim=16, sliding_window=9, query_pre_attn_scalar=50, attention_bias=True,
                                  layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"], rope_parameters=dict(sliding_attention=rope(rope_theta=5e3), full_attention=rope(rope_theta=1e5))), {}, 60),
    "cohere-qk-norm": ("Cohere", dict(hidden_size=72, intermediate_size=50, num_attention_heads=6, num_key_value_heads=3, num_hidden_layers=2, use_qk_norm=True, attention_bias=True, logit_scale=0.4, rope_parameters=rope(),
                                      tie_word_embeddings=True), dict(r=5), 60),
    "cohere2-odd": ("Cohere2", dict(hidden_size=54, intermediate_size=70, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=2, head_dim=18, sliding_window=5, attention_bias=True, logit_scale=1.5,
                                    layer_types=["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"], rope_parameters=rope(rope_theta=5e4), tie_word_embeddings=True), dict(r=3), 50),
    "llama-dora": ("Llama", dict(NARROW, head_dim=16, rope_parameters=rope()), dict(use_dora=True), 24),
    "qwen2-dora": ("Qwen2", dict(NARROW, num_hidden_layers=2, rope_parameters=rope(), tie_word_embeddings=True), dict(use_dora=True, r=3, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "o_proj", "down_proj"],
                                                                                                    rank_pattern={"q_proj": 2}, alpha_pattern={"down_proj": 9}, layers_to_transform=[1]), 40),
    "llama-saved": ("Llama", dict(NARROW, head_dim=16, num_hidden_layers=2, rope_parameters=rope()), dict(modules_to_save=["embed_tokens", "lm_head"]), 24),
    "llama-saved-tied": ("Llama", dict(NARROW, head_dim=16, num_hidden_layers=2, rope_parameters=rope(), tie_word_embeddings=True), dict(modules_to_save=["embed_tokens", "lm_head"]), 24),
    "gemma-saved": ("Gemma", dict(NARROW, head_dim=16, num_hidden_layers=2, rope_parameters=rope()), dict(modules_to_save=["embed_tokens"]), 24),
    "mixtral-odd": ("Mixtral", dict(hidden_size=60, intermediate_size=36, num_attention_heads=5, num_key_value_heads=1, num_hidden_layers=2, num_local_experts=5, num_experts_per_tok=3, sliding_window=9, rope_parameters=rope(),
                                    tie_word_embeddings=True), ATTENTION, 40),
    "qwen3-moe-odd": ("Qwen3Moe", dict(hidden_size=50, intermediate_size=70, moe_intermediate_size=22, num_attention_heads=5, num_key_value_heads=1, head_dim=18, num_experts=8, num_experts_per_tok=3, norm_topk_prob=False,
                                       decoder_sparse_step=1, mlp_only_layers=[1], rope_parameters=rope(), tie_word_embeddings=False), ATTENTION, 40),
}


def rows(seed, vocabulary, longest):
    """16 rows of random ids; every second one has a prompt without labels."""
    draw, out = random.Random(seed), []
    for i in range(16):
        length = draw.randint(max(3, longest // 2), longest)
        ids = [draw.randrange(3, vocabulary) for _ in range(length)]
        prompt = draw.randint(1, length - 2) if i % 2 == 0 else 0
        out.append(dict(input_ids=ids, labels=[-100] * prompt + ids[prompt:]))
    return out


def loss_of(model, batch):
    """Sum over label tokens after the shift, divided by their number in the batch; an unpadded forward pass a row."""
    total, count = 0, 0
    for row in batch:
        labels = torch.tensor(row["labels"][1:])
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
        total = total + torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
        count += int((labels != -100).sum())
    return total / count


def trainable(model):
    """Trained parameters by the names that PEFT gives them in files."""
    def name_of(name):
        for part in ("base_model.model.", ".default", ".modules_to_save"):
            name = name.replace(part, "")
        return name.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")
    return {name_of(name): p for name, p in model.named_parameters() if p.requires_grad}


def randomize(model):
    """Gives an adapter values other than those that it starts from."""
    with torch.no_grad():
        for name, p in trainable(model).items():
            if "lora_A" in name or "lora_B" in name:
                p.copy_(torch.randn_like(p) * 0.05)
            else:
                # Magnitudes, and copies of embedding and head: away from what they are made from.
                p.mul_(1 + 0.1 * torch.randn_like(p))


def in_double(model):
    """A copy in float64."""
    double = copy.deepcopy(model).double()
    for name, module in double.named_modules():
        if name.endswith("rotary_emb"):
            # The rotary frequencies of transformers are computed in float32 and stay so.
            module.float()
    return double


def train(model, data, max_steps):
    """Losses and gradient norms of training steps in the model's dtype, and the first step's gradients."""
    out = dict(train_loss=[], grad_norm=[])
    parameters = trainable(model)
    optimizer = torch.optim.AdamW(parameters.values(), lr=LEARNING_RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=WEIGHT_DECAY)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, WARMUP, max_steps)
    for step in range(max_steps):
        batch = [data[(step * BATCH_SIZE + i) % len(data)] for i in range(BATCH_SIZE)]
        loss = loss_of(model, batch)
        loss.backward()
        if step == 0:
            out["gradients"] = {name: p.grad.clone() for name, p in parameters.items()}
        out["train_loss"].append(float(loss))
        out["grad_norm"].append(float(torch.nn.utils.clip_grad_norm_(parameters.values(), MAX_GRAD_NORM)))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return out


def run(model, data):
    """Everything that is compared, in the model's dtype."""
    out = {}
    with torch.no_grad():
        out["loss"] = [float(loss_of(model, [row])) for row in data]
        with model.disable_adapter():
            out["base_loss"] = [float(loss_of(model, [row])) for row in data]
        out["logits"] = model(input_ids=torch.tensor([data[0]["input_ids"]])).logits[0].clone()
    out |= train(model, data, MAX_STEPS)
    out["adapter"] = {name: p.detach().clone() for name, p in trainable(model).items()}
    return out


def relative(got, want):
    """Relative L2 error over all tensors."""
    num = sum(float((got[k].double() - want[k].double()).pow(2).sum()) for k in want)
    den = sum(float(want[k].double().pow(2).sum()) for k in want)
    return (num / den) ** 0.5


def make(folder, case, definition, seed):
    family, changes, adapter, longest = definition
    torch.manual_seed(seed)
    config = getattr(transformers, CONFIGS.get(family, family + "Config"))(**{**SMALL, **changes})
    config._attn_implementation = "eager"
    if hasattr(config, "num_experts") or hasattr(config, "num_local_experts"):
        # The grouped products of torch have no float64.
        config._experts_implementation = "eager"
    base = getattr(transformers, family + "ForCausalLM")(config).float()
    with torch.no_grad():
        for name, p in base.named_parameters():
            # Norms away from one and biases away from zero, so that forgetting one shows. Cohere's norms of heads are matrices.
            if p.dim() == 1 or "norm" in name:
                p.add_(torch.randn_like(p) * 0.2)
            else:
                p.mul_(3)
    base.tie_weights()
    base.save_pretrained(f"{folder}/model")
    lora = peft.LoraConfig(**{**dict(r=8, lora_alpha=16, target_modules=ALL, task_type="CAUSAL_LM"), **adapter})
    model = peft.get_peft_model(base, lora)
    randomize(model)
    model.save_pretrained(f"{folder}/adapter")
    data = rows(seed, config.vocab_size, longest)
    with open(f"{folder}/data.jsonl", "w") as f:
        f.writelines(json.dumps(row) + "\n" for row in data)

    want, single = run(in_double(model), data), run(model, data)
    worst = lambda key: max(abs(a - b) for a, b in zip(single[key], want[key]))
    expected = dict(
        case=case, model_type=config.model_type,
        hyperparameters=dict(learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY, max_steps=MAX_STEPS, batch_size=BATCH_SIZE, max_grad_norm=MAX_GRAD_NORM, warmup_steps=WARMUP,
                             lr_scheduler="linear", optimizer="adamw", seed=0),
        expected_float64={key: want[key] for key in ("base_loss", "loss", "train_loss", "grad_norm")},
        huggingface_float32={key: single[key] for key in ("base_loss", "loss", "train_loss", "grad_norm")},
        huggingface_float32_error=dict(loss=max(worst("loss"), worst("base_loss")), train_loss=worst("train_loss"), logits=relative(dict(x=single["logits"]), dict(x=want["logits"])),
                                       gradients=relative(single["gradients"], want["gradients"]), adapter=relative(single["adapter"], want["adapter"])),
        versions=dict(torch=torch.__version__, transformers=transformers.__version__, peft=peft.__version__))
    with open(f"{folder}/expected.json", "w") as f:
        json.dump(expected, f, indent=1)
    save_file(dict(logits=want["logits"].float().contiguous()), f"{folder}/logits.safetensors")
    save_file({k: v.float().contiguous() for k, v in want["gradients"].items()}, f"{folder}/gradients_step0.safetensors")
    save_file({k: v.float().contiguous() for k, v in want["adapter"].items()}, f"{folder}/adapter_after_training.safetensors")
    print(f"{case:20s} loss {want['train_loss'][0]:.4f} -> {want['train_loss'][-1]:.4f}  float32 error {expected['huggingface_float32_error']}", flush=True)


def main():
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    cases = BASE | MORE
    for seed, case in enumerate(sys.argv[2:] or cases, start=int(os.environ.get("SEED", "11"))):
        os.makedirs(f"{sys.argv[1]}/{case}", exist_ok=True)
        make(f"{sys.argv[1]}/{case}", case, cases[case], seed)


if __name__ == "__main__":
    main()
