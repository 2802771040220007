using System.Runtime.InteropServices;

namespace Lancet.Devices.Cuda.Interop;

/// <summary>The part of cuBLASLt that Lancet uses. Values are those of cublasLt.h, which have not changed from CUDA 11.4 to 13.</summary>
internal static unsafe partial class CublasLt
{
    private const string Library = NativeLibraries.CublasLt;

    [LibraryImport(Library)] internal static partial nuint cublasLtGetVersion();

    [LibraryImport(Library)] internal static partial int cublasLtCreate(out nint handle);

    [LibraryImport(Library)] internal static partial int cublasLtDestroy(nint handle);

    [LibraryImport(Library)] internal static partial int cublasLtMatmulDescCreate(out nint description, int computeType, int scaleType);

    [LibraryImport(Library)] internal static partial int cublasLtMatmulDescDestroy(nint description);

    [LibraryImport(Library)] internal static partial int cublasLtMatmulDescSetAttribute(nint description, int attribute, void* value, nuint size);

    [LibraryImport(Library)] internal static partial int cublasLtMatrixLayoutCreate(out nint layout, int type, ulong rows, ulong columns, long leadingDimension);

    [LibraryImport(Library)] internal static partial int cublasLtMatrixLayoutDestroy(nint layout);

    [LibraryImport(Library)] internal static partial int cublasLtMatmulPreferenceCreate(out nint preference);

    [LibraryImport(Library)] internal static partial int cublasLtMatmulPreferenceDestroy(nint preference);

    [LibraryImport(Library)] internal static partial int cublasLtMatmulPreferenceSetAttribute(nint preference, int attribute, void* value, nuint size);

    [LibraryImport(Library)]
    internal static partial int cublasLtMatmulAlgoGetHeuristic(
        nint handle, nint description, nint a, nint b, nint c, nint d, nint preference, int requested, CublasLtHeuristic* results, out int returned);

    [LibraryImport(Library)]
    internal static partial int cublasLtMatmulAlgoCheck(nint handle, nint description, nint a, nint b, nint c, nint d, CublasLtAlgorithm* algorithm, CublasLtHeuristic* result);

    [LibraryImport(Library)]
    internal static partial int cublasLtMatmulAlgoConfigSetAttribute(CublasLtAlgorithm* algorithm, int attribute, void* value, nuint size);

    [LibraryImport(Library)]
    internal static partial int cublasLtMatmul(
        nint handle, nint description, void* alpha, nint a, nint layoutA, nint b, nint layoutB, void* beta, nint c, nint layoutC, nint d, nint layoutD,
        CublasLtAlgorithm* algorithm, nint workspace, nuint workspaceBytes, nint stream);

    internal const int Compute32F = 68;
    internal const int Real32F = 0;
    internal const int Real16F = 2;
    internal const int Real16BF = 14;
    internal const int DescriptionTransA = 3;
    internal const int DescriptionTransB = 4;
    internal const int DescriptionEpilogue = 7;
    internal const int DescriptionBiasPointer = 8;
    internal const int DescriptionBiasType = 26;
    internal const int EpilogueBias = 4;
    internal const int AlgorithmSwizzlesBlocks = 4;
    internal const int PreferenceWorkspaceBytes = 1;
    internal const int PreferenceReductionMask = 3;
    internal const int PreferenceAlignmentA = 5;
    internal const int PreferenceAlignmentB = 6;
    internal const int PreferenceAlignmentC = 7;
    internal const int PreferenceAlignmentD = 8;

    /// <summary>Split sums over K are allowed only if their parts are kept in fp32 and added up in order.</summary>
    internal const int ReductionInComputeType = 2;

    internal const int NotSupported = 15;
}

/// <summary>cublasLtMatmulAlgo_t: opaque, and the same bytes mean the same for one version of the library.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct CublasLtAlgorithm
{
    public const int Size = 64;

    public fixed ulong Data[Size / sizeof(ulong)];
}

/// <summary>cublasLtMatmulHeuristicResult_t.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct CublasLtHeuristic
{
    public CublasLtAlgorithm Algorithm;
    public nuint WorkspaceBytes;
    public int State;
    public float Waves;
    public fixed int Reserved[4];
}
