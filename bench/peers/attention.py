#!/usr/bin/env python3
"""Attention of PyTorch (scaled_dot_product_attention) at the shapes of `Lancet.Bench gpu attention` with heads of 128, by its cuDNN and FlashAttention 2 back ends: causal, bf16, grouped keys and values.

usage: python3 bench/peers/attention.py [--json FILE]
Operations are counted as there: 4·d·heads·Σ n²/2 forward, 2.5 times that backward. Each time is the median of 25 samples of at least 1 ms behind a warm-up; inputs are used again, as they outgrow the L2 cache.
"""
import argparse
import json
import statistics

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

HEADS, KEY_HEADS, DIMENSION = 32, 8, 128
SHAPES = [(4, 2048), (4, 8192), (1, 32768)]
BACKENDS = [("cuDNN", SDPBackend.CUDNN_ATTENTION), ("FlashAttention 2", SDPBackend.FLASH_ATTENTION)]


def measure(work):
    """Median milliseconds of one call."""
    def sample(count):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(count):
            work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / count

    first = min(sample(1) for _ in range(5))
    count = max(1, int(1 / first))
    return statistics.median(sample(count) for _ in range(25))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    rows = []
    print(f"PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, {torch.cuda.get_device_name()}\n")
    print("| pass | shape | back end | µs | TFLOP/s |\n|---|---|---|---|---|")
    for sequences, length in SHAPES:
        for name, backend in BACKENDS:
            def random(heads):
                return torch.randn(sequences, heads, length, DIMENSION, device="cuda", dtype=torch.bfloat16, requires_grad=True)

            q, k, v = random(HEADS), random(KEY_HEADS), random(KEY_HEADS)
            gradient = torch.randn_like(q)

            def forward():
                return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

            def both():
                torch.autograd.grad(forward(), (q, k, v), gradient)

            operations = 4.0 * DIMENSION * HEADS * sequences * length * length / 2
            for part, work, factor in [("forward", forward, 1), ("forward+backward", both, 3.5)]:
                try:
                    with sdpa_kernel(backend):
                        milliseconds = measure(work)
                except RuntimeError as error:
                    print(f"| {part} | {sequences} × {length} | {name} | – | {str(error).splitlines()[0]} |")
                    continue
                rate = factor * operations / milliseconds / 1e9
                rows.append({"pass": part, "sequences": sequences, "length": length, "backend": name, "microseconds": milliseconds * 1e3, "tflops": rate})
                print(f"| {part} | {sequences} × {length}, {HEADS}/{KEY_HEADS} heads of {DIMENSION} | {name} | {milliseconds * 1e3:.1f} | {rate:.0f} |")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
