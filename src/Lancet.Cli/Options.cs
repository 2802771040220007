using Lancet.Formats.Gguf;

namespace Lancet.Cli;

/// <summary>The options of the commands, once each.</summary>
internal static class Options
{
    private static readonly Setting s_model = new("model", null, "Model folder in Hugging Face's layout (config.json, safetensors, tokenizer.json), or a name on the hub: org/name[@revision]");
    private static readonly Setting s_adapter = new("adapter", null, "PEFT adapter folder to start from or apply, or a name on the hub");
    private static readonly Setting s_data = new("data", null, "Rows: .jsonl, .json, .csv or .tsv, also .gz or .zst, or .parquet; a file, a folder, a pattern, or a data set of the hub (org/name); several with commas, mixed by weight as in a.jsonl=2,b.parquet=1");
    private static readonly Setting s_device = new("device", "auto", "auto (a usable NVIDIA GPU, else the processor), cpu, cuda or cuda:N");
    private static readonly Setting s_dumpPtx = new("dump-ptx", null, "Folder that receives the PTX of every kernel that the GPU compiles, with source lines");
    private static readonly Setting s_dtype = new("dtype", "auto", "Dtype of activations: float32, bfloat16, float16, or auto (bfloat16 on a GPU, float32 on the processor)");
    private static readonly Setting s_method = new("method", "lora", "lora, qlora (NF4 base weights) or full (every weight)");
    private static readonly Setting s_config = new("config", null, "YAML or JSON file with these options as keys");
    private static readonly Setting s_length = new("max-seq-length", "2048", "Rows are cut to this many tokens");
    private static readonly Setting s_ropeScaling = new("rope-scaling", null, "Context extension: linear:FACTOR or yarn:FACTOR stretches positions for rows beyond the model's native length. All commands that load the model need it; exports carry it");
    private static readonly Setting s_template = new("chat-template", null, $"Name ({string.Join(", ", ChatTemplates.ChatTemplate.Names)}) or Jinja file of a chat template to use instead of the model's");
    private static readonly Setting s_thinking = new("enable-thinking", null, "Sets enable_thinking for chat templates that read it", true);
    private static readonly Setting s_kwargs = new("chat-template-kwargs", null, "Further variables of the chat template as JSON, such as {\"reasoning_effort\": \"low\"}");
    private static readonly Setting s_columns = new("columns", null, "Columns of other names, such as prompt=question,completion=answer");
    private static readonly Setting s_responses = new("train-on-responses-only", "true", "Train assistant turns and completions only", true);
    private static readonly Setting s_json = new("json", "false", "Machine-readable result on stdout", true);
    private static readonly Setting s_seed = new("seed", "3407", "Seed of everything random");

    private static readonly Setting s_push = new("push", null, "Name on the hub that the output goes to afterwards, as lancet push uploads it: org/name[@branch]");
    private static readonly Setting s_pushPrivate = new("push-private", "false", "With --push: create the repository as a private one; refused if it is there and public", true);

    private static readonly Setting[] s_run =
    [
        s_length, s_ropeScaling,
        new("batch-size", "2", "Rows of a micro-batch (bins with --packing)"),
        new("gradient-accumulation", "4", "Micro-batches of a step"),
        new("packing", "false", "Pack rows into bins of --max-seq-length tokens; exact, sequences do not see each other", true),
        new("optimizer", "adamw", "adamw (fp32 state) or adamw_8bit (block-wise 8-bit state)"),
        new("lora-rank", "16", "LoRA rank r"),
        new("lora-alpha", "16", "LoRA alpha; the adapter is scaled by alpha / r"),
        new("lora-dropout", "0", "Dropout on adapter inputs"),
        new("target-modules", "all-linear", "Projections with an adapter, separated by commas, or all-linear"),
        new("use-rslora", "false", "Scale the adapter by alpha / sqrt(r) instead", true),
        new("use-dora", "false", "Train a magnitude of every output column besides (DoRA); not for experts", true),
        new("init-lora-weights", "default", "default (B zero), or loftq: with --method qlora, start from what quantisation has lost"),
        new("rank-pattern", null, "Other ranks by the end of a projection's name, such as q_proj=8,layers.0.mlp.down_proj=4"),
        new("alpha-pattern", null, "Other alphas, likewise"),
        new("layers-to-transform", null, "Layers with adapters, such as 0,1,2; all by default"),
        new("modules-to-save", null, "embed_tokens, lm_head: trained in full beside the adapter, for continued pretraining"),
        new("ensure-weight-tying", "false", "Keep tied embedding and head one matrix when --modules-to-save names either; by default each becomes its own", true),
        new("memory-budget", null, "Most memory that the run allocates, such as 8GB, to which a GPU's driver adds 0.1 to 0.2 GB (lancet plan says how much); the planner recomputes or offloads activations to fit"),
        new("host-memory-budget", null, "Most page-locked host memory that a GPU's activations and streamed weights may take, such as 64GB; half of the machine's if not given"),
        new("streamed-layers", "auto", "auto (as many as make a step within the memory budget faster), or the number of layers whose frozen matrices wait in host memory and are copied to a GPU for each pass; all give the same bits"),
        new("activation-policy", "auto", "auto (the fastest mix that fits), keep, recompute-mlp, keep-input, or to host memory: offload-input, offload, offload-qkv, offload-attention, offload-keep-mlp, offload-all, offload-half-mlp, offload-keep-half-mlp; all give the same bits"),
    ];

    public static Setting[] Train { get; } =
    [
        s_model, s_adapter, s_data,
        new("eval-data", null, "Held-out rows"),
        new("eval-split", "0", "Share of --data to hold out instead, such as 0.05"),
        new("output", "lancet-output", "Folder for adapter or weights, metrics.jsonl, report.html, checkpoints/"),
        s_config, s_method,
        new("from-scratch", "false", "Start from random weights; --model needs only config.json and a tokenizer", true),
        s_device, s_dtype, .. s_run,
        new("num-epochs", "1", "Passes over the data"),
        new("max-steps", "0", "Steps of the run; 0 counts epochs"),
        new("learning-rate", "2e-4", "Peak learning rate"),
        new("embedding-learning-rate", null, "Peak learning rate of --modules-to-save; --learning-rate by default"),
        new("lr-scheduler", "linear", "linear, cosine, constant or constant_with_warmup"),
        new("warmup-steps", "0", "Steps of rising learning rate"),
        new("warmup-ratio", "0", "Warm-up as a share of the run"),
        new("weight-decay", "0.01", "Decoupled weight decay"),
        new("max-grad-norm", "1", "Gradient clipping; 0 for none"),
        s_responses, s_seed,
        new("shuffle", "true", "Shuffle rows anew each epoch", true),
        new("save-steps", "0", "Steps between checkpoints"),
        new("save-total-limit", "0", "Checkpoints kept; 0 for all"),
        new("eval-steps", "0", "Steps between evaluations; 0 for before and after the run only"),
        new("sample-answers", "3", "Questions of the data that are answered before and after the run, for the report"),
        new("overwrite-output", "false", "Let a new run drop the checkpoints of a former one in --output", true),
        new("resume", "false", "Continue the newest checkpoint of --output, bit for bit", true),
        s_template, s_thinking, s_kwargs, s_columns,
        s_push, s_pushPrivate, s_dumpPtx,
        new("dry-run", "false", "Print the resolved options and stop", true),
        s_json,
    ];

    public static Setting[] Eval { get; } =
    [
        s_model, s_adapter, s_data, s_config, s_device, s_dtype, s_length, s_ropeScaling, s_responses, s_template, s_thinking, s_kwargs, s_columns,
        new("quantize", "none", "none or nf4"),
        new("per-example", "false", "Loss of every row", true),
        s_dumpPtx,
        s_json,
    ];

    public static Setting[] Generate { get; } =
    [
        s_model, s_adapter, s_config, s_device, s_dtype, s_length, s_ropeScaling, s_template, s_thinking, s_kwargs, s_seed,
        new("quantize", "none", "none or nf4"),
        new("prompt", null, "Text to answer"),
        new("raw", "false", "Continue the prompt as it is, without the chat template", true),
        new("max-new-tokens", "256", "Most new tokens"),
        new("temperature", "0", "0 takes the most likely token"),
        new("top-k", "0", "Only the k most likely tokens"),
        new("top-p", "1", "Only tokens that hold this probability together"),
        new("min-p", "0", "Only tokens at least this likely compared with the best"),
        new("repetition-penalty", "1", "Above 1 discourages tokens that occurred"),
        s_dumpPtx,
        s_json,
    ];

    public static Setting[] Chat { get; } = [.. Generate.Where(setting => setting.Name is not ("prompt" or "raw" or "json")), new("system", null, "System message")];

    public static Setting[] Export { get; } =
    [
        s_model, s_adapter, s_config, s_ropeScaling,
        new("output", null, "Folder for the exported model, or with --format gguf a file that ends in .gguf"),
        new("format", "safetensors", "safetensors (a Hugging Face folder), nf4 (the same in 4 bits, as bitsandbytes writes it), gguf (llama.cpp, Ollama), or gguf-adapter (the adapter alone, for llama.cpp's --lora)"),
        new("type", "q8_0", $"With --format gguf, one or several separated by commas: {string.Join(", ", GgufMix.Names)}"),
        new("dtype", "bfloat16", "With --format safetensors, and with nf4 of what has no 4 bits: float32, bfloat16 or float16"),
        new("max-shard-size", "5GB", "With --format safetensors and nf4: most bytes of a file"),
        s_template,
        new("system", null, "With --format gguf: system message of Ollama's Modelfile"),
        new("calibration-data", null, "With --format gguf: rows, such as the training data, by which errors of weights that matter more count more (an importance matrix)"),
        new("calibration-rows", "128", "Rows of --calibration-data that are read"),
        new("verify", "true", "Load the export again and compare its logits and perplexity with the model's", true),
        s_data with { Help = "Held-out rows to verify on; a few sentences by default" },
        new("max-divergence", "auto", "Most that the export may diverge from the model, in nats a token; auto depends on the type"),
        s_columns, s_push, s_pushPrivate, s_json,
    ];

    public static Setting[] Push { get; } =
    [
        new("folder", null, "What lancet train or lancet export wrote: a folder, or a file such as a GGUF model", IsArgument: true),
        new("repository", null, "Name on the hub: org/name", IsArgument: true),
        s_config,
        new("private", "false", "Create the repository as a private one; refused if it is there and public", true),
        new("revision", "main", "Branch; created if it is not there"),
        new("message", "Upload with Lancet", "First line of the commit"),
        new("create-pr", "false", "Make a pull request of it instead", true),
        new("all", "false", "Checkpoints with the optimiser's state, config.resolved.yaml, report.html and hidden files, too", true),
        new("dry-run", "false", "Print what would be sent and stop; no network", true),
        s_json,
    ];

    public static Setting[] Plan { get; } =
    [
        s_model, s_config, s_method, s_device, s_dtype, .. s_run,
        new("max-context", "false", "Find the longest --max-seq-length that fits: needs --memory-budget, which is the device's whole memory here, the driver's share included; one row a micro-batch unless --batch-size is given", true),
        s_dumpPtx with { Help = "With --device cuda: folder that receives the PTX of the step's kernels, less those of matrix products and of the update; needs no GPU" },
        s_json,
    ];

    private static readonly Setting[] s_rendering = [s_model, s_data, s_config, s_length, s_responses, s_template, s_thinking, s_kwargs, s_columns];

    public static Setting[] DataPreview { get; } = [.. s_rendering, new("rows", "3", "Rows to show"), s_json];

    public static Setting[] DataStats { get; } = [.. s_rendering, s_json];

    public static Setting[] DataValidate { get; } = [.. s_rendering, new("max-errors", "20", "Bad rows to name; further ones are counted"), s_json];

    public static Setting[] Doctor { get; } =
    [
        s_device,
        new("self-test", "false", "Run every kernel family, product, copy and graph on the GPU and compare with the processor", true),
        new("models", "false", "List the families of models, how they differ, their LoRA targets and GGUF names, as a Markdown table", true),
        new("filter", null, "Self-test only what has this in its name"),
        s_dumpPtx with { Help = "With --self-test: folder that receives the PTX of every kernel that the GPU compiles, with source lines" },
        s_json,
    ];

    public static Setting[] Quickstart { get; } =
    [
        new("output", "lancet-output/quickstart", "Folder for everything the quickstart writes"),
        new("model", null, "Model folder; the bundled one by default"),
        new("data", null, "Training rows; the bundled ones by default"),
        new("eval-data", null, "Held-out rows; the bundled ones by default"),
        new("max-steps", "0", "Steps; 0 for the default"),
        s_device,
    ];
}
