using CsCheck;
using Lancet.Devices;
using Lancet.Kernels;
using Lancet.Tensors;
using Lancet.Tests.Devices;
using Lancet.Tile;
using Lancet.Tile.Ptx;

namespace Lancet.Tests.Kernels;

public class LoraBackwardKernelTests
{
    /// <summary>Laboratory of the device under test.</summary>
    private protected virtual KernelLab NewLab(long seed = 1) => new(seed);

    [Theory]
    [InlineData(70, 16, 512)]
    [InlineData(1, 8, 256)]
    [InlineData(150, 8, 512, 512)]
    [InlineData(33, 32, 256, 512)]
    [InlineData(97, 16, 1024, 512, 512)]
    [InlineData(40, 32, 512, 512, 512)]
    [InlineData(66, 16, 576, 192, 192)]
    [InlineData(35, 8, 64)]
    [InlineData(50, 32, 896, 128, 128)]
    public void Both_products_equal_plain_sums_in_fp64(int rows, int rank, params int[] widths)
    {
        const double scale = 1.5;
        using var lab = NewLab(rows);
        int total = widths.Sum(), room = rank * widths.Length, stride = total + room + 8;
        var first = widths.Select((_, i) => widths.Take(i).Sum()).ToArray();
        var outputs = new LoraOutputs(total, widths.Take(1).Sum(), widths.Take(2).Sum(), rank);
        Assert.True(LoraBackwardKernel.Suits(outputs, DType.BFloat16));
        var dy = lab.Random(DType.BFloat16, new Shape(rows, stride));
        var u = lab.Random(DType.BFloat16, new Shape(rows, room + 8));
        var scaledB = lab.Random(DType.BFloat16, new Shape(total, room));
        var gradient = lab.Random(DType.Float32, new Shape(total, rank));
        double[] g = KernelLab.Values(dy), inputs = KernelLab.Values(u), b = KernelLab.Values(scaledB), expectedB = KernelLab.Values(gradient);
        var expected = (double[])g.Clone();
        for (var i = 0; i < widths.Length; i++)
        {
            for (var row = 0; row < rows; row++)
            {
                for (var j = 0; j < rank; j++)
                {
                    var v = 0.0;
                    for (var column = first[i]; column < first[i] + widths[i]; column++)
                    {
                        v += g[(row * stride) + column] * b[(column * room) + (i * rank) + j];
                        expectedB[(column * rank) + j] += scale * g[(row * stride) + column] * inputs[(row * (room + 8)) + (i * rank) + j];
                    }
                    expected[(row * stride) + total + (i * rank) + j] = v;
                }
            }
        }
        var shapes = LoraBackwardKernel.PartialShapes(rows, outputs, lab.Device.PlanTarget);
        LoraBackwardKernel.Run(lab.Device, rows, outputs, dy, scaledB, u, ColumnSlice.Of(dy, total), (float)scale, (lab.New(DType.Float32, shapes.V), lab.New(DType.Float32, shapes.B)), gradient);
        KernelLab.AssertClose(expectedB, KernelLab.Values(gradient), 2e-5);
        KernelLab.AssertRounded(expected, KernelLab.Values(dy));
    }

    /// <summary>Memory is planned for the longest batch.</summary>
    [Fact]
    public void More_rows_never_need_less_memory() => Gen.Select(Gen.Int[1, 240], Gen.Int[3, 5].Select(power => 1 << power), Gen.Bool, Gen.Int[0, 20_000], Gen.Int[0, 20_000]).Sample((strips, rank, isSmall, fewer, more) =>
    {
        var width = LoraBackwardBlocks.LeastColumns(rank) * strips;
        var outputs = new LoraOutputs(width, width, width, rank);
        var target = PlanTarget.CudaOf(PtxTarget.Sm80 with { MaxSharedMemoryPerBlock = isSmall ? 100 << 10 : 227 << 10 });
        var (few, many) = (LoraBackwardKernel.PartialShapes(Math.Min(fewer, more), outputs, target), LoraBackwardKernel.PartialShapes(Math.Max(fewer, more), outputs, target));
        Assert.True(few.V.Count <= many.V.Count && few.B.Count <= many.B.Count);
        Assert.True(few.B[0] >= 1);
    });

    [Fact]
    public void Fp32_odd_ranks_and_strips_across_projections_are_left_to_products()
    {
        Assert.False(LoraBackwardKernel.Suits(new(512, 512, 512, 16), DType.Float32));
        Assert.False(LoraBackwardKernel.Suits(new(512, 512, 512, 24), DType.BFloat16));
        Assert.False(LoraBackwardKernel.Suits(new(512, 512, 512, 64), DType.BFloat16));
        Assert.False(LoraBackwardKernel.Suits(new(960, 576, 768, 32), DType.BFloat16));
        Assert.False(LoraBackwardKernel.Suits(new(1024, 384, 992, 16), DType.BFloat16));
    }
}

/// <summary>On the simulated GPU.</summary>
public sealed class LoraBackwardKernelSimulatorTests : LoraBackwardKernelTests
{
    private protected override KernelLab NewLab(long seed = 1) => new(seed, new SimulatorDevice());
}

/// <summary>With products of warp groups.</summary>
public sealed class LoraBackwardKernelHopperSimulatorTests : LoraBackwardKernelTests
{
    private protected override KernelLab NewLab(long seed = 1) => new(seed, new SimulatorDevice(PtxTarget.Sm90));
}
