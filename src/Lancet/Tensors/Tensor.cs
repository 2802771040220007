using System.Runtime.CompilerServices;
using Lancet.Tile;

namespace Lancet.Tensors;

/// <summary>
/// A typed, dense, row-major view of device memory. It owns nothing and is cheap to copy; whoever owns the buffer keeps it alive.
/// </summary>
public readonly struct Tensor
{
    /// <summary>Creates a view.</summary>
    /// <param name="address">Address of the first element on the device.</param>
    /// <param name="dtype">Element type.</param>
    /// <param name="shape">Extents, outermost first.</param>
    public Tensor(nint address, DType dtype, Shape shape) => (Address, DType, Shape) = (address, dtype, shape);

    /// <summary>Address of the first element on the device; 0 for the absent tensor.</summary>
    public nint Address { get; }

    /// <summary>Element type.</summary>
    public DType DType { get; }

    /// <summary>Extents.</summary>
    public Shape Shape { get; }

    /// <summary>Whether there is a tensor at all; <c>default</c> is none.</summary>
    public bool Exists => Address != 0;

    /// <summary>Number of elements.</summary>
    public long Count => Shape.Count;

    /// <summary>Size in bytes.</summary>
    public long Bytes => Count * DType.SizeInBytes();

    /// <summary>The same elements under another shape of equal count.</summary>
    public Tensor Reshape(Shape shape) => shape.Count == Count ? new(Address, DType, shape) : throw new ArgumentException($"Cannot view {Shape} as {shape}.");

    /// <summary><paramref name="count"/> rows (indices along the outermost axis) from <paramref name="start"/>.</summary>
    public Tensor Rows(long start, long count)
    {
        if (start < 0 || count < 0 || start + count > Shape[0]) throw new ArgumentOutOfRangeException(nameof(start), $"Rows {start} to {start + count} of {Shape}.");
        return new((nint)(Address + start * Shape.RowCount * DType.SizeInBytes()), DType, Shape.WithFirst(count));
    }

    /// <summary>The same view of memory that has moved by a number of bytes; the absent tensor stays absent.</summary>
    internal Tensor MovedBy(nint delta) => Exists ? new(Address + delta, DType, Shape) : this;

    /// <summary>As a launch argument.</summary>
    public static implicit operator KernelArgument(Tensor tensor) => KernelArgument.Pointer(tensor.Address, tensor.DType, tensor.Count);

    /// <summary>The elements, for host memory only.</summary>
    /// <typeparam name="T">A type of the element's size.</typeparam>
    public unsafe Span<T> HostSpan<T>()
        where T : unmanaged => Unsafe.SizeOf<T>() == DType.SizeInBytes()
            ? new Span<T>((void*)Address, checked((int)Count))
            : throw new ArgumentException($"{typeof(T).Name} is not {DType}.");

    /// <inheritdoc/>
    public override string ToString() => $"{DType}{Shape}";
}

/// <summary>Up to four extents, outermost first.</summary>
public readonly struct Shape : IEquatable<Shape>
{
    private readonly long _d0, _d1, _d2, _d3;

    /// <summary>A vector.</summary>
    public Shape(long d0) => (Rank, _d0, _d1, _d2, _d3) = (1, d0, 1, 1, 1);

    /// <summary>A matrix.</summary>
    public Shape(long d0, long d1) => (Rank, _d0, _d1, _d2, _d3) = (2, d0, d1, 1, 1);

    /// <summary>Three axes.</summary>
    public Shape(long d0, long d1, long d2) => (Rank, _d0, _d1, _d2, _d3) = (3, d0, d1, d2, 1);

    private Shape(int rank, long d0, long d1, long d2, long d3) => (Rank, _d0, _d1, _d2, _d3) = (rank, d0, d1, d2, d3);

    /// <summary>Number of axes.</summary>
    public int Rank { get; }

    /// <summary>Number of elements.</summary>
    public long Count => Rank == 0 ? 0 : checked(_d0 * _d1 * _d2 * _d3);

    /// <summary>Elements of one index along the outermost axis.</summary>
    public long RowCount => checked(_d1 * _d2 * _d3);

    /// <summary>Extent of an axis.</summary>
    public long this[int axis] => axis >= Rank || axis < 0
        ? throw new ArgumentOutOfRangeException(nameof(axis))
        : axis switch { 0 => _d0, 1 => _d1, 2 => _d2, _ => _d3 };

    /// <summary>The same shape with another outermost extent.</summary>
    public Shape WithFirst(long d0) => new(Rank, d0, _d1, _d2, _d3);

    /// <inheritdoc/>
    public bool Equals(Shape other) => Rank == other.Rank && _d0 == other._d0 && _d1 == other._d1 && _d2 == other._d2 && _d3 == other._d3;

    /// <inheritdoc/>
    public override bool Equals(object? obj) => obj is Shape other && Equals(other);

    /// <inheritdoc/>
    public override int GetHashCode() => HashCode.Combine(Rank, _d0, _d1, _d2, _d3);

    /// <summary>Same extents.</summary>
    public static bool operator ==(Shape left, Shape right) => left.Equals(right);

    /// <summary>Other extents.</summary>
    public static bool operator !=(Shape left, Shape right) => !left.Equals(right);

    /// <inheritdoc/>
    public override string ToString() => Rank switch
    {
        0 => "[]",
        1 => $"[{_d0}]",
        2 => $"[{_d0}, {_d1}]",
        3 => $"[{_d0}, {_d1}, {_d2}]",
        _ => $"[{_d0}, {_d1}, {_d2}, {_d3}]",
    };
}
