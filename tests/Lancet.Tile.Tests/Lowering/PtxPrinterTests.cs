using System.Text.RegularExpressions;
using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Threads;
using Lancet.Tile.Ptx;

namespace Lancet.Tile.Tests.Lowering;

/// <summary>The PTX text of small programs, letter for letter, and the checker's complaints about text that is wrong. The simulator's tests print and check every other instruction.</summary>
public class PtxPrinterTests
{
    private static void AssertText(string expected, string actual) => Assert.Equal(expected.ReplaceLineEndings("\n"), actual);

    [Fact]
    public void Loads_a_guard_a_loop_and_a_store()
    {
        var lab = new ThreadLab(4, name: "scale");
        Register x = lab.Pointer(DType.Float32), y = lab.Pointer(DType.BFloat16), n = lab.Parameter(DType.Int32, false);
        var id = lab.ThreadId();
        var inside = lab.Emit(ThreadOpcode.Compare, ThreadType.S32, [id, n], comparison: Comparison.Less, line: 7);
        var value = lab.Emit(ThreadOpcode.Move, ThreadType.F32, [Source.Constant(0f)], line: 8);
        lab.Guard = inside;
        lab.Do(ThreadOpcode.LoadGlobal, ThreadType.B32, [value], [lab.Emit(ThreadOpcode.Add, ThreadType.U64, [x, Source.Constant(16)], line: 8)], 4, readOnly: true, line: 8);
        lab.Guard = default;
        var i = lab.Emit(ThreadOpcode.Move, ThreadType.S32, [Source.Constant(-1)], line: 9);
        lab.Loop(() => lab.Emit(ThreadOpcode.Compare, ThreadType.S32, [i, Source.Constant(3)], comparison: Comparison.LessOrEqual, line: 9), () =>
        {
            lab.Do(ThreadOpcode.MultiplyAdd, ThreadType.F32, [value], [value, Source.Constant(2f), Source.Constant(-1f)], line: 10);
            lab.Do(ThreadOpcode.Add, ThreadType.S32, [i], [i, Source.Constant(1)], line: 9);
        });
        lab.IsGuardNegated = true;
        lab.Guard = inside;
        lab.Store(ThreadOpcode.StoreGlobal, ThreadType.U16, y, lab.Emit(ThreadOpcode.Convert, ThreadType.BF16, [value], sourceType: ThreadType.F32, line: 11), 2, line: 11);
        var text = lab.Print();
        PtxChecker.Check(text);
        AssertText("""
            .version 7.0
            .target sm_80
            .address_size 64

            .visible .entry scale(
                .param .u64 scale_param_0,
                .param .u64 scale_param_1,
                .param .s32 scale_param_2
            )
            .maxntid 128, 1, 1
            {
                .reg .pred %p<2>;
                .reg .b32 %r<5>;
                .reg .b64 %rd<3>;

                // Lab.cs:1
                ld.param.b64 %rd0, [scale_param_0];
                cvta.to.global.u64 %rd0, %rd0;
                ld.param.b64 %rd1, [scale_param_1];
                cvta.to.global.u64 %rd1, %rd1;
                ld.param.b32 %r0, [scale_param_2];
                mov.u32 %r1, %tid.x;
                // Lab.cs:7
                setp.lt.s32 %p0, %r1, %r0;
                // Lab.cs:8
                mov.f32 %r2, 0f00000000;
                @%p0 add.s64 %rd2, %rd0, 16;
                @%p0 ld.global.nc.b32 %r2, [%rd2+4];
                // Lab.cs:9
                mov.b32 %r3, -1;
            $loop_0:
                setp.le.s32 %p1, %r3, 3;
                @!%p1 bra.uni $loop_end_0;
                // Lab.cs:10
                fma.rn.f32 %r2, %r2, 0f40000000, 0fBF800000;
                // Lab.cs:9
                add.s32 %r3, %r3, 1;
                bra.uni $loop_0;
            $loop_end_0:
                // Lab.cs:11
                @!%p0 cvt.rn.bf16x2.f32 %r4, 0f00000000, %r2;
                @!%p0 st.global.u16 [%rd1+2], %r4;
                ret;
            }

            """, text);
    }

    [Fact]
    public void On_Hopper_a_kernel_first_waits_for_the_one_before_it()
    {
        var kernel = Kernel.Trace("zero", k => k.Store(k.Pointer(DType.Float32, "x") + k.Range(32), k.Zeros(DType.Float32, 32)));
        var hopper = PtxCompiler.Compile(kernel, PtxTarget.Sm90);
        PtxChecker.Check(hopper.Text);
        Assert.True(PtxTarget.Sm90.HasDependentLaunch);
        Assert.Equal("    griddepcontrol.wait;\n", Regex.Match(hopper.Text, @"^    (?!\.)[^\n]*\n", RegexOptions.Multiline).Value);
        var ampere = PtxCompiler.Compile(kernel, PtxTarget.Sm80);
        Assert.False(PtxTarget.Sm80.HasDependentLaunch);
        Assert.DoesNotContain("griddepcontrol", ampere.Text, StringComparison.Ordinal);
    }

    [Fact]
    public void Shared_memory_copies_and_a_product()
    {
        var lab = new ThreadLab(1, 1024, "product");
        lab.Tables.Add([1, -2]);
        var source = lab.Pointer(DType.BFloat16);
        var place = lab.Emit(ThreadOpcode.ShiftLeft, ThreadType.B32, [lab.ThreadId(), Source.Constant(4)], line: 20);
        lab.Do(ThreadOpcode.CopyAsync, ThreadType.B32, [], [place, source, Source.Constant(16)], 512, width: 16, line: 20);
        lab.Do(ThreadOpcode.CopyAsync, ThreadType.B32, [], [place, source, place], width: 8, line: 20);
        lab.Do(ThreadOpcode.CommitCopies, line: 20);
        lab.Do(ThreadOpcode.WaitCopies, 1, line: 20);
        lab.Barrier(line: 20);
        var a = Enumerable.Range(0, 4).Select(_ => lab.New(ThreadType.B32)).ToArray();
        lab.Do(ThreadOpcode.LoadMatrix, ThreadType.B32, a, [place], transposed: true, line: 21);
        var d = Enumerable.Range(0, 4).Select(_ => lab.New(ThreadType.F32)).ToArray();
        lab.Do(ThreadOpcode.MatrixMultiply, ThreadType.BF16, d, [.. a, a[0], a[1], Source.Constant(0f), Source.Constant(1f), a[2], a[3]], line: 21);
        lab.Do(ThreadOpcode.StoreShared, ThreadType.B32, [], [Source.Constant(32), d[0], Source.Constant(7)], 8, line: 22);
        lab.Emit(ThreadOpcode.TableAddress, ThreadType.U64, [], line: 22);
        var text = lab.Print();
        PtxChecker.Check(text);
        AssertText("""
            .version 7.0
            .target sm_80
            .address_size 64

            .global .align 16 .b32 product_table_0[2] = {
                0x3F800000, 0xC0000000
            };

            .extern .shared .align 1024 .b8 product_shared[];

            .visible .entry product(
                .param .u64 product_param_0
            )
            .maxntid 32, 1, 1
            {
                .reg .b32 %r<14>;
                .reg .b64 %rd<2>;
                .reg .b32 %shared;

                mov.u32 %shared, product_shared;
                // Lab.cs:1
                ld.param.b64 %rd0, [product_param_0];
                cvta.to.global.u64 %rd0, %rd0;
                mov.u32 %r0, %tid.x;
                // Lab.cs:20
                shl.b32 %r1, %r0, 4;
                add.u32 %r2, %r1, %shared;
                cp.async.cg.shared.global [%r2+512], [%rd0], 16;
                cp.async.ca.shared.global [%r2], [%rd0], 8, %r1;
                cp.async.commit_group;
                cp.async.wait_group 1;
                bar.sync 0;
                // Lab.cs:21
                ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r3, %r4, %r5, %r6}, [%r2];
                mov.f32 %r7, 0f00000000;
                mov.f32 %r8, 0f3F800000;
                mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r9, %r10, %r11, %r12}, {%r3, %r4, %r5, %r6}, {%r3, %r4}, {%r7, %r8, %r5, %r6};
                // Lab.cs:22
                mov.b32 %r13, 7;
                st.shared.v2.b32 [%shared+40], {%r9, %r13};
                mov.u64 %rd1, product_table_0;
                ret;
            }

            """, text);
    }

    [Theory]
    [InlineData(80, "7.0")]
    [InlineData(86, "7.1")]
    [InlineData(89, "7.8")]
    [InlineData(90, "7.8")]
    public void The_lowest_version_that_knows_the_target(int capability, string version)
    {
        var text = PtxPrinter.Print(new ThreadLab().Program, new PtxTarget(capability, 1024));
        Assert.StartsWith($".version {version}\n.target sm_{capability}\n", text, StringComparison.Ordinal);
    }

    [Fact]
    public void Too_much_shared_memory_names_both_sizes()
    {
        var error = Assert.Throws<TileException>(() => PtxPrinter.Print(new ThreadLab(1, 200_000).Program, PtxTarget.Sm80));
        Assert.Contains("200,000 bytes needed, 166,912 available", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("add.s32 %r1, %r0, 1;", null)]
    [InlineData("add.s33 %r1, %r0, 1;", "no instruction add.s33")]
    [InlineData("add.s32 %r1, %r0;", "2 operands where 3 are needed")]
    [InlineData("add.s32 %r1, %r2, 1;", "%r2 is used before it is assigned")]
    [InlineData("add.s32 %r1, %rd0, 1;", "operand 1 is %rd0")]
    [InlineData("add.f32 %r1, %r0, 1;", "operand 2 is 1")]
    [InlineData("add.s32 %r9, %r0, 1;", "operand 0 is %r9")]
    [InlineData("@%p0 add.s32 %r1, %r0, 1;", "%p0 is used before it is assigned")]
    [InlineData("bra.uni $nowhere;", "label $nowhere is not defined")]
    [InlineData("ld.global.v4.b32 {%r1, %r2}, [%rd0];", "no vector of 4")]
    [InlineData("ld.shared.b32 %r1, [%rd0];", "operand 1 is [%rd0]")]
    [InlineData("st.global.v2.b32 [%rd0], {%r0, 5};", "operand 1 is 5")]
    [InlineData("add.s32 %r1, %r0, 1", "not a statement")]
    [InlineData("}}", "brace")]
    public void The_checker_finds(string line, string? complaint)
    {
        var module = $$"""
            .version 7.0
            .target sm_80
            .address_size 64

            .visible .entry k(
                .param .u64 k_param_0
            )
            .maxntid 32, 1, 1
            {
                .reg .pred %p<1>;
                .reg .b32 %r<4>;
                .reg .b64 %rd<1>;

                ld.param.b64 %rd0, [k_param_0];
                mov.u32 %r0, %tid.x;
                {{line}}
                ret;
            }

            """;
        if (complaint is null) PtxChecker.Check(module);
        else Assert.Contains(complaint, Assert.Throws<TileException>(() => PtxChecker.Check(module)).Message, StringComparison.Ordinal);
    }
}
