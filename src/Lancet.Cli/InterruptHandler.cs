using System.Runtime.InteropServices;

namespace Lancet.Cli;

/// <summary>Turns the first Ctrl-C (or SIGTERM) into a cancellation, so that a run saves and ends; a second one ends the process.</summary>
internal sealed class InterruptHandler : IDisposable
{
    private readonly CancellationTokenSource _cancellation;
    private readonly PosixSignalRegistration[] _registrations;

    public InterruptHandler(CancellationTokenSource cancellation)
    {
        _cancellation = cancellation;
        _registrations = [PosixSignalRegistration.Create(PosixSignal.SIGINT, Handle), PosixSignalRegistration.Create(PosixSignal.SIGTERM, Handle)];
    }

    public void Dispose()
    {
        foreach (var registration in _registrations) registration.Dispose();
    }

    private void Handle(PosixSignalContext context)
    {
        if (_cancellation.IsCancellationRequested) return;
        context.Cancel = true;
        Console.Error.WriteLine("\nStopping after this step; a checkpoint will be saved. Once more to stop at once.");
        _cancellation.Cancel();
    }
}
