#!/usr/bin/env python3
"""Draws tokens/s against memory, Lancet's steps under their budgets as lines and the peers' as points, and prints a table of what was planned.

usage: plot_budgets.py FOLDER FILE.svg CAPTION     with step-*.json and hf-*.json as step_table.py reads them; steps of a work that ran at one budget only are left out
"""
import sys
import matplotlib
matplotlib.use("svg")
import matplotlib.pyplot as plt
from step_table import BUDGET, PEAK, peers, shown, steps, text

folder, target, caption = sys.argv[1:]
runs = {}
for _, work, values in steps(folder):
    if work:
        runs.setdefault(work, []).append(values)
runs = {work: sorted(found, key=lambda values: values[PEAK]) for work, found in runs.items() if len(found) > 1}
lines = {work: [(values[PEAK], values["tokens/s"]) for values in found] for work, found in runs.items()}
if not lines:
    sys.exit(f"{folder}: no work with steps at several budgets")
figure, axes = plt.subplots(figsize=(8, 4.5))
for work, points in lines.items():
    line, = axes.plot(*zip(*points), marker="o", markersize=4, label=f"Lancet: {shown(work)}")
    for peer in peers(folder):
        if peer["work"] == work and "tokens_per_second" in peer:
            axes.plot(peer["max_memory_reserved_gb"], peer["tokens_per_second"], marker="x", markersize=8, linestyle="none", color=line.get_color(), label=f"{peer['peer']}, reserved")
axes.set(title=caption, xlabel="peak memory, GB (10⁹ bytes)", ylabel="tokens/s", xlim=(0, None), ylim=(0, None))
axes.grid(alpha=0.3)
axes.legend(fontsize=8, loc="lower left")
figure.tight_layout()
figure.savefig(target, metadata={"Date": None})
print("| work | budget GB | tokens/s | peak GB | ms (predicted) | host GB | planned |\n|---|---|---|---|---|---|---|")
for work, found in runs.items():
    for values in found:
        print(f"| {shown(work)} | {text(values.get(BUDGET))} | {text(values['tokens/s'], 0)} | {text(values[PEAK])} | {text(values['ms a step'], 1)} ({text(values['ms predicted for forward and backward pass'], 1)}) | {text(values['host GB'])} | {values['activation policy']} |")
