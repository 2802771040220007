using Lancet.Adapters;
using Lancet.Devices;
using Lancet.Devices.Cuda.SelfTest;
using Lancet.Kernels;
using Lancet.Models;
using Lancet.Planning;
using Lancet.Tensors;
using Lancet.Tile;
using Lancet.Tile.Ptx;
using Lancet.Training;

namespace Lancet.Tests.Lowering;

/// <summary>Kernels choose their blocks by the GPU's shared memory: whatever the heads and widths, they can be compiled for it.</summary>
public class SharedMemoryTests
{
    private const string Llama = """
        {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 1, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256,
         "max_position_embeddings": 8192, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "hidden_act": "silu", "tie_word_embeddings": false}
        """;
    private const string Gemma = """
        {"model_type": "gemma2", "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 1, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256000,
         "max_position_embeddings": 8192, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0,
         "final_logit_softcapping": 30.0, "sliding_window": 4096, "tie_word_embeddings": true}
        """;

    private const string Qwen3Moe = """
        {"model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768, "num_hidden_layers": 1, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
         "vocab_size": 151936, "max_position_embeddings": 8192, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "hidden_act": "silu", "tie_word_embeddings": false, "num_experts": 128, "num_experts_per_tok": 8,
         "norm_topk_prob": true}
        """;

    /// <summary>A100's 163 KiB a program, the 99 KiB of most other GPUs since Ampere, and H100's 227 KiB with products of warp groups: compute capability and bytes.</summary>
    public static TheoryData<int, int> Gpus => new() { { 80, 166_912 }, { 86, 101_376 }, { 90, 232_448 } };

    /// <summary>All kernels of a step of true widths, but for matrix products' and the update's.</summary>
    [Theory]
    [MemberData(nameof(Gpus))]
    public void A_steps_kernels_fit_the_gpu_at_true_widths(int computeCapability, int sharedMemory)
    {
        var gpu = new PtxTarget(computeCapability, sharedMemory);
        var failures = new SortedSet<string>(StringComparer.Ordinal);
        var compiled = new HashSet<string>();
        foreach (var json in (string[])[Llama, Gemma, Qwen3Moe])
        {
            foreach (var (dtype, rank, dropout, usesDora, isQuantized) in ((DType, int, double, bool, bool)[])[
                (DType.BFloat16, 16, 0, false, false), (DType.BFloat16, 8, 0, false, true), (DType.BFloat16, 32, 0.1, false, false), (DType.BFloat16, 16, 0, true, false), (DType.Float16, 16, 0, false, false),
                (DType.Float32, 16, 0.1, false, false), (DType.BFloat16, 0, 0, false, false)])
            {
                // Experts have no magnitudes.
                if (usesDora && json == Qwen3Moe) continue;
                var decoder = new DecoderModel(ModelConfig.Parse(json, "config.json"));
                if (rank == 0) foreach (var weight in decoder.Weights) weight.IsTrained = true;
                else LanguageModel.Describe(decoder, new LoraOptions { Rank = rank, Alpha = rank, Dropout = dropout, UsesDora = usesDora });
                var target = PlanTarget.CudaOf(gpu);
                decoder.DescribeStorage(target, dtype, isQuantized);
                var plan = StepPlan.Create(decoder, dtype, 0, new EngineOptions { MaxTokens = 1024, MaxSequenceLength = 1024, MemoryBudget = 1L << 40, AdamW = new AdamWConstants(0.9, 0.999, 1e-8, 0) }, target);
                foreach (var variant in plan.Kernels)
                {
                    compiled.Add(variant.Kernel.Name);
                    if (Refusal(variant.Kernel, gpu, variant.DivisibleArguments) is { } refusal) failures.Add($"{decoder.Config.ModelType} {dtype}, rank {rank}: {refusal}");
                }
            }
        }
        Assert.Empty(failures);
        Assert.Superset(new HashSet<string> { "grouped_gemm", "attention_forward", "cross_entropy_forward_backward", "lora_backward", "lora_activation_forward", "lora_dropout_backward", "rms_norm_backward" }, compiled);
    }

    /// <summary>Products where there is no cuBLASLt: each size of blocks that is chosen for them, whole blocks and parts, with and without what C was and a bias.</summary>
    [Theory]
    [MemberData(nameof(Gpus))]
    public void Matrix_products_fit_the_gpu(int computeCapability, int sharedMemory)
    {
        var gpu = new PtxTarget(computeCapability, sharedMemory);
        using var planning = new PlanningDevice(PlanTarget.CudaOf(gpu));
        using var device = new RecordingDevice(planning);
        var chosen = new HashSet<GemmBlocks>();
        foreach (var (left, right, result, _) in MatMulChecks.AllKinds.Where(kind => !kind.IsQuantized))
        {
            foreach (var (m, n, k) in ((int, int, int)[])[(8192, 14336, 4096), (8192, 1024, 4096), (8191, 1030, 4097), (67, 45, 130), (200, 16, 512)])
            {
                foreach (var (isLeftTransposed, isRightTransposed, adds) in ((bool, bool, bool)[])[(false, false, true), (false, true, false), (false, true, true), (true, false, true)])
                {
                    Tensor Of(DType dtype, int rows, int columns) => new(1 << 20, dtype, new Shape(rows, columns));
                    var product = new MatMul
                    {
                        M = m,
                        N = n,
                        K = k,
                        Alpha = 1,
                        Beta = adds ? 1 : 0,
                        C = Of(result, m, n),
                        Bias = adds ? new(1 << 20, DType.Float32, new Shape(n)) : default,
                        A = new(isLeftTransposed ? Of(left, k, m) : Of(left, m, k), isLeftTransposed),
                        B = new(isRightTransposed ? Of(right, n, k) : Of(right, k, n), isRightTransposed),
                    };
                    var blocks = GemmKernel.BlocksFor(product, sharedMemory);
                    chosen.Add(blocks);
                    GemmKernel.Multiply(device, product, blocks);
                }
            }
        }
        Assert.Superset(new HashSet<GemmBlocks> { GemmBlocks.Medium, GemmBlocks.Small, GemmBlocks.Float32, GemmBlocks.Narrow }, chosen);
        Assert.Equal(computeCapability == 90, chosen.Contains(GemmBlocks.Large));
        Assert.Empty(device.Kernels.Select(variant => Refusal(variant.Kernel, gpu, variant.DivisibleArguments)).OfType<string>());
    }

    /// <summary>Attention's kernels in all forms that heads and dtypes have.</summary>
    [Theory]
    [MemberData(nameof(Gpus))]
    public void Attention_fits_the_gpu_for_all_head_dimensions(int computeCapability, int sharedMemory)
    {
        const int tokens = 200;
        foreach (var dimension in (int[])[16, 32, 64, 80, 96, 128, 256])
        {
            foreach (var dtype in (DType[])[DType.BFloat16, DType.Float16, DType.Float32])
            {
                using var planning = new PlanningDevice(PlanTarget.CudaOf(new PtxTarget(computeCapability, sharedMemory)));
                using var device = new RecordingDevice(planning);
                var attention = new AttentionKernel(new AttentionShape(4, 2, dimension, 0.1, 0));
                Tensor rows = new(1 << 20, dtype, new Shape(tokens, 8 * dimension)), dense = new(1 << 20, dtype, new Shape(tokens, 4 * dimension)), statistics = new(1 << 20, DType.Float32, new Shape(4, tokens)), index = new(1 << 20, DType.Int32, new Shape(tokens));
                var intervals = new AttentionIntervals(index, index, index, index, index, index);
                attention.Forward(device, rows, rows, rows, intervals, dense, statistics);
                attention.Backward(device, rows, rows, rows, intervals, dense, statistics, dense, attention.Workspace(device, dtype, tokens, (type, shape) => new Tensor(1 << 20, type, shape)), rows, rows, rows);
                // Forward, δ, and all gradients together, each apart, or those of keys and values in one.
                var isForWarpGroups = computeCapability == 90 && dtype != DType.Float32;
                Assert.Equal(isForWarpGroups && dimension is > 64 and <= 128 ? 3 : isForWarpGroups && dimension > 128 ? 5 : 4, device.Kernels.Count);
                foreach (var (kernel, divisible) in device.Kernels)
                {
                    var refusal = Refusal(kernel, new PtxTarget(computeCapability, sharedMemory), divisible);
                    Assert.True(refusal is null, $"{dtype}, heads of {dimension}: {refusal}");
                }
            }
        }
    }

    // Why a kernel cannot be compiled for the GPU; null if it can.
    private static string? Refusal(Kernel kernel, PtxTarget gpu, ulong divisible)
    {
        try
        {
            var ptx = PtxCompiler.Compile(kernel, gpu, divisible);
            Assert.InRange(ptx.SharedMemoryBytes, 0, gpu.MaxSharedMemoryPerBlock);
            PtxChecker.Check(ptx.Text);
            return null;
        }
        catch (TileException refused)
        {
            return refused.Message;
        }
    }
}
