#!/usr/bin/env python3
"""Puts the steps that were run beside the peer's of the same work and what the project's issues ask for: prints Markdown.

usage: step_table.py FOLDER     with step-*.json from `Lancet.Bench gpu step --json`, hf-*.json from `hf_step.py --json`, attention.json from `Lancet.Bench gpu attention --json`
GB are 10^9 bytes. Lancet's peak is what its run took from the card's free memory, the driver's share included.
"""
import glob, json, os, sys

# Issue 4: work -> (GB that it must stay within, or None; tokens/s).
TARGETS = {
    "llama-3.1-8b, lora, 4 x 2048": [(None, 17000), (20, 12500)],
    "llama-3.1-8b, qlora, 4 x 2048": [(None, 16000), (8.5, 11500)],
    "llama-3.1-8b, qlora, 1 x 16384": [(None, 11500), (9, 9500)],
    "llama-3.1-8b, qlora, 1 x 32768": [(None, 9500), (10, 8000)],
    "smollm2-135m, lora, 1 x 256": [(0.6, 50000)],
    "smollm2-135m, lora, 4 x 512": [(1.5, 150000)],
    "llama-3.1-8b, 8 layers, lora, 8 x 2048 ragged": [(None, 60000)],
}
# Issue 3: work -> (times the peer's tokens/s, share of what the peer reserves).
MULTIPLES = {"llama-3.1-8b, lora, 4 x 2048": (2, 0.6), "llama-3.1-8b, qlora, 4 x 2048": (2, 0.6), "smollm2-135m, lora, 1 x 256": (20, None)}
# Issue 4: other families reach nine tenths of this run's share of the floor with as many layers; it is run before them. Operations a second are compared, as if all rows had found the same
# ceiling: each finds its own, which moves by a tenth with the card's heat.
REFERENCE = "llama-3.1-8b, 8 layers, lora, 4 x 2048"
# (tokens of a sequence, pass) -> TFLOP/s.
ATTENTION = {(2048, "forward"): 430, (2048, "forward+backward"): 330, (8192, "forward"): 560, (8192, "forward+backward"): 430}
# A budget is a little less than the limit that it is for: the driver takes its share besides.
MARGIN = 1.02
PEAK = "peak GB, free memory before less least free memory"
BUDGET = "memory budget GB, without the driver"


def load(path):
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def text(value, digits=2):
    return "–" if value is None else f"{value:,.{digits}f}"


def over(a, b):
    return a / b if a and b else None


def shown(work):
    return work.replace(" x ", " × ")


def verdict(what, target, value, limit=None, taken=None):
    return f"{what}: {'met' if value >= target and (limit is None or taken <= limit) else 'missed'}"


def asked(work, budget, speed, peak, times, share, rate, reference):
    """What the issues ask of this run, and whether it is met."""
    targets = TARGETS.get(work, [])
    if budget is None:
        targets = [item for item in targets if item[0] is None or len(targets) == 1]
    else:
        targets = [item for item in targets if item[0] and budget <= item[0] <= budget * MARGIN]
    parts = [verdict(f"≥ {target:,}{f' in {limit:g} GB' if limit else ''}", target, speed, limit, peak) for limit, target in targets]
    if work in MULTIPLES and times:
        target, limit = MULTIPLES[work]
        if limit is None or share <= limit:
            parts.append(verdict(f"≥ {target} ×{f' in {limit:.0%}' if limit else ''}", target, times))
    if reference and work != REFERENCE and work.split(", ")[1:] == REFERENCE.split(", ")[1:]:
        parts.append(verdict("≥ 90% of the 8B's share", 0.9 * reference, rate) + f" ({rate / reference:.1%})")
    return "; ".join(parts)


def peers(folder):
    """What hf_step.py found, in the order of names."""
    return [result for path in sorted(glob.glob(os.path.join(folder, "hf-*.json"))) if (result := load(path))]


def steps(folder):
    """(name, work, values by what they are) of Lancet's steps in the order in which they ran; no work where a step failed."""
    for path in sorted(glob.glob(os.path.join(folder, "step-*.json")), key=os.path.getmtime):
        rows = [row for row in load(path) or [] if row["table"].startswith("Step: ")]
        yield os.path.basename(path)[5:-5], rows[0]["table"][6:].replace("×", "x") if rows else None, {row["what"]: row["value"] for row in rows}


def print_steps(folder):
    rows, seen, reference, results = [], set(), None, peers(folder)
    for name, work, values in steps(folder):
        if not work:
            rows.append(f"| {name} | failed |")
            continue
        seen.add(work)
        peer = next((result for result in results if result["work"] == work), {})
        speed, peak, planned = values["tokens/s"], values[PEAK], values["peak GB, planned"] + values["driver GB besides, planned"]
        budget = values.get(BUDGET)
        theirs, reserved, allocated = (peer.get(key) for key in ("tokens_per_second", "max_memory_reserved_gb", "max_memory_allocated_gb"))
        times, share, floor, floor_share, rate = over(speed, theirs), over(peak, reserved), values["floor tokens/s"], values["share of the floor"], values["model TFLOP/s"]
        if work == REFERENCE:
            reference = rate
        rows.append(f"| {shown(work)}{f', budget {budget:.2f} GB' if budget else ''} | {asked(work, budget, speed, peak, times, share, rate, reference)} | {text(speed, 0)} | {text(floor, 0)} ({floor_share:.0%}) | "
                    f"{text(peak)} ({text(planned)}) | {text(theirs, 0)} | {text(reserved)} ({text(allocated)}) | {text(times)} | {text(share)} ({text(over(peak, allocated))}) |")
    if not rows:
        return
    print("| work | asked: issue 4; 3 | Lancet tokens/s | floor (share) | peak GB (planned) | peer tokens/s | reserved GB (allocated) | times | of its memory |\n|---|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))
    kinds = {}
    for peer in (result for result in results if result["work"] in seen):
        kinds.setdefault(peer["peer"] + "".join(f"; {key.replace('_', ' ')}: {peer[key]}" for key in ("not_run", "note") if key in peer), []).append(shown(peer["work"]))
    for kind, works in kinds.items():
        print(f"\nPeer: {kind} ({'; '.join(works)}).")


def print_attention(folder):
    rows = [row for row in load(os.path.join(folder, "attention.json")) or [] if row["table"] == "Attention" and "heads of 128" in row["shape"] and "TFLOP/s" in row]
    if not rows:
        return
    print("\n| attention | shape | issue 4 | TFLOP/s |\n|---|---|---|---|")
    for row in rows:
        what = row["kernel"].split()[-1]
        target = ATTENTION.get((int(row["shape"].split(",")[0].split()[-1]), what))
        print(f"| {what} | {row['shape']} | {verdict(f'≥ {target}', target, row['TFLOP/s']) if target else ''} | {text(row['TFLOP/s'], 0)} |")


if __name__ == "__main__":
    print_steps(sys.argv[1])
    print_attention(sys.argv[1])
