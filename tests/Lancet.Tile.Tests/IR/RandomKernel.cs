using Lancet.Tile.Cpu;
using static Lancet.Tile.TileMath;

namespace Lancet.Tile.Tests.IR;

/// <summary>
/// Kernels made of random operations, loops and branches over int32, fp32 and bool tiles of three shapes, for tests that say something about
/// every kernel. Constants are frequent, so that there is something to fold. Stores in loops and branches, and of all values that are left at the end,
/// make every difference visible.
/// </summary>
internal sealed unsafe class RandomKernel
{
    public const int Programs = 3;
    private const int Rows = 4, Columns = 8, OutputsPerProgram = 64 * Rows * Columns;
    private readonly Random _random;
    private readonly KernelBuilder _k;
    private readonly Pointer _floats, _ints, _floatOut, _intOut;
    private Scope _scope = new();
    private Tile _place = null!;
    private int _slot;

    private RandomKernel(KernelBuilder k, int seed)
    {
        (_k, _random) = (k, new Random(seed));
        (_floats, _ints) = (k.Pointer(DType.Float32, "floats"), k.Pointer(DType.Int32, "ints"));
        (_floatOut, _intOut) = (k.Pointer(DType.Float32, "float_out"), k.Pointer(DType.Int32, "int_out"));
    }

    /// <summary>The kernel of a seed.</summary>
    public static Kernel Build(int seed) => Kernel.Trace($"random_{seed}", k => new RandomKernel(k, seed).Body());

    /// <summary>What a kernel made by <see cref="Build"/> writes, as bits.</summary>
    public static (int[] Floats, int[] Ints) Run(Kernel kernel, WorkerPool? pool = null, bool debug = false)
    {
        const int inputs = Programs * Rows * Columns;
        var random = new Random(1);
        float[] floats = new float[inputs], floatOut = new float[Programs * OutputsPerProgram];
        int[] ints = new int[inputs], intOut = new int[Programs * OutputsPerProgram];
        for (var i = 0; i < inputs; i++) (floats[i], ints[i]) = ((random.NextSingle() * 8) - 4, random.Next(-20, 20));
        fixed (float* pf = floats, pfo = floatOut)
        fixed (int* pi = ints, pio = intOut)
        {
            CpuExecutor.Launch(
                kernel,
                new Grid(Programs),
                [
                    KernelArgument.Pointer((nint)pf, DType.Float32, inputs), KernelArgument.Pointer((nint)pi, DType.Int32, inputs),
                    KernelArgument.Pointer((nint)pfo, DType.Float32, floatOut.Length), KernelArgument.Pointer((nint)pio, DType.Int32, intOut.Length), 5,
                ],
                pool,
                debug);
        }
        return ([.. floatOut.Select(BitConverter.SingleToInt32Bits)], intOut);
    }

    private static Tile Column(KernelBuilder k) => k.Range(Columns);

    private void Body()
    {
        var n = _k.Scalar(DType.Int32, "n");
        var program = _k.ProgramId(0);
        var grid = _k.Range(Rows).AsColumn() * Columns + Column(_k).AsRow();
        _place = program * OutputsPerProgram;
        var inputs = program * (Rows * Columns) + grid;
        _scope.Ints.AddRange([n, program, grid, Column(_k), _k.Load(_ints + inputs), _k.Constant(DType.Int32, 0L), _k.Constant(DType.Int32, 1L), _k.Full(DType.Int32, 3, Rows, Columns)]);
        _scope.Floats.AddRange([_k.Load(_floats + inputs, grid < n * 6, -1), _k.Load(_floats + program * (Rows * Columns) + Column(_k)), _k.Full(DType.Float32, 0.5, Columns)]);
        _scope.Bools.AddRange([grid < n, program.EqualTo(1)]);
        Steps(12, 0);
        foreach (var value in _scope.Ints.Concat(_scope.Floats).ToArray())
            if (_random.Next(3) == 0) Emit(value);
    }

    private void Steps(int count, int depth)
    {
        for (var i = 0; i < count; i++)
        {
            switch (_random.Next(depth < 2 ? 14 : 11))
            {
                case < 4:
                    _scope.Ints.Add(IntegerOperation());
                    break;
                case < 7:
                    _scope.Floats.Add(FloatOperation());
                    break;
                case 7:
                    _scope.Bools.Add(BoolOperation());
                    break;
                case 8:
                    _scope.Floats.Add(Pick(_scope.Ints).To(DType.Float32));
                    break;
                case 9:
                    _scope.Ints.Add(Shape(Pick(_scope.Ints)));
                    break;
                case 10:
                    Emit(_random.Next(2) == 0 ? Pick(_scope.Ints) : Pick(_scope.Floats));
                    break;
                case 11:
                    Branch(depth);
                    break;
                default:
                    Loop(depth);
                    break;
            }
        }
    }

    private Tile IntegerOperation()
    {
        var (a, b) = Pair(_scope.Ints);
        return _random.Next(16) switch
        {
            0 => a + b,
            1 => a - b,
            2 => a * b,
            3 => a / ((b & 7) + 1),
            4 => a % ((b & 7) + 1),
            5 => a & b,
            6 => a | b,
            7 => a ^ b,
            8 => Min(a, b),
            9 => Max(a, b),
            10 => a << (b & 3),
            11 => a >> (b & 31),
            12 => -a,
            13 => ~a,
            14 => a.To(DType.Int64).To(DType.Int32) + 0,
            _ => Choose(a, b),
        };
    }

    private Tile FloatOperation()
    {
        var (a, b) = Pair(_scope.Floats);
        return _random.Next(9) switch
        {
            0 => a + b,
            1 => a - b,
            2 => a * b,
            3 => Max(a, b),
            4 => -a,
            5 => Abs(a) + 0,
            6 => a.To(DType.BFloat16).ToFloat32(),
            7 => a.Rank == 2 ? _random.Next(2) == 0 ? Sum(a, 1).AsColumn() + a : Sum(Dot(a, a.Transposed()), 1).AsColumn() + a : Tanh(a),
            _ => Choose(a, b),
        };
    }

    private Tile BoolOperation()
    {
        var (a, b) = Pair(_scope.Ints);
        var mask = _random.Next(4) switch { 0 => a < b, 1 => a.EqualTo(b), 2 => a >= 0, _ => a.NotEqualTo(b) };
        var other = Pick(_scope.Bools);
        if (!Matches(mask, other)) return mask;
        return _random.Next(4) switch { 0 => mask & other, 1 => mask | other, 2 => mask ^ other, _ => !mask };
    }

    private Tile Choose(Tile a, Tile b)
    {
        var condition = Pick(_scope.Bools);
        return Matches(condition, a) ? Select(condition, a, b) : Select(a >= b, a, b);
    }

    private Tile Shape(Tile x) => x.Rank switch
    {
        0 => x.BroadcastTo(Columns),
        1 => x.AsRow().BroadcastTo(Rows, Columns),
        _ => _random.Next(2) == 0 ? ReduceMax(x, 0) : x.Transposed().Transposed(),
    };

    private void Branch(int depth)
    {
        var conditions = _scope.Bools.Where(b => b.Rank == 0).ToArray();
        var condition = conditions[_random.Next(conditions.Length)];
        Tile[] otherwise = [Pick(_scope.Ints), Pick(_scope.Floats)];
        var results = _k.If(condition, otherwise, () =>
        {
            var outer = _scope;
            _scope = outer.Nested();
            Steps(4, depth + 1);
            Tile[] values = [Like(_scope.Ints, otherwise[0]), Like(_scope.Floats, otherwise[1])];
            _scope = outer;
            return values;
        });
        _scope.Ints.Add(results[0]);
        _scope.Floats.Add(results[1]);
    }

    private void Loop(int depth)
    {
        Tile[] initial = [Pick(_scope.Ints), Pick(_scope.Floats), Pick(_scope.Ints)];
        var results = _k.For(0, _random.Next(5), _random.Next(1, 3), initial, (index, carried) =>
        {
            var outer = _scope;
            _scope = outer.Nested();
            _scope.Ints.AddRange([index, carried[0], carried[2]]);
            _scope.Floats.Add(carried[1]);
            Steps(4, depth + 1);
            Tile[] values = [Like(_scope.Ints, initial[0]), Like(_scope.Floats, initial[1]), _random.Next(2) == 0 ? carried[2] : Like(_scope.Ints, initial[2])];
            _scope = outer;
            return values;
        });
        _scope.Ints.AddRange([results[0], results[2]]);
        _scope.Floats.Add(results[1]);
    }

    /// <summary>A store of the value's elements in a place of its own.</summary>
    private void Emit(Tile value)
    {
        if (_slot == 64) return;
        var at = _place + _slot++ * Rows * Columns;
        if (value.Rank == 1) at += Column(_k);
        else if (value.Rank == 2) at += _k.Range(Rows).AsColumn() * Columns + Column(_k).AsRow();
        _k.Store((value.Element == DType.Int32 ? _intOut : _floatOut) + at, value);
    }

    private Tile Pick(List<Tile> tiles) => tiles[_random.Next(tiles.Count)];

    private (Tile A, Tile B) Pair(List<Tile> tiles)
    {
        var a = Pick(tiles);
        var fitting = tiles.Where(tile => Matches(tile, a)).ToArray();
        return (a, fitting[_random.Next(fitting.Length)]);
    }

    /// <summary>One of the tiles that has the shape of another: the newest or any.</summary>
    private Tile Like(List<Tile> tiles, Tile like)
    {
        var fitting = tiles.Where(tile => tile.Dimensions.SequenceEqual(like.Dimensions)).ToArray();
        return fitting.Length == 0 ? like : _random.Next(2) == 0 ? fitting[^1] : fitting[_random.Next(fitting.Length)];
    }

    private static bool Matches(Tile a, Tile b) => a.Rank == b.Rank || a.Rank == 0;

    private sealed class Scope
    {
        public List<Tile> Ints { get; } = [];

        public List<Tile> Floats { get; } = [];

        public List<Tile> Bools { get; } = [];

        public Scope Nested()
        {
            var nested = new Scope();
            nested.Ints.AddRange(Ints);
            nested.Floats.AddRange(Floats);
            nested.Bools.AddRange(Bools);
            return nested;
        }
    }
}
