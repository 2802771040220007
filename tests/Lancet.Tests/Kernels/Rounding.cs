using Lancet.Tile;

namespace Lancet.Tests.Kernels;

/// <summary>The error rule of DESIGN 4: against fp64, the error is at most that of the usual computation in the same dtype.</summary>
internal static class Rounding
{
    public static float To(DType dtype, float value) => dtype == DType.BFloat16 ? (float)(BFloat16)value : value;

    public static void AssertNoWorse(IReadOnlyList<double> exact, IReadOnlyList<double> plain, IReadOnlyList<double> ours)
    {
        double plainError = Norm(exact, plain), error = Norm(exact, ours), size = Math.Sqrt(exact.Sum(value => value * value));
        // Two computations of equal quality differ by chance: half a unit in the last place of fp32 over the whole is the grain of the comparison.
        Assert.True(error <= plainError + (6e-8 * size), $"error {error / size:E2}, plain computation {plainError / size:E2}");
        Assert.True(double.IsFinite(error));
    }

    private static double Norm(IReadOnlyList<double> a, IReadOnlyList<double> b) => Math.Sqrt(a.Zip(b).Sum(pair => (pair.First - pair.Second) * (pair.First - pair.Second)));
}
