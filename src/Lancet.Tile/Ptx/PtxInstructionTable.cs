namespace Lancet.Tile.Ptx;

/// <summary>
/// The PTX instructions that the printer may use, with the operands that the PTX ISA gives them. A signature is destinations, '=', sources; a letter
/// an operand: p, h, r, d are registers of 1, 16, 32 and 64 bits; R, D, F, E are registers of 32 or 64 bits or an immediate, integer for the first two
/// and floating-point for the others; i is an integer; G, S and A are global, shared and parameter addresses; V is a symbol or special register;
/// L a label; P the name of a parameter; T the place of a block in a tensor map; W no result; braces make a vector.
/// </summary>
internal static class PtxInstructionTable
{
    public static IReadOnlyDictionary<string, string[]> Signatures { get; } = Create();

    private static Dictionary<string, string[]> Create()
    {
        var table = new Dictionary<string, string[]>();
        void Add(string mnemonic, params string[] signatures) => table.Add(mnemonic, signatures);
        foreach (var (type, r, any) in ((string, char, char)[])[("s32", 'r', 'R'), ("u32", 'r', 'R'), ("s64", 'd', 'D'), ("u64", 'd', 'D')])
        {
            foreach (var operation in (string[])["add", "sub", "mul.lo", "mul.hi", "div", "rem", "min", "max"]) Add($"{operation}.{type}", $"{r}={any}{any}");
            Add($"mad.lo.{type}", $"{r}={any}{any}{any}");
            Add($"shr.{type}", $"{r}={any}R");
            foreach (var comparison in (string[])["eq", "ne", "lt", "le", "gt", "ge"]) Add($"setp.{comparison}.{type}", $"p={r}{any}");
            if (type[0] == 'u') continue;
            Add($"neg.{type}", $"{r}={any}");
            Add($"abs.{type}", $"{r}={any}");
        }
        foreach (var (type, r, any) in ((string, char, char)[])[("f32", 'r', 'F'), ("f64", 'd', 'E')])
        {
            var nan = type == "f32" ? ".NaN" : "";
            foreach (var operation in (string[])["add", "sub", "mul", "div.rn", "min" + nan, "max" + nan]) Add($"{operation}.{type}", $"{r}={any}{any}");
            Add($"fma.rn.{type}", $"{r}={any}{any}{any}");
            foreach (var operation in (string[])["neg", "abs", "sqrt.rn", $"cvt.rmi.{type}", $"cvt.rni.{type}"]) Add($"{operation}.{type}", $"{r}={any}");
            foreach (var comparison in (string[])["eq", "neu", "lt", "le", "gt", "ge", "nan"]) Add($"setp.{comparison}.{type}", $"p={r}{any}");
            Add($"selp.{type}", $"{r}={any}{any}p");
            Add($"mov.{type}", $"{r}={any}");
            foreach (var integer in (string[])["s32", "u32"])
            {
                Add($"cvt.rn.{type}.{integer}", $"{r}=r");
                Add($"cvt.rzi.{integer}.{type}", $"r={r}");
            }
            foreach (var integer in (string[])["s64", "u64"])
            {
                Add($"cvt.rn.{type}.{integer}", $"{r}=d");
                Add($"cvt.rzi.{integer}.{type}", $"d={r}");
            }
        }
        Add("ex2.approx.f32", "r=F");
        Add("ex2.approx.ftz.f32", "r=F");
        Add("rcp.approx.f32", "r=F");
        Add("rcp.approx.ftz.f32", "r=F");
        Add("mul.wide.s32", "d=RR");
        Add("mul.wide.u32", "d=RR");
        foreach (var operation in (string[])["and", "or", "xor"])
        {
            Add($"{operation}.b32", "r=RR");
            Add($"{operation}.b64", "d=DD");
            Add($"{operation}.pred", "p=pp");
        }
        Add("not.b32", "r=R");
        Add("not.b64", "d=D");
        Add("not.pred", "p=p");
        Add("shl.b32", "r=RR");
        Add("shl.b64", "d=DR");
        Add("selp.b32", "r=RRp");
        Add("selp.b64", "d=DDp");
        Add("prmt.b32", "r=RRR");
        Add("mov.pred", "p=p", "p=i");
        Add("mov.b16", "h=i");
        Add("mov.b32", "r=R", "{hh}=r", "r={hh}");
        Add("mov.b64", "d=D", "{rr}=d", "d={rr}", "d=P");
        Add("mov.u32", "r=V");
        Add("mov.u64", "d=V");
        Add("cvt.f32.f16", "r=h");
        Add("cvt.f64.f16", "d=h");
        Add("cvt.rn.f16.f64", "h=d");
        Add("cvt.f64.f32", "d=r");
        Add("cvt.rn.f32.f64", "r=d");
        Add("cvt.rn.bf16x2.f32", "r=FF");
        Add("cvt.rn.f16x2.f32", "r=FF");
        Add("cvt.s32.s8", "r=r");
        Add("cvt.u32.u64", "r=d");
        Add("cvt.s64.s32", "d=r");
        Add("cvt.u64.u32", "d=r");
        Add("cvta.to.global.u64", "d=d");
        Add("ld.param.b32", "r=A");
        Add("ld.param.b64", "d=A");
        foreach (var type in (string[])["u8", "s8", "u16", "b32", "b64"])
        {
            var r = type == "b64" ? "d" : "r";
            foreach (var count in (int[])[1, 2, 4])
            {
                // 16 bytes are the most that one access moves.
                if (type == "b64" && count == 4) continue;
                var (shape, registers) = count == 1 ? ("", r) : ($".v{count}", $"{{{string.Concat(Enumerable.Repeat(r, count))}}}");
                Add($"ld.global{shape}.{type}", $"{registers}=G");
                Add($"ld.global.nc{shape}.{type}", $"{registers}=G");
                Add($"ld.shared{shape}.{type}", $"{registers}=S");
                Add($"st.global{shape}.{type}", $"=G{registers}");
                Add($"st.shared{shape}.{type}", $"=S{registers}");
            }
        }
        Add("red.relaxed.gpu.global.add.f32", "=Gr");
        Add("red.relaxed.gpu.global.add.v2.f32", "=G{rr}");
        Add("red.relaxed.gpu.global.add.v4.f32", "=G{rrrr}");
        Add("ld.acquire.gpu.global.b32", "r=G");
        Add("st.release.gpu.global.b32", "=Gr");
        Add("atom.global.add.s32", "r=Gr");
        Add("atom.global.add.u32", "r=Gr");
        Add("atom.global.add.u64", "d=Gd");
        Add("cp.async.cg.shared.global", "=SGi", "=SGiR");
        Add("cp.async.ca.shared.global", "=SGi", "=SGiR");
        Add("cp.async.commit_group", "=");
        Add("cp.async.wait_group", "=i");
        Add("mbarrier.init.shared::cta.b64", "=Si");
        Add("mbarrier.arrive.expect_tx.shared::cta.b64", "=WSi");
        Add("mbarrier.try_wait.parity.shared::cta.b64", "p=SR");
        Add("fence.mbarrier_init.release.cluster", "=");
        Add("bar.warp.sync", "=i");
        Add("cvta.param.u64", "d=d");
        Add("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes", "=STS");
        Add("shfl.sync.bfly.b32", "r=riii");
        Add("shfl.sync.idx.b32", "r=rRii");
        Add("mapa.shared::cluster.u32", "r=rR");
        Add("st.shared::cluster.b32", "=Sr");
        Add("st.shared::cluster.b64", "=Sd");
        Add("barrier.cluster.arrive.aligned", "=");
        Add("barrier.cluster.wait.aligned", "=");
        Add("bar.sync", "=i", "=Ri");
        Add("bar.arrive", "=Ri");
        Add("setmaxnreg.inc.sync.aligned.u32", "=i");
        Add("setmaxnreg.dec.sync.aligned.u32", "=i");
        foreach (var (count, registers) in ((int, string)[])[(1, "{r}"), (2, "{rr}"), (4, "{rrrr}")])
        {
            Add($"ldmatrix.sync.aligned.m8n8.x{count}.shared.b16", $"{registers}=S");
            Add($"ldmatrix.sync.aligned.m8n8.x{count}.trans.shared.b16", $"{registers}=S");
        }
        Add("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", "{rrrr}={rrrr}{rr}{rrrr}");
        Add("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", "{rrrr}={rrrr}{rr}{rrrr}");
        Add("wgmma.fence.sync.aligned", "=");
        Add("wgmma.commit_group.sync.aligned", "=");
        Add("wgmma.wait_group.sync.aligned", "=i");
        Add("fence.proxy.async.shared::cta", "=");
        foreach (var type in (string[])["bf16", "f16"])
        {
            for (var n = 8; n <= 256; n *= 2)
            {
                var accumulators = $"{{{new string('r', n / 2)}}}";
                Add($"wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{type}.{type}", $"{accumulators}={{rrrr}}dpiii", $"{accumulators}=ddpiiii");
            }
        }
        Add("griddepcontrol.wait", "=");
        Add("bra", "=L");
        Add("bra.uni", "=L");
        Add("ret", "=");
        return table;
    }
}
