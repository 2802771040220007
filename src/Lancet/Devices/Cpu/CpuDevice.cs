using System.Runtime.InteropServices;
using Lancet.Tensors;
using Lancet.Tile;
using Lancet.Tile.Cpu;

namespace Lancet.Devices.Cpu;

/// <summary>
/// The processor as a device: kernels run on the tile executor, matrix products on <see cref="CpuGemm"/>, both over one pool of threads.
/// Every call completes before it returns.
/// </summary>
public sealed unsafe class CpuDevice : Device
{
    private readonly WorkerPool _pool;
    private readonly GemmWorkspace _workspace = new();
    private long _allocated;
    private long _peak;

    /// <summary>Creates a device over a pool of threads; the shared pool if none is given.</summary>
    public CpuDevice(WorkerPool? pool = null)
    {
        _pool = pool ?? WorkerPool.Shared;
        PlanTarget = PlanTarget.Cpu(_pool.ThreadCount);
    }

    /// <summary>Threads that kernels and products run on.</summary>
    public int ThreadCount => _pool.ThreadCount;

    /// <inheritdoc/>
    public override string Name => $"cpu ({_pool.ThreadCount} threads)";

    /// <inheritdoc/>
    public override PlanTarget PlanTarget { get; }

    /// <inheritdoc/>
    public override long AllocatedBytes => Interlocked.Read(ref _allocated) + _workspace.Bytes;

    /// <inheritdoc/>
    public override long PeakAllocatedBytes => Interlocked.Read(ref _peak) + _workspace.Bytes;

    /// <inheritdoc/>
    public override long AvailableBytes => GC.GetGCMemoryInfo().TotalAvailableMemoryBytes - Environment.WorkingSet;

    /// <inheritdoc/>
    public override DeviceBuffer Allocate(long bytes, string purpose)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(bytes);
        return new HostBuffer(this, bytes, purpose);
    }

    /// <inheritdoc/>
    public override void Launch(Kernel kernel, Grid grid, ReadOnlySpan<KernelArgument> arguments)
    {
        if (grid.Count > 0) CpuExecutor.Launch(kernel, grid, arguments, _pool);
    }

    /// <inheritdoc/>
    public override void MatMul(in MatMul product)
    {
        if (product.Addend.Exists) Copy(product.Addend, product.C);
        var bias = product.Bias.Exists ? (void*)product.Bias.Address : null;
        CpuGemm.Multiply(
            _pool, product.M, product.N, product.K, Operand(product.A, product.A.IsTransposed ? product.M : product.K),
            Operand(product.B, product.B.IsTransposed ? product.K : product.N), (void*)product.C.Address, product.C.DType,
            product.LeadingDimensionC == 0 ? product.N : product.LeadingDimensionC, product.Alpha, product.Beta, bias, _workspace);
    }

    /// <inheritdoc/>
    public override void MatMul(in GroupedMatMul product)
    {
        // Work on the processor is done when it is queued, so the experts' counts can be read.
        var starts = product.Rows.Starts.HostSpan<int>();
        for (var expert = 0; expert < product.Rows.ExpertCount; expert++)
        {
            var rows = starts[expert + 1] - starts[expert];
            if (rows == 0) continue;
            var (a, c) = (product.A.At(starts[expert] * product.A.RowStride), product.C.At(starts[expert] * product.C.RowStride));
            MatMul(new MatMul
            {
                M = rows,
                N = product.N,
                K = product.K,
                A = new(a.Tensor, false, a.RowStride),
                B = product.B[expert],
                C = c.Tensor,
                LeadingDimensionC = c.RowStride,
                Alpha = product.Alpha,
                Beta = product.Beta,
            });
        }
    }

    /// <inheritdoc/>
    public override void MatMul(in GroupedGradient product)
    {
        var starts = product.Rows.Starts.HostSpan<int>();
        for (var expert = 0; expert < product.Rows.ExpertCount; expert++)
        {
            var rows = starts[expert + 1] - starts[expert];
            if (rows == 0) continue;
            var (a, b) = (product.A.At(starts[expert] * product.A.RowStride), product.B.At(starts[expert] * product.B.RowStride));
            MatMul(new MatMul
            {
                M = product.M,
                N = product.N,
                K = rows,
                A = new(a.Tensor, true, a.RowStride),
                B = new(b.Tensor, false, b.RowStride),
                C = product.C[expert].Tensor,
                Alpha = product.Alpha,
                Beta = 1,
            });
        }
    }

    /// <inheritdoc/>
    public override void ReserveMatMulWorkspace(long bytes) => _workspace.Ensure(bytes);

    /// <inheritdoc/>
    public override void CopyFromHost(ReadOnlySpan<byte> source, Tensor destination)
    {
        if (source.Length != destination.Bytes) throw new ArgumentException($"{source.Length} bytes for {destination}.");
        source.CopyTo(new Span<byte>((void*)destination.Address, source.Length));
    }

    /// <inheritdoc/>
    public override void CopyToHost(Tensor source, Span<byte> destination)
    {
        if (destination.Length != source.Bytes) throw new ArgumentException($"{destination.Length} bytes for {source}.");
        new ReadOnlySpan<byte>((void*)source.Address, destination.Length).CopyTo(destination);
    }

    /// <inheritdoc/>
    public override void Copy(Tensor source, Tensor destination)
    {
        if (source.Bytes != destination.Bytes) throw new ArgumentException($"Copy of {source} to {destination}.");
        Buffer.MemoryCopy((void*)source.Address, (void*)destination.Address, destination.Bytes, source.Bytes);
    }

    /// <inheritdoc/>
    public override void Clear(Tensor destination) => NativeMemory.Clear((void*)destination.Address, (nuint)destination.Bytes);

    /// <inheritdoc/>
    public override void Synchronize()
    {
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing) _workspace.Dispose();
    }

    private static GemmOperand Operand(in MatMulOperand operand, int columns)
    {
        if (operand.Quantized is { } nf4)
        {
            return GemmOperand.Nf4(
                (byte*)nf4.Codes.Address, (byte*)nf4.AbsMaxCodes.Address, (float*)nf4.NestedAbsMax.Address, (float*)nf4.NestedCodeTable.Address,
                *(float*)nf4.NestedOffset.Address, nf4.Columns, operand.IsTransposed);
        }
        return GemmOperand.Dense((void*)operand.Tensor.Address, operand.Tensor.DType, operand.LeadingDimension == 0 ? columns : operand.LeadingDimension, operand.IsTransposed);
    }

    private sealed class HostBuffer : DeviceBuffer
    {
        private const int Alignment = 256;
        private readonly CpuDevice _device;
        private void* _memory;

        public HostBuffer(CpuDevice device, long bytes, string purpose)
        {
            _device = device;
            Bytes = bytes;
            try
            {
                // Zeroed allocation of fresh pages costs nothing until they are touched; aligning by hand keeps that.
                _memory = NativeMemory.AllocZeroed((nuint)bytes + Alignment);
            }
            catch (OutOfMemoryException inner)
            {
                throw new LancetException($"{bytes / 1048576.0:N0} MiB of memory for {purpose} are not to be had; lower --max-seq-length or --batch-size, or choose another --activation-policy.", inner);
            }
            var now = Interlocked.Add(ref device._allocated, bytes);
            for (var peak = Interlocked.Read(ref device._peak); now > peak && Interlocked.CompareExchange(ref device._peak, now, peak) != peak;) peak = Interlocked.Read(ref device._peak);
        }

        ~HostBuffer() => Dispose(false);

        public override nint Address => _memory is null ? throw new ObjectDisposedException(nameof(DeviceBuffer)) : (nint)(((long)_memory + Alignment - 1) / Alignment * Alignment);

        public override long Bytes { get; }

        protected override void Dispose(bool disposing)
        {
            if (_memory is null) return;
            NativeMemory.Free(_memory);
            _memory = null;
            Interlocked.Add(ref _device._allocated, -Bytes);
        }
    }
}
