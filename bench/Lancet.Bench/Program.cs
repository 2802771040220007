using Lancet.Bench;
using Lancet.Bench.Gpu;

const string Usage = """
    usage:
    Lancet.Bench encode | quantize | gemm [PRODUCT] | step [--weights fp32|bf16|nf4] [--policy keep|recompute-mlp|keep-input] [--profile] [--make]
    """;

switch (args.FirstOrDefault())
{
    case "encode":
        TokenizerBenchmark.Run();
        return 0;
    case "quantize":
        QuantizeBenchmark.Run();
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
