using Lancet.Bench;
using Lancet.Bench.Gpu;

const string Usage = """
    usage:
    Lancet.Bench encode | quantize | model FOLDER [--model NAME] [--tokenizer FOLDER] | gemm [PRODUCT] | step [--weights fp32|bf16|nf4] [--policy keep|recompute-mlp|keep-input] [--profile] [--make]
    """;

switch (args.FirstOrDefault())
{
    case "encode":
        TokenizerBenchmark.Run();
        return 0;
    case "quantize":
        QuantizeBenchmark.Run();
        return 0;
    case "model" when args.Length > 1:
        ModelFolder.Write(args[1], new Arguments(args).Text("--model") ?? "llama-3.2-1b", new Arguments(args).Text("--tokenizer") ?? "models/lancet-dotnet-base");
        return 0;
    case "gemm":
        GemmBenchmark.Run(args.ElementAtOrDefault(1));
        return 0;
    case "step":
        StepBenchmark.Run(args);
        return 0;
    case "gpu":
        return GpuCommand.Run(args[1..]);
    default:
        Console.Error.WriteLine(Usage);
        Console.Error.WriteLine(GpuCommand.Usage);
        return 2;
}
