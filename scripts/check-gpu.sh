#!/usr/bin/env bash
# Proofs that a GPU is needed for: the same seed gives the same bits, also when killed and resumed, and with weights and activations in host memory; adapters of mixtures of experts agree with PEFT;
# NF4 folders and QLoRA's adapters go both ways between Lancet and bitsandbytes.
# usage: scripts/check-gpu.sh [--lancet FILE] [--device cuda|cpu] [--steps N] [--rows N] [SECTION...]     sections: bits peft (both by default) bitsandbytes
#   --lancet  made by: dotnet publish src/Lancet.Cli -c Release -r linux-x64 -p:PublishAot=true -o artifacts/lancet
#   --steps   of the runs that are compared, 400 by default, with a checkpoint every eighth of them; --rows of a batch, 16 by default
# bits needs about 20 seconds on a GPU; peft needs python3 with torch, transformers and PEFT, bitsandbytes that package, too. A section that fails does not end the run.
set -uo pipefail
cd "$(dirname "$0")/.."
lancet=artifacts/lancet/lancet
device=cuda
steps=400
rows=16
sections=()
while [ $# -gt 0 ]; do
  case $1 in
    --lancet) lancet=$2; shift ;;
    --device) device=$2; shift ;;
    --steps) steps=$2; shift ;;
    --rows) rows=$2; shift ;;
    bits|peft|bitsandbytes) sections+=("$1") ;;
    *) sed -n '2,7p' "$0"; exit 2 ;;
  esac
  shift
done
[ ${#sections[@]} -gt 0 ] || sections=(bits peft)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=${OUT:-bench-results}
mkdir -p "$out"

random_llama() { # three layers with heads of 128 and the bundled model's tokenizer: one step from random weights
  mkdir "$work/shapes"
  cp models/lancet-dotnet-base/tokenizer*.json "$work/shapes"
  cat > "$work/shapes/config.json" <<'JSON'
{
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 3,
  "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 128, "vocab_size": 4096, "max_position_embeddings": 1024, "hidden_act": "silu",
  "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": true, "bos_token_id": 4093, "eos_token_id": 4093, "dtype": "bfloat16"
}
JSON
  (train "$work/shapes" "$work/model" --method full --from-scratch --max-steps 1)
}

train() { # (train MODEL OUTPUT OPTION...), or with & to run beside: the process becomes the run, so that a signal reaches it
  local model=$1 output=$2
  shift 2
  exec "$lancet" train --device "$device" --dtype bfloat16 --model "$model" --data samples/dotnet-api-qa/train.jsonl --output "$output" --batch-size "$rows" --gradient-accumulation 1 \
    --max-seq-length 256 --learning-rate 1e-3 --sample-answers 0 "$@" < /dev/null >> "$work/log" 2>&1
}

fail() {
  echo "FAILED: $1"
  tail -n 5 "$work/log" 2> /dev/null
  return 1
}

same() { # same NAME [OTHER]: whether a run's adapter is another's, by default the first run's
  local other=${2:-first}
  cmp "$work/$other/adapter_model.safetensors" "$work/$1/adapter_model.safetensors" || fail "the $1 run's adapter differs from that of the $other run"
}

bits() {
  local every=$((steps / 8)) checkpoint process status newest adapter
  local quantized decomposed dropped host=(--streamed-layers 3 --activation-policy offload-attention)
  local run=(--method lora --lora-rank 16 --max-steps "$steps" --save-steps "$every")
  [ "$every" -gt 0 ] || { fail "--steps $steps: at least 8"; return; }
  random_llama || { fail "no model"; return; }
  (train "$work/model" "$work/first" "${run[@]}") || { fail "the first run"; return; }
  ! cmp -s "$work/first/checkpoints/step-$every/adapter_model.safetensors" "$work/first/adapter_model.safetensors" || { fail "the adapter did not change after step $every"; return; }
  (train "$work/model" "$work/second" "${run[@]}") || { fail "the second run"; return; }
  same second || return

  checkpoint=$work/killed/checkpoints/step-$((2 * every))
  train "$work/model" "$work/killed" "${run[@]}" &
  process=$!
  until [ -e "$checkpoint" ]; do
    kill -0 "$process" 2> /dev/null || { fail "the run to be killed ended without the checkpoint of step $((2 * every))"; return; }
    sleep 0.01
  done
  kill -KILL "$process"
  wait "$process" 2> /dev/null
  status=$?
  adapter=$work/killed/adapter_model.safetensors
  newest=$(ls "$work/killed/checkpoints" | sed -n 's/^step-//p' | sort -n | tail -n 1)
  [ "$status" -eq 137 ] && [ ! -e "$adapter" ] && [ "$newest" -lt "$steps" ] || { fail "the signal came too late: exit code $status, checkpoint of step $newest of $steps"; return; }
  (train "$work/model" "$work/killed" "${run[@]}" --resume) || { fail "the resumed run"; return; }
  same killed || return

  (train "$work/model" "$work/streamed" "${run[@]}" "${host[@]}") || { fail "the run with weights in host memory"; return; }
  same streamed || return
  quantized=(--method qlora --lora-rank 16 --max-steps "$every")
  (train "$work/model" "$work/quantized" "${quantized[@]}") && (train "$work/model" "$work/quantized-streamed" "${quantized[@]}" "${host[@]}") || { fail "the quantised runs"; return; }
  same quantized-streamed quantized || return
  decomposed=(--method lora --use-dora --lora-rank 16 --max-steps "$every")
  (train "$work/model" "$work/decomposed" "${decomposed[@]}" --activation-policy keep) && (train "$work/model" "$work/decomposed-again" "${decomposed[@]}" --activation-policy keep-input) \
    && (train "$work/model" "$work/decomposed-streamed" "${decomposed[@]}" "${host[@]}") || { fail "the runs with DoRA"; return; }
  same decomposed-again decomposed && same decomposed-streamed decomposed || return
  dropped=(--method lora --lora-dropout 0.1 --lora-rank 16 --max-steps "$every")
  (train "$work/model" "$work/dropped" "${dropped[@]}" --activation-policy keep) && (train "$work/model" "$work/dropped-again" "${dropped[@]}" --activation-policy keep-input) \
    && (train "$work/model" "$work/dropped-streamed" "${dropped[@]}" "${host[@]}") || { fail "the runs with dropout"; return; }
  same dropped-again dropped && same dropped-streamed dropped || return
  ! cmp -s "$work/dropped/adapter_model.safetensors" "$work/first/checkpoints/step-$every/adapter_model.safetensors" || { fail "dropout changed nothing"; return; }
  echo "ok: $steps steps of $rows rows on $device gave $(sha256sum < "$work/first/adapter_model.safetensors" | cut -c1-16) four times: twice uninterrupted, once killed with SIGKILL and resumed from step $newest, once with all layers' weights and most activations in host memory; so did $every steps of QLoRA, twice, and of DoRA and with dropout, three times each: all activations kept, all but inputs made again, most in host memory"
}

peft() { # the fixtures whose experts are trained
  FIXTURES="tests/golden/mixtral tests/golden/qwen3-moe" tests/golden/check_peft.sh "$lancet" "$out"
}

bitsandbytes() { # all fixtures that it can load
  CHECK=bitsandbytes tests/golden/check_peft.sh "$lancet" "$out" --device "$device"
}

status=0
for section in "${sections[@]}"; do
  echo "== $section"
  "$section" || status=1
done
exit $status
