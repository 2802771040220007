using Lancet.Tile.Lowering;

namespace Lancet.Tile.Ptx;

/// <summary>Turns kernels into PTX.</summary>
public static class PtxCompiler
{
    /// <summary>Compiles a kernel.</summary>
    /// <param name="kernel">A traced kernel.</param>
    /// <param name="target">The GPU.</param>
    /// <param name="divisibleArguments">What is known of the arguments, see <see cref="Divisible"/>. Code for more divisible arguments is faster; it must only be launched with such.</param>
    /// <exception cref="TileException">The kernel needs more shared memory than there is, or an operation that the GPU lacks (fp64 functions).</exception>
    public static PtxKernel Compile(Kernel kernel, PtxTarget target, ulong divisibleArguments = 0)
    {
        var program = KernelLowering.Lower(kernel, target, divisibleArguments);
        return new(kernel.Name, PtxPrinter.Print(program, target), program.Threads, program.SharedBytes, kernel.Parameters) { TensorMaps = program.TensorMaps };
    }

    /// <summary>
    /// Which of the first 64 arguments are divisible by 16: addresses in bytes, integers as numbers. Alignment of memory accesses and whole
    /// vectors inside masks follow from it.
    /// </summary>
    public static ulong Divisible(ReadOnlySpan<KernelArgument> arguments)
    {
        ulong bits = 0;
        for (var i = 0; i < arguments.Length && i < 64; i++)
        {
            var argument = arguments[i];
            if ((argument.IsPointer || argument.Element is DType.Int32 or DType.Int64) && argument.Bits % 16 == 0) bits |= 1UL << i;
        }
        return bits;
    }

    /// <summary>What <see cref="Divisible"/> gives when all arguments are divisible, the usual case.</summary>
    public static ulong AllDivisible(Kernel kernel)
    {
        ulong bits = 0;
        for (var i = 0; i < kernel.Parameters.Count && i < 64; i++)
            if (kernel.Parameters[i].Value.Type is { IsPointer: true } or { Element: DType.Int32 or DType.Int64 }) bits |= 1UL << i;
        return bits;
    }
}
