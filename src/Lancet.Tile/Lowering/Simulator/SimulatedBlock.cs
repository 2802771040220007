using System.Numerics;
using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering.Simulator;

/// <summary>One program: its warps, their registers and its shared memory. Used again for one program of every cluster of a grid. Memory and matrix instructions are in the other parts.</summary>
internal sealed partial class SimulatedBlock
{
    private readonly SimulatedCode _code;
    private readonly Step[] _steps;
    private readonly Grid _grid;
    private readonly GlobalMemory _global;
    private readonly KernelArgument[] _arguments;
    private readonly int _warps;

    // The value of slot s in lane l of warp w is _values[(s · warps + w) · 32 + l]; bit l of _defined[s · warps + w] says whether it has one.
    private readonly ulong[] _values;
    private readonly uint[] _defined;
    private readonly int[] _counters;
    private readonly int _producers;
    private readonly List<(int Step, bool Jumps)>[] _decisions = [[], []];
    private readonly int[] _decided;
    private int _x, _y, _z;
    private int _epoch;
    private bool _descends;
    private int _serial;
    private long _executed;

    public SimulatedBlock(SimulatedCode code, Grid grid, GlobalMemory global, KernelArgument[] arguments)
    {
        (_code, _steps, _grid, _global, _arguments, _warps) = (code, [.. code.Steps], grid, global, arguments, code.Program.Threads / 32);
        _producers = code.Program.ProducerWarps;
        _values = new ulong[code.SlotCount * _warps * 32];
        _defined = new uint[code.SlotCount * _warps];
        _counters = new int[_warps];
        _decided = new int[_warps];
        _arrivals = new int[_warps];
        _isWaiting = new bool[_warps];
        _isReleased = new bool[_warps];
        _shared = new byte[code.Program.SharedBytes];
        _sharedShadow = new ShadowByte[code.Program.SharedBytes];
        _open = [.. Enumerable.Range(0, _warps).Select(_ => new List<PendingCopy>())];
        _groups = [.. Enumerable.Range(0, _warps).Select(_ => new Queue<List<PendingCopy>>())];
        _openProducts = [.. Enumerable.Range(0, _warps).Select(_ => new List<PendingProduct>())];
        _productGroups = [.. Enumerable.Range(0, _warps).Select(_ => new Queue<List<PendingProduct>>())];
        _busySlots = [.. Enumerable.Range(0, _warps).Select(_ => new Dictionary<int, int>())];
        _unfenced = [.. Enumerable.Range(0, _warps).Select(_ => new List<(int, int)>())];
        _hasProxyFences = _steps.Any(step => step.Instruction?.Opcode == ThreadOpcode.ProxyFence);
        _writtenSlots = new int[code.SlotCount * _warps];
        _registerFences = new int[_warps];
    }

    public required long InstructionLimit { get; init; }

    /// <summary>Barriers passed by all programs so far.</summary>
    public long Barriers { get; private set; }

    /// <summary>Starts the program of one grid point, which <see cref="Advance"/> runs.</summary>
    public void Begin(int x, int y, int z)
    {
        (_x, _y, _z) = (x, y, z);
        Array.Clear(_defined);
        Array.Fill(_counters, 0, 0, Bodies);
        Array.Fill(_counters, _code.ProducerStart, Bodies, _producers);
        Array.Fill(_counters, _steps.Length - 1, _warps - _code.Program.IdleProducerWarps, _code.Program.IdleProducerWarps);
        Array.Clear(_decided);
        _decisions[1].Clear();
        Array.Clear(_sharedShadow);
        foreach (var (bits, slot) in _code.Constants)
        {
            _values.AsSpan(slot * _warps * 32, _warps * 32).Fill(bits);
            _defined.AsSpan(slot * _warps, _warps).Fill(uint.MaxValue);
        }
        _descends = ((x + y + z) & 1) != 0;
        BeginInCluster();
    }

    /// <summary>Runs the program to its end, or to where it waits for its cluster; whether it has ended.</summary>
    public bool Advance()
    {
        while (true)
        {
            _epoch = ++_global.Epoch;
            _decisions[0].Clear();
            Array.Clear(_decided, 0, Bodies);
            RunToBarrier(_descends);
            for (var warp = 1; warp < Bodies; warp++)
                if (_counters[warp] != _counters[0])
                    throw Error(0, -1, _steps[_counters[0]], $"warp 0 waits here while warp {warp} is at {_steps[_counters[warp]]}: barriers must be reached by all warps");
            var step = _steps[_counters[0]];
            if (step.Kind == StepKind.Exit) break;
            step.Executions += Bodies;
            for (var warp = 0; warp < Bodies; warp++) _counters[warp]++;
            _descends = !_descends;
            if (step.Kind == StepKind.ClusterWait)
            {
                CheckArrived(step);
                return false;
            }
            Barriers++;
        }
        for (var warp = 0; warp < _warps; warp++)
        {
            CheckNoCopiesPending(warp);
            CheckNoProductsPending(warp);
        }
        CheckNobodyArrived();
        CheckNoBlocksPending();
        CheckNothingOpenInCluster();
        return true;
    }

    // Warps that run the body. Those behind them are producers.
    private int Bodies => _warps - _producers;

    /// <summary>Runs all warps in turns, each as far as it gets. Of the producers and the others, those that come first go on past arrivals at named barriers; the rest wait a turn there, so that others meet them.</summary>
    private void RunToBarrier(bool descends)
    {
        while (true)
        {
            var (hasMoved, isDone, isOver) = (false, true, true);
            for (var i = 0; i < _warps; i++)
            {
                var warp = descends ? _warps - 1 - i : i;
                var before = _executed;
                Run(warp, goesOn: descends == warp >= Bodies);
                hasMoved |= _executed > before;
                var kind = _steps[_counters[warp]].Kind;
                isDone &= warp >= Bodies || kind is StepKind.Barrier or StepKind.ClusterWait or StepKind.Exit;
                isOver &= kind is StepKind.Exit;
            }
            if (isOver || (isDone && _steps[_counters[0]].Kind is StepKind.Barrier or StepKind.ClusterWait)) break;
            if (hasMoved) continue;
            var stuck = Array.FindIndex(_counters, counter => _steps[counter].Kind is StepKind.NamedWait or StepKind.AwaitBytes);
            if (stuck < 0) break;
            throw Error(stuck, -1, _steps[_counters[stuck]], "waits forever");
        }
        for (var warp = 0; warp < Bodies; warp++)
            if (_decided[warp] != _decisions[0].Count) throw Error(warp, -1, _steps[_counters[warp]], "took other branches than the other warps");
    }

    private void Run(int warp, bool goesOn)
    {
        while (true)
        {
            var index = _counters[warp];
            var step = _steps[index];
            switch (step.Kind)
            {
                case StepKind.Barrier or StepKind.ClusterWait or StepKind.Exit:
                    return;
                case StepKind.NamedArrive:
                    Arrive(step, warp);
                    _counters[warp]++;
                    _executed++;
                    if (!goesOn) return;
                    break;
                case StepKind.NamedWait:
                    if (!MayPass(step, warp)) return;
                    _counters[warp]++;
                    break;
                case StepKind.AwaitBytes:
                    if (!HasBytes(step, warp)) return;
                    _counters[warp]++;
                    break;
                case StepKind.Jump:
                    _counters[warp] = step.Target;
                    break;
                case StepKind.JumpUnless:
                    var jumps = !Condition(step, index, warp);
                    var decisions = _decisions[warp < Bodies ? 0 : 1];
                    if (_decided[warp] == decisions.Count) decisions.Add((index, jumps));
                    else if (decisions[_decided[warp]] != (index, jumps)) throw Error(warp, -1, Near(index), "the condition of the loop or branch after this instruction differs between warps");
                    _decided[warp]++;
                    _counters[warp] = jumps ? step.Target : index + 1;
                    break;
                default:
                    Execute(step, index, warp);
                    _counters[warp]++;
                    break;
            }
            if (++_executed > InstructionLimit) throw Error(warp, -1, Near(index), $"still running after {InstructionLimit:N0} instructions");
        }
    }

    private bool Condition(Step step, int index, int warp)
    {
        if (_defined[step.Guard * _warps + warp] != uint.MaxValue) throw Error(warp, BitOperations.TrailingZeroCount(~_defined[step.Guard * _warps + warp]), Near(index), "the condition of the loop or branch after this instruction has no value");
        var values = Lanes(step.Guard, warp);
        for (var lane = 1; lane < 32; lane++)
            if (values[lane] != values[0]) throw Error(warp, lane, Near(index), "the condition of the loop or branch after this instruction differs between threads");
        return values[0] != 0;
    }

    private void Execute(Step step, int index, int warp)
    {
        var instruction = step.Instruction!;
        step.Executions++;
        _serial++;
        var active = uint.MaxValue;
        if (step.Guard >= 0)
        {
            if (_defined[step.Guard * _warps + warp] != uint.MaxValue) throw Error(warp, BitOperations.TrailingZeroCount(~_defined[step.Guard * _warps + warp]), step, "its guard has no value");
            active = 0;
            var guard = Lanes(step.Guard, warp);
            for (var lane = 0; lane < 32; lane++)
                if (guard[lane] != 0 != instruction.IsGuardNegated) active |= 1u << lane;
            if (active == 0) return;
        }
        for (var i = 0; i < step.Sources.Length; i++)
        {
            var missing = active & ~_defined[step.Sources[i] * _warps + warp];
            if (missing != 0) throw Error(warp, BitOperations.TrailingZeroCount(missing), step, $"source {i} has no value");
        }
        if (instruction.Opcode == ThreadOpcode.WarpGroupMultiply)
        {
            StartProduct(step, index, warp);
            return;
        }
        NoteWrites(step, warp);
        if (step.Function is { } function) Compute(step, function, warp, active);
        else ExecuteCollective(step, index, warp, active);
        foreach (var destination in step.Destinations) _defined[destination * _warps + warp] |= active;
    }

    private void Compute(Step step, Func<ulong, ulong, ulong, ulong> function, int warp, uint active)
    {
        var results = Lanes(step.Destinations[0], warp);
        var a = Lanes(step.Sources[0], warp);
        var b = step.Sources.Length > 1 ? Lanes(step.Sources[1], warp) : a;
        var c = step.Sources.Length > 2 ? Lanes(step.Sources[2], warp) : a;
        for (var lane = 0; lane < 32; lane++)
            if ((active >> lane & 1) != 0) results[lane] = function(a[lane], b[lane], c[lane]);
    }

    private void ExecuteCollective(Step step, int index, int warp, uint active)
    {
        var instruction = step.Instruction!;
        switch (instruction.Opcode)
        {
            case ThreadOpcode.ReadSpecial:
                var results = Lanes(step.Destinations[0], warp);
                for (var lane = 0; lane < 32; lane++)
                    if ((active >> lane & 1) != 0) results[lane] = Special((SpecialRegister)instruction.Immediate, warp, lane);
                break;
            case ThreadOpcode.LoadParameter:
                var bits = (ulong)_arguments[instruction.Immediate].Bits;
                Fill(step, warp, active, instruction.Type.Class() == RegisterClass.Bits64 ? bits : (uint)bits);
                break;
            case ThreadOpcode.TableAddress:
                Fill(step, warp, active, (ulong)_global.TableAddress((int)instruction.Immediate));
                break;
            case ThreadOpcode.ShuffleXor or ThreadOpcode.ShuffleIndex:
                Shuffle(step, warp);
                break;
            case ThreadOpcode.MatrixMultiply:
                MultiplyMatrices(step, warp);
                break;
            case ThreadOpcode.LoadMatrix:
                LoadMatrices(step, index, warp);
                break;
            case ThreadOpcode.LoadGlobal or ThreadOpcode.LoadShared:
                Load(step, index, warp, active);
                break;
            case ThreadOpcode.StoreGlobal or ThreadOpcode.StoreShared:
                Store(step, index, warp, active);
                break;
            case ThreadOpcode.StoreCluster:
                StoreInCluster(step, index, warp, active);
                break;
            case ThreadOpcode.ClusterArrive:
                ArriveInCluster(step, warp);
                break;
            case ThreadOpcode.AtomicAdd:
                AddAtomically(step, index, warp, active);
                break;
            case ThreadOpcode.AddGlobal:
                AddToGlobal(step, index, warp, active);
                break;
            case ThreadOpcode.AwaitFlag:
                CheckFlag(step, warp);
                break;
            case ThreadOpcode.SignalFlag:
                SetFlag(step, warp, active);
                break;
            case ThreadOpcode.CopyAsync:
                StartCopy(step, index, warp, active);
                break;
            case ThreadOpcode.InitializeMbarrier:
                InitializeMbarrier(step, warp, active);
                break;
            case ThreadOpcode.ExpectBytes:
                ExpectBytes(step, warp, active);
                break;
            case ThreadOpcode.CopyTensor:
                StartBlockCopy(step, index, warp, active);
                break;
            case ThreadOpcode.CommitCopies:
                CommitCopies(warp);
                break;
            case ThreadOpcode.WaitCopies:
                WaitForCopies(warp, (int)instruction.Immediate);
                break;
            case ThreadOpcode.WarpGroupFence:
                _registerFences[warp] = _serial;
                break;
            case ThreadOpcode.CommitProducts:
                CommitProducts(warp);
                break;
            case ThreadOpcode.WaitProducts:
                WaitForProducts(warp, (int)instruction.Immediate);
                break;
            case ThreadOpcode.ProxyFence:
                FenceProxy(warp);
                break;
        }
    }

    private void Shuffle(Step step, int warp)
    {
        Span<ulong> shuffled = stackalloc ulong[32];
        var source = Lanes(step.Sources[0], warp);
        for (var lane = 0; lane < 32; lane++)
        {
            var from = step.Instruction!.Opcode == ThreadOpcode.ShuffleXor ? lane ^ (int)step.Instruction!.Immediate : (int)Lanes(step.Sources[1], warp)[lane];
            shuffled[lane] = source[from & 31];
        }
        shuffled.CopyTo(Lanes(step.Destinations[0], warp));
    }

    private void Fill(Step step, int warp, uint active, ulong value)
    {
        var results = Lanes(step.Destinations[0], warp);
        for (var lane = 0; lane < 32; lane++)
            if ((active >> lane & 1) != 0) results[lane] = value;
    }

    private ulong Special(SpecialRegister register, int warp, int lane) => (uint)(register switch
    {
        SpecialRegister.ThreadId => warp * 32 + lane,
        SpecialRegister.ProgramX => _x,
        SpecialRegister.ProgramY => _y,
        SpecialRegister.ProgramZ => _z,
        SpecialRegister.ProgramCountX => _grid.X,
        SpecialRegister.ProgramCountY => _grid.Y,
        _ => _grid.Z,
    });

    private Span<ulong> Lanes(int slot, int warp) => _values.AsSpan((slot * _warps + warp) * 32, 32);

    /// <summary>The instruction at or before a jump, to name it in a message.</summary>
    private Step Near(int index)
    {
        while (index > 0 && _steps[index].Instruction is null) index--;
        return _steps[index];
    }

    private TileException Error(int warp, int lane, Step step, string what) =>
        new($"kernel {_code.Program.Name}, program ({_x}, {_y}, {_z}), warp {warp}{(lane < 0 ? "" : $", lane {lane}")}, {step}: {what}.");
}
