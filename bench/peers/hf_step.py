#!/usr/bin/env python3
"""The peer of `Lancet.Bench gpu step`: the same optimiser step with Hugging Face transformers and PEFT on the same GPU.

usage: hf_step.py --model llama-3.1-8b [--layers N] [--method lora|qlora|full] [--batch B] [--length L] [--ragged] [--json FILE]
Random bf16 weights of true shapes made on the GPU, SDPA attention, gradient checkpointing (--no-checkpointing turns it off), LoRA r = 16 on
all seven projections as PEFT makes it (fp32 adapters) under bf16 autocast as in Trainer(bf16=True), fused AdamW on the adapters, clipping at
1, every token a label. QLoRA's linear layers are bitsandbytes', or where that is not installed those of nf4_linear.py, which the JSON then says.
Prints one line of JSON; tokens/s is the median over the steps, GB are 10^9 bytes.
"""
import argparse, json, math, os, statistics, sys, time

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="llama-3.1-8b")
parser.add_argument("--layers", type=int, default=0)
parser.add_argument("--method", default="lora", choices=["lora", "qlora", "full"])
parser.add_argument("--batch", type=int, default=4)
parser.add_argument("--length", type=int, default=2048)
parser.add_argument("--rank", type=int, default=16)
parser.add_argument("--steps", type=int, default=0, help="measured steps; by default as many as fit --seconds, at least 5")
parser.add_argument("--seconds", type=float, default=8)
parser.add_argument("--warmup", type=int, default=3)
parser.add_argument("--dora", action="store_true")
parser.add_argument("--ragged", action="store_true", help="rows of lognormal length, padded in batches of 8; tokens/s counts useful tokens")
parser.add_argument("--no-checkpointing", action="store_true")
parser.add_argument("--no-autocast", action="store_true")
parser.add_argument("--liger", action="store_true", help="with Liger's kernels, where they are installed")
parser.add_argument("--json", default=None)
a = parser.parse_args()
what = f"{a.model}{f', {a.layers} layers' if a.layers else ''}, {a.method}{', DoRA' if a.dora else ''}, {a.batch} x {a.length}{' ragged' if a.ragged else ''}"
peer = "Hugging Face + PEFT" + (" + Liger" if a.liger else "")


def finish(result, code=0):
    line = json.dumps({"peer": peer, "work": what, **result})
    print(line, flush=True)
    if a.json:
        with open(a.json, "w") as file:
            file.write(line + "\n")
    sys.exit(code)


try:
    import torch, transformers, peft
    from transformers import AutoConfig, AutoModelForCausalLM
except ImportError as problem:
    finish({"not_run": str(problem)})
if not torch.cuda.is_available():
    finish({"not_run": "no GPU"})
if a.method == "qlora":
    try:
        import bitsandbytes as bnb
    except ImportError:
        bnb = None
        peer += ", NF4 by a Triton stand-in for bitsandbytes"
        from nf4_linear import Nf4Linear

folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "Lancet.Bench", "models")
with open(os.path.join(folder, a.model + ".json")) as file:
    settings = json.load(file)
if a.layers:
    settings["num_hidden_layers"] = a.layers
config = AutoConfig.for_model(settings.pop("model_type"), **settings)
config.use_cache = False
torch.manual_seed(0)
torch.set_default_dtype(torch.float32 if a.method == "full" else torch.bfloat16)
with torch.device("cuda"):
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
torch.set_default_dtype(torch.float32)
if a.method != "full" and next(model.parameters()).dtype != torch.bfloat16:
    model = model.to(torch.bfloat16)
if a.liger:
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance
        _apply_liger_kernel_to_instance(model=model)
    except ImportError:
        finish({"not_run": "liger_kernel is not installed there"})
if a.method == "qlora":
    for name, module in list(model.named_modules()):
        for child, linear in list(module.named_children()):
            if isinstance(linear, torch.nn.Linear) and "lm_head" not in child:
                if bnb is None:
                    setattr(module, child, Nf4Linear(linear))
                    continue
                new = bnb.nn.Linear4bit(linear.in_features, linear.out_features, bias=linear.bias is not None, compute_dtype=torch.bfloat16, quant_type="nf4")
                new.weight = bnb.nn.Params4bit(linear.weight.data.cpu(), requires_grad=False, quant_type="nf4", compress_statistics=True)
                if linear.bias is not None:
                    new.bias = linear.bias
                setattr(module, child, new.to("cuda"))
if a.method == "full":
    trained = list(model.parameters())
else:
    model.requires_grad_(False)
    lora = peft.LoraConfig(r=a.rank, lora_alpha=32, lora_dropout=0.0, use_dora=a.dora, task_type="CAUSAL_LM",
                           target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    model = peft.get_peft_model(model, lora)
    trained = [p for p in model.parameters() if p.requires_grad]
    if a.method == "qlora" and bnb is None:
        # PEFT's adapters of bitsandbytes' layers leave x as it is under autocast; those of other linear layers copy it in fp32 first.
        for module in model.modules():
            module.cast_input_dtype_enabled = False
model.train()
if not a.no_checkpointing:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01, fused=True)

vocabulary, tokens = config.vocab_size, a.batch * a.length
generator = torch.Generator().manual_seed(5)
if a.ragged:
    lengths, left = [], tokens
    while left > 0:
        n = min(max(2, min(a.length, int(180 * math.exp(torch.randn(1, generator=generator).item())))), left)
        lengths.append(n)
        left -= n
    batches = []
    for start in range(0, len(lengths), 8):
        part = lengths[start:start + 8]
        ids = torch.zeros(len(part), max(part), dtype=torch.long)
        labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
        for row, n in enumerate(part):
            ids[row, :n] = torch.randint(vocabulary, (n,), generator=generator)
            labels[row, :n], mask[row, :n] = ids[row, :n], 1
        batches.append({k: v.cuda() for k, v in (("input_ids", ids), ("labels", labels), ("attention_mask", mask))})
else:
    ids = torch.randint(vocabulary, (a.batch, a.length), generator=generator).cuda()
    batches = [{"input_ids": ids, "labels": ids}]

torch.cuda.synchronize()
torch.cuda.empty_cache()
torch.cuda.reset_peak_memory_stats()
times, loss_value = [], math.nan
try:
    step = 0
    while True:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for batch in batches:
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=not a.no_autocast):
                loss = model(**batch).loss / len(batches)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss_value = loss.item() * len(batches)
        torch.cuda.synchronize()
        step += 1
        if step > a.warmup:
            times.append(time.perf_counter() - start)
            if len(times) >= (a.steps or 5) and (a.steps or sum(times) >= a.seconds or len(times) >= 200):
                break
except torch.cuda.OutOfMemoryError as problem:
    finish({"not_run": f"out of memory: {str(problem).splitlines()[0]}"})
times.sort()
median = statistics.median(times)
finish({
    "tokens_per_second": round(tokens / median, 1), "ms_per_step": round(median * 1e3, 3), "ms_low": round(times[len(times) // 10] * 1e3, 3),
    "ms_high": round(times[-1 - len(times) // 10] * 1e3, 3), "steps": len(times), "tokens": tokens,
    "max_memory_allocated_gb": round(torch.cuda.max_memory_allocated() / 1e9, 3), "max_memory_reserved_gb": round(torch.cuda.max_memory_reserved() / 1e9, 3),
    "loss": round(loss_value, 4), "checkpointing": not a.no_checkpointing, "autocast": not a.no_autocast, "device": torch.cuda.get_device_name(),
    "torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__,
    **({"note": "SDPA drops Gemma 2's soft cap of scores"} if a.model.startswith("gemma-2") else {}),
})
