using System.Runtime.InteropServices;

namespace Lancet.Devices.Cuda.Interop;

/// <summary>The part of the CUDA driver API that Lancet uses. Names and types are NVIDIA's; every call goes through <see cref="CudaCheck"/>.</summary>
internal static unsafe partial class Driver
{
    private const string Library = NativeLibraries.Driver;

    [LibraryImport(Library)] internal static partial int cuInit(uint flags);

    [LibraryImport(Library)] internal static partial int cuDriverGetVersion(out int version);

    [LibraryImport(Library)] internal static partial int cuGetErrorName(int error, out byte* text);

    [LibraryImport(Library)] internal static partial int cuGetErrorString(int error, out byte* text);

    [LibraryImport(Library)] internal static partial int cuDeviceGetCount(out int count);

    [LibraryImport(Library)] internal static partial int cuDeviceGet(out int device, int ordinal);

    [LibraryImport(Library)] internal static partial int cuDeviceGetName(byte* name, int length, int device);

    [LibraryImport(Library)] internal static partial int cuDeviceGetAttribute(out int value, DeviceAttribute attribute, int device);

    [LibraryImport(Library, EntryPoint = "cuDeviceTotalMem_v2")] internal static partial int cuDeviceTotalMem(out nuint bytes, int device);

    [LibraryImport(Library)] internal static partial int cuDevicePrimaryCtxRetain(out nint context, int device);

    [LibraryImport(Library, EntryPoint = "cuDevicePrimaryCtxRelease_v2")] internal static partial int cuDevicePrimaryCtxRelease(int device);

    [LibraryImport(Library)] internal static partial int cuCtxSetCurrent(nint context);

    [LibraryImport(Library, EntryPoint = "cuMemAlloc_v2")] internal static partial int cuMemAlloc(out nint address, nuint bytes);

    [LibraryImport(Library, EntryPoint = "cuMemFree_v2")] internal static partial int cuMemFree(nint address);

    [LibraryImport(Library, EntryPoint = "cuMemGetInfo_v2")] internal static partial int cuMemGetInfo(out nuint free, out nuint total);

    [LibraryImport(Library)] internal static partial int cuMemHostAlloc(out nint address, nuint bytes, uint flags);

    [LibraryImport(Library)] internal static partial int cuMemFreeHost(nint address);

    [LibraryImport(Library, EntryPoint = "cuMemHostRegister_v2")] internal static partial int cuMemHostRegister(nint address, nuint bytes, uint flags);

    [LibraryImport(Library)] internal static partial int cuMemHostUnregister(nint address);

    [LibraryImport(Library, EntryPoint = "cuMemHostGetDevicePointer_v2")] internal static partial int cuMemHostGetDevicePointer(out nint devicePointer, nint address, uint flags);

    [LibraryImport(Library, EntryPoint = "cuMemcpyHtoDAsync_v2")] internal static partial int cuMemcpyHtoDAsync(nint target, nint source, nuint bytes, nint stream);

    [LibraryImport(Library, EntryPoint = "cuMemcpyDtoHAsync_v2")] internal static partial int cuMemcpyDtoHAsync(nint target, nint source, nuint bytes, nint stream);

    [LibraryImport(Library, EntryPoint = "cuMemcpyDtoDAsync_v2")] internal static partial int cuMemcpyDtoDAsync(nint target, nint source, nuint bytes, nint stream);

    [LibraryImport(Library)] internal static partial int cuMemsetD8Async(nint target, byte value, nuint bytes, nint stream);

    [LibraryImport(Library)] internal static partial int cuStreamCreate(out nint stream, uint flags);

    [LibraryImport(Library, EntryPoint = "cuStreamDestroy_v2")] internal static partial int cuStreamDestroy(nint stream);

    [LibraryImport(Library)] internal static partial int cuStreamSynchronize(nint stream);

    [LibraryImport(Library)] internal static partial int cuStreamWaitEvent(nint stream, nint waited, uint flags);

    [LibraryImport(Library, EntryPoint = "cuStreamBeginCapture_v2")] internal static partial int cuStreamBeginCapture(nint stream, int mode);

    [LibraryImport(Library)] internal static partial int cuStreamEndCapture(nint stream, out nint graph);

    [LibraryImport(Library)] internal static partial int cuGraphGetNodes(nint graph, nint* nodes, ref nuint count);

    [LibraryImport(Library)] internal static partial int cuGraphInstantiateWithFlags(out nint executable, nint graph, ulong flags);

    [LibraryImport(Library)] internal static partial int cuGraphLaunch(nint executable, nint stream);

    [LibraryImport(Library)] internal static partial int cuGraphExecDestroy(nint executable);

    [LibraryImport(Library)] internal static partial int cuGraphDestroy(nint graph);

    [LibraryImport(Library)] internal static partial int cuEventCreate(out nint created, uint flags);

    [LibraryImport(Library)] internal static partial int cuEventRecord(nint recorded, nint stream);

    [LibraryImport(Library)] internal static partial int cuEventSynchronize(nint waited);

    [LibraryImport(Library)] internal static partial int cuEventElapsedTime(out float milliseconds, nint start, nint end);

    [LibraryImport(Library, EntryPoint = "cuEventDestroy_v2")] internal static partial int cuEventDestroy(nint destroyed);

    [LibraryImport(Library)] internal static partial int cuModuleLoadData(out nint module, byte* image);

    [LibraryImport(Library)] internal static partial int cuModuleLoadDataEx(out nint module, byte* image, uint count, int* options, void** values);

    [LibraryImport(Library)] internal static partial int cuModuleUnload(nint module);

    [LibraryImport(Library)] internal static partial int cuModuleGetFunction(out nint function, nint module, byte* name);

    [LibraryImport(Library, EntryPoint = "cuLinkCreate_v2")] internal static partial int cuLinkCreate(uint count, int* options, void** values, out nint state);

    [LibraryImport(Library, EntryPoint = "cuLinkAddData_v2")] internal static partial int cuLinkAddData(nint state, int type, byte* data, nuint size, byte* name, uint count, int* options, void** values);

    [LibraryImport(Library)] internal static partial int cuLinkComplete(nint state, out byte* cubin, out nuint size);

    [LibraryImport(Library)] internal static partial int cuLinkDestroy(nint state);

    [LibraryImport(Library)] internal static partial int cuFuncGetAttribute(out int value, FunctionAttribute attribute, nint function);

    [LibraryImport(Library)] internal static partial int cuFuncSetAttribute(nint function, FunctionAttribute attribute, int value);

    [LibraryImport(Library)]
    internal static partial int cuLaunchKernel(
        nint function, uint gridX, uint gridY, uint gridZ, uint blockX, uint blockY, uint blockZ, uint sharedBytes, nint stream, void** parameters, void** extra);

    [LibraryImport(Library)]
    internal static partial int cuTensorMapEncodeTiled(
        void* map, int format, uint rank, void* address, ulong* sizes, ulong* strides, uint* block, uint* elementStrides, int interleave, int swizzle, int promotion, int outside);

    [LibraryImport(Library)] internal static partial int cuLaunchKernelEx(LaunchConfiguration* configuration, nint function, void** parameters, void** extra);
}

/// <summary>CUlaunchConfig.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct LaunchConfiguration
{
    public uint GridX, GridY, GridZ, BlockX, BlockY, BlockZ, SharedBytes;
    public nint Stream;
    public LaunchAttribute* Attributes;
    public uint AttributeCount;
}

/// <summary>CUlaunchAttribute with a number as its value.</summary>
[StructLayout(LayoutKind.Explicit, Size = 72)]
internal struct LaunchAttribute
{
    /// <summary>CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION: 1 lets the kernel start before the one that it follows in the stream has ended.</summary>
    public const int ProgrammaticStreamSerialization = 6;

    [FieldOffset(0)] public int Id;
    [FieldOffset(8)] public int Value;
}

/// <summary>CUdevice_attribute.</summary>
internal enum DeviceAttribute
{
    MultiprocessorCount = 16,
    ComputeCapabilityMajor = 75,
    ComputeCapabilityMinor = 76,
    MaxSharedMemoryPerBlockOptin = 97,
}

/// <summary>CUtensorMapDataType, CUtensorMapSwizzle and CUtensorMapL2promotion, as far as they are used.</summary>
internal static class TensorMapFormat
{
    internal const int Float16 = 6;
    internal const int BFloat16 = 9;
    internal const int Swizzle128Bytes = 3;
    internal const int Promote256Bytes = 3;
}

/// <summary>CUfunction_attribute.</summary>
internal enum FunctionAttribute
{
    MaxThreadsPerBlock = 0,
    StaticSharedBytes = 1,
    LocalBytes = 3,
    Registers = 4,
    MaxDynamicSharedBytes = 8,
}

/// <summary>CUjit_option and CUjitInputType, as far as they are used.</summary>
internal static class JitOption
{
    internal const int InfoLogBuffer = 3;
    internal const int InfoLogBytes = 4;
    internal const int ErrorLogBuffer = 5;
    internal const int ErrorLogBytes = 6;
    internal const int OptimizationLevel = 7;
    internal const int LogVerbose = 12;
    internal const int InputPtx = 1;
}
