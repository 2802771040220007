using Lancet.Tensors;

namespace Lancet.Devices;

/// <summary>
/// Rows sorted by the expert that computes them. How many each expert has is known on the device alone, so the host never waits for it and a
/// step's launches are the same whatever the router decides.
/// </summary>
/// <param name="Count">Rows of all experts together.</param>
/// <param name="Starts">int32 [experts + 1]: first row of each expert; the last entry is <paramref name="Count"/>.</param>
/// <param name="Blocks">int32 [most blocks, 2]: expert and first row of each block of at most <paramref name="BlockRows"/> rows, expert −1 where there is none. Absent on processors.</param>
/// <param name="BlockRows">Rows of a block.</param>
public readonly record struct ExpertRows(int Count, Tensor Starts, Tensor Blocks, int BlockRows)
{
    /// <summary>Experts.</summary>
    public int ExpertCount => (int)Starts.Count - 1;

    /// <summary>Most blocks that rows can fall into: whole ones, and a partial one an expert.</summary>
    public static int MostBlocks(int rows, int experts, int blockRows) => checked((int)Math.Min(rows, ((rows + (long)blockRows - 1) / blockRows) + experts));
}

/// <summary>A matrix of each expert, all of one shape and dtype.</summary>
public interface IExpertMatrices
{
    /// <summary>Experts.</summary>
    int Count { get; }

    /// <summary>An expert's matrix. On a GPU the experts' matrices lie at equal distances, and none is NF4.</summary>
    MatMulOperand this[int expert] { get; }
}

/// <summary>
/// A matrix product for each expert, over its own rows: C[r, :] = alpha · A[r, :] · op(B[e]) + beta · C[r, :] for the rows r of every expert e. Sums as in <see cref="MatMul"/>.
/// </summary>
public readonly struct GroupedMatMul
{
    /// <summary>Whose rows are whose.</summary>
    public required ExpertRows Rows { get; init; }

    /// <summary>Columns of C.</summary>
    public required int N { get; init; }

    /// <summary>Summed extent.</summary>
    public required int K { get; init; }

    /// <summary>[rows, K].</summary>
    public required ColumnSlice A { get; init; }

    /// <summary>[K, N] of each expert, or [N, K] if transposed.</summary>
    public required IExpertMatrices B { get; init; }

    /// <summary>[rows, N].</summary>
    public required ColumnSlice C { get; init; }

    /// <summary>Factor of the product.</summary>
    public float Alpha { get; init; }

    /// <summary>0 overwrites C, 1 adds to it.</summary>
    public float Beta { get; init; }
}

/// <summary>The gradient of a matrix of each expert: C[e] += alpha · Σ A[r, :]ᵀ · B[r, :] over the rows r of every expert e, in order of r.</summary>
public readonly struct GroupedGradient
{
    /// <summary>Whose rows are whose.</summary>
    public required ExpertRows Rows { get; init; }

    /// <summary>Rows of C, columns of A.</summary>
    public required int M { get; init; }

    /// <summary>Columns of C, columns of B.</summary>
    public required int N { get; init; }

    /// <summary>[rows, M].</summary>
    public required ColumnSlice A { get; init; }

    /// <summary>[rows, N].</summary>
    public required ColumnSlice B { get; init; }

    /// <summary>[M, N] of each expert.</summary>
    public required IExpertMatrices C { get; init; }

    /// <summary>Factor of the product.</summary>
    public float Alpha { get; init; }
}
