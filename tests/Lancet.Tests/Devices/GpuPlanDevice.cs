using Lancet.Devices;
using Lancet.Devices.Cpu;

namespace Lancet.Tests.Devices;

/// <summary>The processor with everything laid out as on a GPU: adapters in the border of their weights, nothing read in place.</summary>
internal sealed class GpuPlanDevice() : ForwardingDevice(new CpuDevice())
{
    public override PlanTarget PlanTarget => PlanTarget.Cuda;

    public override DeviceRates MeasureRates() => PlanTarget.Rates;

    protected override void Dispose(bool disposing)
    {
        if (disposing) Inner.Dispose();
    }
}
