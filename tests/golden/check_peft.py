#!/usr/bin/env python3
"""Check that adapters and merged models go both ways between the `lancet` command and Hugging Face transformers + PEFT.

usage: check_peft.py --lancet 'COMMAND' [--device cpu] [--jobs 4] FIXTURE_DIR [FIXTURE_DIR ...]

Each fixture of this folder is a row, and each mixture of experts another one with adapters on its experts. Compared are the
probabilities of the whole vocabulary behind two prefixes (logits, less what adds the same to all of them), with PEFT in float64:
  saved here     lancet trains an adapter and saves it; PEFT loads it
  merged         lancet merges it (float32); transformers loads the folder
  nf4            lancet merges it to NF4; the tensors are dequantised by hand as bitsandbytes defines it. Every value must be the nearest
                 of its block's, and the model of those values must answer as lancet does with the folder
  saved there    PEFT makes an adapter and saves it; lancet loads it
  loss, norm     lancet continues that adapter's training, and so does PEFT: losses and gradient norms of each step
  back again     PEFT loads what came out
Adapters of experts are PEFT's of parameters there, in which gate and up share a matrix; their training is compared for one step.
An error may be a small multiple of that of Hugging Face's own float32 run. That the adapter changes the probabilities by far more than that is
checked, too. Prints a row a fixture and exits 1 if any falls short. Needs torch, transformers 5 and PEFT; see check_peft.sh.
"""
import argparse, concurrent.futures, json, math, multiprocessing, os, shlex, shutil, sys, tempfile, traceback, warnings

warnings.filterwarnings("ignore")
import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

import make_golden
from check_golden import run

STEPS, BATCH_SIZE, RANK = 4, 4, 3
EXPERTS = " (experts)"
# Behind the name of a weight in NF4: what bitsandbytes notes of it, as JSON.
MARK = ".quant_state.bitsandbytes__nf4"


def base_of(folder):
    """A model in float32, computed plainly."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    # The grouped products of torch have no float64.
    model.config._experts_implementation = "eager"
    return model.eval()


def fixture(folder):
    """Of a fixture: the model's folder, the adapter's configuration, the rows, two prefixes, and the model in float32."""
    with open(f"{folder}/adapter/adapter_config.json") as f:
        config = json.load(f)
    with open(f"{folder}/data.jsonl") as f:
        data = [json.loads(line) for line in f if line.strip()]
    model = f"{folder}/model"
    return model, config, data, prefixes_of(data), base_of(model)


def has_experts(folder):
    with open(f"{folder}/model/config.json") as f:
        config = json.load(f)
    return "num_local_experts" in config or "num_experts" in config


def bound_of(single, want):
    """What log-probabilities may be off by: four times what float32 is, and at least four of the roundings that a float32 number of this size has."""
    return max(4 * float((single - want).abs().max()), 4 * torch.finfo(torch.float32).eps * float(want.abs().max()))


def compare(out, name, got, want, bound, differs_from=None):
    """Notes an error and its bound, and that an adapter changes far more than that."""
    out[name] = (float((got - want).abs().max()), bound)
    if differs_from is not None and float((want - differs_from).abs().max()) < 100 * bound:
        raise RuntimeError(f"{name}: the adapter changes nothing, so this proves nothing")


def prefixes_of(data):
    """Two beginnings of rows: most of the longest one, and a few tokens of another."""
    longest = max(data, key=lambda row: len(row["input_ids"]))["input_ids"]
    return [longest[:-1], data[1]["input_ids"][:3]]


def log_probabilities(model, prefixes):
    """Of each token behind each prefix, in the model's dtype."""
    with torch.no_grad():
        return torch.cat([torch.log_softmax(model(input_ids=torch.tensor([prefix], device=model.device)).logits[0, -1], -1) for prefix in prefixes]).double().cpu()


class Lancet:
    """The command, and where it computes."""

    def __init__(self, command, device, temporary):
        self.command, self.device, self.temporary = shlex.split(command), ["--device", device, "--dtype", "float32"], temporary

    def run(self, arguments):
        return run(self.command + arguments)

    def log_probabilities(self, model, adapter, prefixes, vocabulary):
        """The loss of a row with one label is the label's negative log-probability."""
        rows = f"{self.temporary}/rows.jsonl"
        with open(rows, "w") as f:
            for prefix in prefixes:
                f.writelines(json.dumps(dict(input_ids=prefix + [token], labels=[-100] * len(prefix) + [token])) + "\n" for token in range(vocabulary))
        out = json.loads(self.run(["eval", "--model", model, *(["--adapter", adapter] if adapter else []), "--data", rows, "--per-example", "--json", *self.device]))
        return -torch.tensor([row["loss"] for row in out["examples"]], dtype=torch.float64)

    def train(self, model, data, output, options, method="lora"):
        """Metrics of each step, rows in file order."""
        self.run(["train", "--model", model, "--data", data, "--output", output, "--method", method, "--optimizer", "adamw",
                            "--learning-rate", str(make_golden.LEARNING_RATE), "--weight-decay", str(make_golden.WEIGHT_DECAY), "--max-steps", str(STEPS),
                            "--batch-size", str(BATCH_SIZE), "--gradient-accumulation", "1", "--warmup-steps", str(make_golden.WARMUP), "--lr-scheduler", "linear",
                            "--max-grad-norm", str(make_golden.MAX_GRAD_NORM), "--shuffle", "false", *options, *self.device])
        with open(f"{output}/metrics.jsonl") as f:
            rows = [json.loads(line) for line in f if line.strip()]
        rows = [row for row in rows if "step" in row and "loss" in row]
        if len(rows) != STEPS:
            raise RuntimeError(f"metrics.jsonl has {len(rows)} steps, expected {STEPS}")
        return rows

    def export(self, model, adapter, output, options):
        self.run(["export", "--model", model, "--adapter", adapter, "--output", output, "--verify", "false", *options])


def lora_options(config, is_on_experts):
    """The command's options for an adapter as PEFT's config describes it."""
    if is_on_experts:
        return ["--lora-rank", str(RANK), "--lora-alpha", "5", "--target-modules", "all-linear"]
    pairs = lambda pattern: ",".join(f"{name}={value}" for name, value in pattern.items())
    out = ["--lora-rank", str(config["r"]), "--lora-alpha", str(config["lora_alpha"]), "--target-modules", ",".join(sorted(config["target_modules"]))]
    for option, value in (("--use-rslora", config["use_rslora"] and "true"), ("--use-dora", config["use_dora"] and "true"),
                          ("--rank-pattern", pairs(config["rank_pattern"])), ("--alpha-pattern", pairs(config["alpha_pattern"])),
                          ("--layers-to-transform", ",".join(map(str, config["layers_to_transform"] or []))),
                          ("--modules-to-save", ",".join(config["modules_to_save"] or []))):
        if value:
            out += [option, value]
    return out


def new_adapter(model, config, is_on_experts):
    """An adapter that PEFT makes, with values other than those it starts from."""
    if is_on_experts:
        # Matrices of experts are parameters of transformers 5, not modules.
        config = dict(r=RANK, lora_alpha=5, target_modules=config["target_modules"], target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], task_type="CAUSAL_LM")
    names = ["r", "lora_alpha", "target_modules", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "layers_to_transform", "modules_to_save", "target_parameters", "task_type"]
    torch.manual_seed(77)
    adapted = peft.get_peft_model(model, peft.LoraConfig(**{name: config[name] for name in names if config.get(name)}))
    make_golden.randomize(adapted)
    return adapted


def loaded(model_folder, adapter):
    """Model and adapter in float64."""
    return make_golden.in_double(peft.PeftModel.from_pretrained(base_of(model_folder), adapter).eval())


def quantized_in(tensors):
    """Names of the weights in NF4."""
    return [name[:-len(MARK)] for name in tensors if name.endswith(MARK)]


def dequantized(folder, output, merged):
    """Writes an NF4 folder's values as float32; returns the share of values that are not the nearest of their block's."""
    tensors, wanted = load_file(f"{folder}/model.safetensors"), load_file(f"{merged}/model.safetensors")
    out, wrong, count = {}, 0, 0
    quantized = quantized_in(tensors)
    if not quantized:
        raise RuntimeError(f"{folder} has no tensor in NF4")
    for name in quantized:
        state = json.loads(bytes(tensors[name + MARK].tolist()))
        # Scales: codes of 8 bits times a scale of their own, around their mean; then two codes of 4 bits a byte, the first in the high half.
        scales = tensors[name + ".nested_quant_map"][tensors[name + ".absmax"].long()]
        scales = scales * tensors[name + ".nested_absmax"].repeat_interleave(state["nested_blocksize"])[:scales.numel()] + state["nested_offset"]
        codes, table = tensors[name].flatten(), tensors[name + ".quant_map"]
        scale = scales.repeat_interleave(state["blocksize"])[:codes.numel() * 2]
        values = table[torch.stack([codes >> 4, codes & 15], 1).flatten().long()] * scale
        # The code was chosen by the block's largest magnitude, which its scale gives to 8 bits.
        target = wanted[name].flatten()
        blocks = torch.nn.functional.pad(target, (0, -target.numel() % state["blocksize"])).view(-1, state["blocksize"])
        largest = blocks.abs().amax(1)
        gaps = (scales - largest).abs().max() / largest.max()
        if gaps > 1 / 64:
            raise RuntimeError(f"{name}: scales are off by {gaps:.3f} of the largest")
        relative = (blocks / largest.clamp_min(1e-30)[:, None]).flatten()[:target.numel()]
        nearest = (relative[:, None] - table).abs().amin(1)
        wrong += int(((relative - table[torch.stack([codes >> 4, codes & 15], 1).flatten().long()]).abs() > nearest + 1e-6).sum())
        count += values.numel()
        out[name] = values.view(state["shape"]).clone()
    parts = (".absmax", ".nested_absmax", ".nested_quant_map", ".quant_map", MARK)
    out |= {name: value.float() for name, value in tensors.items() if name not in out and not name.endswith(parts)}
    os.makedirs(output)
    save_file(out, f"{output}/model.safetensors", metadata=dict(format="pt"))
    with open(f"{folder}/config.json") as f:
        config = json.load(f)
    del config["quantization_config"]
    with open(f"{output}/config.json", "w") as f:
        json.dump(config, f)
    return wrong / count


def check(lancet, folder, is_on_experts, out):
    """Notes errors and their bounds by name."""
    temporary = lancet.temporary
    model, config, data, prefixes, base = fixture(folder)
    vocabulary = base.config.vocab_size
    plain = log_probabilities(make_golden.in_double(base), prefixes)
    bound = bound_of(log_probabilities(base, prefixes), plain)

    # Saved here.
    lancet.train(model, f"{folder}/data.jsonl", f"{temporary}/here", lora_options(config, is_on_experts))
    here = log_probabilities(loaded(model, f"{temporary}/here"), prefixes)
    compare(out, "saved here", lancet.log_probabilities(model, f"{temporary}/here", prefixes, vocabulary), here, bound, plain)
    lancet.export(model, f"{temporary}/here", f"{temporary}/merged", ["--dtype", "float32"])
    compare(out, "merged", log_probabilities(make_golden.in_double(base_of(f"{temporary}/merged")), prefixes), here, bound)
    lancet.export(model, f"{temporary}/here", f"{temporary}/nf4", ["--format", "nf4"])
    out["nf4 codes"] = (dequantized(f"{temporary}/nf4", f"{temporary}/dense", f"{temporary}/merged"), 0)
    nf4 = log_probabilities(make_golden.in_double(base_of(f"{temporary}/dense")), prefixes)
    compare(out, "nf4", lancet.log_probabilities(f"{temporary}/nf4", None, prefixes, vocabulary), nf4, bound, here)
    # Saved there.
    adapted = new_adapter(base, config, is_on_experts)
    adapted.save_pretrained(f"{temporary}/there")
    double = make_golden.in_double(adapted)
    compare(out, "saved there", lancet.log_probabilities(model, f"{temporary}/there", prefixes, vocabulary), log_probabilities(double, prefixes), bound, plain)
    rows = lancet.train(model, f"{folder}/data.jsonl", f"{temporary}/on", ["--adapter", f"{temporary}/there"])
    after = log_probabilities(loaded(model, f"{temporary}/on"), prefixes)
    compare(out, "back again", lancet.log_probabilities(model, f"{temporary}/on", prefixes, vocabulary), after, bound, log_probabilities(loaded(model, f"{temporary}/there"), prefixes))
    want, single = make_golden.train(double, data, STEPS), make_golden.train(adapted, data, STEPS)
    worst = max(abs(a - b) for a, b in zip(single["train_loss"], want["train_loss"]))
    out["first loss"] = (abs(rows[0]["loss"] - want["train_loss"][0]), max(6 * worst, 1e-5))
    if is_on_experts:
        # Gate and up share A there and have one each here, so from the second step on it is another training.
        return
    out["loss"] = (max(abs(row["loss"] - x) for row, x in zip(rows, want["train_loss"])), max(6 * worst, 1e-5))
    out["norm"] = (max(abs(row["grad_norm"] - x) / x for row, x in zip(rows, want["grad_norm"])), 3e-5)


def row(check, command, device, folder, *options):
    """Runs check(lancet, folder, *options, out). Whether a fixture passes, and the line that says so."""
    name = os.path.basename(os.path.realpath(folder)) + (EXPERTS if any(options) else "")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    temporary, res, problem = tempfile.mkdtemp(), {}, ""
    try:
        check(Lancet(command, device, temporary), folder.rstrip("/"), *options, res)
    except Exception as error:
        problem = f"  {type(error).__name__}: {str(error)[:1200]}"
        traceback.print_exc()
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    ok = not problem and all(math.isfinite(v) and v <= limit for v, limit in res.values())
    return ok, f"{'pass' if ok else 'FAIL'} {name:20s} " + "  ".join(f"{key} {v:.1e}{'/' if v <= limit else ' > '}{limit:.1e}" for key, (v, limit) in res.items()) + problem


def run_checks(check, title, device, options_of):
    """Runs a check over the fixtures of the command line, several at a time, once for each of a fixture's options. Returns the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lancet", required=True)
    parser.add_argument("--device", default=device)
    parser.add_argument("--jobs", type=int, default=max(1, min(6, (os.cpu_count() or 1) // 2)), help="fixtures at a time")
    parser.add_argument("fixtures", nargs="+")
    a = parser.parse_args()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, PEFT {peft.__version__}{title}; errors / bounds", flush=True)
    work = [(check, a.lancet, a.device, folder, *options) for folder in a.fixtures for options in options_of(folder)]
    passed = 0
    with concurrent.futures.ProcessPoolExecutor(a.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for ok, line in pool.map(row, *zip(*work)):
            print(line, flush=True)
            passed += ok
    print(f"{passed} passed, {len(work) - passed} failed")
    return 0 if passed == len(work) else 1


if __name__ == "__main__":
    sys.exit(run_checks(check, "", "cpu", lambda folder: [(False,), (True,)] if has_experts(folder) else [(False,)]))
