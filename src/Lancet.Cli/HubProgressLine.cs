using System.Globalization;
using Lancet.Formats.Hub;

namespace Lancet.Cli;

/// <summary>Bytes from or to the hub: a line on stderr, rewritten on a terminal, else one for each tenth.</summary>
internal sealed class HubProgressLine(HubId id) : IProgress<HubProgress>, IProgress<HubUploadProgress>, IDisposable
{
    private readonly Lock _lock = new();
    private (string What, long Step) _shown = ("", -1);

    public void Report(HubProgress value) => Show("", value.Bytes, value.TotalBytes);

    public void Report(HubUploadProgress value) => Show(value.IsSending ? "sent " : "read ", value.Bytes, value.TotalBytes);

    private void Show(string what, long bytes, long total)
    {
        lock (_lock)
        {
            var step = total == 0 ? 0 : bytes * (Console.IsErrorRedirected ? 10 : 1000) / total;
            if ((what, step) == _shown) return;
            _shown = (what, step);
            var line = string.Create(CultureInfo.InvariantCulture, $"{id}: {what}{bytes / 1e6:N1} of {total / 1e6:N1} MB");
            if (Console.IsErrorRedirected) Console.Error.WriteLine(line);
            else Console.Error.Write($"\r{line}\e[K");
        }
    }

    public void Dispose()
    {
        if (!Console.IsErrorRedirected && _shown.Step >= 0) Console.Error.WriteLine();
    }
}
