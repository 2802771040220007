using System.CommandLine;
using Lancet.Cli.Commands;

namespace Lancet.Cli;

/// <summary>The lancet command. Exit codes: 0 done, 1 failed, 2 bad usage or bad input, 130 interrupted after saving.</summary>
internal static class Program
{
    private const int Failed = 1;
    private const int BadInput = 2;

    public static int Main(string[] arguments)
    {
        Console.OutputEncoding = System.Text.Encoding.UTF8;
        var root = new RootCommand("Surgical fine-tuning of language models. Files in and out are Hugging Face's and PEFT's.");
        Add("train", "Fine-tune a model.\n\nExamples:\n  lancet train --model models/base --data rows.jsonl --method qlora --output out\n  lancet train --config run.yaml --resume", Options.Train, TrainCommand.Run);
        Add("eval", "Loss and perplexity of rows.\n\nExample:\n  lancet eval --model models/base --adapter out --data held-out.jsonl --per-example --json", Options.Eval, EvalCommand.Run);
        Add("generate", "Answer a prompt.\n\nExample:\n  lancet generate --model models/base --adapter out --prompt \"What does List.Add do?\"", Options.Generate, GenerateCommand.Run);
        Add("chat", "Talk to a model in the terminal.\n\nExample:\n  lancet chat --model models/base --adapter out --temperature 0.7", Options.Chat, ChatCommand.Run);
        Add("export", "Write a model, with its adapter merged, for other programs.\n\nExamples:\n  lancet export --model models/base --adapter out --output merged --dtype bfloat16\n  lancet export --model models/base --adapter out --format gguf --type q4_k_m --output model.gguf", Options.Export, ExportCommand.Run);
        Add("push", "Upload what training or an export left to the Hugging Face hub.\n\nExamples:\n  lancet push out org/name --private\n  lancet push merged org/name --revision v2 --message \"Second run\"", Options.Push, PushCommand.Run);
        Add("plan", "Peak memory of a run, by purpose, before it starts.\n\nExample:\n  lancet plan --model models/base --method qlora --max-seq-length 4096 --memory-budget 8GB", Options.Plan, PlanCommand.Run);
        var data = new Command("data", "Look at training data.\n\nExample:\n  lancet data preview --model models/base --data rows.jsonl --rows 5\n  lancet data validate --model models/base --data rows.jsonl");
        root.Add(data);
        AddTo(data, "preview", "Rendered rows, with the trained tokens marked.\n\nExample:\n  lancet data preview --model models/base --data rows.jsonl", Options.DataPreview, DataCommand.Preview);
        AddTo(data, "stats", "Lengths, truncated rows, trained tokens and duplicates of all rows.\n\nExample:\n  lancet data stats --model models/base --data rows.jsonl --max-seq-length 2048", Options.DataStats, DataStatsCommand.Run);
        AddTo(data, "validate", "Name every row that a training run would refuse; exit code 2 if there is one.\n\nExample:\n  lancet data validate --model models/base --data rows.jsonl", Options.DataValidate, DataValidateCommand.Run);
        Add("doctor", "What this machine offers and whether Lancet works here.\n\nExample:\n  lancet doctor --json", Options.Doctor, DoctorCommand.Run);
        Add("quickstart", "Fine-tune the bundled model on the bundled questions, offline, in about a minute.\n\nExample:\n  lancet quickstart --output lancet-output/quickstart", Options.Quickstart, QuickstartCommand.Run);
        if (arguments.Length == 0) arguments = ["--help"];
        var result = root.Parse(arguments);
        if (result.Errors.Count > 0)
        {
            foreach (var error in result.Errors) Console.Error.WriteLine($"lancet: {error.Message}");
            Console.Error.WriteLine("Try: lancet --help");
            return BadInput;
        }
        return result.Invoke(new InvocationConfiguration { EnableDefaultExceptionHandler = false });

        void Add(string name, string description, Setting[] settings, Func<Settings, int> run) => AddTo(root, name, description, settings, run);
    }

    private static void AddTo(Command parent, string name, string description, Setting[] settings, Func<Settings, int> run)
    {
        var command = new Command(name, description);
        var readers = new List<(Setting Setting, Func<ParseResult, string?> Read)>();
        var hasArguments = settings.Any(setting => setting.IsArgument);
        foreach (var setting in settings)
        {
            var help = setting.Default is null or "false" ? setting.Help : $"{setting.Help} [default: {setting.Default}]";
            var arity = setting.IsFlag ? ArgumentArity.ZeroOrOne : ArgumentArity.ExactlyOne;
            if (setting.IsArgument)
            {
                var argument = new Argument<string?>(setting.Name.ToUpperInvariant()) { Description = help, Arity = ArgumentArity.ZeroOrOne };
                command.Add(argument);
                readers.Add((setting, parsed => parsed.GetValue(argument)));
            }
            else if (setting.IsFlag && hasArguments)
            {
                // Of what follows, a flag takes true or false, and leaves arguments alone.
                var option = new Option<bool>("--" + setting.Name) { Description = help, Arity = arity, HelpName = "true|false" };
                command.Add(option);
                readers.Add((setting, parsed => IsGiven(parsed, option) ? parsed.GetValue(option) ? "true" : "false" : null));
            }
            else
            {
                var option = new Option<string?>("--" + setting.Name) { Description = help, Arity = arity, HelpName = setting.IsFlag ? "true|false" : "value" };
                command.Add(option);
                readers.Add((setting, parsed => IsGiven(parsed, option) ? parsed.GetValue(option) ?? "true" : null));
            }
        }
        command.SetAction(parsed =>
        {
            var given = new Dictionary<string, string?>();
            foreach (var (setting, read) in readers)
                if (read(parsed) is { } value) given[setting.Name] = value;
            return Guard(() => run(new Settings(settings, given)));
        });
        parent.Add(command);

        static bool IsGiven(ParseResult parsed, Option option) => parsed.GetResult(option) is { Implicit: false };
    }

    /// <summary>One clear line for whatever goes wrong.</summary>
    private static int Guard(Func<int> run)
    {
        try
        {
            return run();
        }
        catch (LancetException error) when (error is not OutputException)
        {
            Console.Error.WriteLine($"lancet: {error.Message}");
            return BadInput;
        }
        catch (Exception error) when (error is OutputException or IOException or UnauthorizedAccessException or OutOfMemoryException)
        {
            Console.Error.WriteLine($"lancet: {error.Message}");
            return Failed;
        }
        catch (Exception error) when (Environment.GetEnvironmentVariable("LANCET_DEBUG") is null or "")
        {
            Console.Error.WriteLine($"lancet: this should not have happened: {error.GetType().Name}: {error.Message} Set LANCET_DEBUG=1 to see where, and please report it.");
            return Failed;
        }
    }
}
