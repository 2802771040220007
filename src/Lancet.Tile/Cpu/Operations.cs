using System.Numerics;
using System.Runtime.Intrinsics;

namespace Lancet.Tile.Cpu;

#pragma warning disable SA1402 // each operation is one line of meaning; they belong together

internal struct AddOperation<T> : IBinaryOperation<T>
    where T : unmanaged, INumber<T>
{
    public static bool IsVectorized => true;

    public static T Invoke(T a, T b) => a + b;

    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => a + b;
}

internal struct SubtractOperation<T> : IBinaryOperation<T>
    where T : unmanaged, INumber<T>
{
    public static bool IsVectorized => true;

    public static T Invoke(T a, T b) => a - b;

    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => a - b;
}

internal struct MultiplyOperation<T> : IBinaryOperation<T>
    where T : unmanaged, INumber<T>
{
    public static bool IsVectorized => true;

    public static T Invoke(T a, T b) => a * b;

    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => a * b;
}

internal struct DivideOperation<T> : IBinaryOperation<T>
    where T : unmanaged, INumber<T>
{
    public static bool IsVectorized => typeof(T) == typeof(float) || typeof(T) == typeof(double);

    public static T Invoke(T a, T b)
    {
        if (IsVectorized) return a / b;
        // Hardware traps on these two: a kernel may well divide by what a masked load left, and int.MinValue / −1 wraps.
        if (b == T.Zero) return T.Zero;
        return T.IsNegative(b) && b + T.One == T.Zero ? -a : a / b;
    }

    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => a / b;
}

internal struct RemainderOperation<T> : IBinaryOperation<T>
    where T : unmanaged, INumber<T>
{
    public static bool IsVectorized => false;

    public static T Invoke(T a, T b) => b == T.Zero || (T.IsNegative(b) && b + T.One == T.Zero) ? T.Zero : a % b;

    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => throw new NotSupportedException();
}

internal struct MinimumOperation<T> : IBinaryOperation<T>
    where T : unmanaged, INumber<T>
{
    public static bool IsVectorized => true;

    public static T Invoke(T a, T b) => T.Min(a, b);

    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => Vector512.Min(a, b);
}

internal struct MaximumOperation<T> : IBinaryOperation<T>
    where T : unmanaged, INumber<T>
{
    public static bool IsVectorized => true;

    public static T Invoke(T a, T b) => T.Max(a, b);

    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => Vector512.Max(a, b);
}

internal struct AndOperation<T> : IBinaryOperation<T>
    where T : unmanaged, IBinaryInteger<T>
{
    public static bool IsVectorized => true;

    public static T Invoke(T a, T b) => a & b;

    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => a & b;
}

internal struct OrOperation<T> : IBinaryOperation<T>
    where T : unmanaged, IBinaryInteger<T>
{
    public static bool IsVectorized => true;

    public static T Invoke(T a, T b) => a | b;

    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => a | b;
}

internal struct XorOperation<T> : IBinaryOperation<T>
    where T : unmanaged, IBinaryInteger<T>
{
    public static bool IsVectorized => true;

    public static T Invoke(T a, T b) => a ^ b;

    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => a ^ b;
}

internal struct ShiftLeftOperation<T> : IBinaryOperation<T>
    where T : unmanaged, IBinaryInteger<T>
{
    public static bool IsVectorized => false;

    public static T Invoke(T a, T b) => a << int.CreateTruncating(b);

    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => throw new NotSupportedException();
}

internal struct ShiftRightOperation<T> : IBinaryOperation<T>
    where T : unmanaged, IBinaryInteger<T>
{
    public static bool IsVectorized => false;

    public static T Invoke(T a, T b) => a >> int.CreateTruncating(b);

    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => throw new NotSupportedException();
}

internal struct NegateOperation<T> : IUnaryOperation<T>
    where T : unmanaged, INumber<T>
{
    public static bool IsVectorized => true;

    public static T Invoke(T x) => -x;

    public static Vector512<T> Invoke(Vector512<T> x) => -x;
}

internal struct NotOperation<T> : IUnaryOperation<T>
    where T : unmanaged, IBinaryInteger<T>
{
    public static bool IsVectorized => true;

    public static T Invoke(T x) => ~x;

    public static Vector512<T> Invoke(Vector512<T> x) => ~x;
}

internal struct AbsoluteOperation<T> : IUnaryOperation<T>
    where T : unmanaged, INumber<T>
{
    public static bool IsVectorized => typeof(T) == typeof(float) || typeof(T) == typeof(double);

    public static T Invoke(T x) => T.IsNegative(x) ? -x : x;

    public static Vector512<T> Invoke(Vector512<T> x) => Vector512.Abs(x);
}

internal struct SqrtOperation<T> : IUnaryOperation<T>
    where T : unmanaged, IRootFunctions<T>
{
    public static bool IsVectorized => true;

    public static T Invoke(T x) => T.Sqrt(x);

    public static Vector512<T> Invoke(Vector512<T> x) => Vector512.Sqrt(x);
}

internal struct RsqrtOperation<T> : IUnaryOperation<T>
    where T : unmanaged, IRootFunctions<T>
{
    public static bool IsVectorized => true;

    public static T Invoke(T x) => T.One / T.Sqrt(x);

    public static Vector512<T> Invoke(Vector512<T> x) => Vector512<T>.One / Vector512.Sqrt(x);
}

internal struct FloatToBFloat16Operation : IUnaryOperation<float>
{
    public static bool IsVectorized => true;

    public static float Invoke(float x) => BFloat16.Round(x);

    public static Vector512<float> Invoke(Vector512<float> x)
    {
        var bits = x.AsUInt32();
        var rounded = (bits + Vector512.Create(0x7FFFu) + ((bits >>> 16) & Vector512.Create(1u))) & Vector512.Create(0xFFFF0000u);
        var quiet = (bits | Vector512.Create(0x400000u)) & Vector512.Create(0xFFFF0000u);
        return Vector512.ConditionalSelect(Vector512.Equals(x, x).AsUInt32(), rounded, quiet).AsSingle();
    }
}

internal struct BFloat16BitsAsHalfOperation : IUnaryOperation<float>
{
    public static bool IsVectorized => false;

    public static float Invoke(float x) => (float)BitConverter.UInt16BitsToHalf((ushort)(BitConverter.SingleToUInt32Bits(x) >> 16));

    public static Vector512<float> Invoke(Vector512<float> x) => throw new NotSupportedException();
}

internal struct HalfBitsAsBFloat16Operation : IUnaryOperation<float>
{
    public static bool IsVectorized => false;

    public static float Invoke(float x) => BFloat16.FromBits(BitConverter.HalfToUInt16Bits((Half)x));

    public static Vector512<float> Invoke(Vector512<float> x) => throw new NotSupportedException();
}

internal struct FloatToHalfOperation : IUnaryOperation<float>
{
    public static bool IsVectorized => false;

    public static float Invoke(float x) => (float)(Half)x;

    public static Vector512<float> Invoke(Vector512<float> x) => throw new NotSupportedException();
}

internal struct Casting :
    ICastOperation<float, double>, ICastOperation<double, float>, ICastOperation<int, float>, ICastOperation<int, double>,
    ICastOperation<long, float>, ICastOperation<long, double>, ICastOperation<uint, float>, ICastOperation<uint, double>,
    ICastOperation<float, int>, ICastOperation<double, int>, ICastOperation<float, long>, ICastOperation<double, long>,
    ICastOperation<float, uint>, ICastOperation<double, uint>, ICastOperation<int, long>, ICastOperation<long, int>, ICastOperation<uint, long>
{
    static double ICastOperation<float, double>.Invoke(float x) => x;

    static float ICastOperation<double, float>.Invoke(double x) => (float)x;

    static float ICastOperation<int, float>.Invoke(int x) => x;

    static double ICastOperation<int, double>.Invoke(int x) => x;

    static float ICastOperation<long, float>.Invoke(long x) => x;

    static double ICastOperation<long, double>.Invoke(long x) => x;

    static float ICastOperation<uint, float>.Invoke(uint x) => x;

    static double ICastOperation<uint, double>.Invoke(uint x) => x;

    static int ICastOperation<float, int>.Invoke(float x) => (int)x;

    static int ICastOperation<double, int>.Invoke(double x) => (int)x;

    static long ICastOperation<float, long>.Invoke(float x) => (long)x;

    static long ICastOperation<double, long>.Invoke(double x) => (long)x;

    static uint ICastOperation<float, uint>.Invoke(float x) => (uint)x;

    static uint ICastOperation<double, uint>.Invoke(double x) => (uint)x;

    static long ICastOperation<int, long>.Invoke(int x) => x;

    static int ICastOperation<long, int>.Invoke(long x) => (int)x;

    static long ICastOperation<uint, long>.Invoke(uint x) => x;
}

internal struct Int32ToInt8Operation : IUnaryOperation<int>
{
    public static bool IsVectorized => false;

    public static int Invoke(int x) => (sbyte)x;

    public static Vector512<int> Invoke(Vector512<int> x) => throw new NotSupportedException();
}

internal struct Int32ToUInt8Operation : IUnaryOperation<int>
{
    public static bool IsVectorized => false;

    public static int Invoke(int x) => (byte)x;

    public static Vector512<int> Invoke(Vector512<int> x) => throw new NotSupportedException();
}
