using System.Globalization;
using Lancet.Adapters;
using Lancet.Devices;
using Lancet.Models;
using Lancet.Planning;
using Lancet.Tile;
using Lancet.Tile.Ptx;
using Lancet.Training;
using Xunit;

namespace Lancet.Tests.Planning;

/// <summary>Rows of logits that are there at a time.</summary>
public sealed class HeadChunkTests
{
    private const long Gigabyte = 1_000_000_000;
    private const long Smallest = 256 << 20;

    /// <summary>
    /// On a GPU 256 MiB of rows; more where those are too few for its products and its memory is large, whatever the budget, so that all plans give the same bits. A budget stands for the
    /// memory of a GPU that is not there (0 GB).
    /// </summary>
    [Theory]
    [InlineData(256000, 2304, DType.BFloat16, 141, 0, 2048)]
    [InlineData(256000, 2304, DType.BFloat16, 141, 16, 2048)]
    [InlineData(256000, 2304, DType.BFloat16, 24, 0, 2048)]
    [InlineData(256000, 2304, DType.BFloat16, 16, 0, 524)]
    [InlineData(256000, 2304, DType.BFloat16, 16, 12, 524)]
    [InlineData(256000, 2304, DType.BFloat16, 0, 0, 2048)]
    [InlineData(256000, 2304, DType.BFloat16, 0, 24, 2048)]
    [InlineData(256000, 2304, DType.BFloat16, 0, 16, 524)]
    [InlineData(256000, 2304, DType.Float32, 141, 0, 262)]
    [InlineData(151936, 4096, DType.BFloat16, 141, 0, 1024)]
    [InlineData(128256, 2048, DType.BFloat16, 141, 0, 1046)]
    [InlineData(128256, 4096, DType.BFloat16, 141, 0, 1046)]
    [InlineData(32000, 2048, DType.Float16, 141, 0, 4194)]
    public void A_chunk_has_rows_enough_for_products_where_memory_allows_it(int vocabulary, int hidden, DType dtype, long device, long budget, int rows)
    {
        var target = PlanTarget.CudaOf(PtxTarget.Sm80, device == 0 ? long.MaxValue : device * Gigabyte);
        Assert.Equal(rows, Rows(vocabulary, hidden, dtype, new EngineOptions { MaxTokens = 8192, MaxSequenceLength = 2048, MemoryBudget = budget * Gigabyte }, target));
        Assert.True(rows == Smallest / (vocabulary * dtype.SizeInBytes()) || rows % 128 == 0);
    }

    /// <summary>A batch needs no more rows than it has tokens, and a processor's chunks are small.</summary>
    [Theory]
    [InlineData(true, 512, 512)]
    [InlineData(false, 8192, 131)]
    public void Small_batches_and_processors_have_fewer(bool isCuda, int tokens, int rows) =>
        Assert.Equal(rows, Rows(256000, 2304, DType.BFloat16, new EngineOptions { MaxTokens = tokens, MaxSequenceLength = 512 }, isCuda ? PlanTarget.Cuda : PlanTarget.Cpu(2)));

    private static long Rows(int vocabulary, int hidden, DType dtype, EngineOptions options, PlanTarget target)
    {
        var decoder = new DecoderModel(ModelConfig.Parse(string.Create(
            CultureInfo.InvariantCulture,
            $$"""{"model_type":"llama","hidden_size":{{hidden}},"intermediate_size":{{hidden}},"num_hidden_layers":1,"num_attention_heads":8,"head_dim":64,"num_key_value_heads":2,"vocab_size":{{vocabulary}},"rms_norm_eps":1e-5,"max_position_embeddings":2048}"""), "test"));
        LanguageModel.Describe(decoder, new LoraOptions());
        decoder.DescribeStorage(target, dtype);
        var memory = StepPlan.Create(decoder, dtype, 0, options, target).Memory;
        return memory.Entries.Single(entry => entry.Purpose == "logits chunk").Bytes / ((long)vocabulary * dtype.SizeInBytes());
    }
}
