using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Bench.Gpu.Cases;

/// <summary>How a kernel's result is compared with the processor's.</summary>
internal enum Comparison
{
    /// <summary>The last rows of the timed launch itself.</summary>
    LastRows,

    /// <summary>A launch of its own over few rows, since rows are summed or numbered from the start.</summary>
    FewRows,
}

/// <summary>A kernel at the size that is timed.</summary>
/// <param name="Name">For people and <c>--filter</c>.</param>
/// <param name="Shape">For people.</param>
/// <param name="DType">Dtype of the data.</param>
/// <param name="Rows">Rows that are timed.</param>
/// <param name="Prepare">Makes inputs for a number of rows, in the case's dtype or in fp64.</param>
internal sealed record KernelCase(string Name, string Shape, DType DType, int Rows, Func<BenchLab, DType, int, PreparedKernel> Prepare)
{
    /// <summary>Bytes of every input and every output, each once.</summary>
    public double Bytes { get; init; }

    /// <summary>Floating-point operations, where they are the limit.</summary>
    public double Operations { get; init; }

    /// <summary>How the result is compared.</summary>
    public Comparison Comparison { get; init; }

    /// <summary>Rows that are compared: a multiple of 16, so that the launch is the same code as the timed one.</summary>
    public int ComparedRows { get; init; } = 32;

    /// <summary>Whether the kernel can be traced in fp64; otherwise the processor in the same dtype is the reference.</summary>
    public bool HasDouble { get; init; } = true;
}

/// <summary>A kernel with its inputs.</summary>
/// <param name="Launch">Queues it.</param>
/// <param name="Overwritten">Inputs that it overwrites.</param>
/// <param name="Results">What it computes.</param>
internal sealed record PreparedKernel(Action Launch, Tensor[] Overwritten, params KernelResult[] Results);

/// <summary>Something that a kernel computes.</summary>
/// <param name="Name">For people.</param>
/// <param name="Tensor">Where it is.</param>
/// <param name="IsByRow">Whether its outermost axis is the case's rows.</param>
internal readonly record struct KernelResult(string Name, Tensor Tensor, bool IsByRow = true);

/// <summary>The sizes of Llama-3.1-8B, one micro-batch of 8192 tokens.</summary>
internal static class Llama8B
{
    public const int Tokens = 8192;
    public const int SequenceLength = 2048;
    public const int Hidden = 4096;
    public const int QueryHeads = 32;
    public const int KeyValueHeads = 8;
    public const int HeadDimension = 128;
    public const int Intermediate = 14336;
    public const int Vocabulary = 128256;

    /// <summary>Columns of a fused q|k|v row.</summary>
    public const int Projected = (QueryHeads + (2 * KeyValueHeads)) * HeadDimension;

    /// <summary>Parameters of LoRA r = 16 on all seven projections of 32 layers.</summary>
    public const int AdapterParameters = 41_943_040;
}
