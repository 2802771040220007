namespace Lancet.Tile;

/// <summary>How many programs of a kernel run along each axis.</summary>
/// <param name="X">Programs along axis 0.</param>
/// <param name="Y">Programs along axis 1.</param>
/// <param name="Z">Programs along axis 2.</param>
public readonly record struct Grid(int X, int Y = 1, int Z = 1)
{
    /// <summary>Programs in all.</summary>
    public long Count => (long)X * Y * Z;
}

/// <summary>An actual argument of a launch: a buffer's address with its element type and extent, or a number. Converts from the number types.</summary>
public readonly struct KernelArgument
{
    private KernelArgument(bool isPointer, DType element, long bits, long count, long touched = 0) => (IsPointer, Element, Bits, Count, Touched) = (isPointer, element, bits, count, touched);

    /// <summary>Whether this is a buffer.</summary>
    public bool IsPointer { get; }

    /// <summary>Element type of the buffer, or type of the number.</summary>
    public DType Element { get; }

    /// <summary>The address, the integer, or the bits of the floating-point number (a float's in the low half).</summary>
    public long Bits { get; }

    /// <summary>Elements of the buffer that a kernel may touch.</summary>
    public long Count { get; }

    /// <summary>Elements of the buffer that a kernel does touch, as far as the caller knows.</summary>
    private long Touched { get; }

    /// <summary>A buffer of <paramref name="count"/> elements at <paramref name="address"/> (host or device memory, whichever the launch runs on).</summary>
    public static KernelArgument Pointer(nint address, DType element, long count) => new(true, element, address, count, count);

    /// <summary>A buffer of which only some elements are touched, such as some columns of a matrix.</summary>
    public static KernelArgument Pointer(nint address, DType element, long count, long touched) => new(true, element, address, count, Math.Min(count, touched));

    /// <summary>Bytes of the buffers among a launch's arguments that a kernel touches, as far as the caller knows; for estimates of its time.</summary>
    public static double TouchedBytes(ReadOnlySpan<KernelArgument> arguments)
    {
        var bytes = 0.0;
        // The element type of an absent buffer has no size.
        foreach (var argument in arguments)
            if (argument is { IsPointer: true, Touched: > 0 }) bytes += (double)argument.Touched * argument.Element.SizeInBytes();
        return bytes;
    }

#pragma warning disable CS1591 // conversions of plain numbers
    public static implicit operator KernelArgument(int value) => new(false, DType.Int32, value, 1);
    public static implicit operator KernelArgument(uint value) => new(false, DType.UInt32, value, 1);
    public static implicit operator KernelArgument(long value) => new(false, DType.Int64, value, 1);
    public static implicit operator KernelArgument(float value) => new(false, DType.Float32, BitConverter.SingleToInt32Bits(value), 1);
    public static implicit operator KernelArgument(double value) => new(false, DType.Float64, BitConverter.DoubleToInt64Bits(value), 1);
#pragma warning restore CS1591
}

/// <summary>What every device checks before it runs a kernel.</summary>
public static class LaunchCheck
{
    /// <summary>Compares actual with formal arguments, and the grid with what is possible. Allocates nothing.</summary>
    /// <exception cref="TileException">They do not fit; the message names kernel and argument.</exception>
    public static void Verify(Kernel kernel, Grid grid, ReadOnlySpan<KernelArgument> arguments)
    {
        if (arguments.Length != kernel.Parameters.Count) throw new TileException($"kernel {kernel.Name} takes {kernel.Parameters.Count} arguments but was given {arguments.Length}.");
        for (var i = 0; i < arguments.Length; i++)
        {
            var type = kernel.Parameters[i].Value.Type;
            if (type.IsPointer == arguments[i].IsPointer && type.Element == arguments[i].Element) continue;
            var given = (arguments[i].IsPointer ? "a pointer to " : "a scalar of ") + arguments[i].Element;
            throw new TileException($"kernel {kernel.Name}, argument {i} ({kernel.Parameters[i].Name}): {type} is needed, {given} was given.");
        }
        if (grid.X < 0 || grid.Y < 0 || grid.Z < 0 || grid.Count > int.MaxValue) throw new TileException($"kernel {kernel.Name}: a grid of {grid.X} × {grid.Y} × {grid.Z} programs is not possible.");
        if (grid.X % kernel.Cluster != 0) throw new TileException($"kernel {kernel.Name}: a grid of {grid.X} programs along x cannot be parted into clusters of {kernel.Cluster}.");
    }
}
