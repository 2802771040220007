#!/usr/bin/env python3
# Writes src/Lancet/Tokenization/normalization.txt, the decompositions and combining classes of Unicode, and tests/tokenizers/normalization.json.
"""usage: scripts/make-normalization.py   (standard library only; run in the checkout's root)

.NET without ICU does not normalise text, and Lancet must start on machines without ICU. Lines of the data file:
  D code first [second]      canonical decomposition, one step; X after it: excluded from composition
  C class from to            canonical combining class of a range
  K code parts               compatibility decomposition, one step
"""
import json, random, sys, unicodedata as u

lines = []
for code in range(sys.maxunicode + 1):
    text = u.decomposition(chr(code))
    if text.startswith("<"):
        lines.append(f"K {code:X} {' '.join(p.lstrip('0') for p in text.split()[1:])}")
    elif text:
        parts = text.split()
        # What composing the parts does not give back is excluded: singletons, script-specific exclusions, non-starters.
        excluded = u.normalize("NFC", "".join(chr(int(p, 16)) for p in parts)) != chr(code)
        lines.append(f"D {code:X} {' '.join(p.lstrip('0') for p in parts)}{' X' if excluded and len(parts) == 2 else ''}")
start, current = 0, 0
for code in range(sys.maxunicode + 2):
    value = u.combining(chr(code)) if code <= sys.maxunicode else -1
    if value != current:
        if current:
            lines.append(f"C {current} {start:X} {code - 1:X}")
        start, current = code, value
with open("src/Lancet/Tokenization/normalization.txt", "w") as f:
    f.write(f"Unicode {u.unidata_version}\n" + "\n".join(lines) + "\n")

draw = random.Random(1)
pool = [chr(c) for c in range(sys.maxunicode + 1) if u.combining(chr(c)) or u.decomposition(chr(c))]
rows = []
for _ in range(400):
    text = "".join(draw.choice([draw.choice(pool), draw.choice("aeouAE \u1100\u1161\u11a8\uac00\uac01가각"), chr(draw.randrange(0x300, 0x370))]) for _ in range(draw.randint(1, 8)))
    rows.append([text, *(u.normalize(form, text) for form in ("NFC", "NFD", "NFKC", "NFKD"))])
with open("tests/tokenizers/normalization.json", "w") as f:
    json.dump(rows, f)
