using System.Net;
using System.Net.Http.Headers;
using System.Text.Json;

namespace Lancet.Formats.Hub;

/// <summary>What a request is for; refusals are told accordingly.</summary>
internal enum HubPurpose
{
    /// <summary>Reading from the hub.</summary>
    Download,

    /// <summary>Writing to the hub.</summary>
    Upload,

    /// <summary>Bytes of a large file on their way to where the hub said; an address that is refused may have expired.</summary>
    Storage,
}

/// <summary>A request, which may have to be made several times.</summary>
/// <param name="Method">Verb.</param>
/// <param name="Uri">Where it begins; it may be redirected.</param>
/// <param name="What">What it is, for messages.</param>
/// <param name="Purpose">What it is for.</param>
internal sealed record HubCall(HttpMethod Method, Uri Uri, string What, HubPurpose Purpose = HubPurpose.Download)
{
    /// <summary>Makes the body of an attempt; what it is given is to be called whenever bytes go out. Null for no body.</summary>
    public Func<Action, HttpContent>? Content { get; init; }

    /// <summary>Sets headers of an attempt.</summary>
    public Action<HttpRequestHeaders>? Headers { get; init; }

    /// <summary>Attempts; null for the options' number.</summary>
    public int? Attempts { get; init; }

    /// <summary>How long the hub may be silent; null for the options' span.</summary>
    public TimeSpan? Silence { get; init; }

    /// <summary>Which answers besides successes are read.</summary>
    public Func<HttpStatusCode, bool> IsRead { get; init; } = _ => false;
}

/// <summary>Requests to the hub: tried again where that can help, followed where they lead, with the token for the hub's own host only.</summary>
internal sealed class HubHttp(HubOptions options) : IDisposable
{
    private const int MaxRedirects = 8;
    private static readonly TimeSpan s_longestWait = TimeSpan.FromMinutes(2);

    // Redirects are followed here, since the handler would send the token to wherever they lead.
    private readonly HttpClient _client = new(new SocketsHttpHandler { AllowAutoRedirect = false, ConnectTimeout = TimeSpan.FromSeconds(20) }) { Timeout = Timeout.InfiniteTimeSpan };

    /// <summary>The wait before another attempt: what Retry-After says, as seconds or as a date, else twice the last.</summary>
    /// <param name="response">Answer of the last attempt, or null for none.</param>
    /// <param name="attempt">Number of the last attempt, from 1 on.</param>
    public static TimeSpan WaitAfter(HttpResponseMessage? response, int attempt)
    {
        var advised = response?.Headers.RetryAfter?.Delta ?? response?.Headers.RetryAfter?.Date - DateTimeOffset.UtcNow;
        return advised is not { } wait ? TimeSpan.FromSeconds(Math.Min(30, Math.Pow(2, attempt - 1))) : wait < TimeSpan.Zero ? TimeSpan.Zero : wait > s_longestWait ? s_longestWait : wait;
    }

    /// <summary>Whether another attempt may help.</summary>
    public static bool IsTemporary(HttpStatusCode status) => status is HttpStatusCode.TooManyRequests or HttpStatusCode.RequestTimeout || (int)status >= 500;

    /// <summary>Makes a request and reads the answer; what fails on the way is tried again, the reading included.</summary>
    /// <param name="call">The request.</param>
    /// <param name="read">Reads the answer.</param>
    /// <param name="cancellation">Ends it.</param>
    /// <exception cref="LancetException">The hub refuses.</exception>
    /// <exception cref="HttpRequestException">The hub cannot be reached.</exception>
    public async Task<T> SendAsync<T>(HubCall call, Func<HttpResponseMessage, CancellationToken, Task<T>> read, CancellationToken cancellation)
    {
        var attempts = call.Attempts ?? options.Attempts;
        for (var attempt = 1; ; attempt++)
        {
            TimeSpan wait;
            try
            {
                using var response = await FollowAsync(call, cancellation).ConfigureAwait(false);
                if (response.IsSuccessStatusCode || call.IsRead(response.StatusCode)) return await read(response, cancellation).ConfigureAwait(false);
                if (!IsTemporary(response.StatusCode)) throw await HubRefusal.OfAsync(response, call, options, cancellation).ConfigureAwait(false);
                wait = WaitAfter(response, attempt);
                if (attempt >= attempts) throw HubRefusal.OfBusy(response, call, attempt);
            }
            catch (Exception error) when (attempt < attempts && !cancellation.IsCancellationRequested && error is HttpRequestException or IOException or OperationCanceledException)
            {
                wait = WaitAfter(null, attempt);
            }
            catch (OperationCanceledException error) when (!cancellation.IsCancellationRequested)
            {
                throw new HttpRequestException(HttpRequestError.Unknown, $"{call.Uri.Host} was silent for {(call.Silence ?? options.Silence).TotalSeconds} seconds.", error);
            }
            await options.Wait(wait, cancellation).ConfigureAwait(false);
        }
    }

    /// <summary>Makes a request and reads the answer as JSON.</summary>
    /// <param name="call">The request.</param>
    /// <param name="read">Makes something of the answer; it may fail as <see cref="JsonElement"/> does.</param>
    /// <param name="cancellation">Ends it.</param>
    /// <exception cref="LancetException">The hub refuses, or its answer is another one than expected.</exception>
    /// <exception cref="HttpRequestException">The hub cannot be reached.</exception>
    public Task<T> JsonAsync<T>(HubCall call, Func<JsonElement, T> read, CancellationToken cancellation) => SendAsync(call, (response, token) => ReadJsonAsync(call, response, read, token), cancellation);

    /// <summary>Reads an answer as JSON.</summary>
    public async Task<T> ReadJsonAsync<T>(HubCall call, HttpResponseMessage response, Func<JsonElement, T> read, CancellationToken cancellation)
    {
        using var silence = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        silence.CancelAfter(options.Silence);
        var text = await response.Content.ReadAsStringAsync(silence.Token).ConfigureAwait(false);
        try
        {
            using var document = JsonDocument.Parse(text);
            return read(document.RootElement);
        }
        catch (Exception error) when (error is JsonException or KeyNotFoundException or InvalidOperationException or FormatException)
        {
            throw new LancetException($"{call.What}: what {options.Endpoint.Host} answered is not understood: {error.Message}", error);
        }
    }

    public void Dispose() => _client.Dispose();

    private async Task<HttpResponseMessage> FollowAsync(HubCall call, CancellationToken cancellation)
    {
        var uri = call.Uri;
        for (var hop = 0; ; hop++)
        {
            using var silence = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
            var longest = call.Silence ?? options.Silence;
            using var request = new HttpRequestMessage(call.Method, uri) { Content = call.Content?.Invoke(() => silence.CancelAfter(longest)) };
            request.Headers.UserAgent.Add(new("lancet", null));
            call.Headers?.Invoke(request.Headers);
            if (options.Token is not null && IsOfHub(uri)) request.Headers.Authorization = new("Bearer", options.Token);
            silence.CancelAfter(longest);
            var response = await _client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, silence.Token).ConfigureAwait(false);
            if (!IsRedirect(response.StatusCode, call.Method) || response.Headers.Location is not { } location) return response;
            response.Dispose();
            if (hop == MaxRedirects) throw new LancetException($"{uri}: more than {MaxRedirects} redirects.");
            var next = new Uri(uri, location);
            RequireEncryption(next, $"{uri}: the hub redirects to");
            uri = next;
        }
    }

    /// <summary>Refuses an address that would be less protected than the hub itself.</summary>
    public void RequireEncryption(Uri uri, string what)
    {
        if (uri.Scheme != "https" && uri.Scheme != options.Endpoint.Scheme) throw new LancetException($"{what} {uri.Scheme}://{uri.Host}, which is not encrypted.");
    }

    private bool IsOfHub(Uri uri) => Uri.Compare(uri, options.Endpoint, UriComponents.SchemeAndServer, UriFormat.Unescaped, StringComparison.OrdinalIgnoreCase) == 0;

    // The others would make a GET of a POST, and lose its body.
    private static bool IsRedirect(HttpStatusCode status, HttpMethod method) => method == HttpMethod.Get ? (int)status is >= 301 and <= 308 and not 304 : (int)status is 307 or 308;
}
