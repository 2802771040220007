#!/usr/bin/env python3
"""Draws tokens/s against memory, Lancet's steps under their budgets as lines and the peers' as points.

usage: plot_budgets.py FOLDER FILE.svg     with step-*.json and hf-*.json as step_table.py reads them; steps of a work that ran at one budget only are left out
"""
import sys
import matplotlib
matplotlib.use("svg")
import matplotlib.pyplot as plt
from step_table import PEAK, peers, shown, steps

folder, target = sys.argv[1:]
lines = {}
for _, work, values in steps(folder):
    if work:
        lines.setdefault(work, []).append((values[PEAK], values["tokens/s"]))
lines = {work: sorted(points) for work, points in lines.items() if len(points) > 1}
if not lines:
    sys.exit(f"{folder}: no work with steps at several budgets")
figure, axes = plt.subplots(figsize=(8, 4.5))
for work, points in lines.items():
    line, = axes.plot(*zip(*points), marker="o", markersize=4, label=f"Lancet: {shown(work)}")
    for peer in peers(folder):
        if peer["work"] == work and "tokens_per_second" in peer:
            axes.plot(peer["max_memory_reserved_gb"], peer["tokens_per_second"], marker="x", markersize=8, linestyle="none", color=line.get_color(), label=f"{peer['peer']}, reserved")
axes.set(xlabel="peak memory, GB (10⁹ bytes)", ylabel="tokens/s", xlim=(0, None), ylim=(0, None))
axes.grid(alpha=0.3)
axes.legend(fontsize=8, loc="lower left")
figure.tight_layout()
figure.savefig(target, metadata={"Date": None})
