#!/usr/bin/env bash
# Builds bitsandbytes (MIT) from its source for the GPU of this machine, where no package of it can be had. QLoRA's peer then finds it through PYTHONPATH.
# usage: bench/peers/build-bitsandbytes.sh SOURCE   then: PYTHONPATH=SOURCE scripts/bench-gpu.sh step-8b-qlora
#   SOURCE  a copy of github.com/bitsandbytes-foundation/bitsandbytes; the library is put into its package folder. Needs nvcc, cmake and ninja; about a minute.
set -euo pipefail
[ $# = 1 ] && [ -f "$1/csrc/pythonInterface.cpp" ] || { sed -n '2,4p' "$0"; exit 2; }
source=$1
capability=$(nvidia-smi --id=0 --query-gpu=compute_cap --format=csv,noheader | tr -d .)
cmake -S "$source" -B "$source/build" -G Ninja -DCOMPUTE_BACKEND=cuda -DCOMPUTE_CAPABILITY="$capability"
ninja -C "$source/build"
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$source/bitsandbytes/__init__.py")
mkdir -p "$source/bitsandbytes-$version.dist-info"
printf 'Metadata-Version: 2.1\nName: bitsandbytes\nVersion: %s\n' "$version" > "$source/bitsandbytes-$version.dist-info/METADATA"
PYTHONPATH=$source python3 -c 'import bitsandbytes as b; from bitsandbytes.cextension import lib; lib.cquantize_blockwise_bf16_nf4; print("bitsandbytes", b.__version__)'
