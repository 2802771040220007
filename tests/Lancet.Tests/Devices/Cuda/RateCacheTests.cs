using Lancet.Devices;
using Lancet.Devices.Cuda;

namespace Lancet.Tests.Devices.Cuda;

public sealed class RateCacheTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lancet-rates-").FullName;

    private string File => Path.Combine(_folder, "rates");

    [Fact]
    public void Rates_are_found_again_rounded_by_gpu_and_driver()
    {
        var cache = new RateCache(File);
        Assert.Null(cache.Find("H100", "13.0"));
        var rates = cache.Add("H100", "13.0", 681_234_567_890_123.0, 2_812_345_678_901.0, 54_321_098_765.0);
        Assert.Equal(new DeviceRates(681e12, 2.81e12, 54.3e9, rates.LaunchSeconds), rates);
        cache.Add("A100", "13.0", 250e12, 1.4e12, 25e9);
        Assert.Equal(rates, new RateCache(File).Find("H100", "13.0"));
        Assert.Null(new RateCache(File).Find("H100", "13.1"));
    }

    [Theory]
    [InlineData("")]
    [InlineData("H100\t13.0\t0\t1\t1\n")]
    [InlineData("H100\t13.0\tNaN\t1\t1\n")]
    [InlineData("H100\t13.0\t1\t1\n")]
    [InlineData("\0\u0001")]
    public void A_file_that_is_something_else_is_no_cache_and_is_replaced(string contents)
    {
        System.IO.File.WriteAllText(File, contents);
        var cache = new RateCache(File);
        Assert.Null(cache.Find("H100", "13.0"));
        Assert.Equal(cache.Add("H100", "13.0", 7e14, 3e12, 5e10), cache.Find("H100", "13.0"));
    }

    public void Dispose() => Directory.Delete(_folder, true);
}
