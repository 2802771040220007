using Lancet.Planning;
using Lancet.Tensors;

namespace Lancet.Layers;

/// <summary>What is done to each tensor of a part of a layer's state: the tensor that takes its place is returned.</summary>
internal interface ITensorMap
{
    /// <summary>The tensor in its place; never asked about absent ones.</summary>
    Tensor Map(Tensor tensor);
}

/// <summary>Ends lives.</summary>
internal readonly struct FreeMap(StepContext c) : ITensorMap
{
    public Tensor Map(Tensor tensor)
    {
        c.Free(tensor);
        return default;
    }
}

/// <summary>Starts copies to host memory.</summary>
internal readonly struct SendMap(StepContext c, int channel) : ITensorMap
{
    public Tensor Map(Tensor tensor)
    {
        var host = c.Memory.AllocateHost(tensor.DType, tensor.Shape);
        c.Device.CopyOut(tensor, host, channel);
        return host;
    }
}

/// <summary>Starts copies from host memory into new buffers.</summary>
internal readonly struct FetchMap(StepContext c, int channel) : ITensorMap
{
    public Tensor Map(Tensor tensor)
    {
        var target = c.Allocate(MemoryPurpose.SavedActivations, tensor.DType, tensor.Shape);
        c.Device.CopyIn(tensor, target, channel);
        return target;
    }
}

/// <summary>Application to fields.</summary>
internal static class TensorMaps
{
    /// <summary>Replaces a tensor, if it is there.</summary>
    public static void Apply<T>(this T map, ref Tensor tensor)
        where T : struct, ITensorMap
    {
        if (tensor.Exists) tensor = map.Map(tensor);
    }

    /// <summary>Replaces each tensor.</summary>
    public static void Apply<T>(this T map, ref AdapterInputs inputs)
        where T : struct, ITensorMap
    {
        for (var i = 0; i < 3; i++) map.Apply(ref inputs[i]);
    }
}
