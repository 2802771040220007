using System.Globalization;
using System.Runtime.ExceptionServices;

namespace Lancet.Tile.Cpu;

/// <summary>
/// Threads that share out numbered tasks. Tasks are independent, so which thread runs which has no influence on results. A run allocates
/// nothing; idle threads spin briefly and then sleep.
/// </summary>
public sealed unsafe class WorkerPool : IDisposable
{
    private const int SpinsBeforeSleep = 2000;
    private static readonly Lazy<WorkerPool> s_shared = new(() => new WorkerPool(DefaultThreadCount()));
    [ThreadStatic]
    private static bool t_isInsideRun;

    private readonly Thread[] _threads;
    // A permit belongs to one thread: a shared semaphore would let a thread that is done take the permit of one that still sleeps.
    private readonly SemaphoreSlim[] _wake;
    private readonly int[] _isAsleep;
    private readonly Lock _runLock = new();
    private delegate*<nint, int, int, void> _body;
    private nint _context;
    private int _generation;
    private int _completed;

    // Number of tasks in the high half, the next task in the low half, in one word: a worker that comes late, perhaps during a later run, reads
    // both together and so never takes a task that is not there.
    private long _ticket;
    private volatile bool _isDisposed;
    private Exception? _error;

    /// <summary>Starts a pool of <paramref name="threads"/> threads, of which the caller of <see cref="Run"/> is one.</summary>
    public WorkerPool(int threads)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(threads, 1);
        ThreadCount = threads;
        _threads = new Thread[threads - 1];
        _wake = new SemaphoreSlim[threads - 1];
        _isAsleep = new int[threads - 1];
        for (var i = 0; i < _threads.Length; i++)
        {
            var worker = i + 1;
            _wake[i] = new SemaphoreSlim(0);
            _threads[i] = new Thread(() => Work(worker)) { IsBackground = true, Name = $"lancet worker {worker}" };
            _threads[i].Start();
        }
    }

    /// <summary>One pool for the process: a thread per processor, or as many as the environment variable LANCET_THREADS says.</summary>
    public static WorkerPool Shared => s_shared.Value;

    /// <summary>Threads that take part in a run.</summary>
    public int ThreadCount { get; }

    /// <summary>Runs <paramref name="body"/>(context, task, worker) for every task below <paramref name="taskCount"/> and returns when all are done. Inside a task, runs inline.</summary>
    /// <exception cref="Exception">The first exception that a task threw.</exception>
    public void Run(int taskCount, delegate*<nint, int, int, void> body, nint context)
    {
        if (taskCount <= 0) return;
        if (taskCount == 1 || _threads.Length == 0 || t_isInsideRun)
        {
            for (var task = 0; task < taskCount; task++) body(context, task, 0);
            return;
        }
        lock (_runLock)
        {
            _body = body;
            (_context, _completed, _error) = (context, 0, null);
            Volatile.Write(ref _ticket, (long)taskCount << 32);
            Interlocked.Increment(ref _generation);
            WakeSleepers();
            t_isInsideRun = true;
            try
            {
                TakeTasks(0);
            }
            finally
            {
                t_isInsideRun = false;
            }
            // Tasks are waited for, not workers: on a busy machine a worker may not have run at all.
            var spinner = default(SpinWait);
            while (Volatile.Read(ref _completed) < taskCount) spinner.SpinOnce(-1);
            if (_error is { } error) ExceptionDispatchInfo.Throw(error);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_isDisposed) return;
        _isDisposed = true;
        Interlocked.Increment(ref _generation);
        WakeSleepers();
        foreach (var thread in _threads) thread.Join();
        foreach (var semaphore in _wake) semaphore.Dispose();
    }

    private static int DefaultThreadCount() =>
        int.TryParse(Environment.GetEnvironmentVariable("LANCET_THREADS"), NumberStyles.None, CultureInfo.InvariantCulture, out var threads) && threads > 0
            ? threads
            : Environment.ProcessorCount;

    private void Work(int worker)
    {
        var seen = 0;
        t_isInsideRun = true;
        while (!_isDisposed)
        {
            if (!WaitForWork(worker - 1, ref seen)) return;
            TakeTasks(worker);
        }
    }

    private bool WaitForWork(int index, ref int seen)
    {
        for (var spin = 0; spin < SpinsBeforeSleep; spin++)
        {
            if (Volatile.Read(ref _generation) != seen)
            {
                seen = Volatile.Read(ref _generation);
                return !_isDisposed;
            }
            Thread.SpinWait(20);
        }
        Interlocked.Exchange(ref _isAsleep[index], 1);
        // Either the generation has moved on and nobody has sent a permit yet, or a permit is coming.
        if (Volatile.Read(ref _generation) == seen || Interlocked.Exchange(ref _isAsleep[index], 0) == 0) _wake[index].Wait();
        seen = Volatile.Read(ref _generation);
        return !_isDisposed;
    }

    private void WakeSleepers()
    {
        for (var i = 0; i < _isAsleep.Length; i++)
            if (Interlocked.Exchange(ref _isAsleep[i], 0) == 1) _wake[i].Release();
    }

    private void TakeTasks(int worker)
    {
        while (true)
        {
            var ticket = Interlocked.Increment(ref _ticket) - 1;
            var task = (int)ticket;
            if (task >= (int)(ticket >> 32)) return;
            // The run cannot end before this task is counted, so its fields stay.
            try
            {
                if (Volatile.Read(ref _error) is null) _body(_context, task, worker);
            }
            catch (Exception error)
            {
                Interlocked.CompareExchange(ref _error, error, null);
            }
            Interlocked.Increment(ref _completed);
        }
    }
}
