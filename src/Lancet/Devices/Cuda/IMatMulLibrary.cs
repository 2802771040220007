namespace Lancet.Devices.Cuda;

/// <summary>A library of matrix products whose operands have one dtype: cuBLASLt, or what tests put in its place.</summary>
internal interface IMatMulLibrary : IDisposable
{
    /// <summary>Name and version.</summary>
    string Name { get; }

    /// <summary>Queues a product; false if the library has no algorithm for it, and nothing was queued. A bias has C's dtype.</summary>
    bool TryMultiply(in MatMul product, (nint Address, long Bytes) workspace);
}
