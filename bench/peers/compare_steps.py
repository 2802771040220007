#!/usr/bin/env python3
"""Puts a step of Lancet beside the peer's: prints one Markdown row.

usage: compare_steps.py LANCET.json PEER.json     from `Lancet.Bench gpu step --json` and `hf_step.py --json`
"""
import json, sys


def load(path):
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


ours, peer = load(sys.argv[1]), load(sys.argv[2])
step = [row for row in ours or [] if row["table"].startswith("Step: ")]
values = {row["what"]: row["value"] for row in step}
name = step[0]["table"][6:] if step else (peer or {}).get("work", sys.argv[1])
speed, memory = values.get("tokens/s"), values.get("peak GB, free memory before less least free memory")
their_speed, their_memory = (peer or {}).get("tokens_per_second"), (peer or {}).get("max_memory_reserved_gb")


def text(value, digits):
    return "–" if value is None else f"{value:,.{digits}f}"


print("| work | Lancet tokens/s | peer tokens/s | times | Lancet peak GB | peer peak GB (reserved; allocated) | share |\n|---|---|---|---|---|---|---|")
print(f"| {name} | {text(speed, 0)} | {text(their_speed, 0)} | {text(speed / their_speed if speed and their_speed else None, 2)} | {text(memory, 2)} | "
      f"{text(their_memory, 2)}; {text((peer or {}).get('max_memory_allocated_gb'), 2)} | {text(memory / their_memory if memory and their_memory else None, 2)} |")
if peer and "not_run" in peer:
    print(f"\npeer not run: {peer['not_run']}")
