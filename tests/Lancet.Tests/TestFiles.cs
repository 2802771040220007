namespace Lancet.Tests;

/// <summary>Files of the checkout.</summary>
internal static class TestFiles
{
    /// <summary>tests/tokenizers.</summary>
    public static string Tokenizers => Path.Combine(Root(), "tests", "tokenizers");

    /// <summary>tests/golden/NAME.</summary>
    public static string Golden(string name) => Path.Combine(Root(), "tests", "golden", name);

    /// <summary>Top of the checkout.</summary>
    public static string Root()
    {
        // Tests run from the output folder of their project.
        var folder = new DirectoryInfo(AppContext.BaseDirectory);
        while (folder is not null && !File.Exists(Path.Combine(folder.FullName, "Lancet.slnx"))) folder = folder.Parent;
        return folder?.FullName ?? throw new DirectoryNotFoundException($"No Lancet.slnx above {AppContext.BaseDirectory}.");
    }
}
