#!/usr/bin/env bash
# Runs the GPU benchmarks and their Python peers on this machine; tables go to $OUT (default ./bench-results): results.md, and all parts in results.tar.gz.
# usage: scripts/bench-gpu.sh [--bench FILE] [--lancet FILE] [SECTION...]
#   sections: launches kernels gemm attention step-8b-lora step-8b-qlora step-135m errors golden (all of these by default), step-8b-long, ragged,
#             families, budgets (6 minutes; draws budgets.svg), attention-128, attention-peers, nf4-linear, profile-8b, profile-135m, self-test, startup, peft
#             max-context: max-context-8gb -12gb -16gb -24gb -80gb, 1 to 3 minutes each: two steps at the longest sequences that fit, of which the second is timed; 80 GB with few layers
#             issue-4: its table, about 8 minutes (step-8b-lora step-8b-qlora step-8b-long step-135m ragged attention-128)
#   --bench   Lancet.Bench, made by: dotnet publish bench/Lancet.Bench -c Release -r linux-x64 -p:PublishAot=true -o artifacts/bench
#   --lancet  the lancet command for golden, self-test, startup, peft and max-context-80gb; made by: dotnet publish src/Lancet.Cli -c Release -r linux-x64 -p:PublishAot=true -o artifacts/lancet
# Budgets of steps are 0.1 to 0.14 GB less than the issue's limits, for the driver. LORA_BUDGET, QLORA_BUDGET: bytes instead of 60 % of what the peers of step-8b-lora and step-8b-qlora reserve.
# CONTEXT_HOST: host memory of max-context (64G); with 24G sequences are shorter and a step each of 8 to 24 GB is planned to take 105 s together, not 180.
# The machine needs neither .NET nor a network; python3 with torch, transformers and PEFT for the peers. A section that fails does not end the run.
set -uo pipefail
cd "$(dirname "$0")/.."
bench=artifacts/bench/Lancet.Bench
lancet=artifacts/lancet/lancet
sections=()
while [ $# -gt 0 ]; do
  case $1 in
    --bench) bench=$2; shift ;;
    --lancet) lancet=$2; shift ;;
    -*) sed -n '2,12p' "$0"; exit 2 ;;
    issue-4) sections+=(step-8b-lora step-8b-qlora step-8b-long step-135m ragged attention-128) ;;
    max-context) sections+=(max-context-{8,12,16,24,80}gb) ;;
    *) sections+=("$1") ;;
  esac
  shift
done
[ ${#sections[@]} -gt 0 ] || sections=(launches kernels gemm attention step-8b-lora step-8b-qlora step-135m errors golden)
target=${OUT:-bench-results}
mkdir -p "$target"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
failed=()

bench() { # bench NAME SECONDS ARGUMENTS...: runs Lancet.Bench gpu, keeping NAME.md and NAME.json
  local name=$1 limit=$2
  shift 2
  timeout "$limit" "$bench" gpu "$@" --json "$out/$name.json" --markdown "$out/$name.md" < /dev/null
}

step() { # step NAME ARGUMENTS...: an optimiser step of Lancet
  local name=$1
  shift
  bench "step-$name" 240 step "$@"
}

peer() { # peer NAME ARGUMENTS...: the same step with Hugging Face and PEFT
  local name=$1
  shift
  timeout 180 python3 bench/peers/hf_step.py "$@" --json "$out/hf-$name.json" < /dev/null 2> "$out/hf-$name.log" || { echo "peer $name failed:"; tail -3 "$out/hf-$name.log"; return 1; }
}

both() { # both NAME ARGUMENTS...: a step of Lancet and of the peer
  local status=0
  step "$@" || status=1
  peer "$@" || status=1
  return $status
}

peer_share() { # peer_share NAME: bytes of 60 % of what the peer reserved, less 0.1 GB
  python3 -c 'import json, sys; print(int(0.6e9 * json.load(open(sys.argv[1]))["max_memory_reserved_gb"] - 1e8))' "$out/hf-$1.json" 2> /dev/null || { echo "the peer $1 did not run: give LORA_BUDGET or QLORA_BUDGET" >&2; return 1; }
}

startup() { # a 1B checkpoint of random weights from the start of the process to the first step: with nothing cached, and then with everything
  local folder name answers status=0
  folder=$(mktemp -d)
  "$bench" model "$folder/model" --model llama-3.2-1b < /dev/null || { rm -rf "$folder"; return 1; }
  head -n 64 samples/dotnet-api-qa/train.jsonl > "$folder/data.jsonl"
  for answers in 0 3; do
    rm -rf "$folder/cache" "$folder/nv"
    for name in cold warm warm; do
      echo "$name, $answers sample answers:"
      LANCET_CACHE=$folder/cache CUDA_CACHE_PATH=$folder/nv timeout 120 "$lancet" train --device cuda --model "$folder/model" --data "$folder/data.jsonl" --output "$folder/out" --overwrite-output \
        --batch-size 4 --gradient-accumulation 1 --max-steps 1 --sample-answers "$answers" < /dev/null 2> "$folder/log" || { tail -n 3 "$folder/log"; status=1; }
      grep '^first step after' "$folder/log"
    done
  done
  rm -rf "$folder"
  return $status
}

run() {
  case $1 in
    launches) bench launches 60 launches ;;
    kernels) bench kernels 150 kernels ;;
    gemm) bench gemm 150 gemm ;;
    attention) bench attention 120 attention ;;
    attention-128) bench attention 120 attention --filter "heads of 128" ;;
    attention-peers) timeout 120 python3 bench/peers/attention.py --json "$out/attention-peers.json" < /dev/null 2> "$out/attention-peers.log" | tee "$out/attention-peers.md"; return "${PIPESTATUS[0]}" ;;
    step-8b-lora)
      local status=0 budget work=(--model llama-3.1-8b --method lora --batch 4 --length 2048)
      both 8b-lora "${work[@]}" || status=1
      step 8b-lora-20gb "${work[@]}" --memory-budget 19.9e9 || status=1
      budget=${LORA_BUDGET:-$(peer_share 8b-lora)} && step 8b-lora-share "${work[@]}" --memory-budget "$budget" || status=1
      return $status ;;
    step-8b-qlora)
      local status=0 budget work=(--model llama-3.1-8b --method qlora --batch 4 --length 2048)
      both 8b-qlora "${work[@]}" || status=1
      step 8b-qlora-8.5gb "${work[@]}" --memory-budget 8.36e9 || status=1
      budget=${QLORA_BUDGET:-$(peer_share 8b-qlora)} && step 8b-qlora-share "${work[@]}" --memory-budget "$budget" || status=1
      return $status ;;
    step-8b-long)
      local status=0 work=(--model llama-3.1-8b --method qlora --batch 1 --length)
      step 8b-16k "${work[@]}" 16384 || status=1
      peer 8b-16k "${work[@]}" 16384 --warmup 2 --steps 3 || status=1
      step 8b-16k-9gb "${work[@]}" 16384 --memory-budget 8.9e9 || status=1
      step 8b-32k "${work[@]}" 32768 || status=1
      step 8b-32k-10gb "${work[@]}" 32768 --memory-budget 9.9e9 || status=1
      return $status ;;
    budgets)
      local status=0 method budget work
      for method in lora qlora; do
        work=(--model llama-3.1-8b --method "$method" --batch 4 --length 2048)
        [ -f "$out/step-8b-$method.json" ] || both "8b-$method" "${work[@]}" || status=1
        for budget in $([ "$method" = lora ] && echo 17.5 24 30 36 || echo 7.5 10 15 20 26); do step "8b-$method-$budget" "${work[@]}" --memory-budget "${budget}e9" || status=1; done
      done
      python3 bench/peers/plot_budgets.py "$out" "$out/budgets.svg" "$device, commit $commit" > "$out/budgets.md" && cp "$out/budgets.svg" "$target" || status=1
      cat "$out/budgets.md"
      return $status ;;
    max-context-80gb)
      local status=0 layers folder
      for layers in 2 3; do bench "context-80gb-$layers" 240 step --model llama-3.1-8b --layers "$layers" --method qlora --rank 32 --batch 1 --length 445568 --policy offload-input --steps 1 || status=1; done
      folder=$(mktemp -d)
      cp bench/Lancet.Bench/models/llama-3.1-8b.json "$folder/config.json"
      timeout 240 "$lancet" plan --model "$folder" --device cuda --method qlora --lora-rank 32 --max-context --memory-budget 80e9 --host-memory-budget 100GB --json < /dev/null > "$out/context-80gb-plan.json" || status=1
      rm -rf "$folder"
      return $status ;;
    max-context-*gb)
      local budget=${1//[!0-9]/}
      bench "context-${budget}gb" 400 step --model llama-3.1-8b --method qlora --rank 32 --max-context --memory-budget "${budget}e9" --host-memory-budget "${CONTEXT_HOST:-64G}" --steps 2 ;;
    step-135m)
      local status=0
      both 135m-1x256 --model smollm2-135m --method lora --batch 1 --length 256 || status=1
      both 135m-4x512 --model smollm2-135m --method lora --batch 4 --length 512 || status=1
      return $status ;;
    ragged) both 8b-ragged --model llama-3.1-8b --layers 8 --method lora --batch 8 --length 2048 --ragged ;;
    families)
      local status=0
      for model in llama-3.1-8b gemma-2-2b mistral-7b qwen2.5-7b; do both "$model" --model "$model" --layers 8 --method lora --batch 4 --length 2048 || status=1; done
      return $status ;;
    nf4-linear) timeout 120 python3 bench/peers/nf4_linear.py < /dev/null 2>&1 | tee "$out/nf4-linear.txt" ;;
    profile-8b) bench profile-8b-lora 240 step --model llama-3.1-8b --method lora --batch 4 --length 2048 --profile ;;
    profile-135m) bench profile-135m-lora 240 step --model smollm2-135m --method lora --batch 1 --length 256 --profile ;;
    startup) startup 2>&1 | tee "$out/startup.txt"; return "${PIPESTATUS[0]}" ;;
    errors)
      local folder
      folder=$(mktemp -d)
      timeout 120 "$bench" gpu errors --folder "$folder" < /dev/null
      local status=$?
      timeout 180 python3 bench/peers/kernel_errors.py "$folder" --json "$out/errors.json" < /dev/null 2> "$out/errors.log" | tee "$out/errors.md" || status=1
      rm -rf "$folder"
      return $status ;;
    golden) timeout 240 python3 tests/golden/check_golden.py --lancet "$lancet" --device cuda --dtype float32 tests/golden/*/ < /dev/null 2>&1 | tee "$out/golden.txt" ;;
    peft) tests/golden/check_peft.sh "$lancet" "$out" ;;
    self-test) timeout 300 "$lancet" doctor --self-test < /dev/null 2>&1 | tee "$out/self-test.txt" ;;
    *) echo "no section $1"; return 2 ;;
  esac
}

gather() { # two files, as few machines give back many; after each section, so that a run that is cut short leaves what it had
  python3 bench/peers/step_table.py "$out" > "$out/steps.md"
  python3 bench/peers/context_table.py "$out" > "$out/contexts.md"
  { for table in launches kernels attention gemm steps budgets contexts; do [ -f "$out/$table.md" ] && cat "$out/$table.md"; done
    for table in "$out"/step-*.md "$out"/context-*.md "$out"/profile-*.md "$out"/errors.md; do [ -f "$table" ] && cat "$table"; done; } > "$target/results.md"
  tar -C "$out" -czf "$target/results.tar.gz" .
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2> /dev/null
device=$(nvidia-smi --query-gpu=name --format=csv,noheader 2> /dev/null | head -n 1)
commit=$("$bench" commit)
echo "commit $commit"
for section in "${sections[@]}"; do
  start=$SECONDS
  echo "== $section"
  run "$section" || failed+=("$section")
  gather
  echo "-- $section: $((SECONDS - start)) s"
done
cat "$out/steps.md" "$out/contexts.md"
[ ${#failed[@]} -eq 0 ] || echo "with failures: ${failed[*]}"
echo "tables in $target; $SECONDS s"
[ ${#failed[@]} -eq 0 ]
