using Lancet.Devices;
using Lancet.Devices.Cpu;

namespace Lancet.Tests.Devices;

/// <summary>The processor with everything laid out as on a GPU: adapters in the border of their weights, nothing read in place.</summary>
internal sealed class GpuPlanDevice() : ForwardingDevice(new CpuDevice())
{
    // So that the host's memory does not count as the device's.
    private readonly CpuDevice _host = new();

    public override PlanTarget PlanTarget => PlanTarget.Cuda;

    public override DeviceRates MeasureRates() => PlanTarget.Rates;

    public override DeviceBuffer AllocateHost(long bytes, string purpose) => _host.Allocate(bytes, purpose);

    protected override void Dispose(bool disposing)
    {
        if (!disposing) return;
        Inner.Dispose();
        _host.Dispose();
    }
}
