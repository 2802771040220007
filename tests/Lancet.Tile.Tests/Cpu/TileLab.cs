using Lancet.Tile.Cpu;
using static Lancet.Tile.TileMath;

namespace Lancet.Tile.Tests.Cpu;

/// <summary>
/// A kernel under test with its data: operands that reach it in every form that the executor knows (dense, repeated along axes, transposed,
/// index arithmetic in closed form, constants) beside the elements they stand for, and outputs to read back. Everything random comes from one seed.
/// </summary>
internal sealed unsafe class TileLab(int seed)
{
    private readonly List<(DType Type, byte[] Data)> _buffers = [];
    private readonly List<Action<KernelBuilder, List<Pointer>>> _emit = [];

    public Random Random { get; } = new(seed);

    /// <summary>Extents that are powers of two, 1 included; at most 512 elements.</summary>
    public int[] Shape(int rank)
    {
        var bits = Random.Next(10);
        var shape = new int[rank];
        for (var axis = 0; axis < rank; axis++)
        {
            var taken = axis == rank - 1 ? bits : Random.Next(bits + 1);
            (shape[axis], bits) = (1 << taken, bits - taken);
        }
        Random.Shuffle(shape);
        return shape;
    }

    /// <summary>Random elements.</summary>
    public long[] Values(DType type, int count) => [.. Enumerable.Range(0, count).Select(_ => Elements.Random(type, Random))];

    /// <summary>Adds a buffer to the launch; returns its number.</summary>
    public int Buffer(DType type, ReadOnlySpan<long> values)
    {
        var data = new byte[values.Length * type.SizeInBytes()];
        for (var i = 0; i < values.Length; i++) Write(type, data, i, values[i]);
        _buffers.Add((type, data));
        return _buffers.Count - 1;
    }

    /// <summary>An element of a buffer.</summary>
    public long Read(int buffer, int index)
    {
        var (type, data) = _buffers[buffer];
        var at = data.AsSpan(index * type.SizeInBytes());
        return type switch
        {
            DType.Float32 or DType.UInt32 => BitConverter.ToUInt32(at),
            DType.Int32 => BitConverter.ToInt32(at),
            DType.BFloat16 or DType.Float16 => BitConverter.ToUInt16(at),
            DType.Int8 => (sbyte)at[0],
            DType.UInt8 => at[0],
            _ => BitConverter.ToInt64(at),
        };
    }

    /// <summary>Traces the kernel, which finds its buffers in order, and runs it: fast on two threads, and checked.</summary>
    public Kernel Launch(Action<KernelBuilder, List<Pointer>> body, Grid? grid = null, ReadOnlySpan<KernelArgument> scalars = default, bool debug = false)
    {
        var kernel = Kernel.Trace($"lab_{seed}", k => body(k, [.. _buffers.Select(buffer => k.Pointer(buffer.Type))]));
        Launch(kernel, grid ?? new Grid(1), scalars, debug);
        return kernel;
    }

    public void Launch(Kernel kernel, Grid grid, ReadOnlySpan<KernelArgument> scalars = default, bool debug = false, WorkerPool? pool = null)
    {
        var pins = _buffers.Select(buffer => System.Runtime.InteropServices.GCHandle.Alloc(buffer.Data, System.Runtime.InteropServices.GCHandleType.Pinned)).ToArray();
        try
        {
            KernelArgument[] arguments = [.. pins.Zip(_buffers, (pin, buffer) => KernelArgument.Pointer(pin.AddrOfPinnedObject(), buffer.Type, buffer.Data.Length / buffer.Type.SizeInBytes())), .. scalars];
            CpuExecutor.Launch(kernel, grid, arguments, pool, debug);
        }
        finally
        {
            foreach (var pin in pins) pin.Free();
        }
    }

    /// <summary>A random operand of a shape: what makes its tile inside the kernel, and its elements. Bool operands are comparisons.</summary>
    public Operand Operand(DType type, int[] shape)
    {
        var kinds = new List<Func<Operand>> { () => Loaded(type, shape), () => Loaded(type, shape), () => Repeated(type, shape), () => Constant(type, shape) };
        if (shape.Length == 2) kinds.Add(() => Transposed(type, shape));
        if (type is DType.Int32 or DType.Int64) kinds.Add(() => Indices(type, shape));
        if (type == DType.Bool) kinds.Add(() => Box(shape));
        return kinds[Random.Next(kinds.Count)]();
    }

    /// <summary>An int32 tile that numbers the elements of a shape.</summary>
    public static Tile Index(KernelBuilder k, params ReadOnlySpan<int> shape)
    {
        if (shape.Length == 0) return k.Constant(DType.Int32, 0L);
        Tile? index = null;
        var stride = 1;
        for (var axis = shape.Length - 1; axis >= 0; axis--)
        {
            var along = Along(k, shape, axis) * stride;
            index = index is null ? along : along + index;
            stride *= shape[axis];
        }
        return index!.BroadcastTo(shape);
    }

    /// <summary>Stores a tile of any type, bools as int32 0 and 1.</summary>
    public static void Store(KernelBuilder k, Pointer target, Tile value)
    {
        if (value.Element == DType.Bool) value = Select(value, k.Full(DType.Int32, 1, value.Dimensions), 0);
        k.Store(target + Index(k, value.Dimensions), value);
    }

    private static Tile Along(KernelBuilder k, ReadOnlySpan<int> shape, int axis)
    {
        var range = k.Range(shape[axis]);
        for (var before = 0; before < axis; before++) range = range.ExpandDimension(0);
        while (range.Rank < shape.Length) range = range.ExpandDimension(range.Rank);
        return range;
    }

    private static int Count(int[] shape) => shape.Aggregate(1, (product, extent) => product * extent);

    private static DType Stored(DType type) => type == DType.Bool ? DType.Int32 : type;

    private long[] Fresh(DType type, int count) => type == DType.Bool ? [.. Enumerable.Range(0, count).Select(_ => (long)Random.Next(2))] : Values(type, count);

    private static Tile Loaded(KernelBuilder k, Pointer pointer, DType type, int[] shape)
    {
        var tile = k.Load(pointer + Index(k, shape));
        return type == DType.Bool ? tile.NotEqualTo(0) : tile;
    }

    private Operand Loaded(DType type, int[] shape)
    {
        var values = Fresh(type, Count(shape));
        var buffer = Buffer(Stored(type), values);
        return new Operand(values, (k, pointers) => Loaded(k, pointers[buffer], type, shape));
    }

    /// <summary>A smaller tile, or a scalar, broadcast.</summary>
    private Operand Repeated(DType type, int[] shape)
    {
        int[] small = Random.Next(3) == 0 ? [] : [.. shape.Select(extent => Random.Next(2) == 0 ? 1 : extent)];
        var values = Fresh(type, Count(small));
        var buffer = Buffer(Stored(type), values);
        var all = new long[Count(shape)];
        for (var i = 0; i < all.Length; i++)
        {
            var (rest, at, stride) = (i, 0, 1);
            for (var axis = shape.Length - 1; axis >= 0; axis--)
            {
                if (small.Length > 0 && small[axis] > 1) (at, stride) = (at + (rest % shape[axis] * stride), stride * small[axis]);
                rest /= shape[axis];
            }
            all[i] = values[at];
        }
        return new Operand(all, (k, pointers) => Loaded(k, pointers[buffer], type, small).BroadcastTo(shape));
    }

    private Operand Transposed(DType type, int[] shape)
    {
        var values = Fresh(type, Count(shape));
        var buffer = Buffer(Stored(type), values);
        var all = new long[values.Length];
        for (var row = 0; row < shape[0]; row++)
            for (var column = 0; column < shape[1]; column++)
                all[(row * shape[1]) + column] = values[(column * shape[0]) + row];
        return new Operand(all, (k, pointers) => Loaded(k, pointers[buffer], type, [shape[1], shape[0]]).Transposed());
    }

    private Operand Constant(DType type, int[] shape)
    {
        var value = Fresh(type, 1)[0];
        // A constant is given as a double, and to become one makes a signalling NaN quiet: the quiet one is the constant.
        if (Elements.IsNaN(type, value)) value = Elements.FromDouble(type, Elements.ToDouble(type, value));
        var all = new long[Count(shape)];
        Array.Fill(all, value);
        return new Operand(all, (k, _) => (type.IsFloat() ? k.Constant(type, Elements.ToDouble(type, value)) : k.Constant(type, value)).BroadcastTo(shape));
    }

    /// <summary>Index arithmetic, which stays in closed form.</summary>
    private Operand Indices(DType type, int[] shape)
    {
        var (scale, offset, axis) = (Random.Next(-5, 6), Random.Next(-40, 40), Random.Next(shape.Length + 1));
        var all = new long[Count(shape)];
        for (var i = 0; i < all.Length; i++)
        {
            var (rest, along) = (i, i);
            for (var d = shape.Length - 1; d >= axis && axis < shape.Length; d--) (along, rest) = (rest % shape[d], rest / shape[d]);
            all[i] = (along * scale) + offset;
        }
        return new Operand(all, (k, _) => (((axis < shape.Length ? Along(k, shape, axis) : Index(k, shape)) * scale) + offset).To(type).BroadcastTo(shape));
    }

    /// <summary>A conjunction of range comparisons, which stays in closed form.</summary>
    private Operand Box(int[] shape)
    {
        var bounds = shape.Select(extent => (Low: Random.Next(-1, extent + 1), High: Random.Next(0, extent + 2))).ToArray();
        var all = new long[Count(shape)];
        for (var i = 0; i < all.Length; i++)
        {
            var (rest, isInside) = (i, true);
            for (var axis = shape.Length - 1; axis >= 0; axis--)
            {
                var at = rest % shape[axis];
                isInside &= at >= bounds[axis].Low && at < bounds[axis].High;
                rest /= shape[axis];
            }
            all[i] = isInside ? 1 : 0;
        }
        return new Operand(all, (k, _) =>
        {
            Tile? box = null;
            for (var axis = 0; axis < shape.Length; axis++)
            {
                var along = Along(k, shape, axis);
                var side = (along >= bounds[axis].Low) & (bounds[axis].High > 0 ? along + 1 <= bounds[axis].High : along < 0);
                box = box is null ? side : box & side;
            }
            return (box ?? k.Constant(DType.Bool, 1L)).BroadcastTo(shape);
        });
    }

    private static void Write(DType type, byte[] data, int index, long bits)
    {
        var at = data.AsSpan(index * type.SizeInBytes());
        switch (type.SizeInBytes())
        {
            case 1: at[0] = (byte)bits; break;
            case 2: BitConverter.TryWriteBytes(at, (ushort)bits); break;
            case 4: BitConverter.TryWriteBytes(at, (uint)bits); break;
            default: BitConverter.TryWriteBytes(at, bits); break;
        }
    }
}

/// <summary>An operand of an operation under test.</summary>
/// <param name="Values">Its elements, row-major.</param>
/// <param name="Make">Emits its tile, given the kernel's pointers.</param>
internal sealed record Operand(long[] Values, Func<KernelBuilder, List<Pointer>, Tile> Make);
