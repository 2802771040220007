namespace Lancet.Tile.Ptx;

/// <summary>The GPU that PTX is written for.</summary>
/// <param name="ComputeCapability">Of the <c>.target</c>: 80 for <c>sm_80</c>. PTX for 80 runs on everything newer, too.</param>
/// <param name="MaxSharedMemoryPerBlock">Bytes of shared memory that one program may use.</param>
public sealed record PtxTarget(int ComputeCapability, int MaxSharedMemoryPerBlock)
{
    /// <summary>A100 and, since PTX is translated by the driver, everything after it; 163 KiB of shared memory.</summary>
    public static PtxTarget Sm80 { get; } = new(80, 163 * 1024);

    /// <summary>H100 and H200; 227 KiB of shared memory.</summary>
    public static PtxTarget Sm90 { get; } = new(90, 227 * 1024);

    /// <summary>Whether warp groups multiply matrices together (wgmma): Hopper, whose instruction no other GPU has.</summary>
    public bool HasWarpGroups { get; init; } = ComputeCapability == 90;

    /// <summary>Whether programs form clusters, which run at the same time and reach each other's shared memory. Newer GPUs than Hopper have them, too, but it was tried on Hopper alone.</summary>
    public bool HasClusters { get; init; } = ComputeCapability == 90;

    /// <summary>
    /// Whether a kernel is written so that it may be brought up while the one before it ends (programmatic dependent launch): it waits for that one before anything else.
    /// Newer GPUs have it, too, but it was tried on Hopper alone.
    /// </summary>
    public bool HasDependentLaunch => ComputeCapability == 90;

    /// <summary>The PTX version that has wgmma (since 8.0) and sums of vectors in memory (8.1).</summary>
    internal const string WarpGroupVersion = "8.1";

    /// <summary>The lowest PTX version that knows the target, so that the oldest possible driver reads it (PTX ISA, release notes table).</summary>
    public string Version => ComputeCapability switch
    {
        < 80 => throw new TileException($"sm_{ComputeCapability}: bf16 tensor-core products and asynchronous copies need compute capability 8.0 or newer."),
        80 => "7.0",
        86 => "7.1",
        87 => "7.4",
        89 or 90 => "7.8",
        100 or 101 => "8.6",
        _ => "8.7",
    };
}
