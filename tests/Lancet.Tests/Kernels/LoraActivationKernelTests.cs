using Lancet.Kernels;
using Lancet.Tensors;
using Lancet.Tests.Devices;
using Lancet.Tile;
using Lancet.Tile.Ptx;

namespace Lancet.Tests.Kernels;

public class LoraActivationKernelTests
{
    /// <summary>Laboratory of the device under test.</summary>
    private protected virtual KernelLab NewLab(long seed = 1) => new(seed);

    [Theory]
    [InlineData(70, 64, 16, GatedActivation.Silu)]
    [InlineData(1, 128, 8, GatedActivation.Silu)]
    [InlineData(40, 576, 32, GatedActivation.GeluTanh)]
    [InlineData(33, 1088, 64, GatedActivation.Silu)]
    [InlineData(97, 320, 16, GatedActivation.Gelu)]
    public void Large_results_are_the_activations_and_small_ones_plain_sums_in_fp64(int rows, int width, int rank, GatedActivation activation)
    {
        const int room = 16;
        using var lab = NewLab(rows);
        var (plain, kernel) = (new GatedActivationKernel(activation, width), new LoraActivationKernel(activation, width));
        Assert.True(kernel.Suits(rank, DType.BFloat16));
        var gateUp = lab.Random(DType.BFloat16, new Shape(rows, (2 * width) + room), 4);
        Tensor a = lab.Random(DType.BFloat16, new Shape(rank, width + room)), v = lab.Random(DType.BFloat16, new Shape(rows, rank + 8)), dh = lab.Random(DType.BFloat16, new Shape(rows, width)), gradient = lab.Random(DType.Float32, new Shape(rank, width));
        Tensor h = lab.New(DType.BFloat16, new Shape(rows, width + rank)), plainH = lab.New(DType.BFloat16, dh.Shape), partial = lab.New(DType.Float32, kernel.ForwardPartialShape(rows, rank));
        plain.Forward(lab.Device, rows, gateUp, plainH);
        kernel.Forward(lab.Device, rows, gateUp, h, a, rank, partial);
        kernel.AddUp(lab.Device, rows, rank, partial, ColumnSlice.Of(h, width));
        double[] hs = KernelLab.Values(plainH), weights = KernelLab.Values(a), vs = KernelLab.Values(v), expectedU = new double[rows * rank], expectedA = KernelLab.Values(gradient);
        for (var row = 0; row < rows; row++)
        {
            for (var j = 0; j < rank; j++)
            {
                for (var column = 0; column < width; column++)
                {
                    expectedU[(row * rank) + j] += hs[(row * width) + column] * weights[(j * (width + room)) + column];
                    expectedA[(j * width) + column] += vs[(row * (rank + 8)) + j] * hs[(row * width) + column];
                }
            }
        }
        Assert.Equal(hs, KernelLab.Columns(h, 0, width));
        KernelLab.AssertRounded(expectedU, KernelLab.Columns(h, width, rank));

        var plainGradient = lab.New(DType.BFloat16, gateUp.Shape);
        lab.Device.Copy(gateUp, plainGradient);
        kernel.Backward(lab.Device, rows, gateUp, dh, v, rank, lab.New(DType.Float32, kernel.BackwardPartialShape(rows, rank)), gradient);
        plain.Backward(lab.Device, rows, plainGradient, dh);
        Assert.Equal(KernelLab.Values(plainGradient), KernelLab.Values(gateUp));
        KernelLab.AssertClose(expectedA, KernelLab.Values(gradient), 2e-5);
    }

    /// <summary>Memory is planned for the longest batch.</summary>
    [Fact]
    public void More_rows_never_need_less_memory()
    {
        foreach (var width in new[] { 64, 576, 1536, 14336 })
        {
            var kernel = new LoraActivationKernel(GatedActivation.Silu, width);
            long forward = 0, backward = 0;
            for (var rows = 0; rows < 20_000; rows += 97)
            {
                var (more, most) = (kernel.ForwardPartialShape(rows, 16).Count, kernel.BackwardPartialShape(rows, 16).Count);
                Assert.True(more >= forward && most >= backward);
                (forward, backward) = (more, most);
            }
        }
    }

    [Fact]
    public void Fp32_odd_ranks_and_widths_are_left_to_products()
    {
        Assert.False(new LoraActivationKernel(GatedActivation.Silu, 512).Suits(16, DType.Float32));
        Assert.False(new LoraActivationKernel(GatedActivation.Silu, 512).Suits(24, DType.BFloat16));
        Assert.False(new LoraActivationKernel(GatedActivation.Silu, 512).Suits(128, DType.BFloat16));
        Assert.False(new LoraActivationKernel(GatedActivation.Silu, 96).Suits(16, DType.BFloat16));
    }
}

/// <summary>On the simulated GPU.</summary>
public sealed class LoraActivationKernelSimulatorTests : LoraActivationKernelTests
{
    private protected override KernelLab NewLab(long seed = 1) => new(seed, new SimulatorDevice());
}

/// <summary>With products of warp groups.</summary>
public sealed class LoraActivationKernelHopperSimulatorTests : LoraActivationKernelTests
{
    private protected override KernelLab NewLab(long seed = 1) => new(seed, new SimulatorDevice(PtxTarget.Sm90));
}
