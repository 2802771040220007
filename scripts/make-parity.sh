#!/usr/bin/env bash
# Installs llama.cpp for the export tests, and writes what the reference tokenizers and chat templates give into artifacts/parity; says why where that cannot be.
set -uo pipefail
cd "$(dirname "$0")/.."
output=$PWD/artifacts/parity
rm -rf "$output"
mkdir -p "$output"

unavailable() { # the parity tests skip with this reason
  echo "parity not checked: $1" | tee "$output/unavailable.txt"
  rm -f "$output"/*.jsonl
  exit 0
}

install() { # install FOLDER NAME OPTION...: the packages of a folder's package.json; what went wrong goes to NAME.log
  local folder=$1 log=$output/$2.log
  shift 2
  (cd "$folder" && timeout 100 npm install --no-audit --no-fund --no-package-lock --ignore-scripts --prefer-offline "$@") > "$log" 2>&1 && return
  echo "npm could not install $folder/package.json: $(grep -m 1 -i error "$log" || echo 'it took more than 100 s')"
  return 1
}

command -v node > /dev/null && command -v npm > /dev/null || unavailable "node and npm are not installed"
# Optional dependencies are llama.cpp for other systems and GPUs; the one for this processor is named.
reason=$(install tests/llama-cpp npm-llama-cpp --omit=optional) || echo "exports not checked in llama.cpp: $reason" | tee "$output/llama-cpp-unavailable.txt"
reason=$(install tests/parity npm) || unavailable "$reason"
cd tests/parity
# From here on a failure is one of ours.
node tokenizers.mjs "$output" 20000 && node templates.mjs "$output" || exit
# What templates.json says of Jinja2 is checked wherever Python has it.
! python3 -c "import jinja2" 2> /dev/null || python3 templates.py "$output"
