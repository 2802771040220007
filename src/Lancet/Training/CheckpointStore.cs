using System.Globalization;
using System.Text.Json;
using Lancet.Formats;
using Lancet.Models;

namespace Lancet.Training;

/// <summary>
/// The folder <c>checkpoints/</c> of a run: <c>step-N</c> holds the adapter or weights, the optimiser's state and the run's place. A
/// checkpoint is complete or absent.
/// </summary>
/// <param name="output">Output folder of the run.</param>
public sealed class CheckpointStore(string output)
{
    private const string StateFile = "training_state.safetensors";
    private const string PlaceFile = "training_state.json";

    private string Folder => Path.Combine(output, "checkpoints");

    /// <summary>The newest complete checkpoint, or null.</summary>
    public string? Newest() => All().LastOrDefault().Path;

    /// <summary>Removes all checkpoints.</summary>
    public void Clear()
    {
        foreach (var (_, path) in All().ToList()) Directory.Delete(path, true);
    }

    /// <summary>Writes a checkpoint and removes the oldest beyond the limit.</summary>
    /// <param name="step">Steps done.</param>
    /// <param name="tokens">Tokens seen.</param>
    /// <param name="signature">What must be equal for a run to be resumed.</param>
    /// <param name="model">Model.</param>
    /// <param name="engine">Engine.</param>
    /// <param name="limit">Checkpoints kept; 0 for all.</param>
    public void Save(int step, long tokens, string signature, LanguageModel model, ITrainingEngine engine, int limit)
    {
        AtomicFile.WriteFolder(Path.Combine(Folder, $"step-{step}"), folder =>
        {
            ModelWriter.SaveTrained(folder, model);
            SaveState(Path.Combine(folder, StateFile), engine);
            AtomicFile.Write(Path.Combine(folder, PlaceFile), stream =>
            {
                using var json = new Utf8JsonWriter(stream, new JsonWriterOptions { Indented = true });
                json.WriteStartObject();
                json.WriteNumber("step", step);
                json.WriteNumber("tokens", tokens);
                json.WriteString("signature", signature);
                json.WriteEndObject();
            });
        });
        if (limit <= 0) return;
        foreach (var (_, path) in All().SkipLast(limit)) Directory.Delete(path, true);
    }

    /// <summary>Puts an engine into the state of a checkpoint.</summary>
    /// <returns>Steps done and tokens seen.</returns>
    /// <exception cref="LancetException">The checkpoint is damaged or belongs to another run.</exception>
    public static (int Step, long Tokens) Load(string checkpoint, string signature, ITrainingEngine engine)
    {
        var place = Path.Combine(checkpoint, PlaceFile);
        int step;
        long tokens;
        try
        {
            using var document = JsonDocument.Parse(File.ReadAllBytes(place));
            (step, tokens) = (document.RootElement.GetProperty("step").GetInt32(), document.RootElement.GetProperty("tokens").GetInt64());
            var saved = document.RootElement.GetProperty("signature").GetString();
            if (saved != signature) throw new LancetException($"{checkpoint} was made with other settings:\n  then {saved}\n  now  {signature}\nResume with the settings of then, or start anew in another output folder.");
        }
        catch (Exception error) when (error is IOException or JsonException or KeyNotFoundException or InvalidOperationException)
        {
            throw new LancetException($"{place}: not a readable checkpoint: {error.Message}", error);
        }
        using var file = SafetensorsFile.Open(Path.Combine(checkpoint, StateFile));
        engine.LoadState((name, bytes) =>
        {
            var entry = file[name];
            if (entry.Bytes != bytes.Length) throw new LancetException($"{file.Path}: tensor {name} has {entry.Bytes} bytes instead of {bytes.Length}; the checkpoint belongs to another run.");
            entry.Span.CopyTo(bytes);
        });
        return (step, tokens);
    }

    private static void SaveState(string path, ITrainingEngine engine)
    {
        // The header comes first in the file, so sizes are asked for before contents are written, one tensor at a time.
        var outputs = new List<SafetensorsOutput>();
        engine.SaveState((name, dtype, shape, _) => outputs.Add(new(name, dtype, shape.ToArray(), stream => engine.SaveState((other, _, _, bytes) =>
        {
            if (other == name) stream.Write(bytes);
        }))));
        SafetensorsWriter.Write(path, outputs);
    }

    private IEnumerable<(int Step, string Path)> All() => Directory.Exists(Folder)
        ? Directory.EnumerateDirectories(Folder, "step-*")
            .Select(path => (Step: int.TryParse(Path.GetFileName(path)[5..], NumberStyles.None, CultureInfo.InvariantCulture, out var step) ? step : -1, Path: path))
            .Where(item => item.Step >= 0 && File.Exists(Path.Combine(item.Path, PlaceFile))).OrderBy(item => item.Step)
        : [];
}
