using Lancet.Devices;
using Lancet.Devices.Cuda.SelfTest;
using Lancet.Kernels;
using Lancet.Tensors;
using Lancet.Tile;
using Lancet.Tile.Ptx;

namespace Lancet.Tests.Lowering;

/// <summary>Attention chooses its blocks by the GPU's shared memory: whatever the heads, its kernels can be compiled for it.</summary>
public class SharedMemoryTests
{
    /// <summary>A100's 163 KiB a program, the 99 KiB of most other GPUs since Ampere, and H100's 227 KiB with products of warp groups.</summary>
    [Theory]
    [InlineData(80, 166_912)]
    [InlineData(86, 101_376)]
    [InlineData(90, 232_448)]
    public void Attention_fits_the_gpu_for_all_head_dimensions(int computeCapability, int sharedMemory)
    {
        const int tokens = 200;
        foreach (var dimension in (int[])[16, 32, 64, 80, 96, 128, 256])
        {
            foreach (var dtype in (DType[])[DType.BFloat16, DType.Float16, DType.Float32])
            {
                using var planning = new PlanningDevice(PlanTarget.CudaOf(new PtxTarget(computeCapability, sharedMemory)));
                using var device = new RecordingDevice(planning);
                var attention = new AttentionKernel(new AttentionShape(4, 2, dimension, 0.1, 0));
                Tensor rows = new(1 << 20, dtype, new Shape(tokens, 8 * dimension)), dense = new(1 << 20, dtype, new Shape(tokens, 4 * dimension)), statistics = new(1 << 20, DType.Float32, new Shape(4, tokens)), index = new(1 << 20, DType.Int32, new Shape(tokens));
                var intervals = new AttentionIntervals(index, index, index, index, index, index);
                attention.Forward(device, rows, rows, rows, intervals, dense, statistics);
                attention.Backward(device, rows, rows, rows, intervals, dense, statistics, dense, attention.Workspace(device, dtype, tokens, (type, shape) => new Tensor(1 << 20, type, shape)), rows, rows, rows);
                // Forward, δ, and all gradients together, each apart, or those of keys and values in one.
                var isForWarpGroups = computeCapability == 90 && dtype != DType.Float32;
                Assert.Equal(isForWarpGroups && dimension is > 64 and <= 128 ? 3 : isForWarpGroups && dimension > 128 ? 5 : 4, device.Kernels.Count);
                foreach (var (kernel, divisible) in device.Kernels)
                {
                    try
                    {
                        Assert.InRange(PtxCompiler.Compile(kernel, new PtxTarget(computeCapability, sharedMemory), divisible).SharedMemoryBytes, 0, sharedMemory);
                    }
                    catch (TileException refused)
                    {
                        Assert.Fail($"{dtype}, heads of {dimension}: {refused.Message}");
                    }
                }
            }
        }
    }
}
