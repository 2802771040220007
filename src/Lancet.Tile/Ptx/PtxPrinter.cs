using System.Globalization;
using System.Text;
using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Ptx;

/// <summary>Prints a thread program as a PTX module with one entry point. Instructions are those of PTX 7.0 and sm_80, and wgmma, clusters, copies of blocks and dependent launch where the target has them.</summary>
internal static class PtxPrinter
{
    /// <summary>The module's text.</summary>
    /// <exception cref="TileException">The program holds an instruction that PTX cannot express.</exception>
    public static string Print(ThreadProgram program, PtxTarget target)
    {
        if (program.SharedBytes > target.MaxSharedMemoryPerBlock)
            throw new TileException($"kernel {program.Name}: out of shared memory: {Number(program.SharedBytes)} bytes needed, {Number(target.MaxSharedMemoryPerBlock)} available: use fewer stages or smaller blocks.");
        var body = new PtxBody(program);
        body.Write();
        var text = new StringBuilder();
        text.Append(body.UsesWarpGroups
            ? $".version {PtxTarget.WarpGroupVersion}\n.target sm_{target.ComputeCapability}a\n"
            : $".version {target.Version}\n.target sm_{target.ComputeCapability}\n").Append(".address_size 64\n\n");
        for (var table = 0; table < program.Tables.Count; table++) AppendTable(text, program, table);
        if (body.UsesSharedMemory) text.Append(CultureInfo.InvariantCulture, $".extern .shared .align 1024 .b8 {PtxBody.SharedName(program)}[];\n\n");
        text.Append(CultureInfo.InvariantCulture, $".visible .entry {program.Name}(");
        for (var i = 0; i < program.Parameters.Count; i++)
        {
            var type = program.Parameters[i].Value.Type;
            var kind = type.IsPointer ? ".u64" : type.Element switch
            {
                DType.Float64 => ".f64",
                DType.Int64 => ".s64",
                DType.Float32 => ".f32",
                DType.UInt32 => ".u32",
                DType.Int32 => ".s32",
                var other => throw new TileException($"kernel {program.Name}, parameter {program.Parameters[i].Name}: a scalar of {other} cannot be passed to a GPU."),
            };
            text.Append(CultureInfo.InvariantCulture, $"{(i == 0 ? "\n" : ",\n")}    .param {kind} {PtxBody.ParameterName(program, i)}");
        }
        for (var map = 0; map < program.TensorMaps.Count; map++) text.Append(CultureInfo.InvariantCulture, $",\n    .param .align {TensorMap.Alignment} .b8 {PtxBody.MapName(program, map)}[{TensorMap.Bytes}]");
        text.Append(CultureInfo.InvariantCulture, $"\n)\n.maxntid {program.Threads}, 1, 1\n");
        if (program.ProgramsPerMultiprocessor > 1) text.Append(CultureInfo.InvariantCulture, $".minnctapersm {program.ProgramsPerMultiprocessor}\n");
        if (program.Cluster > 1) text.Append(CultureInfo.InvariantCulture, $".explicitcluster\n.reqnctapercluster {program.Cluster}, 1, 1\n");
        text.Append("{\n");
        body.AppendDeclarations(text);
        // What the kernel before wrote is complete and visible after it. The next kernel comes up when this one's last program ends: calling it up earlier (launch_dependents) slows both down.
        if (target.HasDependentLaunch) text.Append("    griddepcontrol.wait;\n");
        text.Append(body.Text).Append("    ret;\n}\n");
        return text.ToString();
    }

    private static void AppendTable(StringBuilder text, ThreadProgram program, int table)
    {
        var entries = program.Tables[table];
        text.Append(CultureInfo.InvariantCulture, $".global .align 16 .b32 {PtxBody.TableName(program, table)}[{entries.Length}] = {{");
        for (var i = 0; i < entries.Length; i++)
            text.Append(i == 0 ? "" : ", ").Append(i % 8 == 0 ? "\n    " : "").Append(CultureInfo.InvariantCulture, $"0x{BitConverter.SingleToUInt32Bits(entries[i]):X8}");
        text.Append("\n};\n\n");
    }

    private static string Number(int value) => value.ToString("N0", CultureInfo.InvariantCulture);
}
