using System.Diagnostics;

namespace Lancet.Cli.Tests;

/// <summary>What a finished command left.</summary>
internal sealed record CommandResult(int ExitCode, string Output, string Error);

/// <summary>The lancet command as a process of its own, as users start it: real exit codes, real signals.</summary>
internal static class LancetCommand
{
    private static readonly string s_assembly = Path.Combine(AppContext.BaseDirectory, "Lancet.Cli.dll");

    /// <summary>Runs a command to its end.</summary>
    public static CommandResult Run(params string[] arguments) => RunWithInput("", arguments);

    /// <summary>Runs a command to its end, with variables of the environment besides those of the tests.</summary>
    public static CommandResult RunWith(IEnumerable<(string Name, string Value)> environment, params string[] arguments)
    {
        using var process = Start("dotnet", [s_assembly, .. arguments], environment);
        process.StandardInput.Close();
        return Finish(process);
    }

    /// <summary>Runs a command to its end, with text on its standard input.</summary>
    public static CommandResult RunWithInput(string input, params string[] arguments)
    {
        using var process = Start("dotnet", [s_assembly, .. arguments]);
        process.StandardInput.Write(input);
        process.StandardInput.Close();
        return Finish(process);
    }

    /// <summary>Runs a command that can write no file beyond a number of bytes: the same errors as on a full disk.</summary>
    public static CommandResult RunWithFileLimit(int kilobytes, params string[] arguments)
    {
        // ulimit counts kilobytes. The signal of a write beyond the limit is ignored, so the write fails instead; the runtime's own
        // executable memory is a file too unless W^X is off.
        using var process = Start("bash", ["-c", $"trap '' XFSZ; export DOTNET_EnableWriteXorExecute=0; ulimit -f {kilobytes}; exec dotnet \"$@\"", "bash", s_assembly, .. arguments]);
        process.StandardInput.Close();
        return Finish(process);
    }

    /// <summary>Runs a command whose managed memory is limited.</summary>
    public static CommandResult RunWithMemory(int megabytes, params string[] arguments)
    {
        using var process = Start("bash", ["-c", $"export DOTNET_GCHeapHardLimit=0x{megabytes << 20:X}; exec dotnet \"$@\"", "bash", s_assembly, .. arguments]);
        process.StandardInput.Close();
        return Finish(process);
    }

    /// <summary>Starts a command, waits until it prints a line with <paramref name="text"/> on stderr, sends it a signal, and waits for its end.</summary>
    public static CommandResult RunAndSignal(string signal, string text, params string[] arguments)
    {
        // What a shell starts in the background ignores SIGINT, and passes that on.
        using var process = OperatingSystem.IsLinux() ? Start("env", ["--default-signal=INT", "dotnet", s_assembly, .. arguments]) : Start("dotnet", [s_assembly, .. arguments]);
        process.StandardInput.Close();
        var error = new System.Text.StringBuilder();
        while (process.StandardError.ReadLine() is { } line)
        {
            error.AppendLine(line);
            if (!line.Contains(text, StringComparison.Ordinal)) continue;
            using var kill = Process.Start("kill", [$"-{signal}", process.Id.ToString(System.Globalization.CultureInfo.InvariantCulture)]);
            kill.WaitForExit();
            break;
        }
        var result = Finish(process);
        return result with { Error = error + result.Error };
    }

    private static Process Start(string program, IReadOnlyList<string> arguments, IEnumerable<(string Name, string Value)>? environment = null)
    {
        var start = new ProcessStartInfo(program, arguments)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            UseShellExecute = false,
        };
        foreach (var (name, value) in environment ?? []) start.Environment[name] = value;
        return Process.Start(start)!;
    }

    private static CommandResult Finish(Process process)
    {
        var output = process.StandardOutput.ReadToEndAsync();
        var error = process.StandardError.ReadToEnd();
        var result = new CommandResult(0, output.GetAwaiter().GetResult(), error);
        process.WaitForExit();
        return result with { ExitCode = process.ExitCode };
    }
}
