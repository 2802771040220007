using System.Globalization;
using Lancet.Devices.Cuda.Interop;
using Lancet.Tensors;

namespace Lancet.Devices.Cuda;

// Memory: allocation, and copies through pinned staging.
public sealed partial class CudaDevice
{
    /// <inheritdoc/>
    public override DeviceBuffer Allocate(long bytes, string purpose)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(bytes);
        if (IsCapturing) throw new InvalidOperationException($"{bytes} bytes for {purpose} are allocated while a graph is recorded; they should have been reserved before.");
        MakeCurrent();
        var buffer = TryAllocate(bytes) ?? throw OutOfMemory(bytes, purpose);
        CudaCheck.Driver(Driver.cuMemsetD8Async(buffer.Address, 0, (nuint)bytes, TakeComputeStream()));
        return buffer;
    }

    /// <inheritdoc/>
    public override void CopyFromHost(ReadOnlySpan<byte> source, Tensor destination)
    {
        if (source.Length != destination.Bytes) throw new ArgumentException($"{source.Length} bytes for {destination}.");
        if (IsCapturing) throw new InvalidOperationException("Host memory cannot be copied while a graph is recorded: the recording would repeat today's bytes.");
        MakeCurrent();
        lock (_lock) _ring.Send(source, destination.Address, TakeComputeStream());
    }

    /// <inheritdoc/>
    public override void CopyToHost(Tensor source, Span<byte> destination)
    {
        if (destination.Length != source.Bytes) throw new ArgumentException($"{destination.Length} bytes for {source}.");
        if (IsCapturing) throw new InvalidOperationException("Nothing can be read back while a graph is recorded.");
        MakeCurrent();
        lock (_lock) _ring.Receive(source.Address, destination, TakeComputeStream());
    }

    /// <inheritdoc/>
    public override void Copy(Tensor source, Tensor destination)
    {
        if (source.Bytes != destination.Bytes) throw new ArgumentException($"Copy of {source} to {destination}.");
        if (source.Bytes == 0) return;
        MakeCurrent();
        CudaCheck.Driver(Driver.cuMemcpyDtoDAsync(destination.Address, source.Address, (nuint)source.Bytes, TakeComputeStream()));
    }

    /// <inheritdoc/>
    public override DeviceBuffer AllocateHost(long bytes, string purpose)
    {
        MakeCurrent();
        try
        {
            return new PinnedBuffer(PinnedHandle.Allocate(Math.Max(1, bytes)), bytes);
        }
        catch (CudaException inner)
        {
            throw new LancetException($"{bytes / 1048576.0:N0} MiB of page-locked host memory for {purpose} are not to be had; choose another --activation-policy than offload, or raise --memory-budget.", inner);
        }
    }

    /// <inheritdoc/>
    public override void CopyOut(Tensor source, Tensor host, int channel) => CopyBeside(_copyOut.Value, channel, stream => Driver.cuMemcpyDtoHAsync(host.Address, source.Address, (nuint)source.Bytes, stream));

    /// <inheritdoc/>
    public override void CopyIn(Tensor host, Tensor destination, int channel) => CopyBeside(_copyIn.Value, channel, stream => Driver.cuMemcpyHtoDAsync(destination.Address, host.Address, (nuint)destination.Bytes, stream));

    /// <inheritdoc/>
    public override void AwaitCopy(int channel)
    {
        MakeCurrent();
        CudaCheck.Driver(Driver.cuStreamWaitEvent(TakeComputeStream(), _copies[channel].End.Value, 0));
    }

    // While a graph is recorded the events make the copy streams a part of it, and the copies its parallel branches.
    private void CopyBeside(nint stream, int channel, Func<nint, int> copy)
    {
        MakeCurrent();
        while (_copies.Count <= channel) _copies.Add((EventHandle.Create(), EventHandle.Create()));
        var (start, end) = _copies[channel];
        CudaCheck.Driver(Driver.cuEventRecord(start.Value, TakeComputeStream()));
        CudaCheck.Driver(Driver.cuStreamWaitEvent(stream, start.Value, 0));
        CudaCheck.Driver(copy(stream), "a copy between device and host");
        CudaCheck.Driver(Driver.cuEventRecord(end.Value, stream));
    }

    /// <inheritdoc/>
    public override void Clear(Tensor destination)
    {
        if (destination.Bytes == 0) return;
        MakeCurrent();
        CudaCheck.Driver(Driver.cuMemsetD8Async(destination.Address, 0, (nuint)destination.Bytes, TakeComputeStream()));
    }

    /// <summary>Memory that is not set to zero, or null if there is not enough.</summary>
    internal DeviceBuffer? TryAllocate(long bytes)
    {
        MakeCurrent();
        var code = Driver.cuMemAlloc(out var address, (nuint)Math.Max(1, bytes));
        if (code == CudaCheck.OutOfMemory) return null;
        CudaCheck.Driver(code, nameof(Driver.cuMemAlloc));
        var now = Interlocked.Add(ref _allocated, bytes);
        for (var peak = Interlocked.Read(ref _peak); now > peak && Interlocked.CompareExchange(ref _peak, now, peak) != peak;) peak = Interlocked.Read(ref _peak);
        return new CudaBuffer(this, address, bytes);
    }

    private LancetException OutOfMemory(long bytes, string purpose) => new(string.Create(CultureInfo.InvariantCulture,
        $"{bytes / 1048576.0:N0} MiB of memory on {Name} for {purpose} are not to be had; {AvailableBytes / 1048576.0:N0} MiB of {Info.MemoryBytes / 1048576.0:N0} MiB are free, Lancet holds {AllocatedBytes / 1048576.0:N0} MiB. Lower --max-seq-length or --batch-size, or choose --method qlora or --activation-policy offload."));

    private sealed class PinnedBuffer(PinnedHandle memory, long bytes) : DeviceBuffer
    {
        public override nint Address => memory.Value;

        public override long Bytes => bytes;

        protected override void Dispose(bool disposing)
        {
            if (disposing) memory.Dispose();
        }
    }

    private sealed class CudaBuffer(CudaDevice device, nint address, long bytes) : DeviceBuffer
    {
        private nint _address = address;

        public override nint Address => _address == 0 ? throw new ObjectDisposedException(nameof(DeviceBuffer)) : _address;

        public override long Bytes => bytes;

        protected override void Dispose(bool disposing)
        {
            if (_address == 0) return;
            // A device that is gone has taken its memory with it.
            if (!device._isDisposed)
            {
                device.MakeCurrent();
                _ = Driver.cuMemFree(_address);
            }
            _address = 0;
            Interlocked.Add(ref device._allocated, -bytes);
        }
    }
}
