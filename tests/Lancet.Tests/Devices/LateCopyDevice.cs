using Lancet.Devices;
using Lancet.Devices.Cpu;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Tests.Devices;

/// <summary>
/// Laid out as on a GPU, with copy streams, one a direction, as unkind as streams may be: a copy happens when it is waited for and not before, its target is noise until then, and
/// nothing may be launched that overwrites its source.
/// </summary>
internal sealed class LateCopyDevice() : ForwardingDevice(new CpuDevice())
{
    private readonly List<(Tensor Source, Tensor Target, bool IsOut, int Channel, byte[] Expected)> _pending = [];

    public override PlanTarget PlanTarget => PlanTarget.Cuda;

    public override DeviceRates MeasureRates() => PlanTarget.Rates;

    /// <summary>Copies waited for.</summary>
    public int CopyCount { get; private set; }

    /// <summary>Most copies that were under way at the same time.</summary>
    public int MostPending { get; private set; }

    public override void CopyOut(Tensor source, Tensor host, int channel) => Start(source, host, true, channel);

    public override void CopyIn(Tensor host, Tensor destination, int channel) => Start(host, destination, false, channel);

    public override void AwaitCopy(int channel)
    {
        // What was started before in the same direction is done as well.
        var last = _pending.FindLastIndex(copy => copy.Channel == channel);
        if (last < 0) return;
        var arrived = _pending.Take(last + 1).Where(copy => copy.IsOut == _pending[last].IsOut).ToArray();
        foreach (var copy in arrived)
        {
            var (source, target, _, _, expected) = copy;
            Assert.True(source.HostSpan<byte>(source.Bytes).SequenceEqual(expected), $"{source} was overwritten while it was copied");
            Inner.Copy(source, target);
            CopyCount++;
            _pending.Remove(copy);
        }
    }

    public override void Synchronize() => Assert.Empty(_pending);

    protected override void Dispose(bool disposing)
    {
        if (!disposing) return;
        Assert.Empty(_pending);
        Inner.Dispose();
    }

    private void Start(Tensor source, Tensor target, bool isOut, int channel)
    {
        Assert.DoesNotContain(_pending, copy => copy.Target.Address == source.Address);
        var expected = source.HostSpan<byte>(source.Bytes).ToArray();
        target.HostSpan<byte>(target.Bytes).Fill(0x7f);
        _pending.Add((source, target, isOut, channel, expected));
        MostPending = Math.Max(MostPending, _pending.Count);
    }
}

file static class Bytes
{
    public static unsafe Span<byte> HostSpan<T>(this Tensor tensor, long bytes)
        where T : unmanaged => new((void*)tensor.Address, checked((int)bytes));
}
