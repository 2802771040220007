#!/usr/bin/env bash
# Makes models/lancet-dotnet-base and samples/dotnet-api-qa from the API documentation in the .NET SDK's reference pack.
# usage: scripts/make-quickstart.sh [STEPS]     (8,000 take 77 seconds on an H100; a processor takes far longer)
# LANCET=COMMAND runs that command instead of building one, for machines without the SDK: make WORK here, train there.
set -euo pipefail
cd "$(dirname "$0")/.."
steps=${1:-8000}
work=artifacts/quickstart-base
[ -f "$work/corpus.jsonl" ] || dotnet run -c Release scripts/MakeQuickstart.cs -- $work samples/dotnet-api-qa
lancet() { if [ -n "${LANCET:-}" ]; then $LANCET "$@"; else dotnet run -c Release --project src/Lancet.Cli -- "$@"; fi; }
lancet train --model $work --data $work/corpus.jsonl --method full --from-scratch --output $work/run --max-seq-length 256 --packing \
    --batch-size 64 --gradient-accumulation 1 --learning-rate 2e-3 --lr-scheduler cosine --warmup-steps 100 --weight-decay 0.1 \
    --max-steps "$steps" --save-steps 1000 --save-total-limit 1
lancet export --model $work/run --output models/lancet-dotnet-base --dtype bfloat16
