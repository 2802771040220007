namespace Lancet.Devices;

/// <summary>What a device has had to find out before it could compute, for those who wonder where a run's first seconds went.</summary>
/// <param name="Assembled">Kernels that were assembled.</param>
/// <param name="Read">Kernels that were read from the disk cache.</param>
/// <param name="KernelSeconds">Time that both took, summed over threads.</param>
/// <param name="Products">Shapes of matrix products whose algorithms were timed.</param>
/// <param name="ProductSeconds">Time that this took.</param>
public readonly record struct DevicePreparation(int Assembled, int Read, double KernelSeconds, int Products, double ProductSeconds);
