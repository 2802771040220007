using Lancet.Devices.Cuda.Interop;

namespace Lancet.Devices.Cuda;

/// <summary>A CUDA graph, instantiated for the compute stream of its device.</summary>
internal sealed class CudaGraph : DeviceGraph
{
    private readonly CudaDevice _device;
    private readonly GraphHandle _handle;

    private CudaGraph(CudaDevice device, GraphHandle handle, int nodes) => (_device, _handle, NodeCount) = (device, handle, nodes);

    public override int NodeCount { get; }

    /// <summary>Instantiates a captured graph and frees it.</summary>
    public static unsafe CudaGraph Instantiate(CudaDevice device, nint graph)
    {
        try
        {
            nuint count = 0;
            CudaCheck.Driver(Driver.cuGraphGetNodes(graph, null, ref count));
            CudaCheck.Driver(Driver.cuGraphInstantiateWithFlags(out var executable, graph, 0));
            return new(device, new GraphHandle(executable), (int)count);
        }
        finally
        {
            _ = Driver.cuGraphDestroy(graph);
        }
    }

    public override void Replay() => _device.Replay(_handle);

    protected override void Dispose(bool disposing)
    {
        if (!disposing) return;
        // The driver keeps what a replay in flight still needs.
        _device.MakeCurrent();
        _handle.Dispose();
    }
}
