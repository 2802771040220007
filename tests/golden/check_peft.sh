#!/usr/bin/env bash
# Checks adapters and merged models against transformers and PEFT for all fixtures; the table goes to OUTDIR/peft.txt as well. CHECK=bitsandbytes: NF4 against bitsandbytes.
# usage: tests/golden/check_peft.sh LANCET_BINARY OUTDIR [OPTION...]   (options of check_peft.py, such as --device cuda)
# FIXTURES names some of the folders. Needs python3 with torch, transformers 5 and PEFT; neither a GPU nor a network.
set -uo pipefail
[ $# -ge 2 ] || { sed -n '2,4p' "$0"; exit 2; }
lancet=$(realpath "$1") || exit 2
mkdir -p "$2" && out=$(realpath "$2") || exit 2
shift 2
cd "$(dirname "$0")/../.." || exit 2
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
check=${CHECK:-peft}
timeout 240 python3 "tests/golden/check_$check.py" --lancet "$lancet" "$@" ${FIXTURES:-tests/golden/*/} < /dev/null 2> "$out/$check.log" | tee "$out/$check.txt"
status=${PIPESTATUS[0]}
[ "$status" -eq 0 ] || { echo "exit code $status; the end of its standard error:"; tail -20 "$out/$check.log"; } | tee -a "$out/$check.txt"
exit "$status"
