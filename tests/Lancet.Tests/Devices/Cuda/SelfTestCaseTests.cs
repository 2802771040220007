using Lancet.Devices.Cpu;
using Lancet.Devices.Cuda;
using Lancet.Devices.Cuda.SelfTest;
using Lancet.Tile;
using Lancet.Tile.Ptx;

namespace Lancet.Tests.Devices.Cuda;

/// <summary>The self-test itself: on a GPU it has to pass; without one, its cases have at least to be sound on the processor.</summary>
public class SelfTestCaseTests
{
    [Fact]
    public void Every_case_runs_on_the_processor_and_agrees_with_fp64()
    {
        using var device = new CpuDevice();
        foreach (var test in KernelCases.All)
        {
            foreach (var dtype in test.DTypes)
            {
                var (values, reference) = (Run(test, dtype), Run(test, test.HasDouble ? DType.Float64 : dtype));
                Assert.NotEmpty(values);
                for (var i = 0; i < values.Count; i++)
                {
                    double difference = 0, size = 0;
                    for (var j = 0; j < values[i].Length; j++)
                    {
                        if (values[i][j] == reference[i][j]) continue;
                        difference += Math.Pow(values[i][j] - reference[i][j], 2);
                    }
                    size = reference[i].Where(double.IsFinite).Sum(value => value * value);
                    var limit = dtype == DType.Float32 ? 1e-5 : 2e-2;
                    Assert.True(Math.Sqrt(difference / Math.Max(size, 1e-30)) <= limit, $"{test.Name} {test.Shape} {dtype}, result {i}: {Math.Sqrt(difference / size)}");
                }
            }
        }

        List<double[]> Run(KernelCase test, DType dtype)
        {
            using var lab = new SelfTestLab(device, 1);
            test.Run(lab, dtype);
            return [.. lab.Results.Select(result => result.Values)];
        }
    }

    [Theory]
    [InlineData(80)]
    [InlineData(86)]
    [InlineData(90)]
    [InlineData(120)]
    public void Every_kernel_of_the_cases_compiles(int computeCapability)
    {
        using var cpu = new CpuDevice();
        var recording = new RecordingDevice(cpu);
        foreach (var test in KernelCases.All)
        {
            foreach (var dtype in test.DTypes)
            {
                using var lab = new SelfTestLab(recording, 1);
                test.Run(lab, dtype);
            }
        }
        var target = new PtxTarget(computeCapability, 227 << 10);
        var failures = new List<string>();
        foreach (var (kernel, divisible) in recording.Kernels)
        {
            try
            {
                PtxChecker.Check(PtxCompiler.Compile(kernel, target, divisible).Text);
            }
            catch (TileException error) when (kernel.Name == "attention_backward_kv" && error.Message.Contains("out of shared memory", StringComparison.Ordinal))
            {
                // 64 x 64 blocks of fp32 at head dimension 128.
            }
            catch (Exception error)
            {
                failures.Add($"{kernel.Name} {divisible:x}: {error.Message}");
            }
        }
        Assert.True(failures.Count == 0, $"{failures.Count} of {recording.Kernels.Count}:\n{string.Join('\n', failures.Distinct())}");
    }

    [Fact]
    public void The_gpu_computes_what_the_processor_does()
    {
        if (!CudaPlatform.Current.IsReady) Assert.Skip($"No GPU: {CudaPlatform.Current.Message}");
        using var device = new CudaDevice();
        using var output = new StringWriter();
        Assert.True(new CudaSelfTest(device, null, output).Run(), output.ToString());
    }
}
