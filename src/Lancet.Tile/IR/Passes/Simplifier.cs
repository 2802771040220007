namespace Lancet.Tile.IR.Passes;

/// <summary>
/// Makes a kernel smaller without changing a bit of what it computes: constants are folded (integers, bools and conversions; floating-point
/// arithmetic is never reassociated nor done at compile time), equal pure operations are merged, pure operations that do not change in a loop
/// move out of it, loops and branches that a constant decides are dissolved, and what nothing uses is dropped. Loads and stores keep their
/// order and are never merged.
/// </summary>
internal static class Simplifier
{
    /// <summary>A new kernel with the same name, parameters and effect. The given one is left as it is.</summary>
    internal static Kernel Run(Kernel kernel)
    {
        // A pass can open the way for another, say where a carried tile turns out to change nothing: run until nothing goes away any more.
        var count = Count(kernel.Body);
        while (true)
        {
            kernel = DeadCode.Remove(Rewriter.Run(kernel));
            var before = count;
            count = Count(kernel.Body);
            if (count < before) continue;
            Verifier.Check(kernel);
            return kernel;
        }
    }

    private static int Count(Region region) => region.Operations.Sum(operation => 1 + operation.Operands.Length + (operation.Body is null ? 0 : Count(operation.Body)));
}
