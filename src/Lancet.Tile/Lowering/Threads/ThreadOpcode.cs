namespace Lancet.Tile.Lowering.Threads;

/// <summary>How an instruction reads and writes its 32- or 64-bit registers.</summary>
internal enum ThreadType
{
    Predicate,
    U8,
    S8,
    U16,
    B32,
    S32,
    U32,
    B64,
    S64,
    U64,
    F32,
    F64,

    /// <summary>One bf16 in the low half of a 32-bit register.</summary>
    BF16,

    /// <summary>One fp16 in the low half of a 32-bit register.</summary>
    F16,
}

/// <summary>
/// What one thread does in one instruction. Registers hold 32 bits, 64 bits or a predicate. 16-bit numbers live in halves of 32-bit registers.
/// Operands are written destination first in comments: d = op(a, b, c).
/// </summary>
internal enum ThreadOpcode
{
    /// <summary>d = a.</summary>
    Move,

    /// <summary>d = a + b.</summary>
    Add,

    /// <summary>d = a − b.</summary>
    Subtract,

    /// <summary>d = a · b: fp, or the low half of the integer product.</summary>
    Multiply,

    /// <summary>d = the high 32 bits of a · b (U32).</summary>
    MultiplyHigh,

    /// <summary>d (64 bits) = a · b of 32-bit a and b, signed for S32 and unsigned for U32.</summary>
    MultiplyWide,

    /// <summary>d = a · b + c: fused for fp, low half for integers.</summary>
    MultiplyAdd,

    /// <summary>d = a / b: correctly rounded for fp, towards zero for integers.</summary>
    Divide,

    /// <summary>d = a mod b with the sign of a.</summary>
    Remainder,

    /// <summary>d = the smaller; fp: NaN if either is.</summary>
    Minimum,

    /// <summary>d = the larger; fp: NaN if either is.</summary>
    Maximum,

    /// <summary>d = a and b (bits or predicates).</summary>
    And,

    /// <summary>d = a or b.</summary>
    Or,

    /// <summary>d = a xor b.</summary>
    Xor,

    /// <summary>d = not a.</summary>
    Not,

    /// <summary>d = a shifted left by b (32-bit count; counts of the width or more give 0).</summary>
    ShiftLeft,

    /// <summary>d = a shifted right by b: arithmetic for S types, logical for U and B types.</summary>
    ShiftRight,

    /// <summary>d = −a.</summary>
    Negate,

    /// <summary>d = |a|.</summary>
    Absolute,

    /// <summary>d = 2ᵃ in fp32, within 2 ulp (ex2.approx.f32); subnormal results are kept, or 0 if <see cref="ThreadInstruction.Immediate"/> is not (.ftz, an instruction instead of four).</summary>
    Exp2Approximate,

    /// <summary>d = 1 / a in fp32, within an ulp (rcp.approx.f32); subnormal numbers are kept, or 0 if <see cref="ThreadInstruction.Immediate"/> is not (.ftz).</summary>
    ReciprocalApproximate,

    /// <summary>d = √a, correctly rounded.</summary>
    SquareRoot,

    /// <summary>d = ⌊a⌋.</summary>
    Floor,

    /// <summary>d = a rounded to an integral value, ties to even.</summary>
    Round,

    /// <summary>d (predicate) = a ⋚ b by <see cref="ThreadInstruction.Comparison"/>; ordered, except not-equal, which is true for NaN.</summary>
    Compare,

    /// <summary>d = c (predicate) ? a : b.</summary>
    Select,

    /// <summary>d of <see cref="ThreadInstruction.Type"/> = a of <see cref="ThreadInstruction.SourceType"/>: to nearest even into fp, towards zero and saturating into integers, wrap between integers. BF16 and F16 mean the low half of the register; the high half of a result is 0.</summary>
    Convert,

    /// <summary>d (B32) = b rounded into the low half and a rounded into the high half, from two fp32 (cvt.rn.bf16x2.f32 d, a, b). Type is BF16 or F16.</summary>
    ConvertPair,

    /// <summary>d (B32) = four bytes picked from {b, a} (a holds bytes 0 to 3, b bytes 4 to 7) by the nibbles of <see cref="ThreadInstruction.Immediate"/> (prmt.b32).</summary>
    Permute,

    /// <summary>d = a special register, <see cref="ThreadInstruction.Immediate"/> = <see cref="SpecialRegister"/>.</summary>
    ReadSpecial,

    /// <summary>d = kernel parameter number <see cref="ThreadInstruction.Immediate"/>.</summary>
    LoadParameter,

    /// <summary>d (U64) = address of constant table number <see cref="ThreadInstruction.Immediate"/>.</summary>
    TableAddress,

    /// <summary>Destinations = consecutive elements of Type (U8, S8, U16, B32, B64) from global memory at a + <see cref="ThreadInstruction.Immediate"/>; 1, 2 or 4 of them, aligned to their total size. Narrow elements are extended to 32 bits.</summary>
    LoadGlobal,

    /// <summary>Global memory at a + Immediate = the remaining 1, 2 or 4 sources, of Type.</summary>
    StoreGlobal,

    /// <summary>d = the old value; global memory at a + Immediate += b (S32 or S64/U64).</summary>
    AtomicAdd,

    /// <summary>Global memory at a + Immediate += the remaining 1, 2 or 4 sources (F32), each on its own and without being waited for; more than one on Hopper only.</summary>
    AddGlobal,

    /// <summary>Warp number <see cref="ThreadInstruction.Immediate"/> waits until the int32 in global memory at a is at least b; global memory that other programs wrote before they signalled it is seen after it, by other warps after a barrier.</summary>
    AwaitFlag,

    /// <summary>Global memory at a = b (int32), after all that the thread wrote, or saw written at a barrier, before.</summary>
    SignalFlag,

    /// <summary>As <see cref="LoadGlobal"/> from shared memory; a is a 32-bit shared address.</summary>
    LoadShared,

    /// <summary>As <see cref="StoreGlobal"/> to shared memory.</summary>
    StoreShared,

    /// <summary>Starts copying <see cref="ThreadInstruction.Width"/> (16, 8 or 4) bytes from global address b + <see cref="ThreadInstruction.SourceOffset"/> to shared address a + Immediate; the source c is how many of them are really read (0 to Width), the rest are zeros. Lands when waited for.</summary>
    CopyAsync,

    /// <summary>Closes the thread's group of copies started since the last one.</summary>
    CommitCopies,

    /// <summary>Waits until at most <see cref="ThreadInstruction.Immediate"/> of the thread's newest groups are pending.</summary>
    WaitCopies,

    /// <summary>Shared address a becomes an mbarrier that one arrival and the bytes it expects complete; seen by the warp's lanes.</summary>
    InitializeMbarrier,

    /// <summary>Arrives at the mbarrier a, whose phase is then complete when copies have brought it Immediate bytes.</summary>
    ExpectBytes,

    /// <summary>Starts copying the block of tensor map number <see cref="ThreadInstruction.Immediate"/> whose first element is in column b and row c to shared address a, a multiple of 1,024; tells the mbarrier d of its bytes. Lands when waited for.</summary>
    CopyTensor,

    /// <summary>Waits until the phase of the mbarrier a with parity b is complete, whose copies the warp then sees.</summary>
    AwaitBytes,

    /// <summary>All threads of the program wait for each other; shared and global writes before it are seen after it.</summary>
    Barrier,

    /// <summary>Tells who waits at the named barrier a that this warp has come here; what it wrote before is seen there. Immediate: threads that meet, arriving and waiting.</summary>
    NamedArrive,

    /// <summary>Waits at the named barrier a until all have come. Immediate: threads that meet, arriving and waiting.</summary>
    NamedWait,

    /// <summary>Shared memory of the cluster's program number b, at a + Immediate there, = c. That program must have been waited for once, and sees it after waiting again.</summary>
    StoreCluster,

    /// <summary>Tells the cluster that this thread has come here; what it wrote before is seen by those that wait.</summary>
    ClusterArrive,

    /// <summary>Waits until all threads of the cluster have come to their last <see cref="ClusterArrive"/>.</summary>
    ClusterWait,

    /// <summary>d = a of the lane whose number is this lane's xor Immediate (all lanes take part).</summary>
    ShuffleXor,

    /// <summary>d = a of the lane whose number is the low five bits of b (all lanes take part; 32 bits).</summary>
    ShuffleIndex,

    /// <summary>Destinations (1, 2 or 4 B32) = 8×8 matrices of 16-bit elements from shared memory; lane 8·i + r gives the address a + Immediate of row r of matrix i; <see cref="ThreadInstruction.IsTransposed"/> for .trans.</summary>
    LoadMatrix,

    /// <summary>Four F32 destinations D = A·B + C for m16n8k16; sources: 4 B32 of A, 2 B32 of B, 4 F32 of C. Type BF16 or F16.</summary>
    MatrixMultiply,

    /// <summary>d (U32) = shared address a in the units of 16 bytes and the address window that descriptors of matrices count in.</summary>
    SharedUnits,

    /// <summary>d (B64) = a descriptor of a matrix (<see cref="MatrixDescriptor"/>): its low half a, its high half <see cref="ThreadInstruction.Immediate"/>.</summary>
    DescribeMatrix,

    /// <summary>
    /// Destinations += A·B for the 64×N×16 product of a warp group (wgmma), asynchronously: N = <see cref="ThreadInstruction.Width"/>, N/2 F32 destinations that
    /// are read and written; sources: 4 B32 of A or its descriptor, then B's descriptor, stored as rows of n, or of k if <see cref="ThreadInstruction.IsTransposed"/>;
    /// A behind a descriptor is stored as rows of m, or of k if <see cref="ThreadInstruction.IsLeftTransposed"/>.
    /// Immediate 0: the destinations' old values are not read. Type BF16 or F16.
    /// </summary>
    WarpGroupMultiply,

    /// <summary>Registers written before it may be used by the warp group's products after it.</summary>
    WarpGroupFence,

    /// <summary>Closes the warp's group of products started since the last one.</summary>
    CommitProducts,

    /// <summary>Waits until at most Immediate of the newest groups of products are pending.</summary>
    WaitProducts,

    /// <summary>Shared memory that the thread wrote before it is seen, after a barrier, by products that read it through descriptors.</summary>
    ProxyFence,
}

/// <summary>Registers that the hardware fills in.</summary>
internal enum SpecialRegister
{
    ThreadId,
    ProgramX,
    ProgramY,
    ProgramZ,
    ProgramCountX,
    ProgramCountY,
    ProgramCountZ,
}
