#!/usr/bin/env bash
# Measures Lancet's CPU side beside OpenBLAS (products) and PyTorch (a LoRA step shaped like SmolLM2-135M); prints Markdown tables.
# usage: scripts/bench-cpu.sh [ROUNDS]     (3 rounds of the step by default; about 9 minutes on two cores)
# Installs libopenblas0-pthread and python3-torch where they are missing (Debian and Ubuntu). As root it asks the scheduler for the processor
# before everybody else, so that other work on the machine disturbs less. PYTHON names another interpreter that has PyTorch.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-3}
threads=$(nproc)
python=${PYTHON:-/usr/bin/python3}

ldconfig -p | grep -q libopenblas.so.0 && "$python" -c 'import torch' 2> /dev/null || {
  root=()
  [ "$(id -u)" -eq 0 ] || root=(sudo)
  "${root[@]}" apt-get update -qq >&2
  "${root[@]}" apt-get install -qqy --no-install-recommends libopenblas0-pthread python3-torch >&2
}
dotnet build bench/Lancet.Bench -c Release -v quiet >&2
# Variables that pin OpenBLAS to another processor's kernels would slow the peer down; nobody else's settings count here.
quiet() { # quiet COMMAND...: in a session of its own, with the highest priority that this user may have
  setsid -w bash -c 'echo -20 > /proc/self/autogroup; renice -n -20 -p $$ > /dev/null; exec env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE -u OMP_NUM_THREADS "$@"' quiet "$@" 2> >(grep -v -e '^step' -e Permission -e renice >&2)
}
bench=(dotnet bench/Lancet.Bench/bin/Release/net10.0/Lancet.Bench.dll)

sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -n 1
echo "$threads processors, $(uname -sr), .NET $(dotnet --version), commit $(git rev-parse --short HEAD)$(git diff --quiet HEAD || echo ' with changes'), $(date -u +%F), load before: $(cut -d' ' -f1-3 /proc/loadavg)"
echo
quiet "${bench[@]}" gemm

echo
echo "A LoRA step, T = 1024, rank 16 on all projections, AdamW, clipping; each line is a process: median of 7 steps (PyTorch: 5) after 2 to warm up."
echo
"${bench[@]}" step --make
for ((round = 1; round <= rounds; round++)); do
  quiet "${bench[@]}" step
  quiet "$python" bench/peers/smollm_step.py "$threads"
done
for variant in "--weights bf16" "--policy recompute-mlp" "--policy keep-input" "--weights nf4"; do
  # shellcheck disable=SC2086
  quiet "${bench[@]}" step $variant
done
