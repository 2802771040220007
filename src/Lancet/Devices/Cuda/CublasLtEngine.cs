using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using Lancet.Devices.Cuda.Interop;
using Lancet.Tile;

namespace Lancet.Devices.Cuda;

/// <summary>
/// cuBLASLt: row-major products as their column-major transposes, Cᵀ = op(B)ᵀ·op(A)ᵀ, summed in fp32 (never tf32). For each shape the
/// library's best suggestions are timed once; the choice is kept in memory and on disk. Sums are split over K only if the parts are added in
/// fp32 in a fixed order, so the same algorithm gives the same bits.
///
/// Large products are what a step spends its time with, and they drive a GPU into the limit of its power, where its clock falls: the algorithm that takes the least energy is then the fastest, often
/// another one than on an idle GPU. So theirs are timed in turns that are long enough for the clock to settle.
/// </summary>
internal sealed unsafe class CublasLtEngine : IMatMulLibrary
{
    private const int Suggestions = 8;
    private const int TimedRuns = 5;

    // A later suggestion must be faster by this much to win: the clock's noise decides nothing.
    private const double LeastGain = 0.97;
    private const double LeastSustainedGain = 0.995;

    // Products of this many operations are timed with the GPU at its power limit: as long as an idle one takes to get there, then in turns, the best few once more.
    private const double SustainedOperations = 2e11;
    private const double WarmUpSeconds = 0.3;
    private const double TurnSeconds = 0.03;
    private const double FinalTurnSeconds = 0.06;
    private const int Finalists = 3;
    private readonly CudaDevice _device;
    private readonly nint _handle;
    private readonly AlgorithmCache _algorithms;
    private readonly Dictionary<Key, Plan> _plans = [];
    private long _lastSustained;

    private CublasLtEngine(CudaDevice device, nint handle, long version, int driverVersion)
    {
        (_device, _handle) = (device, handle);
        // cuBLASLt counts 12.3.1 as 120301; since CUDA 13 likewise.
        Name = string.Create(CultureInfo.InvariantCulture, $"cuBLASLt {version / 10000}.{version / 100 % 100}.{version % 100}");
        var gpu = new string([.. device.Info.Name.Select(c => char.IsAsciiLetterOrDigit(c) ? c : '-')]);
        _algorithms = new(Path.Combine(CacheFolder.Path, "cublaslt", string.Create(CultureInfo.InvariantCulture, $"{gpu}-{device.Info.Multiprocessors}-lt{version}-cuda{driverVersion}-sustained.txt")));
    }

    /// <summary>Name and version.</summary>
    public string Name { get; }

    /// <summary>Starts the library; null if it is not there or does not run with this driver.</summary>
    public static CublasLtEngine? TryCreate(CudaDevice device, int driverVersion)
    {
        if (NativeLibraries.CublasLtPath is null) return null;
        try
        {
            return CublasLt.cublasLtCreate(out var handle) == 0 ? new(device, handle, (long)CublasLt.cublasLtGetVersion(), driverVersion) : null;
        }
        catch (EntryPointNotFoundException)
        {
            return null;
        }
    }

    /// <summary>Queues a product whose operands have one dtype; false if the library has no algorithm for it, and nothing was queued.</summary>
    public bool TryMultiply(in MatMul product, (nint Address, long Bytes) workspace)
    {
        var key = Key.Of(product);
        if (!_plans.TryGetValue(key, out var plan)) _plans[key] = plan = Create(key, product, workspace);
        if (!plan.IsSupported) return false;
        if (key.HasBias) plan.SetBias(product.Bias.Address);
        CudaCheck.CublasLt(Run(plan, ref plan.Algorithm, product, product.Addend.Exists ? product.Addend.Address : product.C.Address, product.C.Address, product.Beta, workspace), key.HasBias ? "a product with bias" : "a product");
        return true;
    }

    public void Dispose()
    {
        foreach (var plan in _plans.Values) plan.Dispose();
        _ = CublasLt.cublasLtDestroy(_handle);
    }

    private int Run(Plan plan, ref CublasLtAlgorithm algorithm, in MatMul product, nint addend, nint target, float beta, (nint Address, long Bytes) workspace)
    {
        var alpha = product.Alpha;
        fixed (CublasLtAlgorithm* pointer = &algorithm)
        {
            return CublasLt.cublasLtMatmul(
                _handle, plan.Description, &alpha, product.B.Tensor.Address, plan.First, product.A.Tensor.Address, plan.Second, &beta, addend, plan.Result, target, plan.Result,
                pointer, workspace.Address, (nuint)workspace.Bytes, _device.TakeComputeStream());
        }
    }

    private Plan Create(Key key, in MatMul product, (nint Address, long Bytes) workspace)
    {
        var plan = new Plan(key);
        if (key.HasBias) plan.SetBias(product.Bias.Address);
        var (text, start) = (key.Text, Stopwatch.GetTimestamp());
        if (_algorithms.Find(text) is { } cached && plan.TryUse(_handle, cached, workspace.Bytes)) return plan;
        var suggestions = stackalloc CublasLtHeuristic[Suggestions];
        var count = Suggest(plan, key, workspace.Bytes, suggestions);
        if (count == 0) return plan;
        // Nothing can be timed while a graph is recorded; that shape then lives with the first suggestion, in this process only.
        var best = count == 1 || _device.IsCapturing ? suggestions[0].Algorithm : Fastest(plan, suggestions, count, product, workspace);
        var bytes = MemoryMarshal.AsBytes(new ReadOnlySpan<CublasLtAlgorithm>(in best));
        var chosen = _device.IsCapturing ? bytes.ToArray() : _algorithms.Add(text, bytes);
        if (!plan.TryUse(_handle, chosen, workspace.Bytes)) plan.TryUse(_handle, bytes, workspace.Bytes);
        _device.Note(sum => sum with { Products = sum.Products + 1, ProductSeconds = sum.ProductSeconds + Stopwatch.GetElapsedTime(start).TotalSeconds });
        return plan;
    }

    private int Suggest(Plan plan, Key key, long workspaceBytes, CublasLtHeuristic* results)
    {
        CudaCheck.CublasLt(CublasLt.cublasLtMatmulPreferenceCreate(out var preference));
        try
        {
            var bytes = (ulong)workspaceBytes;
            CudaCheck.CublasLt(CublasLt.cublasLtMatmulPreferenceSetAttribute(preference, CublasLt.PreferenceWorkspaceBytes, &bytes, sizeof(ulong)));
            void Set(int attribute, uint value) => CudaCheck.CublasLt(CublasLt.cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(uint)));
            Set(CublasLt.PreferenceReductionMask, CublasLt.ReductionInComputeType);
            Set(CublasLt.PreferenceAlignmentA, (uint)key.AlignmentB);
            Set(CublasLt.PreferenceAlignmentB, (uint)key.AlignmentA);
            Set(CublasLt.PreferenceAlignmentC, (uint)key.AlignmentC);
            Set(CublasLt.PreferenceAlignmentD, (uint)key.AlignmentC);
            var code = CublasLt.cublasLtMatmulAlgoGetHeuristic(_handle, plan.Description, plan.First, plan.Second, plan.Result, plan.Result, preference, Suggestions, results, out var returned);
            if (code == CublasLt.NotSupported) return 0;
            CudaCheck.CublasLt(code, key.Text, nameof(CublasLt.cublasLtMatmulAlgoGetHeuristic));
            var usable = 0;
            for (var i = 0; i < returned; i++)
                if (results[i].State == 0 && (long)results[i].WorkspaceBytes <= workspaceBytes) results[usable++] = results[i];
            return usable;
        }
        finally
        {
            _ = CublasLt.cublasLtMatmulPreferenceDestroy(preference);
        }
    }

    /// <summary>Times suggestions with β = 0: into C where it is about to be overwritten, else into memory that is given back.</summary>
    private CublasLtAlgorithm Fastest(Plan plan, CublasLtHeuristic* suggestions, int count, MatMul product, (nint Address, long Bytes) workspace)
    {
        nint scratch = 0;
        var target = product.C.Address;
        if (product.Beta != 0)
        {
            var ldc = product.LeadingDimensionC == 0 ? product.N : product.LeadingDimensionC;
            if (Driver.cuMemAlloc(out scratch, (nuint)(ldc * product.M * product.C.DType.SizeInBytes())) != 0) return suggestions[0].Algorithm;
            target = scratch;
        }
        try
        {
            bool Once(CublasLtAlgorithm algorithm) => Run(plan, ref algorithm, product, target, target, 0, workspace) == 0;
            var usable = new List<CublasLtAlgorithm>();
            for (var i = 0; i < count; i++)
                if (Once(suggestions[i].Algorithm)) usable.Add(suggestions[i].Algorithm);
            if (usable.Count < 2) return usable.Count == 1 ? usable[0] : suggestions[0].Algorithm;
            return 2.0 * product.M * product.N * product.K < SustainedOperations ? FastestAlone(usable, Once) : FastestSustained(usable, Once);
        }
        finally
        {
            if (scratch != 0) _ = Driver.cuMemFree(scratch);
        }
    }

    private CublasLtAlgorithm FastestAlone(List<CublasLtAlgorithm> algorithms, Func<CublasLtAlgorithm, bool> once)
    {
        var times = new double[TimedRuns];
        double Median(CublasLtAlgorithm algorithm)
        {
            for (var run = 0; run < TimedRuns; run++) times[run] = _device.Time(() => once(algorithm));
            Array.Sort(times);
            return times[TimedRuns / 2];
        }
        return First(algorithms, Median, LeastGain);
    }

    private CublasLtAlgorithm FastestSustained(List<CublasLtAlgorithm> algorithms, Func<CublasLtAlgorithm, bool> once)
    {
        var seconds = _device.Time(() => once(algorithms[0])) / 1e3;
        void Repeat(CublasLtAlgorithm algorithm, double duration)
        {
            for (var run = 0; run < duration / seconds; run++) once(algorithm);
        }
        // In the first half of a turn the clock settles.
        double Turn(CublasLtAlgorithm algorithm, double duration)
        {
            Repeat(algorithm, duration / 2);
            return _device.Time(() => Repeat(algorithm, duration / 2));
        }
        if (Stopwatch.GetElapsedTime(_lastSustained).TotalSeconds > WarmUpSeconds) _ = Turn(algorithms[0], WarmUpSeconds);
        var finalists = algorithms.Select((algorithm, index) => (algorithm, index, Time: Turn(algorithm, TurnSeconds))).OrderBy(item => item.Time).Take(Finalists).OrderBy(item => item.index).Select(item => item.algorithm);
        var best = First([.. finalists.SelectMany(algorithm => WithSwizzle(algorithm, once))], algorithm => Turn(algorithm, FinalTurnSeconds), LeastSustainedGain);
        _lastSustained = Stopwatch.GetTimestamp();
        return best;
    }

    /// <summary>An algorithm, and the same with blocks in an order that shares more of the L2 cache, which the library does not suggest by itself.</summary>
    private static IEnumerable<CublasLtAlgorithm> WithSwizzle(CublasLtAlgorithm algorithm, Func<CublasLtAlgorithm, bool> once)
    {
        yield return algorithm;
        if (TrySwizzle(ref algorithm) && once(algorithm)) yield return algorithm;
    }

    private static bool TrySwizzle(ref CublasLtAlgorithm algorithm)
    {
        var on = 1u;
        fixed (CublasLtAlgorithm* pointer = &algorithm) return CublasLt.cublasLtMatmulAlgoConfigSetAttribute(pointer, CublasLt.AlgorithmSwizzlesBlocks, &on, sizeof(uint)) == 0;
    }

    /// <summary>The first algorithm that no later one is faster than by the given factor.</summary>
    private static CublasLtAlgorithm First(List<CublasLtAlgorithm> algorithms, Func<CublasLtAlgorithm, double> time, double leastGain)
    {
        var (best, bestTime) = (algorithms[0], double.MaxValue);
        foreach (var algorithm in algorithms)
            if (time(algorithm) is var taken && taken < bestTime * leastGain) (best, bestTime) = (algorithm, taken);
        return best;
    }

    /// <summary>What a plan depends on.</summary>
    private readonly record struct Key(
        int M, int N, int K, bool IsATransposed, bool IsBTransposed, DType Operands, DType Result, long StrideA, long StrideB, long StrideC,
        int AlignmentA, int AlignmentB, int AlignmentC, bool HasBias)
    {
        private const int MaxAlignment = 256;

        /// <summary>The key of the choice of an algorithm, in which extents are rounded up; strides matter little to it.</summary>
        public string Text => string.Create(CultureInfo.InvariantCulture,
            $"{AlgorithmCache.Bucket(M)}x{AlgorithmCache.Bucket(N)}x{AlgorithmCache.Bucket(K)} {(IsATransposed ? "T" : "N")}{(IsBTransposed ? "T" : "N")} {Operands} {Result} {AlignmentA} {AlignmentB} {AlignmentC}{(HasBias ? " bias" : "")}");

        public static Key Of(in MatMul product)
        {
            var (a, b) = (product.A, product.B);
            return new(
                product.M, product.N, product.K, a.IsTransposed, b.IsTransposed, a.Tensor.DType, product.C.DType,
                a.LeadingDimension != 0 ? a.LeadingDimension : a.IsTransposed ? product.M : product.K, b.LeadingDimension != 0 ? b.LeadingDimension : b.IsTransposed ? product.K : product.N,
                product.LeadingDimensionC != 0 ? product.LeadingDimensionC : product.N, Alignment(a.Tensor.Address), Alignment(b.Tensor.Address), Alignment(product.C.Address), product.Bias.Exists);
        }

        private static int Alignment(nint address) => (int)Math.Min(MaxAlignment, address & -address);
    }

    /// <summary>The library's descriptions of a product, made once.</summary>
    private sealed class Plan : IDisposable
    {
        public CublasLtAlgorithm Algorithm;
        private nint _bias;

        public Plan(Key key)
        {
            CudaCheck.CublasLt(CublasLt.cublasLtMatmulDescCreate(out var description, CublasLt.Compute32F, CublasLt.Real32F));
            Description = description;
            // The library's first operand is B, its second one A: row-major is the transpose of column-major.
            Set(CublasLt.DescriptionTransA, key.IsBTransposed ? 1 : 0);
            Set(CublasLt.DescriptionTransB, key.IsATransposed ? 1 : 0);
            var (operands, result) = (TypeOf(key.Operands), TypeOf(key.Result));
            if (key.HasBias)
            {
                Set(CublasLt.DescriptionEpilogue, CublasLt.EpilogueBias);
                Set(CublasLt.DescriptionBiasType, result);
            }
            First = key.IsBTransposed ? Layout(operands, key.K, key.N, key.StrideB) : Layout(operands, key.N, key.K, key.StrideB);
            Second = key.IsATransposed ? Layout(operands, key.M, key.K, key.StrideA) : Layout(operands, key.K, key.M, key.StrideA);
            Result = Layout(result, key.N, key.M, key.StrideC);
        }

        public nint Description { get; }

        public nint First { get; }

        public nint Second { get; }

        public nint Result { get; }

        public bool IsSupported { get; private set; }

        /// <summary>Takes an algorithm if the library accepts it for this shape.</summary>
        public bool TryUse(nint handle, ReadOnlySpan<byte> algorithm, long workspaceBytes)
        {
            CublasLtHeuristic result = default;
            var candidate = MemoryMarshal.Read<CublasLtAlgorithm>(algorithm);
            var code = CublasLt.cublasLtMatmulAlgoCheck(handle, Description, First, Second, Result, Result, &candidate, &result);
            if (code != 0 || result.State != 0 || (long)result.WorkspaceBytes > workspaceBytes) return false;
            (Algorithm, IsSupported) = (candidate, true);
            return true;
        }

        public void SetBias(nint address)
        {
            if (_bias == address) return;
            CudaCheck.CublasLt(CublasLt.cublasLtMatmulDescSetAttribute(Description, CublasLt.DescriptionBiasPointer, &address, (nuint)sizeof(nint)));
            _bias = address;
        }

        public void Dispose()
        {
            _ = CublasLt.cublasLtMatmulDescDestroy(Description);
            foreach (var layout in (ReadOnlySpan<nint>)[First, Second, Result]) _ = CublasLt.cublasLtMatrixLayoutDestroy(layout);
        }

        private void Set(int attribute, int value) => CudaCheck.CublasLt(CublasLt.cublasLtMatmulDescSetAttribute(Description, attribute, &value, sizeof(int)));

        private static nint Layout(int type, long rows, long columns, long stride)
        {
            CudaCheck.CublasLt(CublasLt.cublasLtMatrixLayoutCreate(out var layout, type, (ulong)rows, (ulong)columns, stride));
            return layout;
        }

        private static int TypeOf(DType dtype) => dtype switch
        {
            DType.Float32 => CublasLt.Real32F,
            DType.Float16 => CublasLt.Real16F,
            DType.BFloat16 => CublasLt.Real16BF,
            _ => throw new LancetException($"cuBLASLt multiplies fp32, bf16 and fp16, not {dtype}."),
        };
    }
}
