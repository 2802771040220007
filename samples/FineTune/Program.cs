// Fine-tunes the bundled model on the bundled questions with QLoRA, asks it something, and saves the adapter.
// usage (from the repository's top folder): dotnet run -c Release --project samples/FineTune -- [STEPS]
using Lancet.Adapters;
using Lancet.Data;
using Lancet.Models;
using Lancet.Training;

using var model = LanguageModel.Load("models/lancet-dotnet-base", new LoadOptions { QuantizesToNf4 = true });
model.AddLora(new LoraOptions { Rank = 16, Alpha = 32 });

var renderer = new RowRenderer(model.Tokenizer, model.ChatTemplate) { MaxLength = 256 };
var dataset = SftDataset.Load("samples/dotnet-api-qa/train.jsonl", renderer);
var options = new SftOptions
{
    Output = "lancet-output/sample",
    BatchSize = 16,
    GradientAccumulation = 1,
    MaxSteps = args.Length > 0 ? int.Parse(args[0], System.Globalization.CultureInfo.InvariantCulture) : 40,
    LearningRate = 4e-3,
};
var result = await new SftTrainer(model, dataset, options).TrainAsync();
Console.WriteLine($"loss {result.Steps[0].Loss:F3} -> {result.Steps[^1].Loss:F3}");

await foreach (var text in model.GenerateAsync("What does System.Math.Abs do?")) Console.Write(text);
Console.WriteLine();
