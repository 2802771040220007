#!/usr/bin/env python3
"""Puts steps at the longest sequences of a memory budget beside what issue 4 asks for: prints Markdown.

usage: context_table.py FOLDER     with context-GBgb.json from `Lancet.Bench gpu step --max-context`, context-80gb-LAYERS.json of steps with a few layers whose inputs
                                   are in host memory, and context-80gb-plan.json from `lancet plan --max-context --json`
GB are 10^9 bytes; budgets are whole cards, so peaks hold the driver's share.
"""
import math, os, sys
from step_table import PEAK, load, text, verdict

UNSLOTH = {8: 2972, 12: 21848, 16: 40724, 24: 78475, 80: 342733}
TIMES = 1.3
LAYERS = 32
MOST_HOST_GB = 100 * 2**30 / 1e9


def values(folder, name):
    return {row["what"]: row["value"] for row in load(os.path.join(folder, f"context-{name}.json")) or [] if row["table"].startswith("Step: ")}


def row(what, asked, step):
    print(f"| {what} | {asked} | {step['tokens a step']:,} | {text(step[PEAK], 3)} ({text(step['peak GB, planned'] + step['driver GB besides, planned'], 3)}) | {text(step['host GB'], 1)} | "
          f"{text(step['tokens/s'], 0)} | {text(step['ms a step'] / 1e3, 1)} ({text(step['ms predicted for forward and backward pass'] / 1e3, 1)}) | {step['activation policy']} |")


folder = sys.argv[1]
found = {budget: step for budget in UNSLOTH if (step := values(folder, f"{budget}gb"))}
few = {layers: step for layers in (2, 3) if (step := values(folder, f"80gb-{layers}"))}
if found or few:
    print("| 8B QLoRA r 32, batch 1 | issue 4 | tokens | peak GB (planned) | host GB | tokens/s | seconds (predicted) | planned |\n|---|---|---|---|---|---|---|---|")
for budget, step in found.items():
    row(f"{budget} GB", verdict(f"≥ {TIMES} × {UNSLOTH[budget]:,}", TIMES * UNSLOTH[budget], step["tokens a step"], budget, step[PEAK]), step)
for layers, step in few.items():
    row(f"80 GB, {layers} of {LAYERS} layers", "", step)
if len(few) == 2:
    (fewer, least), (more, most) = sorted(few.items())

    def at(what):
        return least[what] + (LAYERS - fewer) * (most[what] - least[what]) / (more - fewer)
    # Inputs of layers that the host has no room for stay on the device.
    layer = (most["host GB"] - least["host GB"]) / (more - fewer)
    stay = max(0, math.ceil((at("host GB") - MOST_HOST_GB) / layer))
    peak, tokens = at(PEAK) + stay * layer, least["tokens a step"]
    print(f"\n80 GB, extrapolated from {fewer} and {more} layers to {LAYERS}: {tokens:,} tokens with a peak of {peak:.2f} GB and {at('host GB') - stay * layer:.1f} GB of host memory, "
          f"inputs of {stay} layers on the device ({layer:.2f} GB each); {verdict(f'≥ {TIMES} × {UNSLOTH[80]:,} in 80 GB', TIMES * UNSLOTH[80], tokens, 80, peak)}.")
if plan := load(os.path.join(folder, "context-80gb-plan.json")):
    print(f"\n80 GB, planned with all layers: up to {plan['max_context']:,} tokens, {(plan['peak_bytes'] + plan['driver_bytes']) / 1e9:.2f} GB, {plan['host_bytes'] / 1e9:.1f} GB of host memory; {plan['activation_policy']}; {plan['predicted_seconds']:.0f} s.")
