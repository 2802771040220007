using Lancet.Kernels;
using Lancet.Tensors;
using Lancet.Tests.Devices;
using Lancet.Tile;
using Lancet.Tile.Ptx;

namespace Lancet.Tests.Kernels;

public class LoraNormKernelTests
{
    /// <summary>Laboratory of the device under test.</summary>
    private protected virtual KernelLab NewLab(long seed = 1) => new(seed);

    [Theory]
    [InlineData(70, 64, 1, 16, NormKind.RootMeanSquare)]
    [InlineData(1, 128, 2, 8, NormKind.RootMeanSquarePlusOne)]
    [InlineData(150, 576, 3, 16, NormKind.Layer)]
    [InlineData(66, 192, 3, 32, NormKind.RootMeanSquare)]
    [InlineData(33, 1088, 1, 64, NormKind.RootMeanSquarePlusOne)]
    public void Gradients_equal_plain_sums_over_the_norm_in_fp64(int rows, int columns, int count, int rank, NormKind kind)
    {
        using var lab = NewLab(rows);
        var (norm, kernel) = (new NormKernel(columns, 1, 1e-5, kind), new LoraNormKernel(columns, kind));
        Assert.True(kernel.Suits(count, rank, DType.BFloat16));
        var (total, room) = (count * rank, 8);
        Tensor x = lab.Random(DType.BFloat16, new Shape(rows, columns + room)), weight = lab.Random(DType.Float32, new Shape(columns)), y = lab.New(DType.BFloat16, new Shape(rows, columns)), statistics = lab.New(DType.Float32, new Shape(norm.StatisticsCount(rows)));
        Tensor v = lab.Random(DType.BFloat16, new Shape(rows, total + room)), gradient = lab.Random(DType.Float32, new Shape(total, columns));
        norm.Forward(lab.Device, rows, x, weight, y, statistics);
        double[] normed = KernelLab.Values(y), vs = KernelLab.Values(v), expected = KernelLab.Values(gradient);
        for (var row = 0; row < rows; row++)
            for (var j = 0; j < total; j++)
                for (var column = 0; column < columns; column++) expected[(j * columns) + column] += vs[(row * (total + room)) + j] * normed[(row * columns) + column];
        kernel.AddGradients(lab.Device, rows, x, weight, statistics, v, count, rank, lab.New(DType.Float32, kernel.PartialShape(rows, count, rank)), gradient);
        KernelLab.AssertClose(expected, KernelLab.Values(gradient), 2e-5);
    }

    /// <summary>Memory is planned for the longest batch.</summary>
    [Fact]
    public void More_rows_never_need_less_memory()
    {
        foreach (var columns in new[] { 64, 576, 4096 })
        {
            var kernel = new LoraNormKernel(columns, NormKind.RootMeanSquare);
            long least = 0;
            for (var rows = 0; rows < 20_000; rows += 97)
            {
                var count = kernel.PartialShape(rows, 3, 16).Count;
                Assert.True(count >= least);
                least = count;
            }
        }
    }

    [Fact]
    public void Fp32_odd_ranks_widths_and_many_sums_are_left_to_products()
    {
        Assert.False(new LoraNormKernel(512, NormKind.RootMeanSquare).Suits(1, 16, DType.Float32));
        Assert.False(new LoraNormKernel(512, NormKind.RootMeanSquare).Suits(1, 24, DType.BFloat16));
        Assert.False(new LoraNormKernel(512, NormKind.RootMeanSquare).Suits(2, 64, DType.BFloat16));
        Assert.False(new LoraNormKernel(96, NormKind.RootMeanSquare).Suits(1, 16, DType.BFloat16));
    }
}

/// <summary>On the simulated GPU.</summary>
public sealed class LoraNormKernelSimulatorTests : LoraNormKernelTests
{
    private protected override KernelLab NewLab(long seed = 1) => new(seed, new SimulatorDevice());
}

/// <summary>With products of warp groups.</summary>
public sealed class LoraNormKernelHopperSimulatorTests : LoraNormKernelTests
{
    private protected override KernelLab NewLab(long seed = 1) => new(seed, new SimulatorDevice(PtxTarget.Sm90));
}
