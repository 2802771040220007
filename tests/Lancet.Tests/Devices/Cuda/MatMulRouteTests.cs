using Lancet.Devices;
using Lancet.Devices.Cpu;
using Lancet.Devices.Cuda;
using Lancet.Devices.Cuda.SelfTest;
using Lancet.Kernels;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Tests.Devices.Cuda;

/// <summary>How products of the layers reach the tensor cores, and what workspace they are planned with.</summary>
public class MatMulRouteTests
{
    private const long Library = 32 << 20;

    [Theory]
    [InlineData(DType.Float32, DType.Float32, DType.Float32, MatMulPath.Library)]
    [InlineData(DType.BFloat16, DType.BFloat16, DType.BFloat16, MatMulPath.Library)]
    [InlineData(DType.BFloat16, DType.BFloat16, DType.Float32, MatMulPath.Library)]
    [InlineData(DType.BFloat16, DType.Float32, DType.Float32, MatMulPath.Tile)]
    [InlineData(DType.Float32, DType.Float32, DType.BFloat16, MatMulPath.Tile)]
    [InlineData(DType.Float16, DType.Float32, DType.Float32, MatMulPath.Tile)]
    public void A_product_takes_the_way_its_dtypes_allow(DType a, DType b, DType c, object path)
    {
        var product = new MatMul
        {
            M = 8192,
            N = 16,
            K = 4096,
            A = new(new Tensor(256, a, new Shape(8192, 4096))),
            B = new(new Tensor(256, b, new Shape(16, 4096)), true),
            C = new Tensor(256, c, new Shape(8192, 16)),
            Alpha = 1,
        };
        var route = MatMulRoute.Of(product);
        Assert.Equal(path, route.Path);
        Assert.Equal(Library, route.WorkspaceBytes);
        Assert.Equal(route.WorkspaceBytes, PlanTarget.Cuda.MatMulWorkspaceBytes(product));
        Assert.Equal(MatMulPath.Tile, MatMulRoute.Of(product, hasLibrary: false).Path);
        Assert.Equal(MatMulPath.Tile, MatMulRoute.Of(product with { K = 0 }).Path);
        Assert.Equal(MatMulPath.Nothing, MatMulRoute.Of(product with { M = 0 }).Path);
    }

    [Fact]
    public void Fp64_is_refused_in_words() => Assert.Contains("--device cpu", Assert.Throws<LancetException>(() => MatMulRoute.Of(new MatMul
    {
        M = 1,
        N = 1,
        K = 1,
        A = new(new Tensor(256, DType.Float64, new Shape(1))),
        B = new(new Tensor(256, DType.Float64, new Shape(1))),
        C = new Tensor(256, DType.Float64, new Shape(1)),
    })).Message);

    /// <summary>
    /// The ways that products take, on the processor: a stand-in for cuBLASLt accepts exactly what cuBLASLt accepts and multiplies with the
    /// processor's own product, so writing out of NF4, strides and addends are all tested.
    /// </summary>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void All_ways_give_the_product(bool hasLibrary)
    {
        using var cpu = new CpuDevice();
        using var device = new RoutedDevice(cpu, hasLibrary);
        foreach (var kind in MatMulChecks.AllKinds)
        {
            foreach (var shape in MatMulChecks.Shapes)
            {
                foreach (var (ta, tb, isPlain) in ((bool, bool, bool)[])[(false, false, false), (false, true, true), (true, false, false), (true, true, true), (false, true, false)])
                {
                    if (kind.IsQuantized && ta) continue;
                    var reference = MatMulChecks.Product(cpu, kind, shape, ta, tb, isPlain, true);
                    double error = Error(reference, MatMulChecks.Product(device, kind, shape, ta, tb, isPlain, false)), plain = Error(reference, MatMulChecks.Product(cpu, kind, shape, ta, tb, isPlain, false));
                    Assert.True(error <= (2 * plain) + 1e-6, $"{kind} {shape} {ta} {tb} {isPlain}: {error:E2}, the processor's own {plain:E2}");
                }
            }
        }
    }

    private static double Error(double[] reference, double[] values) =>
        Math.Sqrt(reference.Zip(values).Sum(pair => (pair.First - pair.Second) * (pair.First - pair.Second)) / reference.Sum(value => value * value));

    private sealed class RoutedDevice : Device
    {
        private readonly CpuDevice _cpu;
        private readonly CudaMatMul _matMul;

        public RoutedDevice(CpuDevice cpu, bool hasLibrary) => (_cpu, _matMul) = (cpu, new CudaMatMul(cpu, hasLibrary ? new StandIn(cpu) : null, 99 << 10));

        public override string Name => "routed";

        public override long AllocatedBytes => 0;

        public override long PeakAllocatedBytes => 0;

        public override long AvailableBytes => 0;

        public override DeviceBuffer Allocate(long bytes, string purpose) => _cpu.Allocate(bytes, purpose);

        public override void Launch(Kernel kernel, Grid grid, ReadOnlySpan<KernelArgument> arguments) => _cpu.Launch(kernel, grid, arguments);

        public override void MatMul(in MatMul product) => _matMul.Multiply(product);

        public override void CopyFromHost(ReadOnlySpan<byte> source, Tensor destination) => _cpu.CopyFromHost(source, destination);

        public override void CopyToHost(Tensor source, Span<byte> destination) => _cpu.CopyToHost(source, destination);

        public override void Copy(Tensor source, Tensor destination) => _cpu.Copy(source, destination);

        public override void Clear(Tensor destination) => _cpu.Clear(destination);

        public override void Synchronize()
        {
        }

        protected override void Dispose(bool disposing) => _matMul.Dispose();
    }

    private sealed class StandIn(CpuDevice cpu) : IMatMulLibrary
    {
        public string Name => "stand-in";

        public bool TryMultiply(in MatMul product, (nint Address, long Bytes) workspace)
        {
            Assert.Null(product.A.Quantized);
            Assert.Null(product.B.Quantized);
            var dtype = product.A.Tensor.DType;
            Assert.Equal(dtype, product.B.Tensor.DType);
            Assert.Contains(dtype, (DType[])[DType.Float32, DType.BFloat16, DType.Float16]);
            Assert.True(product.C.DType == dtype || product.C.DType == DType.Float32);
            if (!product.Bias.Exists)
            {
                cpu.MatMul(product);
                return true;
            }
            Assert.Equal(product.C.DType, product.Bias.DType);
            using var wide = cpu.Allocate(product.N * sizeof(float), "bias");
            var bias = wide.View(DType.Float32, new Shape(product.N));
            ElementwiseKernel.Convert(cpu, product.Bias, bias);
            cpu.MatMul(product with { Bias = bias });
            return true;
        }

        public void Dispose()
        {
        }
    }
}
