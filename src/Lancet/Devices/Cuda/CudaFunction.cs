using System.Text;
using Lancet.Devices.Cuda.Interop;
using Lancet.Tile;
using Lancet.Tile.Ptx;

namespace Lancet.Devices.Cuda;

/// <summary>What a compiled kernel uses.</summary>
/// <param name="Name">Kernel.</param>
/// <param name="Registers">Registers of a thread.</param>
/// <param name="SpillBytes">Local memory of a thread: above 0, registers were spilled or arrays indexed at run time.</param>
/// <param name="SharedBytes">Shared memory of a block.</param>
/// <param name="Threads">Threads of a block.</param>
/// <param name="Log">What the assembler said.</param>
public sealed record CudaKernelInfo(string Name, int Registers, int SpillBytes, int SharedBytes, int Threads, string Log)
{
    /// <summary>Whether the assembler noted a potential loss of performance.</summary>
    public bool HasPerformanceNote => Log.Contains("potential performance loss", StringComparison.OrdinalIgnoreCase) || Log.Contains("Potential Performance Loss", StringComparison.Ordinal);
}

/// <summary>A kernel loaded on one device, ready to launch.</summary>
internal sealed unsafe class CudaFunction : IDisposable
{
    private const int DefaultSharedBytes = 48 << 10;
    private readonly LoadedModuleHandle _module;
    private readonly TensorMap[] _maps;

    private CudaFunction(Kernel kernel, PtxKernel ptx, LoadedModuleHandle module, nint handle, CudaKernelInfo info) =>
        (Kernel, Threads, SharedBytes, _maps, _module, Handle, Info) = (kernel, (uint)ptx.ThreadsPerBlock, (uint)ptx.SharedMemoryBytes, [.. ptx.TensorMaps], module, handle, info);

    public Kernel Kernel { get; }

    public nint Handle { get; }

    public uint Threads { get; }

    public uint SharedBytes { get; }

    public CudaKernelInfo Info { get; }

    /// <summary>Loads machine code; the device's context is current.</summary>
    /// <exception cref="CudaException">The driver refuses it.</exception>
    public static CudaFunction Load(Kernel kernel, PtxKernel ptx, Cubin cubin)
    {
        nint loaded;
        int code;
        fixed (byte* image = cubin.Image) code = Driver.cuModuleLoadData(out loaded, image);
        if (code != 0) CudaCheck.Throw(code, nameof(Driver.cuModuleLoadData), $"kernel {kernel.Name}");
        var module = new LoadedModuleHandle(loaded);
        try
        {
            nint handle;
            fixed (byte* name = Encoding.UTF8.GetBytes(ptx.EntryName + "\0")) code = Driver.cuModuleGetFunction(out handle, loaded, name);
            if (code != 0) CudaCheck.Throw(code, nameof(Driver.cuModuleGetFunction), $"kernel {kernel.Name}, entry {ptx.EntryName}");
            if (ptx.SharedMemoryBytes > DefaultSharedBytes)
            {
                code = Driver.cuFuncSetAttribute(handle, FunctionAttribute.MaxDynamicSharedBytes, ptx.SharedMemoryBytes);
                if (code != 0) CudaCheck.Throw(code, nameof(Driver.cuFuncSetAttribute), $"kernel {kernel.Name} needs {ptx.SharedMemoryBytes:N0} bytes of shared memory, more than this GPU gives a block; use fewer stages or smaller blocks");
            }
            CudaCheck.Driver(Driver.cuFuncGetAttribute(out var registers, FunctionAttribute.Registers, handle));
            CudaCheck.Driver(Driver.cuFuncGetAttribute(out var local, FunctionAttribute.LocalBytes, handle));
            CudaCheck.Driver(Driver.cuFuncGetAttribute(out var shared, FunctionAttribute.StaticSharedBytes, handle));
            return new(kernel, ptx, module, handle, new(kernel.Name, registers, local, shared + ptx.SharedMemoryBytes, ptx.ThreadsPerBlock, cubin.Log));
        }
        catch
        {
            module.Dispose();
            throw;
        }
    }

    public void Dispose() => _module.Dispose();

    /// <summary>Queues the kernel. The arguments were checked. Allocates nothing.</summary>
    /// <param name="grid">Programs.</param>
    /// <param name="arguments">Arguments.</param>
    /// <param name="stream">Stream.</param>
    /// <param name="overlaps">Whether it may be brought up while the kernel before it ends.</param>
    /// <exception cref="CudaException">The launch is refused; the message holds kernel, grid, block and shared memory.</exception>
    public void Launch(Grid grid, ReadOnlySpan<KernelArgument> arguments, nint stream, bool overlaps)
    {
        // The driver reads as many bytes of each slot as the parameter has; little-endian, so the low half of a slot is a 4-byte value.
        var slots = stackalloc long[arguments.Length + 1];
        var pointers = stackalloc void*[arguments.Length + _maps.Length + 1];
        var maps = stackalloc byte[(_maps.Length * TensorMap.Bytes) + TensorMap.Alignment];
        maps += TensorMap.Alignment - (int)((nuint)maps % TensorMap.Alignment);
        for (var i = 0; i < arguments.Length; i++)
        {
            slots[i] = arguments[i].Bits;
            pointers[i] = slots + i;
        }
        for (var i = 0; i < _maps.Length; i++)
        {
            var map = maps + (i * TensorMap.Bytes);
            Encode(_maps[i], arguments, map);
            pointers[arguments.Length + i] = map;
        }
        if (!overlaps)
        {
            var code = Driver.cuLaunchKernel(Handle, (uint)grid.X, (uint)grid.Y, (uint)grid.Z, Threads, 1, 1, SharedBytes, stream, pointers, null);
            if (code != 0) Fail(code, nameof(Driver.cuLaunchKernel), grid);
            return;
        }
        var attribute = new LaunchAttribute { Id = LaunchAttribute.ProgrammaticStreamSerialization, Value = 1 };
        var configuration = new LaunchConfiguration
        {
            GridX = (uint)grid.X,
            GridY = (uint)grid.Y,
            GridZ = (uint)grid.Z,
            BlockX = Threads,
            BlockY = 1,
            BlockZ = 1,
            SharedBytes = SharedBytes,
            Stream = stream,
            Attributes = &attribute,
            AttributeCount = 1,
        };
        var answer = Driver.cuLaunchKernelEx(&configuration, Handle, pointers, null);
        if (answer != 0) Fail(answer, nameof(Driver.cuLaunchKernelEx), grid);
    }

    private void Encode(TensorMap map, ReadOnlySpan<KernelArgument> arguments, byte* target)
    {
        var sizes = stackalloc ulong[2] { (ulong)map.Stride, (ulong)Math.Max(1, (int)arguments[map.Rows].Bits) };
        var stride = (ulong)(map.Stride * map.Element.SizeInBytes());
        var block = stackalloc uint[2] { TensorMap.BlockColumns, (uint)map.BlockRows };
        var steps = stackalloc uint[2] { 1, 1 };
        var dtype = map.Element == DType.BFloat16 ? TensorMapFormat.BFloat16 : TensorMapFormat.Float16;
        var code = Driver.cuTensorMapEncodeTiled(target, dtype, 2, (void*)arguments[map.Pointer].Bits, sizes, &stride, block, steps, 0, TensorMapFormat.Swizzle128Bytes, TensorMapFormat.Promote256Bytes, 0);
        if (code != 0) CudaCheck.Throw(code, nameof(Driver.cuTensorMapEncodeTiled), $"kernel {Kernel.Name}, {sizes[1]} rows of {map.Stride}, blocks of {map.BlockRows} × {TensorMap.BlockColumns}");
    }

    /// <summary>Throws an error of this kernel.</summary>
    public void Fail(int code, string call, Grid grid) =>
        CudaCheck.Throw(code, call, $"kernel {Kernel.Name}, grid {grid.X} × {grid.Y} × {grid.Z}, {Threads} threads, {SharedBytes:N0} bytes of shared memory, {Info.Registers} registers");
}
