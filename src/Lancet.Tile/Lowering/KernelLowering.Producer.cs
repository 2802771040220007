using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering;

// Warp specialization: a producer copies what the products of two warp groups read, so that neither spends time on it or waits for the other.
internal sealed partial class KernelLowering
{
    private ProducerPipeline? _producer;

    // Warps that copy: the producer's while its code is lowered, all of them else.
    private int _copyingWarps;

    /// <summary>
    /// A warp group of its own, the producer, copies, and two others compute. Each stage has two named barriers for each of those: where it waits until the
    /// stage is full, and where the producer waits until it has read the stage.
    /// <code>
    /// producer   for i: if i ≥ stages, wait until both groups have read iteration i − stages; start copies of i; when they have landed, tell both groups
    /// group      for i: wait until iteration i is there; compute; if there is an iteration i + stages, tell the producer
    /// </code>
    /// With more than two stages the producer starts the copies of i + 1 before it waits for those of i. Where all loads are blocks of matrices, one thread has the hardware copy them,
    /// and each stage has an mbarrier besides, where the thread's warp waits for the bytes.
    /// </summary>
    private sealed class ProducerPipeline : Pipeline
    {
        /// <summary>Groups that compute.</summary>
        public const int Groups = 2;

        /// <summary>Warps of a group, the producer too: only groups can give up registers.</summary>
        public const int GroupWarps = 4;

        /// <summary>There are 16 barriers, of which the first is that of all threads.</summary>
        public const int MostStages = 3;

        private const int FirstBarrier = 4;
        private readonly Operation _loop;
        private Register _readStage;
        private Register _full;
        private Source _high;
        private Source _again;

        public ProducerPipeline(KernelLowering lowering, Operation operation, List<Operation> loads) : base(lowering, operation, loads)
        {
            _loop = operation;
            lowering._producer = this;
            if (loads.TrueForAll(load => TensorBlock.Of(load, lowering._kernel, lowering._divisible) is not null)) TakeBlocks();
        }

        /// <summary>Warps of the producer that copy.</summary>
        public int CopyingWarps => Blocks.Count == 0 ? GroupWarps : 1;

        // Threads of a group and of the producer.
        private int Meeting => 32 * (GroupWarps + CopyingWarps);

        // Barriers where the first group waits until stages are full; the second group's follow; behind them those where the producer waits.
        private Source FirstFull => Builder.Add(ThreadType.U32, Builder.Multiply(ThreadType.U32, Lowering.WarpGroup(), Source.Constant(Stages)), Source.Constant(FirstBarrier));

        private int ToRead => Groups * Stages;

        private bool StartsBeforeTelling => Stages > 2;

        public override void Prologue(Source low, Source high, Source step)
        {
            Lowering.FinishCopies();
            _readStage = StageRegister(0);
            _full = Builder.Variable(RegisterClass.Bits32, FirstFull);
            _high = high;
        }

        public override void BeginIteration(Register index, Source high, Source step)
        {
            _again = Builder.Add(ThreadType.S32, index, Builder.Multiply(ThreadType.S32, step, Source.Constant(Stages)));
            Builder.Forget([_readStage, _full]);
            Builder.Effect(ThreadOpcode.NamedWait, ThreadType.B32, [], [_full], immediate: Meeting);
            DefineLoads(_readStage);
        }

        public override void BehindBody()
        {
        }

        public override void EndIteration()
        {
            // Nobody waits for stages that are not filled again.
            Where(Builder.Compare(ThreadType.S32, Comparison.Less, _again, _high), TellRead);
            Advance(_full, FirstFull, _readStage);
        }

        public override void Epilogue()
        {
        }

        private void TellRead() => Builder.Effect(ThreadOpcode.NamedArrive, ThreadType.B32, [], [Builder.Add(ThreadType.U32, _full, Source.Constant(ToRead))], immediate: Meeting);

        /// <summary>Lowers the producer's loop.</summary>
        public void LowerProducer()
        {
            var (low, high, step) = (Bound(0), Bound(1), Bound(2));
            var index = Builder.Variable(RegisterClass.Bits32, low);
            Builder.SetDivisor(index, Math.Min(Builder.Divisor(low), Builder.Divisor(step)));
            var firstRefill = Builder.Add(ThreadType.S32, low, Builder.Multiply(ThreadType.S32, step, Source.Constant(Stages)));
            var writeStage = StageRegister(0);
            var full = Builder.Variable(RegisterClass.Bits32, Source.Constant(FirstBarrier));
            var told = Builder.Variable(RegisterClass.Bits32, full);
            var (filling, awaited, phase) = (MbarrierRegister(0), MbarrierRegister(0), Builder.Variable(RegisterClass.Bits32, Source.Constant(0)));
            InitializeMbarriers();
            var loop = new ThreadLoop();
            Builder.Append(loop);
            Builder.Open(loop.Header);
            loop.Condition = Builder.Compare(ThreadType.S32, Comparison.Less, index, high).Register;
            Builder.Close();
            Builder.Open(loop.Body);
            Where(Builder.Compare(ThreadType.S32, Comparison.LessOrEqual, firstRefill, index), () => AtBoth(ThreadOpcode.NamedWait, full, ToRead));
            Copy(index, writeStage, filling);
            AdvanceMbarrier(filling);
            if (Blocks.Count == 0) Builder.Effect(ThreadOpcode.CommitCopies, ThreadType.B32, [], []);
            if (StartsBeforeTelling)
            {
                Where(Builder.Compare(ThreadType.S32, Comparison.Less, low, index), () => Tell(told, 1));
                Builder.Assign(told, full);
            }
            else Tell(full, 0);
            Advance(full, Source.Constant(FirstBarrier), writeStage);
            Builder.Assign(index, Builder.Add(ThreadType.S32, index, step));
            Builder.Close();
            if (StartsBeforeTelling) Where(Builder.Compare(ThreadType.S32, Comparison.Less, low, high), () => Tell(told, 0));

            // When all but the newest copies have landed, the groups that compute may read.
            void Tell(Register full, int newest)
            {
                AwaitBlocks(awaited, phase);
                if (Blocks.Count == 0) Builder.Effect(ThreadOpcode.WaitCopies, ThreadType.B32, [], [], immediate: newest);
                Builder.Effect(ThreadOpcode.ProxyFence, ThreadType.B32, [], []);
                AtBoth(ThreadOpcode.NamedArrive, full, 0);
            }
        }

        // The next stage and its barrier, which from the last one is the first again.
        private void Advance(Register full, Source first, Register stage)
        {
            var isLast = Builder.Compare(ThreadType.U32, Comparison.Equal, stage, Source.Constant(StageBytes * (Stages - 1)));
            Builder.Assign(full, Builder.Select(ThreadType.B32, isLast, first, Builder.Add(ThreadType.U32, full, Source.Constant(1))));
            Advance(stage);
        }

        private Source Bound(int operand) => ScalarOf(_loop.Operands[operand]);

        private void AtBoth(ThreadOpcode opcode, Register full, int offset)
        {
            for (var group = 0; group < Groups; group++)
                Builder.Effect(opcode, ThreadType.B32, [], [Builder.Add(ThreadType.U32, full, Source.Constant(offset + (group * Stages)))], immediate: Meeting);
        }

        private void Where(Source condition, Action then)
        {
            var branch = new ThreadBranch { Condition = condition.Register };
            Builder.Append(branch);
            Builder.Open(branch.Body);
            then();
            Builder.Close();
        }
    }

    /// <summary>
    /// Whether a loop's copies can be left to a producer: two warp groups run it, once, nothing was written before it, and its bounds and addresses follow
    /// from what the producer can find out by itself.
    /// </summary>
    private bool CanHaveProducer(Operation loop, List<Operation> loads) =>
        _usesWarpGroups && _kernel.Warps == ProducerPipeline.Groups * ProducerPipeline.GroupWarps && _producer is null && loop.Stages <= ProducerPipeline.MostStages
        && _kernel.Body.Operations.Contains(loop) && _kernel.Body.Operations.TakeWhile(operation => operation != loop).All(operation => !Writes(operation))
        && loop.Operands.Take(3).Concat(loads.SelectMany(load => load.Operands)).All(value => IsKnownToProducer(value, loop.Body!.Arguments[0]));

    private static bool Writes(Operation operation) => operation.Opcode is Opcode.Store or Opcode.Copy or Opcode.AtomicAdd || (operation.Body?.Operations.Any(Writes) ?? false);

    private bool IsKnownToProducer(Value value, Value index)
    {
        if (value == index || _kernel.Parameters.Any(parameter => parameter.Value == value)) return true;
        return value.Definition is { } definition && ((definition.Opcode == Opcode.Load && value.Type.IsScalar && !definition.IsOpaque) || LayoutPlan.IsRecomputable(definition))
            && definition.Operands.All(operand => IsKnownToProducer(operand, index));
    }

    private void LowerProducer()
    {
        if (_producer is null) return;
        (_program.ProducerWarps, _copyingWarps) = (ProducerPipeline.GroupWarps, ProducerPipeline.GroupWarps);
        _program.IdleProducerWarps = ProducerPipeline.GroupWarps - _producer.CopyingWarps;
        _builder.Open(_program.Producer);
        _builder.FirstThread = 32 * _kernel.Warps;
        _environments.Clear();
        _environments.Push([]);
        for (var i = 0; i < _kernel.Parameters.Count; i++) DeclareParameter(i);
        _producer.LowerProducer();
        _builder.Close();
    }
}
