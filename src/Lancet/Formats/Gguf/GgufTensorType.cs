namespace Lancet.Formats.Gguf;

/// <summary>Element types of tensors in GGUF files, with the numbers that the format gives them. A block type holds some elements together with their scales.</summary>
public enum GgufTensorType
{
    /// <summary>IEEE binary32.</summary>
    Float32 = 0,

    /// <summary>IEEE binary16.</summary>
    Float16 = 1,

    /// <summary>32 elements of 4 bits and an fp16 scale (q4_0).</summary>
    Q40 = 2,

    /// <summary>32 elements of 4 bits, an fp16 scale and an fp16 minimum (q4_1).</summary>
    Q41 = 3,

    /// <summary>32 elements of 5 bits and an fp16 scale (q5_0).</summary>
    Q50 = 6,

    /// <summary>32 elements of 5 bits, an fp16 scale and an fp16 minimum (q5_1).</summary>
    Q51 = 7,

    /// <summary>32 elements of 8 bits and an fp16 scale (q8_0).</summary>
    Q80 = 8,

    /// <summary>256 elements of 2 bits in groups of 16 with 4-bit scales and minima (q2_k).</summary>
    Q2K = 10,

    /// <summary>256 elements of 3 bits in groups of 16 with 6-bit scales (q3_k).</summary>
    Q3K = 11,

    /// <summary>256 elements of 4 bits in groups of 32 with 6-bit scales and minima (q4_k).</summary>
    Q4K = 12,

    /// <summary>256 elements of 5 bits in groups of 32 with 6-bit scales and minima (q5_k).</summary>
    Q5K = 13,

    /// <summary>256 elements of 6 bits in groups of 16 with 8-bit scales (q6_k).</summary>
    Q6K = 14,

    /// <summary>Signed 8-bit integer.</summary>
    Int8 = 24,

    /// <summary>Signed 16-bit integer.</summary>
    Int16 = 25,

    /// <summary>Signed 32-bit integer.</summary>
    Int32 = 26,

    /// <summary>Signed 64-bit integer.</summary>
    Int64 = 27,

    /// <summary>IEEE binary64.</summary>
    Float64 = 28,

    /// <summary>bfloat16.</summary>
    BFloat16 = 30,
}

/// <summary>Names and sizes of <see cref="GgufTensorType"/>.</summary>
public static class GgufTensorTypes
{
    private static readonly Dictionary<GgufTensorType, (string Name, int BlockSize, int BlockBytes)> s_types = new()
    {
        [GgufTensorType.Float32] = ("f32", 1, 4),
        [GgufTensorType.Float16] = ("f16", 1, 2),
        [GgufTensorType.Q40] = ("q4_0", 32, 2 + 16),
        [GgufTensorType.Q41] = ("q4_1", 32, 4 + 16),
        [GgufTensorType.Q50] = ("q5_0", 32, 2 + 4 + 16),
        [GgufTensorType.Q51] = ("q5_1", 32, 4 + 4 + 16),
        [GgufTensorType.Q80] = ("q8_0", 32, 2 + 32),
        [GgufTensorType.Q2K] = ("q2_k", 256, 16 + 64 + 4),
        [GgufTensorType.Q3K] = ("q3_k", 256, 32 + 64 + 12 + 2),
        [GgufTensorType.Q4K] = ("q4_k", 256, 4 + 12 + 128),
        [GgufTensorType.Q5K] = ("q5_k", 256, 4 + 12 + 32 + 128),
        [GgufTensorType.Q6K] = ("q6_k", 256, 128 + 64 + 16 + 2),
        [GgufTensorType.Int8] = ("i8", 1, 1),
        [GgufTensorType.Int16] = ("i16", 1, 2),
        [GgufTensorType.Int32] = ("i32", 1, 4),
        [GgufTensorType.Int64] = ("i64", 1, 8),
        [GgufTensorType.Float64] = ("f64", 1, 8),
        [GgufTensorType.BFloat16] = ("bf16", 1, 2),
    };

    /// <summary>Whether Lancet knows a type.</summary>
    public static bool IsKnown(GgufTensorType type) => s_types.ContainsKey(type);

    /// <summary>Name in llama.cpp's notation, such as <c>q4_k</c>.</summary>
    public static string Name(this GgufTensorType type) => s_types[type].Name;

    /// <summary>Elements of a block: 1 for plain types.</summary>
    public static int BlockSize(this GgufTensorType type) => s_types[type].BlockSize;

    /// <summary>Bytes of a block.</summary>
    public static int BlockBytes(this GgufTensorType type) => s_types[type].BlockBytes;

    /// <summary>Whether elements share scales.</summary>
    public static bool IsQuantized(this GgufTensorType type) => s_types[type].BlockSize > 1;

    /// <summary>Bytes of a number of elements, which must be whole blocks.</summary>
    public static long Bytes(this GgufTensorType type, long count) => checked(count / type.BlockSize() * type.BlockBytes());
}
