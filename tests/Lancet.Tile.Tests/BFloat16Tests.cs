namespace Lancet.Tile.Tests;

public class BFloat16Tests
{
    [Fact]
    public void Every_value_survives_the_round_trip()
    {
        for (var bits = 0; bits <= ushort.MaxValue; bits++)
        {
            var value = BFloat16.FromBits((ushort)bits);
            var back = (BFloat16)(float)value;
            if (float.IsNaN(value)) Assert.True(float.IsNaN(back));
            else Assert.Equal(value.Bits, back.Bits);
        }
    }

    [Theory]
    [InlineData(0x3F808000u, 0x3F80)] // a tie goes to the even neighbour below
    [InlineData(0x3F818000u, 0x3F82)] // a tie goes to the even neighbour above
    [InlineData(0x3F808001u, 0x3F81)]
    [InlineData(0x7F7FFFFFu, 0x7F80)] // overflow rounds to infinity
    public void Rounds_to_nearest_even(uint single, int expected) =>
        Assert.Equal((ushort)expected, ((BFloat16)BitConverter.UInt32BitsToSingle(single)).Bits);
}
