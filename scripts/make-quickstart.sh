#!/usr/bin/env bash
# Makes models/lancet-dotnet-base and samples/dotnet-api-qa from the API documentation in the .NET SDK's reference pack.
# usage: scripts/make-quickstart.sh [STEPS]     (about 1.4 steps a second on two cores)
set -euo pipefail
cd "$(dirname "$0")/.."
steps=${1:-700}
work=artifacts/quickstart-base
dotnet run -c Release scripts/MakeQuickstart.cs -- $work samples/dotnet-api-qa
lancet() { dotnet run -c Release --project src/Lancet.Cli -- "$@"; }
lancet train --model $work --data $work/corpus.jsonl --method full --from-scratch --output $work/run --max-seq-length 256 --packing \
    --batch-size 8 --gradient-accumulation 1 --learning-rate 3e-3 --lr-scheduler cosine --warmup-steps 30 --weight-decay 0.1 --max-steps "$steps" --save-steps 100 --save-total-limit 1
lancet export --model $work/run --output models/lancet-dotnet-base --dtype bfloat16
