using Lancet.Tile.IR;

namespace Lancet.Tile;

/// <summary>
/// A traced kernel: parameters and a body in tile IR. One program of the kernel runs for every point of the launch grid; programs, or clusters of
/// them, are independent of each other and may run in any order.
/// </summary>
public sealed class Kernel
{
    internal Kernel(string name, IReadOnlyList<Parameter> parameters, Region body, ProgramShape shape) =>
        (Name, Parameters, Body, Shape) = (name, parameters, body, shape);

    /// <summary>Name, for messages, caches and the PTX entry point.</summary>
    public string Name { get; }

    /// <summary>Formal parameters, in the order in which the trace declared them.</summary>
    public IReadOnlyList<Parameter> Parameters { get; }

    /// <summary>The operations.</summary>
    public Region Body { get; }

    /// <summary>Warps of 32 threads that run one program on a GPU.</summary>
    public int Warps => Shape.Warps;

    /// <summary>Programs that run at the same time and gather numbers from each other, see <see cref="KernelBuilder.Cluster"/>; 1 where each is alone.</summary>
    public int Cluster => Shape.Cluster;

    /// <summary>How programs lie on a GPU.</summary>
    internal ProgramShape Shape { get; }

    /// <summary>Back ends keep what they compiled from this kernel here.</summary>
    internal object? CpuProgram;

    /// <summary>The kernel's IR as text: an operation a line, with types and source lines.</summary>
    public override string ToString() => Printer.Print(this);

    /// <summary>
    /// Runs <paramref name="body"/> once and records what it does. Compile-time choices are ordinary C# values captured by the body: C#
    /// <c>if</c> and <c>for</c> unroll, <see cref="KernelBuilder.For(Tile, Tile, Tile, Tile[], Func{Tile, Tile[], Tile[]}, int, bool, bool, string, int)"/> is a loop at run time.
    /// </summary>
    /// <param name="name">Identifier of the kernel: letters, digits and underscores.</param>
    /// <param name="body">Declares the parameters and emits the operations.</param>
    /// <exception cref="TileException">The body combines tiles in a way that the IR does not allow; the message names kernel, operation and source line.</exception>
    public static Kernel Trace(string name, Action<KernelBuilder> body)
    {
        var builder = new KernelBuilder(name);
        body(builder);
        return builder.Finish();
    }
}

/// <summary>How a kernel's programs lie on a GPU, see <see cref="KernelBuilder"/>'s properties of these names.</summary>
internal readonly record struct ProgramShape(int Warps, int Cluster = 1, int ProgramsPerMultiprocessor = 1);

/// <summary>An error in a kernel's construction or launch; the message names kernel, operation and source line.</summary>
public sealed class TileException(string message) : Exception(message);
