using System.Reflection;
using Lancet.Bench;
using Lancet.Bench.Gpu;

const string Usage = """
    usage:
    Lancet.Bench commit | encode | quantize | model FOLDER [--model NAME] [--tokenizer FOLDER] | gemm [PRODUCT] | step [--weights fp32|bf16|nf4] [--policy keep|recompute-mlp|keep-input] [--profile] [--make]
    """;

switch (args.FirstOrDefault())
{
    case "commit":
        // What this program was built from, which the checkout on the machine it runs on need not be.
        Console.WriteLine(typeof(GpuCommand).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()?.InformationalVersion is { } version && version.Split('+') is [_, { Length: >= 7 } commit] ? commit[..7] : "unknown");
        return 0;
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
