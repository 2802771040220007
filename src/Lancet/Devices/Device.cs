using System.Runtime.InteropServices;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Devices;

/// <summary>
/// Where tensors live and kernels run. Calls are queued in order on one compute stream; only <see cref="CopyToHost"/> and
/// <see cref="Synchronize"/> wait. Nothing above this class assumes that device memory can be read by the host.
/// </summary>
public abstract class Device : IDisposable
{
    /// <summary>Name for people, such as <c>cpu (AMD EPYC, 2 threads)</c>.</summary>
    public abstract string Name { get; }

    /// <summary>Bytes handed out by <see cref="Allocate"/> and not yet freed.</summary>
    public abstract long AllocatedBytes { get; }

    /// <summary>Largest value that <see cref="AllocatedBytes"/> has had.</summary>
    public abstract long PeakAllocatedBytes { get; }

    /// <summary>Bytes that could still be allocated.</summary>
    public abstract long AvailableBytes { get; }

    /// <summary>Allocates zeroed memory, aligned to at least 256 bytes.</summary>
    /// <param name="bytes">Size.</param>
    /// <param name="purpose">What for, for error messages and the memory breakdown.</param>
    /// <exception cref="LancetException">The memory is not there.</exception>
    public abstract DeviceBuffer Allocate(long bytes, string purpose);

    /// <summary>Queues a kernel.</summary>
    public abstract void Launch(Kernel kernel, Grid grid, ReadOnlySpan<KernelArgument> arguments);

    /// <summary>Queues a matrix product.</summary>
    public abstract void MatMul(in MatMul product);

    /// <summary>Queues a product for each expert: in the tile language, where a device has nothing better.</summary>
    public virtual void MatMul(in GroupedMatMul product) => Kernels.GroupedGemmKernel.Multiply(this, product);

    /// <summary>Queues the gradients of experts' matrices, likewise.</summary>
    public virtual void MatMul(in GroupedGradient product) => Kernels.GroupedGemmKernel.Accumulate(this, product);

    /// <summary>Sets aside the workspace of later matrix products, so that none of them has to allocate.</summary>
    /// <param name="bytes">What the largest product needs.</param>
    public virtual void ReserveMatMulWorkspace(long bytes)
    {
    }

    /// <summary>What a step's products cost here, for planning without this device.</summary>
    public virtual PlanTarget PlanTarget { get; } = PlanTarget.Cpu(1);

    /// <summary>How fast the device is: measured the first time, where that is worth it. Plans are predicted with it.</summary>
    public virtual DeviceRates MeasureRates() => PlanTarget.Rates;

    /// <summary>Compiles kernels ahead of their first launch, side by side; does nothing where compiling is quick.</summary>
    public virtual void Prepare(IReadOnlyCollection<KernelVariant> kernels)
    {
    }

    /// <summary>What was assembled and timed so far.</summary>
    public virtual DevicePreparation Preparation => default;

    /// <summary>Whether <see cref="Capture"/> records.</summary>
    public virtual bool HasGraphs => false;

    /// <summary>Records what <paramref name="work"/> queues, without running it; null on devices without graphs, which do nothing.</summary>
    /// <param name="work">Launches, products, copies on the device and clears; no copies from or to the host, no allocations.</param>
    public virtual DeviceGraph? Capture(Action work) => null;

    /// <summary>Queues a copy of host bytes to the device. The source may be reused on return.</summary>
    public abstract void CopyFromHost(ReadOnlySpan<byte> source, Tensor destination);

    /// <summary>Waits for all queued work and copies a tensor to the host.</summary>
    public abstract void CopyToHost(Tensor source, Span<byte> destination);

    /// <summary>Waits for all queued work and copies an fp32 or fp64 tensor to the host as fp32.</summary>
    internal void CopyToHostAsFloat32(Tensor source, Span<float> destination)
    {
        if (source.DType == DType.Float32)
        {
            CopyToHost(source, MemoryMarshal.AsBytes(destination));
            return;
        }
        var wide = new double[destination.Length];
        CopyToHost(source, MemoryMarshal.AsBytes(wide.AsSpan()));
        for (var i = 0; i < wide.Length; i++) destination[i] = (float)wide[i];
    }

    /// <summary>Queues a copy between tensors of equal size in bytes.</summary>
    public abstract void Copy(Tensor source, Tensor destination);

    /// <summary>Allocates host memory for <see cref="CopyOut"/> and <see cref="CopyIn"/>: page-locked where the device copies from and to it by itself.</summary>
    /// <param name="bytes">Size.</param>
    /// <param name="purpose">What for, for error messages.</param>
    /// <exception cref="LancetException">The memory is not there.</exception>
    public virtual DeviceBuffer AllocateHost(long bytes, string purpose) => Allocate(bytes, purpose);

    /// <summary>
    /// Starts a copy to host memory once everything queued so far is done, and goes on: what is queued next runs beside it. The source must
    /// stay as it is until <see cref="AwaitCopy"/>.
    /// </summary>
    /// <param name="source">Device memory.</param>
    /// <param name="host">A view of <see cref="AllocateHost"/>'s memory.</param>
    /// <param name="channel">Number that tells this copy from others under way.</param>
    public virtual void CopyOut(Tensor source, Tensor host, int channel) => Copy(source, host);

    /// <summary>Starts a copy from host memory like <see cref="CopyOut"/>; the destination must not be used until <see cref="AwaitCopy"/>.</summary>
    /// <param name="host">A view of <see cref="AllocateHost"/>'s memory.</param>
    /// <param name="destination">Device memory.</param>
    /// <param name="channel">Number that tells this copy from others under way.</param>
    public virtual void CopyIn(Tensor host, Tensor destination, int channel) => Copy(host, destination);

    /// <summary>What is queued next waits for the copy; the host does not.</summary>
    /// <param name="channel">As given to <see cref="CopyOut"/> or <see cref="CopyIn"/>.</param>
    public virtual void AwaitCopy(int channel)
    {
    }

    /// <summary>Queues setting all bytes to zero.</summary>
    public abstract void Clear(Tensor destination);

    /// <summary>Waits until all queued work is done.</summary>
    public abstract void Synchronize();

    /// <inheritdoc/>
    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Frees what the device owns.</summary>
    protected virtual void Dispose(bool disposing)
    {
    }
}

/// <summary>A kernel, and what is known of the arguments of a launch: a device may keep faster code for divisible ones.</summary>
/// <param name="Kernel">The kernel.</param>
/// <param name="DivisibleArguments">See <see cref="Tile.Ptx.PtxCompiler.Divisible"/>.</param>
public readonly record struct KernelVariant(Kernel Kernel, ulong DivisibleArguments);

/// <summary>Memory on a device, freed on dispose.</summary>
public abstract class DeviceBuffer : IDisposable
{
    /// <summary>Address of the first byte.</summary>
    public abstract nint Address { get; }

    /// <summary>Size.</summary>
    public abstract long Bytes { get; }

    /// <summary>A view of the start of the buffer, from a byte offset.</summary>
    public Tensor View(DType dtype, Shape shape, long byteOffset = 0) => byteOffset + shape.Count * dtype.SizeInBytes() <= Bytes
        ? new((nint)(Address + byteOffset), dtype, shape)
        : throw new ArgumentOutOfRangeException(nameof(shape), $"{dtype}{shape} at byte {byteOffset} passes the end of a buffer of {Bytes} bytes.");

    /// <inheritdoc/>
    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Frees the memory.</summary>
    protected abstract void Dispose(bool disposing);
}
