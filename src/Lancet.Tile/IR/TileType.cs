namespace Lancet.Tile.IR;

/// <summary>Type of an IR value: an element type, whether the elements are pointers to it, and an extent per axis (none: a scalar).</summary>
public sealed class TileType : IEquatable<TileType>
{
    private readonly int[] _dimensions;

    /// <summary>Creates a type. Extents are 1 or more.</summary>
    public TileType(DType element, bool isPointer, params ReadOnlySpan<int> dimensions)
    {
        foreach (var extent in dimensions) ArgumentOutOfRangeException.ThrowIfLessThan(extent, 1);
        (Element, IsPointer, _dimensions) = (element, isPointer, dimensions.ToArray());
    }

    /// <summary>Element type; for pointers, of what they point to.</summary>
    public DType Element { get; }

    /// <summary>Whether the elements are memory addresses.</summary>
    public bool IsPointer { get; }

    /// <summary>Extent of each axis, outermost first.</summary>
    public ReadOnlySpan<int> Dimensions => _dimensions;

    /// <summary>Number of axes; 0 for a scalar.</summary>
    public int Rank => _dimensions.Length;

    /// <summary>Whether this is a single element.</summary>
    public bool IsScalar => _dimensions.Length == 0;

    /// <summary>Number of elements.</summary>
    public int Count
    {
        get
        {
            var count = 1;
            foreach (var extent in _dimensions) count = checked(count * extent);
            return count;
        }
    }

    /// <summary>The same shape with another element type (not pointers).</summary>
    public TileType With(DType element) => new(element, false, _dimensions);

    /// <summary>The same element in another shape.</summary>
    public TileType WithShape(params ReadOnlySpan<int> dimensions) => new(Element, IsPointer, dimensions);

    /// <summary>Whether the extents are equal.</summary>
    public bool SameShape(TileType other) => Dimensions.SequenceEqual(other.Dimensions);

    /// <inheritdoc/>
    public bool Equals(TileType? other) => other is not null && Element == other.Element && IsPointer == other.IsPointer && SameShape(other);

    /// <inheritdoc/>
    public override bool Equals(object? obj) => Equals(obj as TileType);

    /// <inheritdoc/>
    public override int GetHashCode()
    {
        var hash = new HashCode();
        hash.Add(Element);
        hash.Add(IsPointer);
        foreach (var extent in _dimensions) hash.Add(extent);
        return hash.ToHashCode();
    }

    /// <summary>For example <c>f32[64,128]</c> or <c>*bf16[1024]</c>.</summary>
    public override string ToString()
    {
        var element = Element switch
        {
            DType.Bool => "bool",
            DType.Float32 => "f32",
            DType.BFloat16 => "bf16",
            DType.Float16 => "f16",
            DType.Float64 => "f64",
            DType.Int8 => "i8",
            DType.UInt8 => "u8",
            DType.Int32 => "i32",
            DType.UInt32 => "u32",
            _ => "i64",
        };
        return (IsPointer ? "*" : "") + element + (IsScalar ? "" : $"[{string.Join(',', _dimensions)}]");
    }
}
