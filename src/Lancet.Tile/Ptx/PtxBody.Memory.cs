using System.Numerics;
using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Ptx;

internal sealed partial class PtxBody
{
    private void WriteMemoryOperation(ThreadInstruction i)
    {
        switch (i.Opcode)
        {
            case ThreadOpcode.LoadGlobal:
                Guarded($"ld.global{(i.IsReadOnly ? ".nc" : "")}{Shape(i.Destinations.Length)}.{MemoryType(i)} {Destinations(i)}, {GlobalAddress(i, 0, i.Immediate)};");
                break;
            case ThreadOpcode.StoreGlobal:
                var (globalAddress, globalValues) = (GlobalAddress(i, 0, i.Immediate), Stored(i));
                Guarded($"st.global{Shape(i.Sources.Length - 1)}.{MemoryType(i)} {globalAddress}, {globalValues};");
                break;
            case ThreadOpcode.AtomicAdd:
                var (address, added) = (GlobalAddress(i, 0, i.Immediate), InRegister(i, 1));
                Guarded($"atom.global.add.{(i.Type.Class() == RegisterClass.Bits64 ? "u64" : i.Type == ThreadType.S32 ? "s32" : "u32")} {D(i)}, {address}, {added};");
                break;
            case ThreadOpcode.AddGlobal:
                var (sumAddress, addends) = (GlobalAddress(i, 0, i.Immediate), Stored(i));
                Guarded($"red.relaxed.gpu.global.add{Shape(i.Sources.Length - 1)}.f32 {sumAddress}, {addends};");
                break;
            case ThreadOpcode.AwaitFlag:
                WriteAwait(i);
                break;
            case ThreadOpcode.SignalFlag:
                var (flag, signal) = (GlobalAddress(i, 0, 0), InRegister(i, 1));
                Guarded($"st.release.gpu.global.b32 {flag}, {signal};");
                break;
            case ThreadOpcode.LoadShared:
                Guarded($"ld.shared{Shape(i.Destinations.Length)}.{MemoryType(i)} {Destinations(i)}, {SharedAddress(i, 0, i.Immediate)};");
                break;
            case ThreadOpcode.StoreShared:
                var (sharedAddress, sharedValues) = (SharedAddress(i, 0, i.Immediate), Stored(i));
                Guarded($"st.shared{Shape(i.Sources.Length - 1)}.{MemoryType(i)} {sharedAddress}, {sharedValues};");
                break;
            case ThreadOpcode.StoreCluster:
                var (there, rank, number) = (Scratch(RegisterClass.Bits32), Operand(i, 1), InRegister(i, 2));
                Guarded($"mapa.shared::cluster.u32 {there}, {SharedSum(i.Sources[0])}, {rank};");
                Guarded($"st.shared::cluster.{Bits(i.Type)} [{there}{Offset(i.Immediate)}], {number};");
                break;
            case ThreadOpcode.ClusterArrive:
                Line("barrier.cluster.arrive.aligned;");
                break;
            case ThreadOpcode.ClusterWait:
                Line("barrier.cluster.wait.aligned;");
                break;
            case ThreadOpcode.CopyAsync:
                // .cg passes the first-level cache by, but only exists for 16 bytes.
                var (to, from) = (SharedAddress(i, 0, i.Immediate), GlobalAddress(i, 1, i.SourceOffset));
                var count = i.Sources[2].IsConstant && i.Sources[2].Bits == i.Width ? "" : ", " + Operand(i, 2);
                Guarded($"cp.async.{(i.Width == 16 ? "cg" : "ca")}.shared.global {to}, {from}, {i.Width}{count};");
                break;
            case ThreadOpcode.InitializeMbarrier:
                var mbarrier = SharedAddress(i, 0, 0);
                Guarded($"mbarrier.init.shared::cta.b64 {mbarrier}, 1;");
                Guarded("fence.mbarrier_init.release.cluster;");
                Line("bar.warp.sync 0xffffffff;");
                break;
            case ThreadOpcode.ExpectBytes:
                var expecting = SharedAddress(i, 0, 0);
                Guarded($"mbarrier.arrive.expect_tx.shared::cta.b64 _, {expecting}, {i.Immediate};");
                break;
            case ThreadOpcode.CopyTensor:
                WriteCopyTensor(i);
                break;
            case ThreadOpcode.AwaitBytes:
                var (awaitedBarrier, parity, isComplete) = (SharedAddress(i, 0, 0), InRegister(i, 1), Scratch(RegisterClass.Predicate));
                var round = _labels++;
                Label($"$phase_{round}");
                Line($"mbarrier.try_wait.parity.shared::cta.b64 {isComplete}, {awaitedBarrier}, {parity};");
                Line($"@!{isComplete} bra $phase_{round};");
                break;
            case ThreadOpcode.CommitCopies:
                Line("cp.async.commit_group;");
                break;
            case ThreadOpcode.WaitCopies:
                Line($"cp.async.wait_group {i.Immediate};");
                break;
            case ThreadOpcode.LoadMatrix:
                var rows = SharedAddress(i, 0, i.Immediate);
                Line($"ldmatrix.sync.aligned.m8n8.x{i.Destinations.Length}{(i.IsTransposed ? ".trans" : "")}.shared.b16 {Vector(i.Destinations)}, {rows};");
                break;
            case ThreadOpcode.MatrixMultiply:
                var operands = new string[10];
                for (var index = 0; index < 10; index++) operands[index] = InRegister(i, index);
                var half = Half(i, i.Type);
                Line($"mma.sync.aligned.m16n8k16.row.col.f32.{half}.{half}.f32 {Vector(i.Destinations)}, {{{string.Join(", ", operands[..4])}}}, {{{operands[4]}, {operands[5]}}}, {{{string.Join(", ", operands[6..])}}};");
                break;
            case ThreadOpcode.SharedUnits:
                Line($"shr.u32 {D(i)}, {SharedSum(i.Sources[0])}, {BitOperations.Log2(MatrixDescriptor.AddressUnit)};");
                break;
            case ThreadOpcode.DescribeMatrix:
                var (low, high) = (InRegister(i, 0), Materialised(ThreadType.B32, i.Immediate));
                Line($"mov.b64 {D(i)}, {{{low}, {high}}};");
                break;
            case ThreadOpcode.WarpGroupMultiply:
                WriteWarpGroupProduct(i);
                break;
            case ThreadOpcode.WarpGroupFence:
                Line("wgmma.fence.sync.aligned;");
                break;
            case ThreadOpcode.CommitProducts:
                Line("wgmma.commit_group.sync.aligned;");
                break;
            case ThreadOpcode.WaitProducts:
                Line($"wgmma.wait_group.sync.aligned {i.Immediate};");
                break;
            case ThreadOpcode.ProxyFence:
                Line("fence.proxy.async.shared::cta;");
                break;
            default:
                throw Error(i, "no such instruction");
        }
    }

    // wgmma d, a, b, whether d's old value is added, factors of a and b, then for operands in shared memory whether they are stored along the outer extent.
    private void WriteWarpGroupProduct(ThreadInstruction i)
    {
        UsesWarpGroups = true;
        var half = Half(i, i.Type);
        var isInRegisters = i.Sources.Length > 2;
        var a = isInRegisters ? $"{{{string.Join(", ", Enumerable.Range(0, 4).Select(index => InRegister(i, index)))}}}" : InRegister(i, 0);
        var b = InRegister(i, i.Sources.Length - 1);
        var adds = Materialised(ThreadType.Predicate, i.Immediate);
        Line($"wgmma.mma_async.sync.aligned.m64n{i.Width}k16.f32.{half}.{half} {Vector(i.Destinations)}, {a}, {b}, {adds}, 1, 1{(isInRegisters ? "" : i.IsLeftTransposed ? ", 1" : ", 0")}, {(i.IsTransposed ? 1 : 0)};");
    }

    // One lane's reading counts, so that the warp leaves the loop together.
    private void WriteCopyTensor(ThreadInstruction i)
    {
        var (block, column, row, mbarrier) = (SharedAddress(i, 0, 0), InRegister(i, 1), InRegister(i, 2), SharedAddress(i, 3, 0));
        var (parameter, map) = (Scratch(RegisterClass.Bits64), Scratch(RegisterClass.Bits64));
        Line($"mov.b64 {parameter}, {MapName(program, (int)i.Immediate)};");
        Line($"cvta.param.u64 {map}, {parameter};");
        Guarded($"cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes {block}, [{map}, {{{column}, {row}}}], {mbarrier};");
    }

    private void WriteAwait(ThreadInstruction i)
    {
        var (address, awaited) = (GlobalAddress(i, 0, 0), InRegister(i, 1));
        var (warp, read, first) = (Scratch(RegisterClass.Bits32), Scratch(RegisterClass.Bits32), Scratch(RegisterClass.Bits32));
        var (isOther, isEarly) = (Scratch(RegisterClass.Predicate), Scratch(RegisterClass.Predicate));
        var number = _labels++;
        Line($"mov.u32 {warp}, %tid.x;");
        Line($"shr.u32 {warp}, {warp}, 5;");
        Line($"setp.ne.u32 {isOther}, {warp}, {i.Immediate};");
        Line($"@{isOther} bra $await_end_{number};");
        Label($"$await_{number}");
        Line($"ld.acquire.gpu.global.b32 {read}, {address};");
        Line($"shfl.sync.idx.b32 {first}, {read}, 0, 31, 0xffffffff;");
        Line($"setp.lt.s32 {isEarly}, {first}, {awaited};");
        Line($"@{isEarly} bra.uni $await_{number};");
        Label($"$await_end_{number}");
    }

    private static string Shape(int elements) => elements == 1 ? "" : $".v{elements}";

    private string Destinations(ThreadInstruction i) => i.Destinations.Length == 1 ? D(i) : Vector(i.Destinations);

    private string Vector(Register[] registers) => $"{{{string.Join(", ", registers.Select(Name))}}}";

    private string Stored(ThreadInstruction i)
    {
        if (i.Sources.Length == 2) return InRegister(i, 1);
        var values = new string[i.Sources.Length - 1];
        for (var index = 0; index < values.Length; index++) values[index] = InRegister(i, index + 1);
        return $"{{{string.Join(", ", values)}}}";
    }

    /// <summary>Memory format. PTX lets 8- and 16-bit elements be loaded into and stored from 32-bit registers.</summary>
    private string MemoryType(ThreadInstruction i) => i.Type switch
    {
        ThreadType.U8 => "u8",
        ThreadType.S8 => "s8",
        ThreadType.U16 or ThreadType.BF16 or ThreadType.F16 => "u16",
        ThreadType.Predicate => throw Error(i, "predicates have no memory format"),
        _ => Bits(i.Type),
    };
}
