#!/usr/bin/env python3
"""Errors of Lancet's kernels and of PyTorch's against float64, on the same inputs in the same run (DESIGN 4's rule).

usage: kernel_errors.py FOLDER [--json FILE]     after `Lancet.Bench gpu errors --folder FOLDER`
Each file of the folder holds the inputs and Lancet's results of one kernel. What the usual PyTorch implementation (Hugging Face's layers,
in the dtype of the inputs) gives is computed here, and the same in float64. The error is |x - ref| / |ref|. Lancet passes if its error is
at most PyTorch's, up to the noise of a norm of n random roundings (3 / sqrt(2 n)); errors below fp32's resolution pass as well.
"""
import glob, json, math, os, struct, sys
import torch
import torch.nn.functional as F

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
torch.backends.cuda.matmul.allow_tf32 = False


TYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "I64": torch.int64, "I32": torch.int32, "U8": torch.uint8}


def load(path):
    """Metadata and tensors of a safetensors file."""
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        body = bytearray(file.read())
    meta = header.pop("__metadata__")
    tensors = {}
    for key, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[key] = torch.frombuffer(body[begin:end], dtype=TYPES[entry["dtype"]]).reshape(entry["shape"]).to(DEVICE)
    return meta, tensors


def grads(y, dy, *xs):
    return torch.autograd.grad(y, xs, dy)


def leaf(x):
    return x.detach().clone().requires_grad_(True)


# Every peer: (inputs, numbers, dtype) -> results by name. dtype None: as PyTorch users would, else float64 throughout.
def rms_norm(t, p, dt):
    x, dy = leaf(t["x"]), t["dy"]
    w = leaf(t["w"] if dt else t["w"].to(t["x"].dtype))
    wide = x if dt else x.float()
    n = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + p["epsilon"])
    if p["plus_one"]:
        y = (n * (1 + (w if dt else w.float()))).to(x.dtype)   # GemmaRMSNorm
    else:
        y = w * n.to(x.dtype)                                  # LlamaRMSNorm
    dx, dw = grads(y, dy, x, w)
    return {"y": y, "dx": dx, "dw": dw}


def rotary(t, p, dt):
    x = leaf(t["x"])
    rows = x.shape[0]
    cos, sin = (torch.cat([t[k], t[k]], -1).to(x.dtype).unsqueeze(1) for k in ("cos", "sin"))
    h = x.view(rows, int(p["heads"]), -1)
    a, b = h.chunk(2, -1)
    y = (h * cos + torch.cat((-b, a), -1) * sin).view(rows, -1)
    return {"y": y, "dx": grads(y, t["dy"], x)[0]}


def gated(t, p, dt):
    x = leaf(t["x"])
    e, g = x.chunk(2, -1)
    f = [F.silu, lambda v: F.gelu(v, approximate="tanh"), F.gelu][int(p["activation"])]
    y = f(e) * g
    return {"y": y, "dx": grads(y, t["dy"], x)[0], "y_again": y}


def cross_entropy(t, p, dt):
    x = leaf(t["x"])
    z = x
    if p["soft_cap"]:
        z = torch.tanh(z / p["soft_cap"]) * p["soft_cap"]
    z = z if dt else z.float()
    losses = F.cross_entropy(z, t["labels"].long(), reduction="none")
    return {"losses": losses, "dx": torch.autograd.grad(losses.mean(), x)[0]}


def attention(t, p, dt):
    heads, key_heads, d, window, cap = (int(p[k]) for k in ("heads", "key_heads", "dimension", "window", "soft_cap"))
    x, offsets, outs = leaf(t["qkv"]), t["offsets"].tolist(), []
    for begin, end in zip(offsets, offsets[1:]):
        part, n = x[begin:end], end - begin
        q, k, v = part.split([heads * d, key_heads * d, key_heads * d], -1)
        q = q.view(n, heads, d).transpose(0, 1)[None]
        k, v = (z.reshape(n, key_heads, d).transpose(0, 1).repeat_interleave(heads // key_heads, 0)[None] for z in (k, v))
        i, j = torch.arange(n, device=x.device)[:, None], torch.arange(n, device=x.device)[None]
        mask = (j <= i) & ((i - j < window) if window else torch.ones_like(i - j, dtype=torch.bool))
        if dt or cap or not hasattr(F, "scaled_dot_product_attention"):
            s = q @ k.transpose(-1, -2) * p["scale"]
            if cap:
                s = torch.tanh(s / cap) * cap
            s = s.masked_fill(~mask, torch.finfo(s.dtype).min)
            a = torch.softmax(s, -1, dtype=dt or torch.float32).to(q.dtype)
            o = a @ v
        else:
            o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask if window else None, is_causal=not window, scale=p["scale"])
        outs.append(o[0].transpose(0, 1).reshape(n, heads * d))
    o = torch.cat(outs)
    dx = grads(o, t["dy"], x)[0]
    q, k = heads * d, key_heads * d
    return {"o": o, "dqkv:dq": dx[:, :q], "dqkv:dk": dx[:, q:q + k], "dqkv:dv": dx[:, q + k:]}


def embedding(t, p, dt):
    table = leaf(t["table"])
    y = F.embedding(t["ids"].long(), table) * torch.tensor(p["scale"], dtype=table.dtype, device=table.device)
    return {"y": y, "dtable": grads(y, t["dy"], table)[0]}


def dropout(t, p, dt, out):
    # The same mask: PyTorch's generator draws another one. Elements that are 0 anyway do not matter.
    kept = (out["y"] != 0).to(t["x"].dtype)
    return {"y": t["x"] * kept * (1 / (1 - p["probability"])) if dt else (t["x"].float() * kept.float() / (1 - p["probability"])).to(t["x"].dtype)}


def add_to(t, p, dt):
    return {"y": t["x"] + t["y"]}


def column_sum(t, p, dt):
    return {"sum": t["x"].sum(0)}


NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
       0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]


def nf4(t, p, dt):
    kind = dt or torch.float32   # bitsandbytes: scales and products in fp32, one rounding
    codes = t["codes"].int()
    values = torch.tensor(NF4, dtype=kind, device=codes.device)[torch.stack((codes >> 4, codes & 15), -1).long().flatten()]
    scales = t["table"].to(kind)[t["scales"].long()] * t["nested"].to(kind).repeat_interleave(256)[: t["scales"].numel()] + t["offset"].to(kind)
    y = values.view(-1, 64) * scales[:, None]
    return {"values": y.flatten() if dt else y.flatten().to(torch.bfloat16)}


def adamw(t, p, dt):
    w = torch.nn.Parameter(t["p"].clone())
    w.grad = t["g"].clone()
    optimizer = torch.optim.AdamW([w], lr=p["rate"], betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, foreach=False)
    optimizer.state[w] = {"step": torch.tensor(float(p["step"] - 1)), "exp_avg": t["m"].clone(), "exp_avg_sq": t["v"].clone()}
    optimizer.step()
    s = optimizer.state[w]
    return {"p": w.detach(), "m": s["exp_avg"], "v": s["exp_avg_sq"]}


def norm(t, p, dt):
    w = torch.nn.Parameter(torch.zeros_like(t["g"]))
    w.grad = t["g"].clone()
    n = torch.nn.utils.clip_grad_norm_([w], 1.0)
    return {"norm": n.view(1), "clip": torch.clamp(1 / (n + 1e-6), max=1).view(1)}


def product(t, p, dt):
    return {"y": t["a"] @ t["b"].T}


def lora(t, p, dt):
    # PEFT under autocast: fp32 masters of A and B are cast to bf16 where they are used, as Lancet's are. Dropout with the same mask.
    x, a, b = leaf(t["x"]), leaf(t["a"]), leaf(t["b"])
    base = F.linear(x, t["w"])
    d = x.to(a.dtype)
    if p["probability"] > 0:
        d = torch.where(t["kept"] != 0, d * (1 / (1 - p["probability"])), 0)
    y = (base + F.linear(F.linear(d, a), b) * p["scale"]).to(x.dtype)
    dx, da, db = grads(y, t["dy"], x, a, b)
    return {"y": y, "dx": dx, "da": da, "db": db}


def dora(t, p, dt):
    # PEFT: the norm in the weight's dtype and constant, factors and sums in the magnitudes'.
    x, a, b, m = (leaf(t[key]) for key in ("x", "a", "b", "m"))
    base = F.linear(x, t["w"])
    added = F.linear(F.linear(x.to(a.dtype), a), b) * p["scale"]
    norm = torch.linalg.norm(t["w"] + p["scale"] * (b @ a), dim=1).to(t["w"].dtype).detach()
    g = m / norm
    y = (base + (g - 1) * base + g * added).to(x.dtype)
    dx, da, db, dm = grads(y, t["dy"], x, a, b, m)
    return {"y": y, "dx": dx, "da": da, "db": db, "dm": dm}


def lora_backward(t, p, dt):
    return {"v": t["dy"] @ t["b"], "db": t["dy"].T @ t["u"]}


def error(value, reference):
    value, reference = value.double().flatten(), reference.double().flatten()
    if not torch.isfinite(value).all():
        return math.inf
    return ((value - reference).norm() / reference.norm().clamp_min(1e-300)).item()


def widen(x):
    return x.double() if x.is_floating_point() else x


def main():
    folder, rows, failed = sys.argv[1], [], 0
    print(f"PyTorch {torch.__version__} on {torch.cuda.get_device_name() if DEVICE == 'cuda' else 'the processor'}")
    print("| kernel | result | Lancet's error | PyTorch's error | ratio | pass |\n|---|---|---|---|---|---|")
    for path in sorted(glob.glob(os.path.join(folder, "*.safetensors"))):
        meta, tensors = load(path)
        name, kind = meta.pop("name"), meta.pop("kind")
        p = {key: float(value) for key, value in meta.items()}
        t = {key[3:]: value for key, value in tensors.items() if key.startswith("in.")}
        out = {key[4:]: value for key, value in tensors.items() if key.startswith("out.")}
        try:
            extra = (out,) if kind == "dropout" else ()
            peer = globals()[kind](t, p, None, *extra)
            exact = globals()[kind]({key: widen(value) for key, value in t.items()}, p, torch.float64, *extra)
        except Exception as problem:  # one kernel's trouble is not the others'
            print(f"| {name} | failed: {type(problem).__name__}: {problem} |")
            failed += 1
            continue
        for key in peer:
            ours = out[key.split(":")[0]]
            if ":" in key:
                q = int(p["heads"] * p["dimension"])
                k = int(p["key_heads"] * p["dimension"])
                ours = {"dq": ours[:, :q], "dk": ours[:, q:q + k], "dv": ours[:, q + k:]}[key.split(":")[1]]
            e, f, n = error(ours, exact[key]), error(peer[key], exact[key]), ours.numel()
            good = e <= f * (1 + 3 / math.sqrt(2 * n)) or e <= 2 ** -23
            failed += not good
            print(f"| {name} | {key.split(':')[-1]} | {e:.3e} | {f:.3e} | {e / f if f else math.nan:.3f} | {'yes' if good else 'NO'} |")
            rows.append({"kernel": name, "result": key, "lancet": e, "pytorch": f, "pass": bool(good)})
    print(f"{sum(row['pass'] for row in rows)} of {len(rows)} pass")
    if "--json" in sys.argv:
        with open(sys.argv[sys.argv.index("--json") + 1], "w") as file:
            json.dump(rows, file, indent=1)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
