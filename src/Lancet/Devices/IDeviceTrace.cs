namespace Lancet.Devices;

/// <summary>Is told what runs on a <see cref="PlanningDevice"/>.</summary>
internal interface IDeviceTrace
{
    /// <summary>A kernel that touches so many bytes.</summary>
    void Kernel(double bytes);

    /// <summary>A product.</summary>
    void MatMul(in MatMul product);

    /// <summary>Operations of experts' products, beyond the bytes of their kernels.</summary>
    void GroupedOperations(double operations);

    /// <summary>A copy to the host that runs beside what follows.</summary>
    void CopyOut(long bytes, int channel);

    /// <summary>A copy from the host, likewise.</summary>
    void CopyIn(long bytes, int channel);

    /// <summary>Waiting for a copy.</summary>
    void Await(int channel);
}
