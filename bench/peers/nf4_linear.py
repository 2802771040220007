#!/usr/bin/env python3
"""NF4 linear layers for the QLoRA peer where bitsandbytes is not installed. Run as a program it checks and times itself on the GPU, in seconds.

The format of the QLoRA paper (Dettmers et al. 2023), as src/Lancet/Quantization describes it:
    a_b = max |w| over a block of 64          code = nearest NF4 value to w / a_b, two codes a byte, the first in the high half
    c = mean of all a_b     A_n = max |a_b - c| over 256 blocks     scale code = nearest dynamic 8-bit value to (a_b - c) / A_n
    w = NF4[code] · (dynamic[scale code] · A_n + c)
A product writes the whole weight out in bf16 (a Triton kernel) and leaves the rest to torch, forward and backward; nothing is saved for the backward pass.
"""
import sys
import torch

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

BLOCK, NESTED, WORDS = 64, 256, 1024
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
       0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
# An exponent of ten in unary and the middle of a linear fraction in the bits that are left, positive and negative; 0 and 1.
DYNAMIC = sorted([sign * (0.1 + 0.9 * (j + 0.5) / 2**i) * 10.0**(i - 6) for i in range(7) for j in range(2**i) for sign in (1, -1)] + [0.0, 1.0])


def nearest(values, table):
    """Index of the nearest value of an ascending table: how many midpoints lie below."""
    table = torch.tensor(table, dtype=torch.float64)
    return torch.bucketize(values, ((table[1:] + table[:-1]) / 2).float().to(values.device), out_int32=True)


def over_scale(blocks):
    """Each row over its largest absolute value, and these."""
    scale = blocks.abs().amax(1)
    return blocks / torch.where(scale > 0, scale, torch.ones_like(scale))[:, None], scale


def quantize(weight):
    """Codes [n/2] and scale codes [n/64] as uint8, second-level scales [n/16384] and the mean scale [1] in fp32."""
    values, scale = over_scale(weight.float().reshape(-1, BLOCK))
    code = nearest(values, NF4).reshape(-1, 2)
    mean = scale.double().mean().float()
    centred = torch.nn.functional.pad(scale - mean, (0, -scale.numel() % NESTED))
    fractions, nested = over_scale(centred.reshape(-1, NESTED))
    scale_code = nearest(fractions, DYNAMIC).reshape(-1)[:scale.numel()]
    return (code[:, 0] * 16 + code[:, 1]).to(torch.uint8), scale_code.to(torch.uint8), nested, mean.reshape(1)


def dequantize_plainly(codes, scale_codes, nested, mean, dtype=torch.float64):
    """The formula, step by step."""
    scale = torch.tensor(DYNAMIC).to(codes.device, dtype)[scale_codes.long()] * nested.to(dtype).repeat_interleave(NESTED)[:scale_codes.numel()] + mean.to(dtype)
    code = torch.stack((codes >> 4, codes & 15), 1)
    return (torch.tensor(NF4).to(codes.device, dtype)[code.long()].reshape(-1, BLOCK) * scale[:, None]).reshape(-1)


if triton:
    @triton.jit
    def dequantize_kernel(words, scale_codes, nested, mean, nf4, dynamic, target, count, WORDS: tl.constexpr):
        # A word holds eight codes, the first in the high half of its lowest byte; eight words share a scale.
        word = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
        inside = word < count
        packed = tl.load(words + word, mask=inside, other=0)
        block = word // 8
        scale_code = tl.load(scale_codes + block, mask=inside, other=0).to(tl.int32)
        scale = tl.load(dynamic + scale_code) * tl.load(nested + block // 256, mask=inside, other=0.0) + tl.load(mean)
        element = tl.arange(0, 8)
        code = (packed[:, None] >> ((element // 2) * 8 + 4 - (element % 2) * 4)[None, :]) & 15
        value = tl.load(nf4 + code) * scale[:, None]
        tl.store(target + word[:, None] * 8 + element[None, :], value.to(tl.bfloat16), mask=inside[:, None])


class Product(torch.autograd.Function):
    """x · Wᵀ with W written out for the call only."""

    @staticmethod
    def forward(ctx, x, layer):
        ctx.layer = layer
        return torch.nn.functional.linear(x, layer.dequantize(), layer.bias)

    @staticmethod
    def backward(ctx, gradient):
        return gradient @ ctx.layer.dequantize(), None


class Nf4Linear(torch.nn.Linear):
    """A frozen linear layer. It is a torch.nn.Linear so that PEFT wraps it; its weight is the codes, as in bitsandbytes."""

    def __init__(self, linear):
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        for name, part in zip(("weight", "scale_codes", "nested", "mean"), quantize(linear.weight.data)):
            self.register_buffer(name, part)
        self.register_buffer("nf4", torch.tensor(NF4, device=linear.weight.device))
        self.register_buffer("dynamic", torch.tensor(DYNAMIC, device=linear.weight.device))
        self.bias = linear.bias

    def dequantize(self):
        """The weight in bf16."""
        shape = (self.out_features, self.in_features)
        if not self.weight.is_cuda:
            return dequantize_plainly(self.weight, self.scale_codes, self.nested, self.mean, torch.float32).to(torch.bfloat16).reshape(shape)
        target, words = torch.empty(shape, dtype=torch.bfloat16, device=self.weight.device), self.weight.view(torch.int32)
        dequantize_kernel[(triton.cdiv(words.numel(), WORDS),)](words, self.scale_codes, self.nested, self.mean, self.nf4, self.dynamic, target, words.numel(), WORDS=WORDS)
        return target

    def forward(self, x):
        return Product.apply(x.to(torch.bfloat16), self)


def check(device, out_features, in_features, tokens):
    """Compares a layer with the formula and with a dense layer; true if all is well."""
    torch.manual_seed(1)
    dense = torch.nn.Linear(in_features, out_features, device=device, dtype=torch.bfloat16)
    torch.nn.init.normal_(dense.weight, std=0.02)
    original = dense.weight.data.double()
    layer = Nf4Linear(dense)
    exact = dequantize_plainly(layer.weight, layer.scale_codes, layer.nested, layer.mean).reshape(out_features, in_features)
    written = layer.dequantize()
    rounding = ((written.double() - exact).abs() / exact.abs().clamp_min(1e-30)).max().item()
    error = ((exact - original).norm() / original.norm()).item()

    dense.weight.data.copy_(written)
    dense.requires_grad_(False)
    x, gradient = torch.randn(2, tokens, in_features, device=device).bfloat16(), torch.randn(2, tokens, out_features, device=device).bfloat16()
    results = []
    for module in (layer, dense):
        start = x.clone().requires_grad_()
        y = module(start)
        y.backward(gradient)
        results.append((y.detach(), start.grad))
    references = (x.double() @ written.double().T + dense.bias.double(), gradient.double() @ written.double())
    errors = [[((result.double() - reference).norm() / reference.norm()).item() for result, reference in zip(pair, references)] for pair in results]
    # One rounding to bf16; NF4's error of normal numbers; and a product that is no worse than the dense layer's of the same weight.
    good = rounding <= 2**-8 + 2**-20 and 0.07 < error < 0.12 and all(ours <= 1.001 * theirs for ours, theirs in zip(*errors))
    print(f"{'ok' if good else 'WRONG'}: {out_features} x {in_features} on {device}: written out to {rounding:.2e} of the formula (bf16: {2**-8:.2e}), NF4's own error {error:.4f}; "
          f"against fp64, y {errors[0][0]:.2e} (dense {errors[1][0]:.2e}), dx {errors[0][1]:.2e} (dense {errors[1][1]:.2e})")
    return good


def milliseconds(work, repeats=50):
    """Of one call, between CUDA events, the median of five."""
    times = []
    for _ in range(5):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(repeats):
            work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / repeats)
    return sorted(times)[2]


def main():
    device = "cuda" if torch.cuda.is_available() and triton else "cpu"
    shapes = [(14336, 4096, 512), (1024, 4096, 512), (576, 1536, 64)] if device == "cuda" else [(192, 320, 33)]
    good = all([check(device, *shape) for shape in shapes])
    if device == "cuda":
        layer = Nf4Linear(torch.nn.Linear(4096, 14336, bias=False, device=device, dtype=torch.bfloat16))
        source = torch.empty(1 << 30, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        copy = 2 * source.numel() / milliseconds(lambda: target.copy_(source), 10) / 1e6
        time = milliseconds(layer.dequantize)
        rate = (5 * layer.weight.numel() + layer.scale_codes.numel() + 4 * layer.nested.numel()) / time / 1e6
        print(f"dequantise 14336 x 4096: {time * 1e3:.1f} µs, {rate:.0f} GB/s; a copy on this GPU: {copy:.0f} GB/s ({rate / copy:.0%})")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
