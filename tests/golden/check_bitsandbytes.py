#!/usr/bin/env python3
"""Check that NF4 folders and QLoRA's adapters go both ways between the `lancet` command and bitsandbytes itself, through transformers and PEFT.

usage: check_bitsandbytes.py --lancet 'COMMAND' [--device cuda] [--jobs 4] FIXTURE_DIR [FIXTURE_DIR ...]

Mixtures of experts are left out: transformers 5 holds the matrices of all experts as one, for which bitsandbytes has no 4 bits. Of each other fixture:
  codes, scales  share of 4-bit codes and of the scales' 8-bit codes that lancet writes and bitsandbytes does not, of the same weights
  mean, table    the scales' mean and the 256 values of their codes, relative difference; the values, which bitsandbytes computes in float32 by torch.linspace and lancet rounds
                 once, are in each file
  values         what bitsandbytes dequantises from the folder that lancet wrote, less the formula's values, of the largest of its tensor
  loads          probabilities of transformers with bitsandbytes from that folder, less those of a model of the formula's values in float64
  written there  transformers quantises the model and saves it; lancet's probabilities with that folder, less the same
  adapter        lancet trains an adapter on that folder (QLoRA), and PEFT loads it onto the folder's model in 4 bits
Bounds of probabilities are a small multiple of Hugging Face's own float32 error, as in check_peft.py. Prints a row a fixture and exits 1 if any falls
short. Needs torch, transformers 5, PEFT and bitsandbytes (bench/peers/build-bitsandbytes.sh where it is not installed); computes on a GPU where there is one.
"""
import json, sys, warnings

warnings.filterwarnings("ignore")
import bitsandbytes
import peft
import torch
import transformers
from safetensors.torch import load_file

import make_golden
from check_peft import MARK, base_of, bound_of, compare, dequantized, fixture, has_experts, loaded, log_probabilities, lora_options, quantized_in, run_checks

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPSILON = torch.finfo(torch.float32).eps


def quantized_model(folder, **options):
    """A model in 4 bits that computes in float32."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", device_map={"": DEVICE}, **options).eval()


def linears(model):
    """Layers in 4 bits by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)}


def check(lancet, folder, out):
    """Notes errors and their bounds by name."""
    temporary = lancet.temporary
    model, config, _, prefixes, base = fixture(folder)
    vocabulary = base.config.vocab_size

    def reference(nf4, name):
        """The formula's values of a folder as a model, its probabilities in float64, and what they may be off by."""
        if wrong := dequantized(nf4, f"{temporary}/{name}", model):
            raise RuntimeError(f"{name}: {wrong:.2%} of the values are not the nearest")
        dense = base_of(f"{temporary}/{name}")
        want = log_probabilities(make_golden.in_double(dense), prefixes)
        return want, bound_of(log_probabilities(dense, prefixes), want)

    # Written here.
    nf4 = f"{temporary}/nf4"
    lancet.run(["export", "--model", model, "--output", nf4, "--format", "nf4", "--dtype", "float32", "--verify", "false"])
    tensors, weights = load_file(f"{nf4}/model.safetensors"), load_file(f"{model}/model.safetensors")
    codes = scales = mean = tables = 0
    names = quantized_in(tensors)
    for name in names:
        packed, state = bitsandbytes.functional.quantize_4bit(weights[name].float().to(DEVICE), blocksize=64, compress_statistics=True, quant_type="nf4")
        saved = json.loads(bytes(tensors[name + MARK].tolist()))
        packed, other = packed.flatten().cpu(), tensors[name].flatten()
        codes += int(((packed ^ other) & 15).count_nonzero() + ((packed ^ other) >> 4).count_nonzero())
        scales += int((state.absmax.cpu() != tensors[name + ".absmax"]).sum())
        mean = max(mean, abs(float(state.offset) - saved["nested_offset"]) / float(state.offset))
        if not torch.equal(state.code.cpu(), tensors[name + ".quant_map"]):
            raise RuntimeError(f"{name}: another quant_map")
        wanted, table = state.state2.code.cpu(), tensors[name + ".nested_quant_map"]
        tables = max(tables, float(((table - wanted).abs() / wanted.abs().clamp_min(1e-30)).max()))
    count = sum(tensors[name].numel() * 2 for name in names)
    out["codes"], out["scales"], out["mean"] = (codes / count, 0), (scales / (count // 64), 0), (mean, 2 * EPSILON)
    out["table"] = (tables, 4 * EPSILON)
    want, bound = reference(nf4, "dense")
    there, dense = quantized_model(nf4), load_file(f"{temporary}/dense/model.safetensors")
    layers = linears(there)
    if len(layers) != len(names):
        raise RuntimeError(f"{len(names)} tensors in NF4, {len(layers)} layers in 4 bits there")
    # Of renamed layers only the probabilities are compared.
    gaps = []
    for name, layer in layers.items():
        if (values := dense.get(name + ".weight")) is not None:
            got = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float().cpu()
            gaps.append(float((got.view(values.shape) - values).abs().max() / values.abs().max()))
    if not gaps:
        raise RuntimeError("no layer there has the name of a tensor here")
    out["values"] = (max(gaps), 2 * EPSILON)
    compare(out, "loads", log_probabilities(there, prefixes), want, bound)
    # Written there.
    quantization = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32)
    saved = f"{temporary}/saved"
    quantized_model(model, quantization_config=quantization).save_pretrained(saved)
    want, bound = reference(saved, "dense-saved")
    compare(out, "written there", lancet.log_probabilities(saved, None, prefixes, vocabulary), want, bound)
    # QLoRA.
    lancet.train(saved, f"{folder}/data.jsonl", f"{temporary}/adapter", lora_options(config, False), "qlora")
    adapted = log_probabilities(loaded(f"{temporary}/dense-saved", f"{temporary}/adapter"), prefixes)
    compare(out, "adapter", lancet.log_probabilities(saved, f"{temporary}/adapter", prefixes, vocabulary), adapted, bound, want)
    compare(out, "adapter there", log_probabilities(peft.PeftModel.from_pretrained(quantized_model(saved), f"{temporary}/adapter").eval(), prefixes), adapted, bound)


if __name__ == "__main__":
    sys.exit(run_checks(check, f", bitsandbytes {bitsandbytes.__version__} on {DEVICE}", DEVICE, lambda folder: [] if has_experts(folder) else [()]))
