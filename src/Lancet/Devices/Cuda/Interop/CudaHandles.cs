using System.Runtime.InteropServices;

namespace Lancet.Devices.Cuda.Interop;

/// <summary>
/// An object of the driver that is destroyed once. Destroying needs the context, so owners dispose handles before they let go of the
/// context; errors are ignored, because after a failed kernel every destruction fails.
/// </summary>
internal abstract class CudaHandle : SafeHandle
{
    protected CudaHandle()
        : base(0, true)
    {
    }

    protected CudaHandle(nint value)
        : base(0, true) => SetHandle(value);

    public override bool IsInvalid => handle == 0;

    /// <summary>The raw handle, for calls on hot paths; the caller keeps this object alive.</summary>
    public nint Value => handle;
}

/// <summary>The primary context of a device: retained on creation, released on dispose.</summary>
internal sealed class ContextHandle : CudaHandle
{
    private readonly int _device;

    private ContextHandle(nint value, int device)
        : base(value) => _device = device;

    public static ContextHandle Retain(int device)
    {
        CudaCheck.Driver(Driver.cuDevicePrimaryCtxRetain(out var context, device));
        return new(context, device);
    }

    protected override bool ReleaseHandle()
    {
        Driver.cuDevicePrimaryCtxRelease(_device);
        return true;
    }
}

/// <summary>A stream that does not synchronise with the legacy default stream.</summary>
internal sealed class StreamHandle : CudaHandle
{
    private const uint NonBlocking = 1;

    private StreamHandle(nint value)
        : base(value)
    {
    }

    public static StreamHandle Create()
    {
        CudaCheck.Driver(Driver.cuStreamCreate(out var stream, NonBlocking));
        return new(stream);
    }

    protected override bool ReleaseHandle()
    {
        Driver.cuStreamDestroy(handle);
        return true;
    }
}

/// <summary>An event.</summary>
internal sealed class EventHandle : CudaHandle
{
    private const uint DisableTiming = 2;

    private EventHandle(nint value)
        : base(value)
    {
    }

    public static EventHandle Create(bool hasTiming = false)
    {
        CudaCheck.Driver(Driver.cuEventCreate(out var created, hasTiming ? 0 : DisableTiming));
        return new(created);
    }

    protected override bool ReleaseHandle()
    {
        Driver.cuEventDestroy(handle);
        return true;
    }
}

/// <summary>A loaded module.</summary>
internal sealed class LoadedModuleHandle(nint value) : CudaHandle(value)
{
    protected override bool ReleaseHandle()
    {
        Driver.cuModuleUnload(handle);
        return true;
    }
}

/// <summary>An instantiated graph.</summary>
internal sealed class GraphHandle(nint value) : CudaHandle(value)
{
    protected override bool ReleaseHandle()
    {
        Driver.cuGraphExecDestroy(handle);
        return true;
    }
}

/// <summary>Page-locked host memory.</summary>
internal sealed class PinnedHandle : CudaHandle
{
    // Kernels may read it.
    private const uint RegisterMapped = 2;

    private readonly bool _isRegistered;

    private PinnedHandle(nint value, bool isRegistered)
        : base(value) => _isRegistered = isRegistered;

    public static PinnedHandle Allocate(long bytes)
    {
        if (HostPages.TryTake(bytes) is var pages and not 0)
        {
            if (Register(pages, bytes)) return new(pages, true);
            HostPages.GiveBack(pages);
        }
        CudaCheck.Driver(Driver.cuMemHostAlloc(out var address, (nuint)bytes, 0));
        return new(address, false);
    }

    protected override bool ReleaseHandle()
    {
        if (_isRegistered)
        {
            Driver.cuMemHostUnregister(handle);
            HostPages.GiveBack(handle);
        }
        else
        {
            Driver.cuMemFreeHost(handle);
        }
        return true;
    }

    /// <summary>Locks pages; false where the driver will not, or kernels would know them by another address.</summary>
    private static bool Register(nint pages, long bytes)
    {
        if (Driver.cuMemHostRegister(pages, (nuint)bytes, RegisterMapped) != 0) return false;
        if (Driver.cuMemHostGetDevicePointer(out var address, pages, 0) == 0 && address == pages) return true;
        Driver.cuMemHostUnregister(pages);
        return false;
    }
}
