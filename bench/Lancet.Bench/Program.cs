using Lancet.Bench;

// usage: Lancet.Bench gemm [PRODUCT] | step [--weights bf16|fp32] [--policy keep|recompute-mlp|keep-input] [--profile]
switch (args.FirstOrDefault())
{
    case "gemm":
        GemmBenchmark.Run(args.ElementAtOrDefault(1));
        return 0;
    case "step":
        StepBenchmark.Run(args);
        return 0;
    default:
        Console.Error.WriteLine("usage: Lancet.Bench gemm [PRODUCT] | step [--weights bf16|fp32] [--policy keep|recompute-mlp|keep-input] [--profile]");
        return 2;
}
