using System.Net;

namespace Lancet.Formats.Hub;

/// <summary>Requests to the hub: tried again where that can help, followed where they lead, with the token for the hub's own host only.</summary>
internal sealed class HubHttp(HubOptions options) : IDisposable
{
    private const int MaxRedirects = 8;
    private static readonly TimeSpan s_longestWait = TimeSpan.FromMinutes(2);

    // Redirects are followed here, since the handler would send the token to wherever they lead.
    private readonly HttpClient _client = new(new SocketsHttpHandler { AllowAutoRedirect = false, ConnectTimeout = TimeSpan.FromSeconds(20) }) { Timeout = Timeout.InfiniteTimeSpan };

    /// <summary>Gets something and reads it; what fails on the way is tried again, the reading included.</summary>
    /// <param name="path">Path and query at the hub.</param>
    /// <param name="what">What it is, for messages.</param>
    /// <param name="firstByte">Where to begin, asked again for each attempt.</param>
    /// <param name="read">Reads the answer.</param>
    /// <param name="cancellation">Ends it.</param>
    /// <exception cref="LancetException">The hub refuses.</exception>
    /// <exception cref="HttpRequestException">The hub cannot be reached.</exception>
    public async Task<T> GetAsync<T>(string path, string what, Func<long> firstByte, Func<HttpResponseMessage, CancellationToken, Task<T>> read, CancellationToken cancellation)
    {
        for (var attempt = 1; ; attempt++)
        {
            TimeSpan wait;
            try
            {
                using var response = await SendAsync(new(options.Endpoint, path), firstByte(), cancellation).ConfigureAwait(false);
                if (!IsTemporary(response.StatusCode)) return await read(Checked(response, what), cancellation).ConfigureAwait(false);
                wait = Advised(response) ?? Backoff(attempt);
                if (attempt >= options.Attempts) throw new LancetException($"{what}: {options.Endpoint.Host} answered {(int)response.StatusCode} {response.ReasonPhrase} {attempt} times. {(response.StatusCode == HttpStatusCode.TooManyRequests ? "Too many requests came from here: wait some minutes" : "Wait some minutes")} and start again; what was downloaded is kept.");
            }
            catch (Exception error) when (attempt < options.Attempts && !cancellation.IsCancellationRequested && error is HttpRequestException or IOException or OperationCanceledException)
            {
                wait = Backoff(attempt);
            }
            catch (OperationCanceledException error) when (!cancellation.IsCancellationRequested)
            {
                throw new HttpRequestException(HttpRequestError.Unknown, $"{options.Endpoint.Host} was silent for {options.Silence.TotalSeconds} seconds.", error);
            }
            await options.Wait(wait, cancellation).ConfigureAwait(false);
        }
    }

    public void Dispose() => _client.Dispose();

    private static bool IsTemporary(HttpStatusCode status) => status is HttpStatusCode.TooManyRequests or HttpStatusCode.RequestTimeout || (int)status >= 500;

    private static TimeSpan Backoff(int attempt) => TimeSpan.FromSeconds(Math.Min(30, Math.Pow(2, attempt - 1)));

    /// <summary>What Retry-After says, as seconds or as a date.</summary>
    private static TimeSpan? Advised(HttpResponseMessage response)
    {
        var advised = response.Headers.RetryAfter?.Delta ?? response.Headers.RetryAfter?.Date - DateTimeOffset.UtcNow;
        return advised is not { } wait ? null : wait < TimeSpan.Zero ? TimeSpan.Zero : wait > s_longestWait ? s_longestWait : wait;
    }

    private async Task<HttpResponseMessage> SendAsync(Uri uri, long firstByte, CancellationToken cancellation)
    {
        for (var hop = 0; ; hop++)
        {
            using var request = new HttpRequestMessage(HttpMethod.Get, uri);
            request.Headers.UserAgent.Add(new("lancet", null));
            if (firstByte > 0) request.Headers.Range = new(firstByte, null);
            if (options.Token is not null && Uri.Compare(uri, options.Endpoint, UriComponents.SchemeAndServer, UriFormat.Unescaped, StringComparison.OrdinalIgnoreCase) == 0) request.Headers.Authorization = new("Bearer", options.Token);
            using var silence = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
            silence.CancelAfter(options.Silence);
            var response = await _client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, silence.Token).ConfigureAwait(false);
            if ((int)response.StatusCode is < 301 or > 308 or 304 || response.Headers.Location is not { } location) return response;
            response.Dispose();
            if (hop == MaxRedirects) throw new LancetException($"{uri}: more than {MaxRedirects} redirects.");
            var next = new Uri(uri, location);
            if (next.Scheme != "https" && next.Scheme != options.Endpoint.Scheme) throw new LancetException($"{uri}: the hub redirects to {next.Scheme}://{next.Host}, which is not encrypted.");
            uri = next;
        }
    }

    private HttpResponseMessage Checked(HttpResponseMessage response, string what)
    {
        var status = response.StatusCode;
        if (response.IsSuccessStatusCode || status == HttpStatusCode.RequestedRangeNotSatisfiable) return response;
        var code = response.Headers.TryGetValues("X-Error-Code", out var codes) ? codes.First() : "";
        var token = options.Token is null ? "No token was sent: set HF_TOKEN, or log in with hf auth login." : "The token (HF_TOKEN, or that of hf auth login) does not allow it.";
        throw new LancetException(code switch
        {
            "GatedRepo" => $"{what}: access is restricted. Ask for it at {new Uri(options.Endpoint, what.Split('@', ':')[0])}. {token}",
            "RevisionNotFound" => $"{what}: there is no such revision.",
            "EntryNotFound" => $"{what}: there is no such file.",
            _ when status is HttpStatusCode.Unauthorized or HttpStatusCode.Forbidden => $"{what}: there is no such repository at {options.Endpoint.Host}, nor such a folder here, or it is private or restricted ({(int)status}). {token}",
            _ when status == HttpStatusCode.NotFound => $"{what}: there is no such repository at {options.Endpoint.Host}, nor such a folder here (404). Check the name.",
            _ => $"{what}: {options.Endpoint.Host} answered {(int)status} {response.ReasonPhrase}.",
        });
    }
}
