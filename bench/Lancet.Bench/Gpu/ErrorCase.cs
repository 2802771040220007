using System.Globalization;
using Lancet.Devices;
using Lancet.Formats;
using Lancet.Tensors;

namespace Lancet.Bench.Gpu;

/// <summary>Inputs and results of one kernel, on their way to bench/peers/kernel_errors.py, which computes the same in PyTorch.</summary>
/// <param name="device">Where the kernel runs.</param>
/// <param name="folder">Where files go.</param>
/// <param name="name">For people.</param>
/// <param name="kind">Which function of the script is the peer.</param>
internal sealed class ErrorCase(Device device, string folder, string name, string kind) : IDisposable
{
    private readonly List<SafetensorsOutput> _tensors = [];
    private readonly Dictionary<string, string> _metadata = new() { ["name"] = name, ["kind"] = kind };

    /// <summary>Makes the tensors.</summary>
    public BenchLab Lab { get; } = new(device, 7);

    public Device Device => device;

    /// <summary>A number that the peer has to know.</summary>
    public void Parameter(string key, double value) => _metadata[key] = value.ToString("R", CultureInfo.InvariantCulture);

    /// <summary>Keeps an input as it is now, and gives it back.</summary>
    public Tensor In(string key, Tensor tensor)
    {
        Keep("in." + key, tensor);
        return tensor;
    }

    /// <summary>Keeps a result.</summary>
    public void Out(string key, Tensor tensor) => Keep("out." + key, tensor);

    /// <summary>Writes the file.</summary>
    public void Save() => SafetensorsWriter.Write(Path.Combine(folder, $"{string.Concat(name.Select(c => char.IsAsciiLetterOrDigit(c) ? c : '-'))}.safetensors"), _tensors, _metadata);

    public void Dispose() => Lab.Dispose();

    private void Keep(string key, Tensor tensor)
    {
        var bytes = new byte[tensor.Bytes];
        device.CopyToHost(tensor, bytes);
        _tensors.Add(new(key, tensor.DType, [.. Enumerable.Range(0, tensor.Shape.Rank).Select(axis => tensor.Shape[axis])], stream => stream.Write(bytes)));
    }
}
