using Lancet.Bench;
using Lancet.Bench.Gpu;

const string Usage = """
    usage:
    Lancet.Bench gemm | step [--weights bf16|fp32] [--policy keep|recompute-mlp|keep-input] [--profile]
    """;

switch (args.FirstOrDefault())
{
    case "gemm":
        GemmBenchmark.Run();
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
