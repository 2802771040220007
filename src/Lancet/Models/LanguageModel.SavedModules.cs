using Lancet.Adapters;
using Lancet.Tensors;

namespace Lancet.Models;

public sealed partial class LanguageModel
{
    /// <summary>Carries embedding and head from the frozen weights over to the trained ones.</summary>
    private sealed class SavedModules
    {
        private readonly LanguageModel _model;
        private readonly float[]? _embedding;
        private readonly float[]? _head;
        private Tensor[] _former = [];

        /// <summary>Reads what will be trained, while it is frozen.</summary>
        public SavedModules(LanguageModel model, LoraOptions options)
        {
            _model = model;
            if (options.ModulesToSave.Count == 0) return;
            var decoder = model.Decoder;
            _embedding = model.Read(decoder.Embedding);
            _head = decoder.IsTied ? _embedding : options.ModulesToSave.Contains(LoraOptions.LmHead) ? model.Read(decoder.Head.Weight) : null;
        }

        private IEnumerable<Weight> Trained => _model.Decoder.Weights.Where(weight => weight.IsTrained);

        /// <summary>Remembers the frozen weights' memory; called when they are marked as trained.</summary>
        public void NoteMemory() => _former = [.. Trained.Select(weight => weight.Dense).DistinctBy(dense => dense.Address)];

        /// <summary>Fills in the masters, and gives the frozen memory back.</summary>
        public void Restore()
        {
            foreach (var weight in Trained) _model.SetTrained(weight, weight == _model.Decoder.Embedding ? _embedding! : _head!);
            if (_former.Length == 0) return;
            _model.Trained!.RefreshCopy(_model.Device);
            _model.Device.Synchronize();
            foreach (var former in _former)
            {
                // A head that was tied and is not trained keeps the memory.
                if (_model.Decoder.Weights.Any(weight => weight.Dense.Address == former.Address)) continue;
                if (_model._owned.Find(buffer => buffer.Address == former.Address) is { } buffer)
                {
                    _model._owned.Remove(buffer);
                    buffer.Dispose();
                }
                else
                {
                    _model.MappedBytes -= former.Bytes;
                }
            }
        }
    }
}
