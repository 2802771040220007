using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Lancet.Tile.Cpu;
using Lancet.Tile.IR;
using Lancet.Tile.Lowering;
using Lancet.Tile.Lowering.Simulator;
using Lancet.Tile.Lowering.Threads;
using Lancet.Tile.Ptx;

namespace Lancet.Tile.Tests.Lowering;

/// <summary>A lowered kernel that computed something else than the tile executor.</summary>
public sealed class LoweringMismatchException(string message) : Exception(message);

/// <summary>
/// Runs a kernel twice from the same memory, on the tile executor and, lowered to threads, on the simulator. Integers must agree to the bit. Floating
/// point must agree to the bit or be right: measured against the same kernel in fp64, the simulator's largest error in a buffer may be twice the
/// executor's and a rounding of the largest value. What the simulator computed stays in memory.
/// </summary>
internal static unsafe class LoweringCheck
{
    private static readonly ConditionalWeakTable<Kernel, Dictionary<(ulong, PtxTarget), ThreadProgram>> s_programs = [];
    private static readonly ConditionalWeakTable<Kernel, Kernel> s_singles = [];

    // Products of fp32 matrices, which GPUs do in bf16, need more shared memory than there is.
    private static readonly PtxTarget s_target = PtxTarget.Sm80 with { MaxSharedMemoryPerBlock = 1 << 20 };

    /// <summary>Memory that one or more pointer arguments reach, of one element type.</summary>
    private sealed record Range(long Start, long Bytes, DType Element, string Name, bool IsMixed)
    {
        public long End => Start + Bytes;

        public Span<byte> Memory => new((void*)Start, checked((int)Bytes));

        public int Count => (int)(Bytes / Element.SizeInBytes());
    }

    /// <summary>The kernel as threads, for these arguments' alignment; printed and checked, too.</summary>
    public static ThreadProgram Lower(Kernel kernel, ReadOnlySpan<KernelArgument> arguments, PtxTarget? gpu = null)
    {
        var target = gpu is null ? s_target : gpu with { MaxSharedMemoryPerBlock = s_target.MaxSharedMemoryPerBlock };
        var divisible = PtxCompiler.Divisible(arguments);
        var programs = s_programs.GetOrCreateValue(kernel);
        lock (programs)
        {
            if (programs.TryGetValue((divisible, target), out var known)) return known;
            var program = KernelLowering.Lower(kernel, target, divisible);
            PtxChecker.Check(PtxPrinter.Print(program, target));
            programs.Add((divisible, target), program);
            return program;
        }
    }

    /// <summary>Whether fp64 is the kernel's only floating-point format: a test of its maths, not a kernel for a GPU.</summary>
    public static bool IsAllFloat64(Kernel kernel)
    {
        var floats = kernel.Parameters.Select(parameter => parameter.Value.Type.Element).Where(element => element.IsFloat()).ToArray();
        return floats.Contains(DType.Float64) && floats.All(element => element == DType.Float64);
    }

    /// <summary>Runs and compares.</summary>
    /// <exception cref="LoweringMismatchException">They differ.</exception>
    public static SimulationReport Run(Kernel kernel, Grid grid, ReadOnlySpan<KernelArgument> arguments, PtxTarget? gpu = null)
    {
        var ranges = Ranges(kernel, arguments);
        var before = ranges.Select(range => range.Memory.ToArray()).ToArray();
        CpuExecutor.Launch(kernel, grid, arguments);
        var executed = ranges.Select(range => range.Memory.ToArray()).ToArray();
        for (var i = 0; i < ranges.Count; i++)
            if (!before[i].AsSpan().SequenceEqual(executed[i])) before[i].CopyTo(ranges[i].Memory); // weights may be mapped from a file, read-only
        var report = ThreadSimulator.Run(Lower(kernel, arguments, gpu), grid, arguments);
        double[][]? exact = null;
        for (var i = 0; i < ranges.Count; i++)
        {
            if (executed[i].AsSpan().SequenceEqual(ranges[i].Memory) || OpaqueParameters(kernel, kernel.Body).Contains(ranges[i].Name)) continue;
            if (!ranges[i].Element.IsFloat() || ranges[i].IsMixed) throw IntegerMismatch(kernel, ranges[i], executed[i]);
            exact ??= RunExactly(kernel, grid, arguments, ranges, before);
            Compare(kernel, ranges[i], executed[i], exact[i]);
        }
        return report;
    }

    // Their order is each compiler's own; what is computed from them is compared.
    private static HashSet<string> OpaqueParameters(Kernel kernel, Region region)
    {
        var names = new HashSet<string>();
        foreach (var operation in region.Operations)
        {
            if (operation.Body is not null) names.UnionWith(OpaqueParameters(kernel, operation.Body));
            if (!operation.IsOpaque) continue;
            var pointer = operation.Operands[0];
            while (pointer.Definition is { } definition) pointer = definition.Operands[0];
            names.Add(kernel.Parameters.First(parameter => parameter.Value == pointer).Name);
        }
        return names;
    }

    private static List<Range> Ranges(Kernel kernel, ReadOnlySpan<KernelArgument> arguments)
    {
        var ranges = new List<Range>();
        for (var i = 0; i < arguments.Length; i++)
            if (arguments[i].IsPointer && arguments[i].Count > 0)
                ranges.Add(new Range(arguments[i].Bits, arguments[i].Count * arguments[i].Element.SizeInBytes(), arguments[i].Element, kernel.Parameters[i].Name, false));
        ranges.Sort((a, b) => a.Start.CompareTo(b.Start));
        for (var i = 1; i < ranges.Count; i++)
        {
            var (a, b) = (ranges[i - 1], ranges[i]);
            if (b.Start >= a.End) continue;
            ranges[i - 1] = a with { Bytes = Math.Max(a.End, b.End) - a.Start, Name = $"{a.Name}/{b.Name}", IsMixed = a.IsMixed || b.IsMixed || a.Element != b.Element };
            ranges.RemoveAt(i--);
        }
        return ranges;
    }

    /// <summary>Runs the kernel with all its floating point as fp32, from copies of the memory, on both and compares.</summary>
    public static void RunAsFloat32(Kernel kernel, Grid grid, ReadOnlySpan<KernelArgument> arguments, PtxTarget? gpu = null)
    {
        var ranges = Ranges(kernel, arguments);
        var single = s_singles.GetValue(kernel, static kernel => RetypedKernel.Of(kernel, DType.Float32));
        RunRetyped(single, DType.Float32, arguments, ranges, [.. ranges.Select(range => range.Memory.ToArray())], (kernel, converted) => Run(kernel, grid, converted, gpu));
    }

    private static double[][] RunExactly(Kernel kernel, Grid grid, ReadOnlySpan<KernelArgument> arguments, List<Range> ranges, byte[][] before)
    {
        if (ranges.Any(range => range.IsMixed && range.Element.IsFloat())) throw new LoweringMismatchException($"kernel {kernel.Name}: arguments of different types share memory, so there is no fp64 run to compare with.");
        var wide = RetypedKernel.Of(kernel, DType.Float64);
        return RunRetyped(wide, DType.Float64, arguments, ranges, before, (kernel, converted) => CpuExecutor.Launch(kernel, grid, converted));
    }

    /// <summary>Converts the memory, has the retyped kernel run on it, and returns its floating-point ranges.</summary>
    private static double[][] RunRetyped(Kernel kernel, DType type, ReadOnlySpan<KernelArgument> arguments, List<Range> ranges, byte[][] before, Action<Kernel, KernelArgument[]> run)
    {
        var size = type.SizeInBytes();
        var copies = new byte*[ranges.Count];
        try
        {
            for (var i = 0; i < ranges.Count; i++)
            {
                copies[i] = (byte*)NativeMemory.AlignedAlloc((nuint)Math.Max(64, Math.Max(ranges[i].Bytes, ranges[i].Count * 8L)), 64);
                if (ranges[i].Element.IsFloat())
                {
                    for (var e = 0; e < ranges[i].Count; e++)
                    {
                        var value = Value(before[i], ranges[i].Element, e);
                        if (size == 8) ((double*)copies[i])[e] = value;
                        else ((float*)copies[i])[e] = (float)value;
                    }
                }
                else before[i].CopyTo(new Span<byte>(copies[i], before[i].Length));
            }
            var converted = new KernelArgument[arguments.Length];
            for (var i = 0; i < arguments.Length; i++)
            {
                var argument = arguments[i];
                if (!argument.IsPointer)
                {
                    var number = argument.Element == DType.Float64 ? BitConverter.Int64BitsToDouble(argument.Bits) : BitConverter.Int32BitsToSingle((int)argument.Bits);
                    converted[i] = !argument.Element.IsFloat() ? argument : size == 8 ? number : (float)number;
                    continue;
                }
                var index = ranges.FindIndex(range => argument.Bits >= range.Start && argument.Bits < range.End);
                var element = argument.Element.IsFloat() ? type : argument.Element;
                var offset = index < 0 ? 0 : (argument.Bits - ranges[index].Start) / argument.Element.SizeInBytes() * element.SizeInBytes();
                converted[i] = KernelArgument.Pointer(index < 0 ? 0 : (nint)(copies[index] + offset), element, argument.Count);
            }
            run(kernel, converted);
            var result = new double[ranges.Count][];
            for (var i = 0; i < ranges.Count; i++)
            {
                result[i] = new double[ranges[i].Element.IsFloat() ? ranges[i].Count : 0];
                for (var e = 0; e < result[i].Length; e++) result[i][e] = size == 8 ? ((double*)copies[i])[e] : ((float*)copies[i])[e];
            }
            return result;
        }
        finally
        {
            foreach (var pointer in copies) NativeMemory.AlignedFree(pointer);
        }
    }

    private static void Compare(Kernel kernel, Range range, byte[] executed, double[] exact)
    {
        var simulated = range.Memory.ToArray();
        double executorError = 0, simulatorError = 0, largest = 0;
        var worst = 0;
        for (var i = 0; i < range.Count; i++)
        {
            var (e, s) = (Value(executed, range.Element, i), Value(simulated, range.Element, i));
            if (!double.IsFinite(e) || !double.IsFinite(s))
            {
                if (!e.Equals(s)) throw new LoweringMismatchException($"kernel {kernel.Name}, {range.Name}[{i}]: {e} on the executor, {s} lowered.");
                continue;
            }
            if (!double.IsFinite(exact[i])) continue;
            largest = Math.Max(largest, Math.Abs(exact[i]));
            executorError = Math.Max(executorError, Math.Abs(e - exact[i]));
            if (Math.Abs(s - exact[i]) > simulatorError) (simulatorError, worst) = (Math.Abs(s - exact[i]), i);
        }
        // A rounding of a 16-bit result, a few of an fp32 one, for where the executor happens to be exact.
        var rounding = largest * range.Element switch { DType.BFloat16 => 1.0 / 256, DType.Float16 => 1.0 / 2048, _ => 1.0 / (1 << 20) };
        if (simulatorError <= (2 * executorError) + rounding) return;
        throw new LoweringMismatchException(
            $"kernel {kernel.Name}, {range.Name}[{worst}]: {Value(executed, range.Element, worst)} on the executor, {Value(simulated, range.Element, worst)} lowered, {exact[worst]} in fp64; the largest errors are {executorError:g3} and {simulatorError:g3}.");
    }

    private static LoweringMismatchException IntegerMismatch(Kernel kernel, Range range, byte[] executed)
    {
        var simulated = range.Memory;
        var size = range.Element.SizeInBytes();
        var differing = 0;
        var first = -1;
        for (var i = 0; i < range.Count; i++)
        {
            if (executed.AsSpan(i * size, size).SequenceEqual(simulated.Slice(i * size, size))) continue;
            if (first < 0) first = i;
            differing++;
        }
        return new LoweringMismatchException(
            $"kernel {kernel.Name}, {range.Name}[{first}] of {range.Element}: bytes {Convert.ToHexString(executed, first * size, size)} on the executor, {Convert.ToHexString(simulated.Slice(first * size, size))} lowered; {differing} of {range.Count} elements differ.");
    }

    private static double Value(ReadOnlySpan<byte> bytes, DType element, int index) => element switch
    {
        DType.Float32 => MemoryMarshal.Cast<byte, float>(bytes)[index],
        DType.BFloat16 => BFloat16.FromBits(MemoryMarshal.Cast<byte, ushort>(bytes)[index]),
        DType.Float16 => (double)MemoryMarshal.Cast<byte, System.Half>(bytes)[index],
        _ => MemoryMarshal.Cast<byte, double>(bytes)[index],
    };
}
