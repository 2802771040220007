using System.Numerics;

namespace Lancet.Tile.Lowering;

/// <summary>
/// Layouts around a matrix product [M,N] += [M,K]·[K,N]. On tensor cores one warp computes m16n8k16 pieces (PTX ISA, "Matrix Fragments for
/// mma.m16n8k16"); a warp's pieces make a contiguous block, and warps share out the rows, or rows and columns. In fp32 each thread computes a
/// small block with fused multiply-adds.
/// </summary>
/// <param name="M">Rows.</param>
/// <param name="N">Columns.</param>
/// <param name="K">Summed extent.</param>
/// <param name="WarpsM">Warps along the rows.</param>
/// <param name="WarpsN">Warps along the columns.</param>
internal sealed record ProductLayouts(int M, int N, int K, int WarpsM, int WarpsN)
{
    /// <summary>Rows of one warp's block.</summary>
    public int WarpRows => Math.Max(16, M / WarpsM);

    /// <summary>Columns of one warp's block.</summary>
    public int WarpColumns => Math.Max(8, N / WarpsN);

    /// <summary>Whether the extents suit the tensor cores.</summary>
    public static bool Fits(int m, int n, int k) => m >= 16 && n >= 8 && k >= 16;

    /// <summary>Whether warp groups can do the product: each has 64 rows, sixteen a warp, and all columns.</summary>
    public bool SuitsWarpGroups => WarpsN == 1 && WarpsM % 4 == 0 && M == 16 * WarpsM && N <= 256;

    /// <summary>
    /// Shares out warps. A product that feeds another product keeps whole rows inside a warp as long as there are rows for all warps
    /// (attention's softmax then needs no other warp), and so does one that suits warp groups where there are any; others are cut into blocks as
    /// square as possible, which read the least shared memory.
    /// </summary>
    public static ProductLayouts Choose(int m, int n, int k, int warps, bool isChained, bool hasWarpGroups = false)
    {
        isChained |= hasWarpGroups && new ProductLayouts(m, n, k, warps, 1).SuitsWarpGroups;
        var (warpsM, warpsN) = (1, 1);
        while (warpsM * warpsN < warps)
        {
            var canM = m / warpsM >= 32;
            var canN = n / warpsN >= 16;
            if (!canN || (canM && (isChained || m / warpsM >= n / warpsN))) warpsM *= 2;
            else warpsN *= 2;
        }
        return new(m, n, k, warpsM, warpsN);
    }

    /// <summary>The accumulator: fp32 [M,N].</summary>
    public LinearLayout Accumulator()
    {
        List<int[]> registers = [[0, 1], [8, 0]];
        for (var column = 8; column < WarpColumns; column <<= 1) registers.Add([0, column]);
        for (var row = 16; row < WarpRows; row <<= 1) registers.Add([row, 0]);
        return new(2, [.. registers], [[0, 2], [0, 4], [1, 0], [2, 0], [4, 0]], Warps(row => [row, 0], column => [0, column])) { IsProduct = true };
    }

    /// <summary>Operand A [M,K]: accumulator fragments plus (0,8), so that an accumulator becomes an operand without moving.</summary>
    public LinearLayout Left()
    {
        List<int[]> registers = [[0, 1], [8, 0], [0, 8]];
        for (var k = 16; k < K; k <<= 1) registers.Add([0, k]);
        for (var row = 16; row < WarpRows; row <<= 1) registers.Add([row, 0]);
        return new(2, [.. registers], [[0, 2], [0, 4], [1, 0], [2, 0], [4, 0]], Warps(row => [row, 0], _ => [0, 0]));
    }

    /// <summary>Operand B [K,N].</summary>
    public LinearLayout Right()
    {
        List<int[]> registers = [[1, 0], [8, 0]];
        for (var k = 16; k < K; k <<= 1) registers.Add([k, 0]);
        for (var column = 8; column < WarpColumns; column <<= 1) registers.Add([0, column]);
        return new(2, [.. registers], [[2, 0], [4, 0], [0, 1], [0, 2], [0, 4]], Warps(_ => [0, 0], column => [0, column]));
    }

    /// <summary>
    /// The accumulator of a product without tensor cores: lanes are 8 along the columns times 4 along the rows, whatever the extents, so that
    /// products with equal rows agree on who holds a row.
    /// </summary>
    public static LinearLayout Scalar(int m, int n, int warps)
    {
        int[] Row(int row) => [row < m ? row : 0, 0];
        int[] Column(int column) => [0, column < n ? column : 0];
        var warpBits = BitOperations.Log2((uint)warps);
        List<int[]> registers = [Column(1), Column(2)];
        for (var column = 32; column < n; column <<= 1) registers.Add([0, column]);
        for (var row = 4 * warps; row < m; row <<= 1) registers.Add([row, 0]);
        return new(
            2, [.. registers.Where(basis => basis[0] != 0 || basis[1] != 0)], [Column(4), Column(8), Column(16), Row(1), Row(2)],
            [.. Enumerable.Range(0, warpBits).Select(bit => Row(4 << bit))])
        { IsProduct = true };
    }

    // Warp number: the low bits go along the rows, the high bits along the columns. Warps beyond the extents hold copies.
    private int[][] Warps(Func<int, int[]> row, Func<int, int[]> column)
    {
        var bases = new List<int[]>();
        for (var w = 1; w < WarpsM; w <<= 1) bases.Add(w * WarpRows < M ? row(w * WarpRows) : [0, 0]);
        for (var w = 1; w < WarpsN; w <<= 1) bases.Add(w * WarpColumns < N ? column(w * WarpColumns) : [0, 0]);
        return [.. bases];
    }
}
