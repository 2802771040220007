namespace Lancet.Cli.Tests;

public class PlaceholderTests
{
    [Fact]
    public void The_assembly_loads() => Assert.NotNull(typeof(Lancet.Tile.DType).Assembly);
}
