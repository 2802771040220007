#!/usr/bin/env node
// Writes the same 60 rows with four writers of Parquet files, in the encodings, compressions and page versions that they have.
//
// usage: npm install && node write.mjs OUTPUT
import fs from "node:fs";
import { DuckDBInstance } from "@duckdb/node-api";
import * as arrow from "apache-arrow";
import { parquetWriteFile } from "hyparquet-writer/src/node.js";
import polars from "nodejs-polars";
import * as wasm from "parquet-wasm/node";

const output = process.argv[2];
// ParquetWriterTests makes the same rows.
const rows = Array.from({ length: 60 }, (_, n) => ({
  id: n,
  source: n % 3 === 0 ? null : ["web", "book"][n % 2],
  messages: Array.from({ length: 2 * (1 + n % 2) }, (_, i) => i % 2 === 0 ? { role: "user", content: `Frage ${n} ä 🎉` } : { role: "assistant", content: `Antwort ${n % 4}` }),
  tags: n % 5 === 0 ? null : Array.from({ length: n % 3 }, (_, i) => i === 1 ? null : `t${n}`),
  info: n % 4 === 0 ? null : { score: n / 8, url: n % 2 === 1 ? null : `u${n}` },
}));
const json = `${output}/rows.jsonl`;
fs.writeFileSync(json, rows.map(row => JSON.stringify(row)).join("\n") + "\n");

// arrow-rs, three row groups
const { Field, Float64, Int32, List, Struct, Utf8 } = arrow;
const field = (name, type) => new Field(name, type, name !== "id");
const type = new Struct([
  field("id", new Int32()), field("source", new Utf8()), field("messages", new List(field("item", new Struct([field("role", new Utf8()), field("content", new Utf8())])))),
  field("tags", new List(field("item", new Utf8()))), field("info", new Struct([field("score", new Float64()), field("url", new Utf8())])),
]);
const table = arrow.tableToIPC(new arrow.Table(arrow.vectorFromArray(rows, type).data.map(data => new arrow.RecordBatch(new arrow.Schema(type.children), data))), "stream");
const writeArrow = (name, options) => fs.writeFileSync(`${output}/arrow-rs-${name}.parquet`, wasm.writeParquet(wasm.Table.fromIPCStream(table), options(new wasm.WriterPropertiesBuilder().setMaxRowGroupSize(25)).build()));
const { BROTLI, GZIP, LZ4_RAW, SNAPPY, ZSTD } = wasm.Compression;
for (const [name, compression] of [["snappy", SNAPPY], ["zstd", ZSTD]]) writeArrow(name, options => options.setCompression(compression));
for (const [name, compression] of [["brotli", BROTLI], ["gzip", GZIP], ["lz4", LZ4_RAW], ["snappy", SNAPPY], ["zstd", ZSTD]])
  writeArrow(`v2-${name}`, options => options.setCompression(compression).setWriterVersion(wasm.WriterVersion.V2));
writeArrow("delta", options => options.setCompression(SNAPPY).setWriterVersion(wasm.WriterVersion.V2).setDictionaryEnabled(false));

// DuckDB
const duckdb = await (await DuckDBInstance.create(":memory:")).connect();
const columns = "{id: 'INTEGER', source: 'VARCHAR', messages: 'STRUCT(role VARCHAR, content VARCHAR)[]', tags: 'VARCHAR[]', info: 'STRUCT(score DOUBLE, url VARCHAR)'}";
for (const [name, options] of [["snappy", "COMPRESSION snappy"], ["v2", "COMPRESSION gzip, PARQUET_VERSION v2"]])
  await duckdb.run(`COPY (SELECT * FROM read_json('${json}', format='newline_delimited', columns=${columns})) TO '${output}/duckdb-${name}.parquet' (FORMAT parquet, ${options})`);

// Polars
const frame = polars.readJSON(fs.readFileSync(json), { format: "lines" });
for (const compression of ["snappy", "zstd"]) frame.writeParquet(`${output}/polars-${compression}.parquet`, { compression });

// hyparquet-writer, three row groups
const node = (name, more) => ({ name, repetition_type: "OPTIONAL", ...more });
const text = { type: "BYTE_ARRAY", converted_type: "UTF8" };
const list = (name, ...element) => [node(name, { converted_type: "LIST", num_children: 1 }), { name: "list", repetition_type: "REPEATED", num_children: 1 }, ...element];
parquetWriteFile({
  filename: `${output}/hyparquet.parquet`,
  columnData: ["id", "source", "messages", "tags", "info"].map(name => ({ name, data: rows.map(row => row[name]) })),
  schema: [
    { name: "root", num_children: 5 }, { name: "id", type: "INT32", repetition_type: "REQUIRED" }, node("source", text),
    ...list("messages", node("element", { num_children: 2 }), node("role", text), node("content", text)), ...list("tags", node("element", text)),
    node("info", { num_children: 2 }), node("score", { type: "DOUBLE" }), node("url", text),
  ],
  rowGroupSize: 25,
});
