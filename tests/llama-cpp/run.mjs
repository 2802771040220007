// Reads jobs from stdin, a JSON object a line, and writes an answer a line: what llama.cpp and @huggingface/gguf make of a GGUF file.
//   {"model": "m.gguf"}                                  metadata and tensors, as @huggingface/gguf parses them
//   {"model": "m.gguf", "texts": ["…"]}                  token ids of texts, special tokens read as such, with what the file has added around them
//   {"model": "m.gguf", "prompts": [[1, 2, …]]}          for each prompt the logits behind every token
//   {"model": "m.gguf", "prompts": …, "losses": true}    for each prompt the loss of every token but the first instead
// "lora": "adapter.gguf" applies an adapter.
import readline from "node:readline";
import {gguf} from "@huggingface/gguf";
import {getLlama, LlamaLogLevel} from "node-llama-cpp";

// One thread: llama.cpp waits for its threads in a loop, which takes for ever where processors are busy with other tests.
const log = [];
const llama = await getLlama({gpu: false, build: "never", logLevel: LlamaLogLevel.warn, logger: (level, message) => log.push(`${level}: ${message}`), maxThreads: 1});
const plain = (value) => typeof value === "bigint" ? Number(value) : value;

async function logitsOf(sequence, prompt) {
    await sequence.clearHistory();
    const output = await sequence.controlledEvaluate(prompt.map((token) => [token, {generateNext: {logits: true, options: {temperature: 0}}}]));
    return output.map((item) => {
        const row = [];
        for (const [token, logit] of item.next.logits) row[token] = logit;
        return row;
    });
}

/** −log of the probability of each token but the first. The library's own sum is over the tokens that its sampler leaves. */
async function lossesOf(sequence, prompt) {
    const rows = await logitsOf(sequence, prompt);
    return rows.slice(0, -1).map((row, at) => {
        let most = -Infinity, sum = 0;
        for (const logit of row) most = Math.max(most, logit);
        for (const logit of row) sum += Math.exp(logit - most);
        return most + Math.log(sum) - row[prompt[at + 1]];
    });
}

async function answer(job) {
    const result = {};
    if (job.texts === undefined && job.prompts === undefined) {
        const {metadata, tensorInfos} = await gguf(job.model, {allowLocalFile: true});
        result.metadata = {};
        for (const [key, value] of Object.entries(metadata)) if (!Array.isArray(value)) result.metadata[key] = plain(value);
        result.tensors = tensorInfos.map((tensor) => ({name: tensor.name, type: tensor.dtype, shape: tensor.shape.map(plain)}));
        return result;
    }
    const model = await llama.loadModel({modelPath: job.model, gpuLayers: 0, vocabOnly: job.prompts === undefined, useMmap: true});
    try {
        // The second argument reads special tokens; "trimLeadingSpace" would undo what the tokenizer does.
        if (job.texts) result.ids = job.texts.map((text) => Array.from(model.tokenize(text, true)));
        if (job.prompts) {
            const longest = Math.max(...job.prompts.map((prompt) => prompt.length));
            const context = await model.createContext({
                contextSize: job.contextSize ?? longest + 8, batchSize: longest + 8, sequences: 1, flashAttention: false, threads: 1,
                experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32",
                ...(job.lora ? {lora: job.lora} : {})
            });
            const sequence = context.getSequence();
            const answers = [];
            for (const prompt of job.prompts) answers.push(await (job.losses ? lossesOf : logitsOf)(sequence, prompt));
            result[job.losses ? "losses" : "logits"] = answers;
            await context.dispose();
        }
    } finally {
        await model.dispose();
    }
    return result;
}

for await (const line of readline.createInterface({input: process.stdin})) {
    if (line.trim().length === 0) continue;
    let reply;
    log.length = 0;
    try {
        reply = await answer(JSON.parse(line));
    } catch (error) {
        reply = {error: `${error?.message ?? error}\n${log.join("\n")}`};
    }
    process.stdout.write(JSON.stringify(reply) + "\n");
}
process.exit(0);
