using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Kernels;

/// <summary>How kernels on the inputs' side of adapters cut their work up: for u into blocks of rows and strips of columns, for gradients of A into strips and shares of rows.</summary>
internal static class LoraInputBlocks
{
    /// <summary>Rows of a program that makes sums of u.</summary>
    public const int ForwardRows = 64;

    /// <summary>Columns of one of its steps.</summary>
    public const int ForwardColumns = 64;

    // For two programs a multiprocessor of an H100: with few rows strips are narrower.
    private const int ForwardPrograms = 264;
    private const int MostColumns = 96;

    // The least extent of a product on tensor cores: ranks below are filled up with zeros.
    private const int LeastExtent = 16;

    /// <summary>Whether so many adapters of a rank have 16-bit operands, for tensor cores, and sums that a program holds in registers.</summary>
    public static bool Suit(int count, int rank, DType dtype) => dtype.SizeInBytes() == 2 && rank is 8 or 16 or 32 or 64 && count * rank <= MostColumns;

    /// <summary>Extent of a rank in products.</summary>
    public static int Extent(int rank) => Math.Max(rank, LeastExtent);

    /// <summary>Columns of a strip.</summary>
    public static int Strip(int rows, int inputs, int widest)
    {
        var strip = widest;
        while (strip > ForwardColumns && Blocks.Of(rows, ForwardRows) * Blocks.Of(inputs, strip) < ForwardPrograms) strip /= 2;
        return strip;
    }

    /// <summary>Room for sums of u of all strips. More rows never need less.</summary>
    public static Shape StripSums(int rows, int inputs, int columns, int widest)
    {
        // A strip is narrower than the widest only where one of twice its width makes too few programs, and that bounds rows · strips.
        var most = Math.Min((long)rows * (inputs / ForwardColumns), 2L * ForwardPrograms * ForwardRows);
        return new(columns * Math.Max(most, (long)rows * Blocks.Of(inputs, widest)));
    }

    /// <summary>Shares of the rows, for about as many programs. More rows never have fewer.</summary>
    public static int Shares(int programs, int strips, int rows, int block) => Math.Clamp(Blocks.Of(programs, strips), 1, Blocks.Of(Math.Max(rows, 1), block));

    /// <summary>Rows of a share, whole blocks.</summary>
    public static int RowsPerShare(int rows, int shares, int block) => Blocks.Of(Blocks.Of(rows, block), shares) * block;
}
