using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering;

// Products of warp groups that one iteration starts for the next.
internal sealed partial class KernelLowering
{
    /// <summary>
    /// The first product of a loop's iterations, which each of them starts for the next one. All products are then waited for at once, because the driver's assembler does not see what a wait for some of them means for
    /// those of an iteration before; it would serialise all products of the kernel (its note C7514).
    /// </summary>
    private sealed class ProductAhead(KernelLowering lowering, Operation product)
    {
        private readonly LinearLayout _layout = lowering._plan.Of(product.Result);
        private readonly Register[] _sums = [.. Enumerable.Range(0, lowering._plan.Of(product.Result).RegisterCount).Select(_ => lowering._builder.New(RegisterClass.Bits32))];

        /// <summary>Starts it, where an iteration's loads are defined and nothing else of it.</summary>
        public void Start()
        {
            lowering.Evaluate(product);
            var (a, b, c) = (lowering.Get(product.Operands[0]), lowering.Get(product.Operands[1]), lowering.Get(product.Operands[2]));
            lowering.MultiplyInWarpGroups(product, lowering._plan.Product(product)!, a, b, _layout, c.In(_layout), _sums);
        }

        /// <summary>Waits for it and all others, and defines its result.</summary>
        public void End()
        {
            lowering.EndProducts();
            lowering.Define(product.Result, new TileItem(lowering._converter, product.Result.Type, _layout, [.. _sums.Select(sum => new Element(sum))]));
        }
    }

    private void EndProducts()
    {
        _builder.Effect(ThreadOpcode.WaitProducts, ThreadType.B32, [], []);
        _pendingProducts.Clear();
    }

    /// <summary>
    /// A pipeline whose iterations end by starting the first product of the next one, so that tensor cores have work until warps can start that one's others.
    /// <code>
    /// start copies of the first stages − 1 iterations, a group each; wait until the first has landed; barrier; start the first iteration's first product
    /// for i: wait for all products; compute; at the first barrier of this, wait before it until all copies have landed, so that all threads see iteration i + 1
    ///        start the first product of iteration i + 1; start the copies of iteration i + stages − 1 into the stage of i − 1, which nobody reads since that barrier
    /// </code>
    /// Behind the last iteration zeros are multiplied.
    /// </summary>
    private sealed class AheadPipeline : Pipeline
    {
        /// <summary>One stage is read, the next one multiplied ahead, and another filled.</summary>
        public const int LeastStages = 3;

        private readonly ProductAhead _product;
        private Register _readStage;
        private Register _writeStage;
        private Register _filling;
        private Register _awaited;
        private Register _phase;
        private Register _parity;
        private Source _ahead;
        private Source _high;
        private int _scope;
        private bool _isNextShown;

        public AheadPipeline(KernelLowering lowering, Operation operation, List<Operation> loads, ProductAhead product) : base(lowering, operation, loads)
        {
            _product = product;
            // Mbarriers of a loop in another one would have phases left from its last run.
            if (lowering._loops.Count == 0) TakeBlocks();
        }

        public override bool KeepsProducts => true;

        public override void Prologue(Source low, Source high, Source step)
        {
            BeginCopies();
            if (Blocks.Count > 0)
            {
                InitializeMbarriers();
                Lowering._shared.Barrier();
            }
            (_ahead, _high) = (low, high);
            for (var stage = 0; stage < Stages - 1; stage++)
            {
                StartCopies(Source.Constant(stage * StageBytes), MbarrierOf(stage));
                _ahead = Builder.Add(ThreadType.S32, _ahead, step);
            }
            (_readStage, _writeStage) = (StageRegister(0), StageRegister(Stages - 1));
            (_filling, _awaited, _phase) = (MbarrierRegister(Stages - 1), MbarrierRegister(1), Builder.Variable(RegisterClass.Bits32, Source.Constant(0)));
            _parity = Builder.Variable(RegisterClass.Bits32, Source.Constant(0));
            Builder.Effect(ThreadOpcode.WaitCopies, ThreadType.B32, [], [], immediate: Stages - 2);
            if (Blocks.Count > 0) Builder.Effect(ThreadOpcode.AwaitBytes, ThreadType.B32, [], [MbarrierOf(0), Source.Constant(0)]);
            Lowering.ShowToOthers();
            StartAside(_product, _readStage);
        }

        public override void BeginIteration(Register index, Source high, Source step)
        {
            (_scope, _isNextShown) = (Builder.Scope, false);
            _ahead = Builder.Add(ThreadType.S32, index, Builder.Multiply(ThreadType.S32, step, Source.Constant(Stages - 1)));
            Builder.Forget([_readStage]);
            DefineLoads(_readStage);
            ReadFirstVector();
            _product.End();
        }

        public override void BehindBody()
        {
        }

        /// <summary>Before a barrier that shows to all threads what this one has written.</summary>
        public void BeforeShowing()
        {
            if (_isNextShown || Builder.Scope != _scope) return;
            _isNextShown = true;
            Builder.Effect(ThreadOpcode.WaitCopies, ThreadType.B32, [], []);
            AwaitBlocks(_awaited, _phase);
        }

        /// <summary>Of a place for two matrices, the one that the iteration before did not use. Products of the one before that, which did, have ended before a barrier that all threads have passed.</summary>
        public SharedTile Alternate(SharedTile tile) =>
            tile with { Offset = Builder.Add(ThreadType.U32, tile.Offset, Builder.Multiply(ThreadType.U32, _parity, Source.Constant(SharedMemory.Align(tile.Bytes)))) };

        public override void EndIteration()
        {
            if (!_isNextShown) Lowering.ShowToOthers();
            Advance(_readStage);
            // What this iteration has made of its own index and loads is of no use to others.
            var own = Lowering._environments.Pop();
            StartAside(_product, _readStage);
            StartCopies(_writeStage, _filling);
            Lowering._environments.Push(own);
            Advance(_writeStage);
            AdvanceMbarrier(_filling);
            Builder.Assign(_parity, Builder.Xor(ThreadType.B32, _parity, Source.Constant(1)));
        }

        public override void Epilogue()
        {
            Builder.Effect(ThreadOpcode.WaitCopies, ThreadType.B32, [], []);
            for (var stage = 2; stage < Stages; stage++) AwaitBlocks(_awaited, _phase);
            Lowering.EndProducts();
        }

        // Before products are waited for, whose results it will soon be used with; registers for all vectors would be too many.
        private void ReadFirstVector()
        {
            if (Loads.FirstOrDefault(load => load.Load.Result.Type.Rank == 1).Load?.Result is not { } vector) return;
            var layout = Lowering._plan.Of(vector);
            Lowering.Define(vector, new TileItem(Lowering._converter, vector.Type, layout, Lowering.Get(vector).In(layout)));
        }

        private void StartCopies(Source stage, Source mbarrier)
        {
            Copy(_ahead, stage, mbarrier, Builder.Compare(ThreadType.S32, Comparison.Less, _ahead, _high));
            Builder.Effect(ThreadOpcode.CommitCopies, ThreadType.B32, [], []);
        }
    }

    /// <summary>A loop's first product, if it can be started an iteration ahead: warp groups make it, and its operands are loaded in the loop or come from outside. Null if it cannot.</summary>
    private ProductAhead? AheadOf(Operation loop, List<Operation> loads)
    {
        if (!loop.StartsAhead || !_usesWarpGroups || loop.Stages < AheadPipeline.LeastStages) return null;
        var inside = loop.Body!.Operations.SelectMany(operation => operation.Results).Concat(loop.Body.Arguments).ToHashSet();
        bool IsReady(Value value) => !inside.Contains(value) || (value.Definition is { } definition
            && (loads.Contains(definition) || (definition.Opcode == Opcode.Transpose && IsReady(definition.Operands[0]))));
        bool IsZero(Value value) => value.Definition is { } definition
            && (definition.Opcode == Opcode.Constant ? definition is { Number: 0, Integer: 0 } : definition.Opcode == Opcode.Broadcast && IsZero(definition.Operands[0]));
        return loop.Body.Operations.FirstOrDefault(operation => operation.Opcode == Opcode.Dot) is { } product && _plan.Product(product) is { SuitsWarpGroups: true }
            && product.Operands.Take(2).All(IsReady) && IsZero(product.Operands[2]) ? new ProductAhead(this, product) : null;
    }
}
