using System.Net;
using System.Text.Json;

namespace Lancet.Formats.Hub;

/// <summary>What storage refuses; another address may serve.</summary>
internal sealed class HubStorageException(string message) : LancetException(message);

/// <summary>What is said where the hub says no.</summary>
internal static class HubRefusal
{
    private const int LongestAnswer = 400;

    /// <summary>The error of an answer that no other attempt will change.</summary>
    public static async Task<LancetException> OfAsync(HttpResponseMessage response, HubCall call, HubOptions options, CancellationToken cancellation)
    {
        var (status, what, host) = (response.StatusCode, call.What, options.Endpoint.Host);
        var code = response.Headers.TryGetValues("X-Error-Code", out var codes) ? codes.First() : "";
        if (call.Purpose != HubPurpose.Download)
        {
            var said = await AnswerOf(response, options, cancellation).ConfigureAwait(false);
            return call.Purpose == HubPurpose.Storage ? new HubStorageException($"{what}: {call.Uri.Host} answered {(int)status} {response.ReasonPhrase}{said}.") : new LancetException(OfUpload(status, what, host, said, options.Endpoint));
        }
        var token = options.Token is null ? "No token was sent: set HF_TOKEN, or log in with hf auth login." : "The token (HF_TOKEN, or that of hf auth login) does not allow it.";
        return new(code switch
        {
            "GatedRepo" => $"{what}: access is restricted. Ask for it at {new Uri(options.Endpoint, what.Split('@', ':')[0])}. {token}",
            "RevisionNotFound" => $"{what}: there is no such revision.",
            "EntryNotFound" => $"{what}: there is no such file.",
            _ when status is HttpStatusCode.Unauthorized or HttpStatusCode.Forbidden => $"{what}: there is no such repository at {host}, nor such a folder here, or it is private or restricted ({(int)status}). {token}",
            _ when status == HttpStatusCode.NotFound => $"{what}: there is no such repository at {host}, nor such a folder here (404). Check the name.",
            _ => $"{what}: {host} answered {(int)status} {response.ReasonPhrase}.",
        });
    }

    /// <summary>The error of an answer that came again and again, and may be another one later.</summary>
    public static LancetException OfBusy(HttpResponseMessage response, HubCall call, int attempts)
    {
        var many = response.StatusCode == HttpStatusCode.TooManyRequests ? "Too many requests came from here: wait some minutes" : "Wait some minutes";
        var message = $"{call.What}: {call.Uri.Host} answered {(int)response.StatusCode} {response.ReasonPhrase} {attempts} times. {many} and start again; what was {(call.Purpose == HubPurpose.Download ? "downloaded" : "uploaded")} is kept.";
        return call.Purpose == HubPurpose.Download ? new LancetException(message) : new OutputException(message);
    }

    private static string OfUpload(HttpStatusCode status, string what, string host, string said, Uri endpoint) => status switch
    {
        HttpStatusCode.Unauthorized => $"{what}: {host} does not accept the token (401{said}). Set HF_TOKEN to a valid one with the right to write: {new Uri(endpoint, "/settings/tokens")}.",
        HttpStatusCode.Forbidden => $"{what}: the token (HF_TOKEN, or that of hf auth login) may not do this (403{said}). It needs the right to write there: {new Uri(endpoint, "/settings/tokens")}.",
        HttpStatusCode.NotFound => $"{what}: {host} does not find it (404{said}). Check the name, and whether the token may see it.",
        HttpStatusCode.RequestEntityTooLarge => $"{what}: too large for {host} (413{said}). Nothing was committed; write smaller files with lancet export --max-shard-size, or ask the hub for more room.",
        _ => $"{what}: {host} answered {(int)status}{said}.",
    };

    /// <summary>What the server says in words, for a parenthesis: from a header, from JSON, or from XML as storage writes it.</summary>
    private static async Task<string> AnswerOf(HttpResponseMessage response, HubOptions options, CancellationToken cancellation)
    {
        var text = response.Headers.TryGetValues("X-Error-Message", out var messages) ? messages.First() : "";
        if (text.Length == 0)
        {
            using var silence = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
            silence.CancelAfter(options.Silence);
            text = await response.Content.ReadAsStringAsync(silence.Token).ConfigureAwait(false);
            try
            {
                using var document = JsonDocument.Parse(text);
                if (document.RootElement is { ValueKind: JsonValueKind.Object } root && (root.TryGetProperty("error", out var error) || root.TryGetProperty("message", out error)) && error.ValueKind == JsonValueKind.String) text = error.GetString()!;
            }
            catch (JsonException)
            {
                // Then it is shown as it is.
            }
        }
        // A terminal must not be steered from outside.
        text = string.Concat(text.Select(c => char.IsControl(c) ? ' ' : c)).Trim().TrimEnd('.');
        return text.Length == 0 ? "" : ": " + (text.Length > LongestAnswer ? text[..LongestAnswer] + " …" : text);
    }
}
