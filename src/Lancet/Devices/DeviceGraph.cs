namespace Lancet.Devices;

/// <summary>A recorded sequence of launches, products, copies and clears, which a device can run again with one call.</summary>
public abstract class DeviceGraph : IDisposable
{
    /// <summary>Number of recorded operations.</summary>
    public abstract int NodeCount { get; }

    /// <summary>Queues everything that was recorded, with the addresses and numbers of the recording.</summary>
    public abstract void Replay();

    /// <inheritdoc/>
    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Frees the recording.</summary>
    protected abstract void Dispose(bool disposing);
}
