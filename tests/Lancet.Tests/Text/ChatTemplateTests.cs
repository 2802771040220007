using Lancet.ChatTemplates;

namespace Lancet.Tests.Text;

/// <summary>The Jinja interpreter against Jinja2 3.1 with Hugging Face's settings (trim_blocks, lstrip_blocks, loop controls), and the parts that are trained.</summary>
public class ChatTemplateTests
{
    private const string Llama2 =
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + ' ' + eos_token }}" +
        "{% else %}{{ raise_exception('no role ' + m['role']) }}{% endif %}{% endfor %}";

    private static readonly ChatMessage[] s_messages = [new("user", "Hi"), new("assistant", "Yes?"), new("user", "Bye ü")];

    public static TheoryData<string, string> Cases => new()
    {
        { "{{ 1 + 2 * 3 - 4 // 3 % 2 }} {{ 7 / 2 }} {{ 2 ** 5 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 1.5 + 1 }} {{ 3 ~ 'x' ~ none }}", "6 3.5 32 -4 2 2.5 3xNone" },
        { "{{ 'a' if x is defined else 'b' }}{{ (1 > 2) or 'c' }}{{ not true and false }}{{ 1 < 2 <= 2 }}{{ 'b' in 'abc' }}{{ 3 not in [1, 2] }}", "bcFalseTrueTrueTrue" },
        { "{% for m in messages %}\n  {{ loop.index }}/{{ loop.length }}{% if not loop.last %},{% endif %}\n{% endfor %}\nend", "  1/3,  2/3,  3/3end" },
        { "{%- for i in range(5) -%}\n {% if i == 1 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}[{{ i }}]\n{%- endfor -%}\n", "[0][2][3]" },
        { "{% set ns = namespace(n=0) %}{% for i in [1, 2, 3] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "6" },
        { "{% macro f(a, b='z') %}<{{ a }}|{{ b }}>{% endmacro %}{{ f(1) }}{{ f('q', b=2) }}", "<1|z><q|2>" },
        { "{{ messages[0].role }}{{ messages[-1]['content'] }}{{ messages[0].get('nope', 'd') }}{{ messages | length }}{{ messages[1:] | length }}{{ 'abcdef'[::-1] }}{{ 'abcdef'[1:4] }}", "userBye üd32fedcbabcd" },
        { "{{ '  x '.strip() }}|{{ 'a,b,c'.split(',') | join('-') }}|{{ 'abc'.startswith('ab') }}|{{ 'Hello'.upper() | lower }}|{{ 'x' | trim }}|{{ 'hello world' | title }}|{{ 'ab' * 3 }}", "x|a-b-c|True|hello|x|Hello World|ababab" },
        { "{{ {'a': 1, 'b': [1, 'two', none, true], 'c': 'ü<\"'} | tojson }}", "{\"a\": 1, \"b\": [1, \"two\", null, true], \"c\": \"ü<\\\"\"}" },
        { "{{ {'a': {'b': [1, 2]}, 'e': []} | tojson(indent=2) }}", "{\n  \"a\": {\n    \"b\": [\n      1,\n      2\n    ]\n  },\n  \"e\": []\n}" },
        { "{{ [1, 'a', none, true, {'k': 2.5}] }}{{ {} }}{{ 1.0 }}", "[1, 'a', None, True, {'k': 2.5}]{}1.0" },
        { "{% if messages[0].role == 'system' %}S{% elif messages[0]['role'] == 'user' %}U{% else %}O{% endif %}", "U" },
        { "   {% if true %}\n  kept\n   {% endif %}\nx {# gone #}\ny", "  kept\nx y" },
        { "{{ x | default('d') }}{{ '' | default('e', true) }}{{ [3, 1, 2] | sort | first }}{{ [3, 1, 2] | last }}{{ [[1, 'b'], [2, 'a']] | map(attribute=1) | join }}", "de12ba" },
        { "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list }}{{ messages | rejectattr('role', 'equalto', 'user') | list | length }}", "['Hi', 'Bye ü']1" },
        { "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% else %}none{% endfor %}{% for q in [] %}{% else %}empty{% endfor %}", "a=1;b=2;empty" },
        { "{% set a %}block {{ 1 }}{% endset %}[{{ a }}]{% filter upper %}shout{% endfilter %}", "[block 1]SHOUT" },
        { "{{ 'a' is string }}{{ 1 is number }}{{ none is none }}{{ x is not defined }}{{ [1] is iterable }}{{ {} is mapping }}{{ 3 is odd }}", "TrueTrueTrueTrueTrueTrueTrue" },
        { "{{ \"it's\\n\\\"quoted\\\"\" }}{{ 'tab\\t.' }}", "it's\n\"quoted\"tab\t." },
        { "{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined else '-' }}{{ loop.first }}{{ loop.index0 }}{{ loop.revindex }} {% endfor %}", "-True03 userFalse12 assistantFalse21 " },
    };

    [Theory]
    [MemberData(nameof(Cases))]
    public void A_template_gives_what_jinja_gives(string template, string expected) => Assert.Equal(expected, ChatTemplate.Parse(template).Render(s_messages, new ChatTemplateOptions()));

    public static TheoryData<string, string> NamedTemplates => new()
    {
        { "chatml", "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[Yes<|im_end|>\n]<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n" },
        { "qwen", "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[Yes<|im_end|>\n]<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n" },
        { "llama-3", "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n[Yes<|eot_id|>]<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n" },
        { "gemma", "<s><start_of_turn>user\nS\n\nHi<end_of_turn>\n<start_of_turn>model\n[Yes<end_of_turn>\n]<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n" },
        { "mistral", "<s>[INST] S\n\nHi [/INST][ Yes</s>][INST] Bye [/INST]" },
        { "phi", "<|system|>\nS<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n[Yes<|end|>\n]<|user|>\nBye<|end|>\n<|assistant|>\n" },
        { "zephyr", "<|system|>\nS</s>\n<|user|>\nHi</s>\n<|assistant|>\n[Yes</s>\n]<|user|>\nBye</s>\n<|assistant|>\n" },
        { "alpaca", "<s>S\n\n### Instruction:\nHi\n\n### Response:\n[Yes</s>\n\n]### Instruction:\nBye\n\n### Response:\n" },
        { "vicuna", "<s>S USER: Hi ASSISTANT:[ Yes</s>]USER: Bye ASSISTANT:" },
    };

    // Brackets stand around what is trained; those of [INST] belong to the text.
    [Theory]
    [MemberData(nameof(NamedTemplates))]
    public void A_named_template_writes_its_format_and_marks_the_answer(string name, string expected)
    {
        ChatMessage[] messages = [new("system", "S"), new("user", "Hi"), new("assistant", "Yes"), new("user", "Bye")];
        var options = new ChatTemplateOptions { BosToken = "<s>", EosToken = "</s>", AddsGenerationPrompt = true };
        var rendered = ChatTemplate.Named(name).RenderWithSpans(messages, options);
        var (start, end) = Assert.Single(rendered.Spans);
        Assert.Equal(expected, $"{rendered.Text[..start]}[{rendered.Text[start..end]}]{rendered.Text[end..]}");
    }

    [Fact]
    public void An_unknown_name_lists_the_known_ones()
    {
        Assert.Equal(ChatTemplate.Names, NamedTemplates.Select(row => row.Data.Item1).Order(StringComparer.Ordinal));
        Assert.Contains("chatml", Assert.Throws<LancetException>(() => ChatTemplate.Named("nope")).Message);
    }

    [Fact]
    public void The_default_is_chatml() => Assert.Equal(
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n<|im_start|>user\nBye ü<|im_end|>\n<|im_start|>assistant\n",
        ChatTemplate.ChatMl.Render(s_messages, new ChatTemplateOptions { AddsGenerationPrompt = true }));

    [Fact]
    public void What_the_assistant_wrote_is_marked_with_its_end_of_turn()
    {
        ChatMessage[] messages = [.. s_messages, new("assistant", "So long")];
        Assert.Equal(["Yes?<|im_end|>\n", "So long<|im_end|>\n"], Parts(ChatTemplate.ChatMl, messages));
        Assert.Equal([" Yes? </s>", " So long </s>"], Parts(ChatTemplate.Parse(Llama2), messages));

        static List<string> Parts(ChatTemplate template, ChatMessage[] messages)
        {
            var rendered = template.RenderWithSpans(messages, new ChatTemplateOptions { BosToken = "<s>", EosToken = "</s>" });
            return [.. rendered.Spans.Select(span => rendered.Text[span.Start..span.End])];
        }
    }

    [Theory]
    // Only what a generation block writes, though the turn writes more around it.
    [InlineData("{% for m in messages %}{% if m.role == 'assistant' %}A:{% generation %}{{ m.content }}!{% endgeneration %};{% else %}{{ m.role }}:{{ m.content }};{% endif %}{% endfor %}", "Yes?!|Fine!")]
    // Earlier answers are rewritten (as Qwen 3 drops their thoughts), so renderings of a part do not begin as the whole does.
    [InlineData("{% for m in messages %}{{ m.role }}:{{ m.content if loop.last or m.role == 'user' else m.content | upper }};{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}", "YES?;|Fine;")]
    // The generation prompt opens a thought that the answers do not have; the answer's own < is not a part of it.
    [InlineData("{% for m in messages %}{{ m.role }}:<{{ m.content }}>;{% endfor %}{% if add_generation_prompt %}assistant:<think>{% endif %}", "Yes?>;|Fine>;")]
    // No loop over the messages: found by comparing renderings.
    [InlineData("{% for i in range(messages | length) %}{{ messages[i].role }}:{{ messages[i].content }};{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}", "Yes?;|Fine;")]
    // A macro collects its text aside.
    [InlineData("{% macro turn(m) %}{{ m.role }}:{% generation %}{{ m.content }}{% endgeneration %};{% endmacro %}{% for m in messages %}{{ turn(m) }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}", "Yes?;|Fine;")]
    public void Trained_parts_are_noted_while_the_template_runs(string template, string expected)
    {
        ChatMessage[] messages = [.. s_messages, new("assistant", "Fine")];
        var rendered = ChatTemplate.Parse(template).RenderWithSpans(messages, new ChatTemplateOptions());
        Assert.Equal(expected, string.Join('|', rendered.Spans.Select(span => rendered.Text[span.Start..span.End])));
    }

    [Fact]
    public void A_template_may_refuse_a_conversation()
    {
        var error = Assert.Throws<LancetException>(() => ChatTemplate.Parse(Llama2).Render([new("tool", "x")], new ChatTemplateOptions()));
        Assert.Contains("no role tool", error.Message);
    }

    public static TheoryData<string> Hostile => new()
    {
        "{{ " + new string('(', 100_000) + "1" + new string(')', 100_000) + " }}",
        "{{ " + new string('-', 100_000) + "1 }}",
        "{{ " + string.Concat(Enumerable.Repeat("not ", 100_000)) + "1 }}",
        "{{ 1" + string.Concat(Enumerable.Repeat(" + 1", 100_000)) + " }}",
        "{{ 'a'" + string.Concat(Enumerable.Repeat(" | trim", 100_000)) + " }}",
        string.Concat(Enumerable.Repeat("{% if 1 %}", 100_000)) + string.Concat(Enumerable.Repeat("{% endif %}", 100_000)),
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set a = [] %}{% set b = a.append(a) %}{{ a }}",
        "{% set a = [] %}{% set b = a.append(a) %}{{ a | tojson }}",
        "{% set ns = namespace(a=['x']) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ ns.a }}",
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{{ 'x' * 100000000 }}",
        "{{ range(1000000000) }}",
        "{{ ('x' * 900000).replace('x', 'y' * 900000) }}",
        "{% macro f() %}{% call f() %}{% endcall %}{% endmacro %}{{ f() }}",
        "{{ [1, none] | sort }}", "{{ 'a' | replace('b') }}",
        "{% for %}", "{{ 1 +", "{% if true %}", "{{ 'open }}", "{% frob %}", "{{ 1 | frob }}", "{{ 1 is frob }}", "{{ nothing() }}", "{{ 1 // 0 }}", "{{ [1, 2].x.y }}{{ none.z.w }}{% for a in none %}{% endfor %}",
    };

    [Theory]
    [MemberData(nameof(Hostile))]
    public void A_hostile_or_broken_template_ends_with_a_message(string template)
    {
        var error = Assert.Throws<LancetException>(() => ChatTemplate.Parse(template).Render(s_messages, new ChatTemplateOptions()));
        Assert.Contains("chat template", error.Message);
    }
}
