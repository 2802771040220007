using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering;

internal sealed partial class KernelLowering
{
    /// <summary>
    /// Software pipelining of a loop's matrices: while iteration i computes, the copies of iterations i + 1 … i + stages − 1 are under way. A
    /// load takes part if only products read it and its addresses follow from the loop's index and values from outside.
    /// <code>
    /// start copies of the first stages − 1 iterations, a group each
    /// for i: wait until group i has landed; barrier (all threads see it, and nobody still reads the stage of iteration i − 1)
    ///        start the copies of iteration i + stages − 1 into that stage; compute
    /// </code>
    /// </summary>
    private sealed class Pipeline
    {
        private readonly KernelLowering _lowering;
        private readonly Operation _for;
        private readonly List<(Operation Load, SharedTile Tile)> _loads;
        private readonly int _stages;
        private readonly int _stageBytes;
        private readonly int _start;
        private Source? _ahead;
        private Source _high;
        private Register _readStage;
        private Register _writeStage;

        private Pipeline(KernelLowering lowering, Operation operation, List<Operation> loads)
        {
            (_lowering, _for, _stages) = (lowering, operation, operation.Stages);
            var tiles = loads.Select(load => new SharedTile(load.Result.Type.Dimensions[0], load.Result.Type.Dimensions[1], load.Result.Type.Element, default)).ToList();
            _stageBytes = tiles.Sum(tile => SharedMemory.Align(tile.Bytes));
            _start = lowering._shared.Allocate(_stageBytes * _stages);
            var offset = _start;
            _loads = [];
            for (var i = 0; i < loads.Count; i++)
            {
                _loads.Add((loads[i], tiles[i] with { Offset = Source.Constant(offset) }));
                offset += SharedMemory.Align(tiles[i].Bytes);
            }
        }

        private ThreadBuilder Builder => _lowering._builder;

        /// <summary>The pipeline of a loop, or null if it has nothing to pipeline.</summary>
        public static Pipeline? Plan(KernelLowering lowering, Operation operation)
        {
            if (operation.Stages < 2) return null;
            var body = operation.Body!;
            var inside = body.Operations.SelectMany(inner => inner.Results).ToHashSet();
            var loads = body.Operations.Where(inner => inner.Opcode == Opcode.Load && lowering._plan.IsShared(inner)
                && inner.Operands.All(operand => IsPure(operand, body, inside))).ToList();
            if (loads.Count == 0) return null;
            // Whether 16-byte copies are possible is asked with the index known only to be a multiple of the step.
            var index = lowering._builder.New(RegisterClass.Bits32);
            lowering._builder.SetDivisor(index, Math.Min(lowering._builder.Divisor(lowering.Scalar(operation.Operands[0]).Source), lowering._builder.Divisor(lowering.Scalar(operation.Operands[2]).Source)));
            lowering._builder.Open([]);
            lowering._environments.Push([]);
            lowering.Define(body.Arguments[0], new ScalarItem(body.Arguments[0].Type, new Element(index)));
            foreach (var load in loads) lowering.Evaluate(load);
            var all = loads.All(lowering.CanCopyAsync);
            lowering._environments.Pop();
            lowering._builder.Close();
            return all ? new Pipeline(lowering, operation, loads) : null;
        }

        public void Prologue(Source low, Source high, Source step)
        {
            // Copies outside the pipeline are older groups, so that waiting for the pipeline's first waits for them.
            if (_lowering._hasPendingCopies) Builder.Effect(ThreadOpcode.CommitCopies, ThreadType.B32, [], []);
            _lowering._hasPendingCopies = false;
            if (_lowering._loops.Count > 0) _lowering._shared.Barrier();
            foreach (var (load, _) in _loads) _lowering._order.Load((PointerItem)_lowering.Root(load), null);
            var index = low;
            for (var stage = 0; stage < _stages - 1; stage++)
            {
                Start(index, high, Source.Constant(stage * _stageBytes));
                index = Builder.Add(ThreadType.S32, index, step);
            }
            _readStage = Builder.Variable(RegisterClass.Bits32, Source.Constant(0));
            _writeStage = Builder.Variable(RegisterClass.Bits32, Source.Constant((_stages - 1) * _stageBytes));
            Builder.SetDivisor(_readStage, SharedMemory.Alignment);
            Builder.SetDivisor(_writeStage, SharedMemory.Alignment);
        }

        public void BeginIteration(Register index, Source high, Source step)
        {
            Builder.Effect(ThreadOpcode.WaitCopies, ThreadType.B32, [], [], immediate: _stages - 2);
            _lowering.ShowToOthers();
            (_ahead, _high) = (Builder.Add(ThreadType.S32, index, Builder.Multiply(ThreadType.S32, step, Source.Constant(_stages - 1))), high);
            if (!_lowering._usesWarpGroups || _stages < 3) StartAhead();
            foreach (var (load, tile) in _loads)
                _lowering.Define(load.Result, new SharedItem(load.Result.Type, tile with { Offset = Builder.Add(ThreadType.U32, tile.Offset, _readStage) }, false));
        }

        /// <summary>
        /// Starts the copies for a later iteration. Where there is time for them, warp groups do it behind the body, while their last products are made:
        /// finding the addresses then takes no time, and few registers are in use.
        /// </summary>
        public void StartAhead()
        {
            if (_ahead is not { } ahead) return;
            _ahead = null;
            // What this iteration has made of its own index is of no use.
            var own = _lowering._environments.Pop();
            Start(ahead, _high, _writeStage);
            _lowering._environments.Push(own);
        }

        public void EndIteration()
        {
            foreach (var stage in (Register[])[_readStage, _writeStage])
            {
                var next = Builder.Add(ThreadType.U32, stage, Source.Constant(_stageBytes));
                var isLast = Builder.Compare(ThreadType.U32, Comparison.Equal, next, Source.Constant(_stageBytes * _stages));
                Builder.Assign(stage, Builder.Select(ThreadType.B32, isLast, Source.Constant(0), next));
            }
        }

        public void Epilogue() => Builder.Effect(ThreadOpcode.WaitCopies, ThreadType.B32, [], []);

        // Starts the copies of one iteration, or none past the loop's end; a group either way, so that counting groups is counting iterations.
        private void Start(Source index, Source high, Source stage)
        {
            var isInside = Builder.Compare(ThreadType.S32, Comparison.Less, index, high);
            if (isInside is { IsConstant: true, Bits: 0 })
            {
                Builder.Effect(ThreadOpcode.CommitCopies, ThreadType.B32, [], []);
                return;
            }
            ThreadBranch? branch = null;
            if (!isInside.IsConstant)
            {
                branch = new ThreadBranch { Condition = isInside.Register };
                Builder.Append(branch);
                Builder.Open(branch.Body);
            }
            _lowering._environments.Push([]);
            _lowering.Define(_for.Body!.Arguments[0], new ScalarItem(_for.Body.Arguments[0].Type, new Element(index)));
            foreach (var (load, tile) in _loads)
            {
                _lowering.Evaluate(load);
                _lowering.CopyToShared(load, tile with { Offset = Builder.Add(ThreadType.U32, tile.Offset, stage) });
            }
            _lowering._environments.Pop();
            _lowering._hasPendingCopies = false;
            if (branch is not null) Builder.Close();
            Builder.Effect(ThreadOpcode.CommitCopies, ThreadType.B32, [], []);
        }

        private static bool IsPure(Value value, Region body, HashSet<Value> inside)
        {
            if (value == body.Arguments[0]) return true;
            if (body.Arguments.Contains(value)) return false;
            if (!inside.Contains(value)) return true;
            return LayoutPlan.IsRecomputable(value.Definition!) && value.Definition!.Operands.All(operand => IsPure(operand, body, inside));
        }
    }

    /// <summary>Lowers, in the innermost environment, what a load's addresses and mask follow from inside a loop's body.</summary>
    private void Evaluate(Operation load)
    {
        void Visit(Value value)
        {
            if (_environments.Any(environment => environment.ContainsKey(value))) return;
            var definition = value.Definition!;
            foreach (var operand in definition.Operands) Visit(operand);
            Define(value, LowerPure(definition));
        }
        foreach (var operand in load.Operands) Visit(operand);
    }

    private Item Root(Operation load)
    {
        var value = load.Operands[0];
        while (value.Definition is { } definition) value = definition.Operands[0];
        return Get(value);
    }
}
