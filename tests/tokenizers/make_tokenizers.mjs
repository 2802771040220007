#!/usr/bin/env node
// Makes small tokenizers of the kinds that checkpoints use, and the ids and texts that Hugging Face's tokenizers library gives.
//
// usage: npm install @anush008/tokenizers@0.6.0 && node make_tokenizers.mjs CORPUS.txt OUTPUT_DIR
//
// Writes OUTPUT_DIR/NAME/tokenizer.json and OUTPUT_DIR/expected.json: for every tokenizer and text the ids with and without special
// tokens and the decoded text.
import { createRequire } from "node:module";
import fs from "node:fs";
import path from "node:path";
const { Tokenizer } = createRequire(path.join(process.cwd(), "x.js"))("@anush008/tokenizers");

const [corpus, output] = process.argv.slice(2);
const merges = 400;
const split = (regex, behavior = "Isolated") => ({ type: "Split", pattern: { Regex: regex }, behavior, invert: false });
const byteLevel = (prefix, regex) => ({ type: "ByteLevel", add_prefix_space: prefix, trim_offsets: true, use_regex: regex });
const sequence = (kind, parts) => ({ type: "Sequence", [kind]: parts });
const spaces = { type: "Replace", pattern: { String: " " }, content: "▁" };
const bos = { type: "TemplateProcessing", single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }], pair: [{ Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 1 } }], special_tokens: { "<s>": { id: "<s>", ids: [1], tokens: ["<s>"] } } };
const pieces = [{ type: "Replace", pattern: { String: "▁" }, content: " " }, { type: "ByteFallback" }, { type: "Fuse" }];
const llama3 = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const qwen2 = llama3.replace("{1,3}", "");

const kinds = {
  "gpt2": { pre_tokenizer: byteLevel(false, true), decoder: byteLevel(true, true), post_processor: byteLevel(true, true) },
  "gpt2-prefix": { pre_tokenizer: byteLevel(true, true), decoder: byteLevel(true, true), post_processor: null },
  "llama3": { pre_tokenizer: sequence("pretokenizers", [split(llama3), byteLevel(false, false)]), decoder: byteLevel(true, true), post_processor: sequence("processors", [byteLevel(true, false), bos]), ignore_merges: true },
  "qwen2": { normalizer: { type: "NFC" }, pre_tokenizer: sequence("pretokenizers", [split(qwen2), byteLevel(false, false)]), decoder: byteLevel(false, false), post_processor: byteLevel(false, false) },
  "smollm": { pre_tokenizer: sequence("pretokenizers", [{ type: "Digits", individual_digits: true }, byteLevel(false, true)]), decoder: byteLevel(true, true), post_processor: null },
  "llama2": { normalizer: sequence("normalizers", [{ type: "Prepend", prepend: "▁" }, spaces]), decoder: sequence("decoders", [...pieces, { type: "Strip", content: " ", start: 1, stop: 0 }]), post_processor: bos, fallback: true },
  "mistral": { pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme: "first", split: false }, decoder: sequence("decoders", [...pieces, { type: "Strip", content: " ", start: 1, stop: 0 }]), post_processor: bos, fallback: true },
  "gemma": { normalizer: spaces, pre_tokenizer: { type: "Split", pattern: { String: " " }, behavior: "MergedWithPrevious", invert: false }, decoder: sequence("decoders", pieces), post_processor: bos, fallback: true },
};
const texts = [
  "Hello, world!", "", " ", "  two  spaces ", "Gets the value of the current type.", "It's 12345 o'clock, I'LL go; you've 3.14159 left.", "\n\nnew\n lines \r\n\tand tabs\n", "naïve café — “quotes” Übermut",
  "日本語のテキスト", "emoji 😀👩‍👩‍👧 end", "e\u0301 combining A\u030a", "<s>already</s> and<|im_end|>more <|im_end|>", "System.Collections.Generic.List<T>.Add(T)", "αβγ ∑ Привет мир", "trailing   ", "▁ literal mark", "a<pad>b", "x\u0000y", "١٢٣ numerals ²",
];

const words = fs.readFileSync(corpus, "utf8");
const expected = [];
for (const [name, kind] of Object.entries(kinds)) {
  const base = { version: "1.0", truncation: null, padding: null, added_tokens: [], normalizer: kind.normalizer ?? null, pre_tokenizer: kind.pre_tokenizer ?? null, post_processor: null, decoder: kind.decoder };
  const model = { type: "BPE", dropout: null, unk_token: null, continuing_subword_prefix: null, end_of_word_suffix: null, fuse_unk: false, byte_fallback: false, vocab: {}, merges: [] };
  // The merges of text without pre-tokeniser would cross words; SentencePiece does not learn such merges.
  const trained = Tokenizer.fromString(JSON.stringify({ ...base, pre_tokenizer: kind.fallback ? { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true } : kind.pre_tokenizer, normalizer: kind.fallback ? null : base.normalizer, model }));
  const file = path.join(output, "corpus.tmp");
  fs.writeFileSync(file, words);
  trained.train([file]);
  trained.save(file);
  const learnt = JSON.parse(fs.readFileSync(file, "utf8")).model;
  fs.unlinkSync(file);
  const kept = learnt.merges.slice(0, merges).map(m => Array.isArray(m) ? m : m.split(" "));
  const symbols = kind.fallback ? [...Array(256).keys()].map(b => `<0x${b.toString(16).toUpperCase().padStart(2, "0")}>`) : [];
  const alphabet = Object.entries(learnt.vocab).sort((a, b) => a[1] - b[1]).map(e => e[0]).filter(t => [...t].length === 1);
  const bytes = kind.fallback ? [] : [...createRequire(path.join(process.cwd(), "x.js"))("@anush008/tokenizers").byteLevelAlphabet()].sort();
  const list = ["<unk>", "<s>", "</s>", "<pad>", ...symbols, ...new Set([...bytes, ...alphabet, ...kept.map(m => m.join(""))])];
  const vocab = Object.fromEntries(list.map((t, i) => [t, i]));
  const special = (id, content, more = {}) => ({ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true, ...more });
  const added = [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>"), special(3, "<pad>", { lstrip: true }), special(list.length, "<|im_end|>", { rstrip: true })];
  const json = { ...base, added_tokens: added, post_processor: kind.post_processor, model: { ...model, unk_token: kind.fallback ? "<unk>" : null, fuse_unk: !!kind.fallback, byte_fallback: !!kind.fallback, ignore_merges: !!kind.ignore_merges, vocab, merges: kept.map(m => m.join(" ")) } };
  fs.mkdirSync(path.join(output, name), { recursive: true });
  fs.writeFileSync(path.join(output, name, "tokenizer.json"), JSON.stringify(json));
  const tokenizer = Tokenizer.fromString(JSON.stringify(json));
  const rows = [];
  for (const text of texts) {
    const plain = await tokenizer.encode(text, null, { addSpecialTokens: false }), full = await tokenizer.encode(text);
    rows.push({ text, ids: plain.getIds(), with_special: full.getIds(), decoded: await tokenizer.decode(plain.getIds(), true) });
  }
  expected.push({ name, rows });
}
fs.writeFileSync(path.join(output, "expected.json"), JSON.stringify(expected));
