using System.Diagnostics;
using System.Runtime.Intrinsics.X86;

namespace Lancet.Tile.Tests.Cpu;

/// <summary>
/// The executor's tests once more in child processes whose runtime has AVX-512, and then AVX2 as well, switched off, so that every
/// width of its vector code is tested on any machine (after ImageSharp's FeatureTestRunner).
/// </summary>
public class InstructionSetTests
{
    private const string Variable = "LANCET_TILE_SWITCHED_OFF";

    private static string? SwitchedOff => Environment.GetEnvironmentVariable(Variable);

    [Theory]
    [InlineData("AVX512")]
    [InlineData("AVX2")]
    public async Task The_executor_passes_without(string instructionSet)
    {
        if (SwitchedOff is not null) return;
        var start = new ProcessStartInfo(Environment.ProcessPath!) { RedirectStandardOutput = true, RedirectStandardError = true };
        // Under the dotnet command the assembly comes first; the test program itself needs no such help.
        if (Path.GetFileNameWithoutExtension(Environment.ProcessPath) == "dotnet") start.ArgumentList.Add(typeof(InstructionSetTests).Assembly.Location);
        foreach (var argument in (string[])["--filter-namespace", typeof(InstructionSetTests).Namespace!, "--progress", "off", "--no-ansi"]) start.ArgumentList.Add(argument);
        // A runner that talks to this process by pipe must not be inherited.
        foreach (var name in start.Environment.Keys.Where(name => name.StartsWith("TESTINGPLATFORM_", StringComparison.Ordinal)).ToArray()) start.Environment.Remove(name);
        start.Environment[Variable] = instructionSet;
        start.Environment[$"DOTNET_Enable{instructionSet}"] = "0";
        using var child = Process.Start(start)!;
        var output = child.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken);
        var error = child.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken);
        await child.WaitForExitAsync(TestContext.Current.CancellationToken);
        Assert.True(child.ExitCode == 0, $"without {instructionSet}:\n{await output}\n{await error}");
        Assert.Contains("failed: 0", await output, StringComparison.Ordinal);
    }

    [Fact]
    public void What_was_switched_off_is_off()
    {
        if (SwitchedOff is null) return;
        Assert.False(Avx512F.IsSupported);
        if (SwitchedOff == "AVX2") Assert.False(Avx2.IsSupported);
    }
}
