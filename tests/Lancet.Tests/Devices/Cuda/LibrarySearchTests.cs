using Lancet.Devices.Cuda.Interop;

namespace Lancet.Tests.Devices.Cuda;

/// <summary>Where libraries are looked for, on machines that exist only here.</summary>
public class LibrarySearchTests
{
    private sealed class Machine(bool isWindows, string[] files, Dictionary<string, string>? variables = null) : ILibraryHost
    {
        public bool IsWindows => isWindows;

        private char Slash => isWindows ? '\\' : '/';

        public string? Variable(string name) => variables?.GetValueOrDefault(name);

        public bool FileExists(string path) => files.Contains(path);

        public IEnumerable<string> Folders(string parent, string pattern)
        {
            var prefix = pattern.TrimEnd('*');
            return files.Where(file => file.StartsWith(parent + Slash, StringComparison.Ordinal))
                .Select(file => file[(parent.Length + 1)..]).Where(rest => rest.Contains(Slash)).Select(rest => rest[..rest.IndexOf(Slash)])
                .Where(name => name.StartsWith(prefix, StringComparison.Ordinal)).Distinct().Select(name => parent + Slash + name);
        }

        public List<string> CublasLt() => [.. LibrarySearch.Candidates(LibrarySearch.CublasLtNames(isWindows), this)];
    }

    [Fact]
    public void Without_anything_only_plain_names_are_tried()
    {
        Assert.Equal(["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"], new Machine(false, []).CublasLt());
        Assert.Equal(["cublasLt64_13.dll", "cublasLt64_12.dll"], new Machine(true, []).CublasLt());
        Assert.Equal(["libcuda.so.1", "libcuda.so"], LibrarySearch.Candidates(LibrarySearch.DriverNames(false), new Machine(false, [])));
        Assert.Equal(["nvcuda.dll"], LibrarySearch.Candidates(LibrarySearch.DriverNames(true), new Machine(true, [])));
    }

    [Theory]
    [InlineData("/opt/mine/libcublasLt.so.12")]
    [InlineData("/opt/mine/lib64/libcublasLt.so.13")]
    [InlineData("/opt/mine/lib/libcublasLt.so")]
    [InlineData("/opt/mine/targets/x86_64-linux/lib/libcublasLt.so.13")]
    public void The_own_variable_comes_before_the_loader(string file)
    {
        var found = new Machine(false, [file], new() { ["LANCET_CUDA_PATH"] = "/opt/mine" }).CublasLt();
        Assert.Equal(file, found[0]);
        Assert.Equal("libcublasLt.so.13", found[1]);
    }

    [Theory]
    [InlineData("/usr/local/cuda-12.8/lib64/libcublasLt.so.12")]
    [InlineData("/usr/lib/x86_64-linux-gnu/libcublasLt.so.12")]
    [InlineData("/usr/lib/python3.12/dist-packages/nvidia/cublas/lib/libcublasLt.so.12")]
    [InlineData("/usr/local/lib/python3.13/site-packages/nvidia/cu13/lib/libcublasLt.so.13")]
    [InlineData("/home/ada/.local/lib/python3.11/site-packages/nvidia/cu13/lib/libcublasLt.so.13")]
    [InlineData("/venv/lib/python3.12/site-packages/nvidia/cu13/lib/libcublasLt.so.13")]
    [InlineData("/opt/py/lib/python3.12/site-packages/nvidia/cu13/lib/libcublasLt.so.13")]
    [InlineData("/packages/nvidia/cu13/lib/libcublasLt.so.13")]
    public void Toolkits_and_python_packages_are_found(string file)
    {
        var machine = new Machine(false, [file, "/opt/py/bin/python3"], new()
        {
            ["HOME"] = "/home/ada",
            ["VIRTUAL_ENV"] = "/venv",
            ["PATH"] = "/usr/bin:/opt/py/bin",
            ["PYTHONPATH"] = "/packages",
        });
        // CUDA 12 packages lie in nvidia/cublas, CUDA 13 packages in nvidia/cu13; both match cu*.
        Assert.Contains(file, machine.CublasLt());
    }

    [Theory]
    [InlineData(@"C:\Program Files\NVIDIA GPU Computing Toolkit\CUDA\v12.8\bin\cublasLt64_12.dll")]
    [InlineData(@"C:\Program Files\NVIDIA GPU Computing Toolkit\CUDA\v13.0\bin\x64\cublasLt64_13.dll")]
    [InlineData(@"D:\venv\Lib\site-packages\nvidia\cublas\bin\cublasLt64_12.dll")]
    [InlineData(@"D:\venv\Lib\site-packages\nvidia\cu13\bin\x86_64\cublasLt64_13.dll")]
    public void Windows_is_searched_too(string file) =>
        Assert.Contains(file, new Machine(true, [file], new() { ["ProgramFiles"] = @"C:\Program Files", ["VIRTUAL_ENV"] = @"D:\venv" }).CublasLt());

    [Fact]
    public void Newer_versions_come_first()
    {
        var found = new Machine(false, ["/usr/local/cuda-12.4/lib64/libcublasLt.so.12", "/usr/local/cuda-13.0/lib64/libcublasLt.so.13", "/usr/local/cuda-12.8/lib64/libcublasLt.so.12"]).CublasLt();
        Assert.Equal(["/usr/local/cuda-13.0/lib64/libcublasLt.so.13", "/usr/local/cuda-12.8/lib64/libcublasLt.so.12", "/usr/local/cuda-12.4/lib64/libcublasLt.so.12"], found.Skip(3));
    }
}
