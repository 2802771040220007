using Lancet.Kernels;
using Lancet.Tensors;
using Lancet.Tests.Devices;
using Lancet.Tile;
using Lancet.Tile.Ptx;

namespace Lancet.Tests.Kernels;

public class LoraDropoutKernelTests
{
    private const int FirstRow = 5;

    /// <summary>Laboratory of the device under test.</summary>
    private protected virtual KernelLab NewLab(long seed = 1) => new(seed);

    [Theory]
    [InlineData(70, 64, 1, 16)]
    [InlineData(1, 128, 2, 8)]
    [InlineData(40, 576, 3, 16)]
    [InlineData(66, 192, 3, 32)]
    [InlineData(33, 1088, 1, 64)]
    [InlineData(97, 320, 2, 32)]
    public void All_results_equal_plain_sums_in_fp64(int rows, int width, int count, int rank)
    {
        using var lab = NewLab(rows);
        var inputs = new LoraInputs(width, count, rank, 0.3, 2, 3);
        Assert.True(LoraDropoutKernel.Suits(inputs, DType.BFloat16));
        int columns = inputs.Columns, stride = width + columns + 8;
        var x = lab.Random(DType.BFloat16, new Shape(rows, stride));
        var a = lab.Random(DType.BFloat16, new Shape(columns, width + 16));
        var v = lab.Random(DType.BFloat16, new Shape(rows, columns + 8));
        var gradient = lab.Random(DType.Float32, new Shape(columns, width));
        double[] weights = KernelLab.Values(a), vs = KernelLab.Values(v), expectedA = KernelLab.Values(gradient), expectedX = new double[rows * width], expectedU = new double[rows * columns];
        var masks = new DropoutMasks(Seed(lab), 7, FirstRow);
        for (var i = 0; i < count; i++)
        {
            var (dropped, kept) = Dropped(lab, inputs, masks, i, rows, x);
            for (var row = 0; row < rows; row++)
            {
                for (var j = i * rank; j < (i + 1) * rank; j++)
                {
                    for (var column = 0; column < width; column++)
                    {
                        expectedU[(row * columns) + j] += dropped[(row * width) + column] * weights[(j * (width + 16)) + column];
                        expectedA[(j * width) + column] += vs[(row * (columns + 8)) + j] * dropped[(row * width) + column];
                        expectedX[(row * width) + column] += kept[(row * width) + column] * vs[(row * (columns + 8)) + j] * weights[(j * (width + 16)) + column] / 0.7;
                    }
                }
            }
        }
        LoraDropoutKernel.Forward(lab.Device, rows, inputs, masks, x, a, ColumnSlice.Of(x, width), lab.New(DType.Float32, LoraDropoutKernel.ForwardPartialShape(rows, inputs)));
        KernelLab.AssertRounded(expectedU, KernelLab.Columns(x, width, columns));
        Tensor dx = lab.New(DType.BFloat16, new Shape(rows, width)), apart = lab.New(DType.BFloat16, dx.Shape), partial = lab.New(DType.Float32, LoraDropoutKernel.BackwardPartialShape(rows, inputs)), other = lab.New(DType.Float32, gradient.Shape);
        lab.Device.Copy(gradient, other);
        LoraDropoutKernel.Backward(lab.Device, rows, inputs, masks, x, a, v, dx, partial, gradient);
        KernelLab.AssertRounded(expectedX, KernelLab.Values(dx));
        KernelLab.AssertClose(expectedA, KernelLab.Values(gradient), 2e-5);
        // Each by itself gives the same bits.
        LoraDropoutKernel.Backward(lab.Device, rows, inputs, masks, x, a, v, default, partial, other);
        LoraDropoutKernel.Backward(lab.Device, rows, inputs, masks, default, a, v, apart, default, default);
        Assert.Equal(KernelLab.Values(gradient), KernelLab.Values(other));
        Assert.Equal(KernelLab.Values(dx), KernelLab.Values(apart));
    }

    /// <summary>The later rows of a batch drop what they drop in the whole.</summary>
    [Fact]
    public void Rows_of_a_chunk_have_the_masks_of_the_batch()
    {
        const int rows = 90, first = 64, width = 128;
        using var lab = NewLab();
        var inputs = new LoraInputs(width, 2, 16, 0.5, 1);
        Tensor x = lab.Random(DType.BFloat16, new Shape(rows, width)), a = lab.Random(DType.BFloat16, new Shape(inputs.Columns, width)), u = lab.New(DType.BFloat16, new Shape(rows, inputs.Columns)), part = lab.New(DType.BFloat16, new Shape(rows - first, inputs.Columns));
        var seed = Seed(lab);
        LoraDropoutKernel.Forward(lab.Device, rows, inputs, new(seed, 1, 0), x, a, u, lab.New(DType.Float32, LoraDropoutKernel.ForwardPartialShape(rows, inputs)));
        LoraDropoutKernel.Forward(lab.Device, rows - first, inputs, new(seed, 1, first), x.Rows(first, rows - first), a, part, lab.New(DType.Float32, LoraDropoutKernel.ForwardPartialShape(rows - first, inputs)));
        Assert.Equal(KernelLab.Values(u.Rows(first, rows - first)), KernelLab.Values(part));
        LoraDropoutKernel.Forward(lab.Device, rows - first, inputs, new(seed, 1, 0), x.Rows(first, rows - first), a, part, lab.New(DType.Float32, LoraDropoutKernel.ForwardPartialShape(rows - first, inputs)));
        Assert.NotEqual(KernelLab.Values(u.Rows(first, rows - first)), KernelLab.Values(part));
    }

    [Fact]
    public void More_rows_never_need_less_memory()
    {
        foreach (var width in new[] { 64, 576, 4096, 14336 })
        {
            var inputs = new LoraInputs(width, 2, 16, 0.1);
            long forward = 0, backward = 0;
            for (var rows = 0; rows < 20_000; rows += 97)
            {
                var (more, most) = (LoraDropoutKernel.ForwardPartialShape(rows, inputs).Count, LoraDropoutKernel.BackwardPartialShape(rows, inputs).Count);
                Assert.True(more >= forward && most >= backward);
                (forward, backward) = (more, most);
            }
        }
    }

    [Fact]
    public void Fp32_odd_ranks_and_widths_and_many_sums_are_left_to_products()
    {
        Assert.False(LoraDropoutKernel.Suits(new(512, 1, 16, 0.1), DType.Float32));
        Assert.False(LoraDropoutKernel.Suits(new(512, 1, 24, 0.1), DType.BFloat16));
        Assert.False(LoraDropoutKernel.Suits(new(512, 1, 4, 0.1), DType.BFloat16));
        Assert.False(LoraDropoutKernel.Suits(new(512, 2, 64, 0.1), DType.BFloat16));
        Assert.False(LoraDropoutKernel.Suits(new(96, 1, 16, 0.1), DType.BFloat16));
    }

    private static Tensor Seed(KernelLab lab)
    {
        var seed = lab.New(DType.Int64, new Shape(1));
        seed.HostSpan<long>()[0] = 77;
        return seed;
    }

    /// <summary>What <see cref="DropoutKernel"/> makes of x, and of ones as 0 and 1.</summary>
    private static (double[] Dropped, double[] Kept) Dropped(KernelLab lab, LoraInputs inputs, DropoutMasks masks, int projection, int rows, Tensor x)
    {
        var kernel = new DropoutKernel(inputs.Probability);
        Tensor Apply(double[] values)
        {
            Tensor source = lab.Of(DType.BFloat16, new Shape(rows, inputs.Inputs), values), result = lab.New(DType.BFloat16, source.Shape);
            kernel.Apply(lab.Device, source, result, masks with { Site = masks.Site + inputs.SiteOf(projection) });
            return result;
        }
        var dropped = KernelLab.Values(Apply(KernelLab.Columns(x, 0, inputs.Inputs)));
        return (dropped, [.. KernelLab.Values(Apply([.. Enumerable.Repeat(1.0, rows * inputs.Inputs)])).Select(value => value > 0 ? 1.0 : 0)]);
    }
}

/// <summary>On the simulated GPU.</summary>
public sealed class LoraDropoutKernelSimulatorTests : LoraDropoutKernelTests
{
    private protected override KernelLab NewLab(long seed = 1) => new(seed, new SimulatorDevice());
}

/// <summary>With products of warp groups.</summary>
public sealed class LoraDropoutKernelHopperSimulatorTests : LoraDropoutKernelTests
{
    private protected override KernelLab NewLab(long seed = 1) => new(seed, new SimulatorDevice(PtxTarget.Sm90));
}
