#!/usr/bin/env bash
# Writes what the reference tokenizers and chat templates give into artifacts/parity, for the parity tests; says why where that cannot be.
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

command -v node > /dev/null && command -v npm > /dev/null || unavailable "node and npm are not installed"
cd tests/parity
timeout 100 npm install --no-audit --no-fund --no-package-lock --ignore-scripts --prefer-offline > "$output/npm.log" 2>&1 || unavailable "npm could not install tests/parity/package.json: $(grep -m 1 -i error "$output/npm.log" || echo 'it took more than 100 s')"
# From here on a failure is one of ours.
node tokenizers.mjs "$output" 20000 && node templates.mjs "$output"
