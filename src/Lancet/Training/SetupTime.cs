namespace Lancet.Training;

/// <summary>Time that a part of starting a run took.</summary>
/// <param name="Name">Part.</param>
/// <param name="Seconds">Time.</param>
public sealed record SetupTime(string Name, double Seconds);
