using Lancet.Devices.Cuda;
using Lancet.Tile;

namespace Lancet.Bench.Gpu;

/// <summary>The benchmarks that need a GPU.</summary>
internal static class GpuCommand
{
    public const string Usage = """
        Lancet.Bench gpu kernels | attention | gemm | launches | all [--filter WORD,WORD] [--json FILE] [--markdown FILE]
        Lancet.Bench gpu step --model llama-3.1-8b|smollm2-135m|gemma-2-2b|mistral-7b|qwen2.5-7b|qwen3-30b-a3b|mixtral-8x7b [--layers N] [--method lora|qlora|full] [--batch B] [--length L | --max-context] [--rank R] [--steps N]
                     [--policy auto|keep|recompute-mlp|keep-input|offload-input|offload|offload-qkv|offload-attention|offload-keep-mlp|offload-all|offload-half-mlp|offload-keep-half-mlp] [--memory-budget 20G] [--host-memory-budget 64G] [--adamw-8bit] [--ragged] [--labels 100] [--dropout 5] [--dora] [--profile] [--trace] [--json FILE] [--markdown FILE]
        Lancet.Bench gpu errors [--folder DIR] [--filter WORD,WORD] [--device cpu]     writes inputs and results for bench/peers/kernel_errors.py
        Lancet.Bench gpu check-cases [--filter WORD,WORD]               without a GPU: runs every kernel case over few rows on the processor and compiles every kernel to PTX
        """;

    /// <summary>Runs a benchmark.</summary>
    /// <param name="words">What follows <c>gpu</c>.</param>
    /// <returns>Exit code: 0 done, 1 something failed or is wrong, 2 bad usage, 3 no GPU.</returns>
    public static int Run(string[] words)
    {
        var arguments = new Arguments(words);
        var what = words.FirstOrDefault();
        if (what is not ("kernels" or "attention" or "gemm" or "launches" or "all" or "step" or "errors" or "check-cases"))
        {
            Console.Error.WriteLine(Usage);
            return 2;
        }
        if (what == "check-cases") return CaseCheck.Run(arguments);
        if (what == "errors") return KernelErrors.Run(arguments);
        if (!CudaPlatform.Current.IsReady)
        {
            Console.Error.WriteLine($"no GPU: {CudaPlatform.Current.Message}");
            return 3;
        }
        try
        {
            using var device = new CudaDevice();
            using var report = new Report(arguments.Text("--json"), arguments.Text("--markdown"));
            report.Line($"Device: {device.Info.Name}, compute capability {device.Info.ComputeCapability}, driver CUDA {CudaPlatform.Current.DriverVersion}, products: {device.MatMulLibrary}. {DateTime.UtcNow:yyyy-MM-dd HH:mm} UTC.");
            var kernels = new KernelBenchmark(device, arguments, report);
            if (what is "launches" or "all") kernels.RunLaunches();
            if (what is "kernels" or "all") kernels.RunKernels();
            if (what is "attention" or "all") kernels.RunAttention();
            if (what is "gemm" or "all") new ProductBenchmark(device, arguments, report).Run(kernels.Guard);
            if (what == "step") new GpuStepBenchmark(device, arguments, report).Run();
            return report.HasFailed ? 1 : 0;
        }
        catch (Exception error) when (error is LancetException or TileException or InvalidOperationException or NotImplementedException)
        {
            Console.Error.WriteLine(error);
            return 1;
        }
    }
}
