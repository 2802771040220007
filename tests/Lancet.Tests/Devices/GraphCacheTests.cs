using Lancet.Devices;
using Lancet.Devices.Cpu;

namespace Lancet.Tests.Devices;

/// <summary>What is recorded, and how much of it is kept.</summary>
public sealed class GraphCacheTests
{
    [Fact]
    public void The_second_run_of_a_key_is_recorded_and_later_ones_replay()
    {
        using var device = new RecordingDevice(nodes: 10);
        using var graphs = new GraphCache(device, 2);
        var runs = 0;
        for (var i = 0; i < 5; i++) graphs.Run(7, () => runs++);
        Assert.Equal((2, 1, 4), (runs, device.Recorded, device.Replayed));
    }

    [Theory]
    [InlineData(10, 4, 4)]
    [InlineData(GraphCache.MostNodes / 3, 8, 3)]
    [InlineData(GraphCache.MostNodes + 1, 8, 1)]
    public void Recordings_are_kept_as_long_as_there_is_room_for_their_nodes(int nodes, int capacity, int kept)
    {
        using var device = new RecordingDevice(nodes);
        using (var graphs = new GraphCache(device, capacity))
        {
            for (var key = 0; key < 12; key++)
            {
                for (var run = 0; run < 3; run++) graphs.Run(key, static () => { });
                Assert.Equal(Math.Min(key + 1, kept), device.Alive);
            }
            // The ones used last are there still.
            var recorded = device.Recorded;
            for (var key = 12 - kept; key < 12; key++) graphs.Run(key, static () => { });
            Assert.Equal(recorded, device.Recorded);
        }
        Assert.Equal(0, device.Alive);
    }

    private sealed class RecordingDevice(int nodes) : ForwardingDevice(new CpuDevice())
    {
        public int Recorded { get; private set; }

        public int Replayed { get; private set; }

        public int Alive { get; private set; }

        public override bool HasGraphs => true;

        public override DeviceGraph? Capture(Action work)
        {
            work();
            Recorded++;
            Alive++;
            return new Recording(this, nodes);
        }

        protected override void Dispose(bool disposing) => Inner.Dispose();

        private sealed class Recording(RecordingDevice device, int nodes) : DeviceGraph
        {
            public override int NodeCount => nodes;

            public override void Replay() => device.Replayed++;

            protected override void Dispose(bool disposing) => device.Alive--;
        }
    }
}
