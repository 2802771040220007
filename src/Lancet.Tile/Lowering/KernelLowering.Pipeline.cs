using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Threads;
using Lancet.Tile.Ptx;

namespace Lancet.Tile.Lowering;

internal sealed partial class KernelLowering
{
    /// <summary>
    /// Software pipelining of a loop's matrices: while an iteration computes, the copies of later ones are under way. A load takes part if only products
    /// read it and its addresses follow from the loop's index and values from outside.
    /// </summary>
    private abstract class Pipeline
    {
        private const int MbarrierBytes = 8;
        private readonly Operation _for;
        private int _mbarriers;

        protected Pipeline(KernelLowering lowering, Operation operation, List<Operation> loads)
        {
            (Lowering, _for, Stages) = (lowering, operation, operation.Stages);
            var tiles = loads.Select(load => SharedTile.Of(load.Result.Type)).ToList();
            // Vectors lie close together behind the matrices.
            var offsets = new int[tiles.Count];
            var end = 0;
            for (var i = 0; i < tiles.Count; i++)
            {
                offsets[i] = tiles[i].Rows > 1 ? SharedMemory.Align(end) : end;
                end = offsets[i] + ((tiles[i].Bytes + WidestAccess - 1) / WidestAccess * WidestAccess);
            }
            StageBytes = SharedMemory.Align(end);
            var start = lowering._shared.Allocate(StageBytes * Stages);
            Loads = [.. loads.Select((load, i) => (load, tiles[i] with { Offset = Source.Constant(start + offsets[i]) }))];
        }

        protected KernelLowering Lowering { get; }

        protected ThreadBuilder Builder => Lowering._builder;

        protected List<(Operation Load, SharedTile Tile)> Loads { get; }

        protected int Stages { get; }

        protected int StageBytes { get; }

        /// <summary>Loads that the hardware copies by itself, if <see cref="TakeBlocks"/> found any; the first thread starts them.</summary>
        protected Dictionary<Operation, TensorBlock> Blocks { get; } = [];

        /// <summary>The pipeline of a loop, or null if it has nothing to pipeline.</summary>
        public static Pipeline? Plan(KernelLowering lowering, Operation operation)
        {
            if (operation.Stages < 2) return null;
            var body = operation.Body!;
            var inside = body.Operations.SelectMany(inner => inner.Results).ToHashSet();
            var loads = body.Operations.Where(inner => inner.Opcode == Opcode.Load && lowering._plan.IsShared(inner)
                && inner.Operands.All(operand => IsPure(operand, body, inside))).ToList();
            if (loads.Count == 0) return null;
            var vectors = !lowering._usesWarpGroups ? [] : body.Operations.Where(inner => inner.Opcode == Opcode.Load && IsVector(inner) && inner.Operands.All(operand => IsPure(operand, body, inside))).ToList();
            // Whether 16-byte copies are possible is asked with the index known only to be a multiple of the step.
            var index = lowering._builder.New(RegisterClass.Bits32);
            lowering._builder.SetDivisor(index, Math.Min(lowering._builder.Divisor(lowering.Scalar(operation.Operands[0]).Source), lowering._builder.Divisor(lowering.Scalar(operation.Operands[2]).Source)));
            lowering._builder.Open([]);
            lowering._environments.Push([]);
            lowering.Define(body.Arguments[0], new ScalarItem(body.Arguments[0].Type, new Element(index)));
            foreach (var load in loads.Concat(vectors)) lowering.Evaluate(load);
            var all = loads.All(lowering.CanCopyAsync);
            vectors.RemoveAll(vector => !lowering.CanCopyAsync(vector));
            lowering._environments.Pop();
            lowering._builder.Close();
            if (!all) return null;
            if (operation.IsWarpSpecialized && lowering.CanHaveProducer(operation, loads)) return new ProducerPipeline(lowering, operation, loads);
            return lowering.AheadOf(operation, loads) is { } product ? new AheadPipeline(lowering, operation, [.. loads, .. vectors], product) : new SharedPipeline(lowering, operation, [.. loads, .. vectors]);
        }

        /// <summary>Whether products may be under way from one iteration to the next.</summary>
        public virtual bool KeepsProducts => false;

        /// <summary>Before the loop.</summary>
        public abstract void Prologue(Source low, Source high, Source step);

        /// <summary>Makes the loads of this iteration available.</summary>
        public abstract void BeginIteration(Register index, Source high, Source step);

        /// <summary>Behind the body, while its last products are made.</summary>
        public abstract void BehindBody();

        /// <summary>When all of the iteration's products are made.</summary>
        public abstract void EndIteration();

        /// <summary>Behind the loop.</summary>
        public abstract void Epilogue();

        /// <summary>A register for where a stage lies, in bytes from the first.</summary>
        protected Register StageRegister(int first)
        {
            var stage = Builder.Variable(RegisterClass.Bits32, Source.Constant(first * StageBytes));
            Builder.SetDivisor(stage, SharedMemory.Alignment);
            return stage;
        }

        /// <summary>Starts a product on a stage's loads; the body's environment must not be there.</summary>
        protected void StartAside(ProductAhead product, Register stage)
        {
            Lowering._environments.Push([]);
            DefineLoads(stage);
            product.Start();
            Lowering._environments.Pop();
        }

        protected void Advance(Register stage)
        {
            var next = Builder.Add(ThreadType.U32, stage, Source.Constant(StageBytes));
            var isLast = Builder.Compare(ThreadType.U32, Comparison.Equal, next, Source.Constant(StageBytes * Stages));
            Builder.Assign(stage, Builder.Select(ThreadType.B32, isLast, Source.Constant(0), next));
            Builder.Forget([stage]);
        }

        protected void DefineLoads(Register stage)
        {
            foreach (var (load, tile) in Loads)
            {
                var (type, start) = (load.Result.Type, Builder.Add(ThreadType.U32, tile.Offset, stage));
                Lowering.Define(load.Result, type.Rank == 1 ? Vector(type, start) : Lowering.Shared(type, tile with { Offset = start }));
            }
        }

        // Elements that lie behind each other from an address of shared memory on.
        private StoredItem Vector(TileType type, Source start)
        {
            var elements = new AffineItem(Builder, type.With(DType.Int32), Source.Constant(0), [(0, Source.Constant(1L))]);
            var pointer = new PointerItem(new TileType(type.Element, true, type.Dimensions), start, elements) { IsShared = true };
            return new StoredItem(type, layout => Lowering.LoadTile(pointer, null, ElementArithmetic.Constant(type.Element, 0, 0), layout));
        }

        /// <summary>Starts the copies of an iteration, of blocks besides a group; copies of zeros if a condition does not hold.</summary>
        protected void Copy(Source index, Source stage, Source mbarrier, Source? condition = null)
        {
            Lowering._environments.Push([]);
            Lowering.Define(_for.Body!.Arguments[0], new ScalarItem(_for.Body.Arguments[0].Type, new Element(index)));
            if (Blocks.Count > 0) Builder.Effect(ThreadOpcode.ExpectBytes, ThreadType.B32, [], [mbarrier], FirstThread(), Loads.Where(load => Blocks.ContainsKey(load.Load)).Sum(load => load.Tile.Bytes));
            foreach (var (load, tile) in Loads)
            {
                var place = tile with { Offset = Builder.Add(ThreadType.U32, tile.Offset, stage) };
                if (Blocks.TryGetValue(load, out var block))
                {
                    CopyBlock(block, place, mbarrier, condition);
                    continue;
                }
                Lowering.Evaluate(load);
                Lowering.CopyToShared(load, place, condition);
            }
            Lowering._environments.Pop();
            Lowering._hasPendingCopies = false;
        }

        // Panel by panel. Behind the last row there are zeros.
        private void CopyBlock(TensorBlock block, SharedTile place, Source mbarrier, Source? condition)
        {
            var (row, column) = (ScalarOf(block.Row), block.Column is { } first ? ScalarOf(first) : Source.Constant(0));
            if (condition is { } isThere) row = Builder.Select(ThreadType.B32, isThere, row, Lowering.Scalar(Lowering._kernel.Parameters[block.Map.Rows].Value).Source);
            for (var panel = 0; panel < place.Columns / place.PanelColumns; panel++)
            {
                Source[] sources = [Builder.Add(ThreadType.U32, place.Offset, Source.Constant(panel * place.PanelBytes)), Builder.Add(ThreadType.S32, column, Source.Constant(panel * place.PanelColumns)), row, mbarrier];
                Builder.Effect(ThreadOpcode.CopyTensor, ThreadType.B32, [], sources, FirstThread(), Lowering.NumberOf(block.Map));
            }
        }

        /// <summary>Has the hardware copy those loads that are blocks of matrices; each stage has an mbarrier for them.</summary>
        protected void TakeBlocks()
        {
            foreach (var (load, _) in Loads)
                if (TensorBlock.Of(load, Lowering._kernel, Lowering._divisible) is { } block) Blocks.Add(load, block);
            if (Blocks.Count > 0) _mbarriers = Lowering._shared.Allocate(Stages * MbarrierBytes);
        }

        /// <summary>Before a pipeline's first copies.</summary>
        protected void InitializeMbarriers()
        {
            if (Blocks.Count == 0) return;
            for (var stage = 0; stage < Stages; stage++) Builder.Effect(ThreadOpcode.InitializeMbarrier, ThreadType.B32, [], [MbarrierOf(stage)], FirstThread());
        }

        /// <summary>The mbarrier of a stage.</summary>
        protected Source MbarrierOf(int stage) => Source.Constant(_mbarriers + (stage * MbarrierBytes));

        /// <summary>A register for the mbarrier of one stage after the other.</summary>
        protected Register MbarrierRegister(int first) => Builder.Variable(RegisterClass.Bits32, MbarrierOf(first));

        /// <summary>Goes on to the next stage's mbarrier, and from the last one to the first, whose phase is the other one then.</summary>
        protected void AdvanceMbarrier(Register mbarrier, Register? phase = null)
        {
            if (Blocks.Count == 0) return;
            var isLast = Builder.Compare(ThreadType.U32, Comparison.Equal, mbarrier, MbarrierOf(Stages - 1));
            if (phase is { } parity)
            {
                Builder.Assign(parity, Builder.Select(ThreadType.B32, isLast, Builder.Xor(ThreadType.B32, parity, Source.Constant(1)), parity));
                Builder.Forget([parity]);
            }
            Builder.Assign(mbarrier, Builder.Select(ThreadType.B32, isLast, MbarrierOf(0), Builder.Add(ThreadType.U32, mbarrier, Source.Constant(MbarrierBytes))));
            Builder.Forget([mbarrier]);
        }

        /// <summary>Waits for a stage's blocks, if there are any, and goes on to the next stage.</summary>
        protected void AwaitBlocks(Register mbarrier, Register phase)
        {
            if (Blocks.Count == 0) return;
            Builder.Effect(ThreadOpcode.AwaitBytes, ThreadType.B32, [], [mbarrier, phase]);
            AdvanceMbarrier(mbarrier, phase);
        }

        protected Source ScalarOf(Value value)
        {
            Lowering.Evaluate(value);
            return Lowering.Scalar(value).Source;
        }

        private Register FirstThread() => Lowering._converter.Guard(Lowering.IsFirstThread());

        /// <summary>Before a pipeline's first copies: copies from outside it are older groups, so that waiting for the pipeline's first waits for them, and nobody reads the stages of an outer loop's iteration before.</summary>
        protected void BeginCopies()
        {
            if (Lowering._hasPendingCopies) Builder.Effect(ThreadOpcode.CommitCopies, ThreadType.B32, [], []);
            Lowering._hasPendingCopies = false;
            if (Lowering._loops.Count > 0) Lowering._shared.Barrier();
            foreach (var (load, _) in Loads) Lowering._order.Load((PointerItem)Lowering.Get(load.Operands[0].Root), null);
        }

        private static bool IsVector(Operation load) => load.Result.Type.Rank == 1 && !load.IsOpaque && load.Result.Type.Element.SizeInBytes() == 4;

        private static bool IsPure(Value value, Region body, HashSet<Value> inside)
        {
            if (value == body.Arguments[0]) return true;
            if (body.Arguments.Contains(value)) return false;
            if (!inside.Contains(value)) return true;
            return LayoutPlan.IsRecomputable(value.Definition!) && value.Definition!.Operands.All(operand => IsPure(operand, body, inside));
        }
    }

    /// <summary>
    /// All warps copy their part, and meet in every iteration.
    /// <code>
    /// start copies of the first stages − 1 iterations, a group each
    /// for i: wait until group i has landed; barrier (all threads see it, and nobody still reads the stage of iteration i − 1)
    ///        start the copies of iteration i + stages − 1 into that stage; compute
    /// </code>
    /// Where there is time for them, warp groups start copies behind the body, while their last products are made: finding the addresses then takes no
    /// time, and few registers are in use.
    /// </summary>
    private sealed class SharedPipeline(KernelLowering lowering, Operation operation, List<Operation> loads) : Pipeline(lowering, operation, loads)
    {
        private Source? _ahead;
        private Source _high;
        private Register _readStage;
        private Register _writeStage;

        public override void Prologue(Source low, Source high, Source step)
        {
            BeginCopies();
            var index = low;
            for (var stage = 0; stage < Stages - 1; stage++)
            {
                Start(index, high, Source.Constant(stage * StageBytes));
                index = Builder.Add(ThreadType.S32, index, step);
            }
            (_readStage, _writeStage) = (StageRegister(0), StageRegister(Stages - 1));
        }

        public override void BeginIteration(Register index, Source high, Source step)
        {
            Builder.Effect(ThreadOpcode.WaitCopies, ThreadType.B32, [], [], immediate: Stages - 2);
            Lowering.ShowToOthers();
            (_ahead, _high) = (Builder.Add(ThreadType.S32, index, Builder.Multiply(ThreadType.S32, step, Source.Constant(Stages - 1))), high);
            if (!Lowering._usesWarpGroups || Stages < 3) StartAhead();
            DefineLoads(_readStage);
        }

        public override void BehindBody() => StartAhead();

        public override void EndIteration()
        {
            Advance(_readStage);
            Advance(_writeStage);
        }

        public override void Epilogue() => Builder.Effect(ThreadOpcode.WaitCopies, ThreadType.B32, [], []);

        // Unless it has been done in this iteration.
        private void StartAhead()
        {
            if (_ahead is not { } ahead) return;
            _ahead = null;
            // What this iteration has made of its own index is of no use.
            var own = Lowering._environments.Pop();
            Start(ahead, _high, _writeStage);
            Lowering._environments.Push(own);
        }

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
            Copy(index, stage, default);
            if (branch is not null) Builder.Close();
            Builder.Effect(ThreadOpcode.CommitCopies, ThreadType.B32, [], []);
        }
    }

    /// <summary>Lowers, in the innermost environment, what an operation's operands follow from: of a load, addresses and mask.</summary>
    private void Evaluate(Operation operation)
    {
        foreach (var operand in operation.Operands) Evaluate(operand);
    }

    private void Evaluate(Value value)
    {
        if (_environments.Any(environment => environment.ContainsKey(value))) return;
        var definition = value.Definition!;
        foreach (var operand in definition.Operands) Evaluate(operand);
        Define(value, definition.Opcode == Opcode.Load ? LowerLoad(definition) : LowerPure(definition));
    }

    // The program's number of a matrix.
    private int NumberOf(TensorMap map)
    {
        if (!_program.TensorMaps.Contains(map)) _program.TensorMaps.Add(map);
        return _program.TensorMaps.IndexOf(map);
    }
}
