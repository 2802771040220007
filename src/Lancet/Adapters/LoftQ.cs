using System.Runtime.InteropServices;
using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Adapters;

/// <summary>
/// The start of an adapter from what quantisation has lost (Li et al., "LoftQ", 2023; one iteration): s·B·A ≈ W − NF4(W), by the largest singular values.
/// <code>
/// R = W − NF4(W) ≈ U·Σ·Vᵀ      A = √Σ·Vᵀ      B = U·√Σ / s
/// </code>
/// The singular vectors come from a randomised range finder with power iterations (Halko, Martinsson and Tropp 2011): products with R on the device, the
/// rest in fp64 on the host. PEFT leaves s out of B, which is the same where alpha = r.
/// </summary>
internal static class LoftQ
{
    private const int Oversampling = 16;
    private const int Iterations = 8;

    /// <summary>A [r, in] and B [out, r].</summary>
    /// <param name="device">Device.</param>
    /// <param name="residual">R [out, in] in fp32.</param>
    /// <param name="rank">r.</param>
    /// <param name="scale">s.</param>
    /// <param name="seed">Seed of the range finder.</param>
    public static (float[] A, float[] B) Factor(Device device, Tensor residual, int rank, double scale, long seed)
    {
        int rows = (int)residual.Shape[0], columns = (int)residual.Shape[1], width = Math.Min(rank + Oversampling, Math.Min(rows, columns));
        using var left = device.Allocate((long)rows * width * sizeof(float), "LoftQ");
        using var right = device.Allocate((long)columns * width * sizeof(float), "LoftQ");
        Tensor y = left.View(DType.Float32, new Shape(rows, width)), z = right.View(DType.Float32, new Shape(columns, width));
        var random = new DeterministicRandom(seed);
        var range = new double[(long)columns * width];
        for (var i = 0; i < range.Length; i++) range[i] = random.NextNormal();
        Send(device, range, z);
        for (var iteration = 0; ; iteration++)
        {
            device.MatMul(new MatMul { M = rows, N = width, K = columns, A = new(residual), B = new(z), C = y, Alpha = 1 });
            var q = Orthonormal(Receive(device, y), rows, width);
            Send(device, q, y);
            device.MatMul(new MatMul { M = columns, N = width, K = rows, A = new(residual, true), B = new(y), C = z, Alpha = 1 });
            var s = Receive(device, z);
            if (iteration == Iterations) return Factors(q, s, rows, columns, width, Math.Min(rank, width), rank, scale);
            Send(device, Orthonormal(s, columns, width), z);
        }
    }

    /// <summary>From R ≈ Q·Sᵀ with orthonormal Q: the eigenvectors of SᵀS turn Q into U and S into V·Σ.</summary>
    private static (float[] A, float[] B) Factors(double[] q, double[] s, int rows, int columns, int width, int count, int rank, double scale)
    {
        var gram = new double[width, width];
        for (var i = 0; i < columns; i++)
            for (var a = 0; a < width; a++)
                for (var b = 0; b < width; b++) gram[a, b] += s[(i * width) + a] * s[(i * width) + b];
        var vectors = Eigenvectors(gram, width);
        int[] order = [.. Enumerable.Range(0, width).OrderByDescending(i => gram[i, i])];
        float[] resultA = new float[rank * columns], resultB = new float[rows * rank];
        for (var r = 0; r < count; r++)
        {
            var sigma = Math.Sqrt(Math.Max(0, gram[order[r], order[r]]));
            if (sigma == 0) continue;
            var root = Math.Sqrt(sigma);
            for (var i = 0; i < columns; i++) resultA[(r * columns) + i] = (float)(Dot(s, i) / root);
            for (var i = 0; i < rows; i++) resultB[(i * rank) + r] = (float)(Dot(q, i) * root / scale);

            double Dot(double[] matrix, int row)
            {
                var sum = 0.0;
                for (var a = 0; a < width; a++) sum += matrix[(row * width) + a] * vectors[a, order[r]];
                return sum;
            }
        }
        return (resultA, resultB);
    }

    /// <summary>Columns made orthonormal by Gram and Schmidt, twice for accuracy; columns that depend on former ones become zero.</summary>
    private static double[] Orthonormal(double[] matrix, int rows, int width)
    {
        for (var column = 0; column < width; column++)
        {
            var before = Length(column);
            for (var pass = 0; pass < 2; pass++)
            {
                for (var other = 0; other < column; other++)
                {
                    var dot = 0.0;
                    for (var i = 0; i < rows; i++) dot += matrix[(i * width) + column] * matrix[(i * width) + other];
                    for (var i = 0; i < rows; i++) matrix[(i * width) + column] -= dot * matrix[(i * width) + other];
                }
            }
            var length = Length(column);
            var factor = length > 1e-12 * before ? 1 / length : 0;
            for (var i = 0; i < rows; i++) matrix[(i * width) + column] *= factor;
        }
        return matrix;

        double Length(int column)
        {
            var sum = 0.0;
            for (var i = 0; i < rows; i++) sum += matrix[(i * width) + column] * matrix[(i * width) + column];
            return Math.Sqrt(sum);
        }
    }

    /// <summary>Eigenvectors, as columns, of a symmetric matrix, which becomes diagonal: cyclic Jacobi rotations.</summary>
    private static double[,] Eigenvectors(double[,] matrix, int size)
    {
        var vectors = new double[size, size];
        for (var i = 0; i < size; i++) vectors[i, i] = 1;
        for (var sweep = 0; sweep < 30; sweep++)
        {
            for (var p = 0; p < size; p++)
            {
                for (var q = p + 1; q < size; q++)
                {
                    if (matrix[p, q] == 0) continue;
                    var theta = (matrix[q, q] - matrix[p, p]) / (2 * matrix[p, q]);
                    var t = (theta >= 0 ? 1 : -1) / (Math.Abs(theta) + Math.Sqrt((theta * theta) + 1));
                    var cos = 1 / Math.Sqrt((t * t) + 1);
                    var sin = t * cos;
                    for (var i = 0; i < size; i++) (matrix[i, p], matrix[i, q]) = ((cos * matrix[i, p]) - (sin * matrix[i, q]), (sin * matrix[i, p]) + (cos * matrix[i, q]));
                    for (var i = 0; i < size; i++) (matrix[p, i], matrix[q, i]) = ((cos * matrix[p, i]) - (sin * matrix[q, i]), (sin * matrix[p, i]) + (cos * matrix[q, i]));
                    for (var i = 0; i < size; i++) (vectors[i, p], vectors[i, q]) = ((cos * vectors[i, p]) - (sin * vectors[i, q]), (sin * vectors[i, p]) + (cos * vectors[i, q]));
                }
            }
        }
        return vectors;
    }

    private static void Send(Device device, double[] values, Tensor target) => device.CopyFromHost(MemoryMarshal.AsBytes<float>(Array.ConvertAll(values, value => (float)value)), target);

    private static double[] Receive(Device device, Tensor source)
    {
        var values = new float[source.Count];
        device.CopyToHost(source, MemoryMarshal.AsBytes(values.AsSpan()));
        return Array.ConvertAll(values, value => (double)value);
    }
}
