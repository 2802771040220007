using Lancet.Devices;
using Lancet.Kernels;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Tests.Planning;

/// <summary>What a step is predicted to move.</summary>
public class PlanningDeviceTests
{
    private const nint Address = 1 << 20;

    [Fact]
    public void Kernels_on_some_columns_of_a_matrix_count_those_columns()
    {
        var wide = new Tensor(Address, DType.BFloat16, new Shape(100, 1000));
        Assert.Equal(2 * 100 * (1000 + 1000), Bytes(device => ElementwiseKernel.Convert(device, wide, wide)));
        Assert.Equal(2 * 100 * (8 + 8), Bytes(device => ElementwiseKernel.ConvertRows(device, 100, 8, ColumnSlice.Of(wide, 16), ColumnSlice.Of(wide, 992))));
    }

    [Fact]
    public void Adapters_outputs_are_read_once_and_partial_sums_written_and_read()
    {
        const int rows = 256;
        var outputs = new LoraOutputs(2048, 1024, 2048, 16);
        var (v, b) = LoraBackwardKernel.PartialShapes(rows, outputs, PlanTarget.Cuda);
        var dy = new Tensor(Address, DType.BFloat16, new Shape(rows, 2080));
        Tensor scaledB = new(Address, DType.BFloat16, new Shape(2048, 32)), u = new(Address, DType.BFloat16, new Shape(rows, 32)), gradient = new(Address, DType.Float32, new Shape(2048, 16));
        var operands = (2 * rows * 2048) + (2 * 2048 * 32) + (2 * rows * 32);
        var results = (2 * rows * 32) + (4 * 2048 * 16);
        Assert.Equal(operands + results + (2 * 4 * (v.Count + b.Count)), Bytes(device => LoraBackwardKernel.Run(
            device, rows, outputs, dy, scaledB, u, ColumnSlice.Of(dy, 2048), 1, (new Tensor(Address, DType.Float32, v), new Tensor(Address, DType.Float32, b)), gradient)));
    }

    private static double Bytes(Action<Device> work)
    {
        var sum = new Sum();
        using var device = new PlanningDevice(PlanTarget.Cuda) { Trace = sum };
        work(device);
        return sum.Bytes;
    }

    private sealed class Sum : IDeviceTrace
    {
        public double Bytes { get; private set; }

        public void Kernel(double bytes) => Bytes += bytes;

        public void MatMul(in MatMul product) => Assert.Fail("a product");

        public void GroupedOperations(double operations) => Assert.Fail("a product");

        public void CopyOut(long bytes, int channel) => Assert.Fail("a copy");

        public void CopyIn(long bytes, int channel) => Assert.Fail("a copy");

        public void Await(int channel) => Assert.Fail("a copy");
    }
}
