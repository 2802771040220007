using Lancet.Devices;
using Lancet.Devices.Cuda;

namespace Lancet.Cli;

/// <summary>A device that is opened beside other work: a GPU's driver and its library of products take a while to start.</summary>
/// <param name="choice">Device.</param>
/// <param name="ptxFolder">Receives the PTX of every kernel that a GPU compiles, or null.</param>
internal sealed class OpeningDevice(DeviceChoice choice, PtxFolder? ptxFolder) : IDisposable
{
    private readonly Task<Device> _task = Task.Run(() => choice.Open(ptxFolder));
    private bool _isTaken;

    /// <summary>The device, which is the caller's from here on.</summary>
    /// <exception cref="LancetException">It cannot be used; the message says why.</exception>
    public Device Take()
    {
        var device = _task.GetAwaiter().GetResult();
        _isTaken = true;
        return device;
    }

    /// <summary>Closes a device that nobody has taken, once it is open.</summary>
    public void Dispose()
    {
        if (!_isTaken) _task.ContinueWith(task => task.Result.Dispose(), CancellationToken.None, TaskContinuationOptions.OnlyOnRanToCompletion, TaskScheduler.Default);
    }
}
