using System.Text.Json;
using Parquet.Meta;

namespace Lancet.Data.Parquet;

/// <summary>
/// A node of a Parquet schema, which writes its part of the next row as JSON. How nesting is told from definition and repetition levels is in
/// <see href="https://github.com/apache/parquet-format/blob/master/README.md#nested-encoding">the format's description</see> (Dremel's encoding),
/// how lists and maps are groups in <see href="https://github.com/apache/parquet-format/blob/master/LogicalTypes.md">its logical types</see>.
/// </summary>
internal sealed class ParquetNode
{
    // Rows become JSON, which Lancet reads to this depth; a list or map takes one of JSON's levels but two of the schema's.
    private const int MaxDepth = 100;
    private readonly SchemaElement _element;
    private readonly ParquetNode[] _children;
    private readonly int _definitionLevel;
    private readonly int _repetitionLevel;

    private ParquetNode(SchemaElement element, ParquetNode[] children, int definitionLevel, int repetitionLevel)
    {
        (_element, _children, _definitionLevel, _repetitionLevel) = (element, children, definitionLevel, repetitionLevel);
        if (children.Length == 0)
        {
            Leaf = new(element, definitionLevel, repetitionLevel);
            Leaves = [Leaf];
        }
        else
        {
            Leaves = [.. children.SelectMany(child => child.Leaves)];
        }
    }

    /// <summary>Columns below this node, in the order of the file.</summary>
    public IReadOnlyList<ParquetLeaf> Leaves { get; }

    private ParquetLeaf? Leaf { get; }

    private string Name => _element.Name;

    private bool IsRepeated => _element.RepetitionType == FieldRepetitionType.REPEATED;

    private bool IsMap => _children.Length > 0 && (_element.LogicalType?.MAP is not null || _element.ConvertedType is ConvertedType.MAP or ConvertedType.MAP_KEY_VALUE) && _children is [{ IsRepeated: true, _children.Length: 2 }];

    private bool IsList => _children.Length > 0 && (_element.LogicalType?.LIST is not null || _element.ConvertedType == ConvertedType.LIST) && _children is [{ IsRepeated: true }];

    /// <summary>The tree of a file's schema, which is flattened depth first; its root is the row.</summary>
    /// <exception cref="InvalidDataException">The schema contradicts itself.</exception>
    public static ParquetNode TreeOf(IReadOnlyList<SchemaElement> schema)
    {
        var at = 0;
        var root = Next(0, 0, 0);
        return at == schema.Count && root._children.Length > 0 ? root : throw new InvalidDataException("the schema's elements do not form one tree of columns");

        ParquetNode Next(int definitionLevel, int repetitionLevel, int depth)
        {
            if (depth > MaxDepth) throw new InvalidDataException($"columns are nested more than {MaxDepth} deep");
            if (at >= schema.Count) throw new InvalidDataException("the schema ends inside a group");
            var element = schema[at++];
            if (depth > 0 && element.RepetitionType != FieldRepetitionType.REQUIRED) definitionLevel++;
            if (depth > 0 && element.RepetitionType == FieldRepetitionType.REPEATED) repetitionLevel++;
            var children = new List<ParquetNode>();
            for (var i = 0; i < (element.NumChildren ?? 0); i++) children.Add(Next(definitionLevel, repetitionLevel, depth + 1));
            if (children.Count == 0 && element.Type is null) throw new InvalidDataException($"the group {element.Name} has no columns");
            return new(element, [.. children], definitionLevel, repetitionLevel);
        }
    }

    /// <summary>Writes the next row as an object.</summary>
    public void WriteRow(Utf8JsonWriter json) => WriteMembers(json);

    // A repeated node outside of a list or map is a list of its own.
    private void Write(Utf8JsonWriter json)
    {
        if (IsRepeated) WriteItems(json, this, item => item.WriteValue(json));
        else WriteValue(json);
    }

    private void WriteValue(Utf8JsonWriter json)
    {
        if (_element.RepetitionType == FieldRepetitionType.OPTIONAL && Leaves[0].DefinitionLevel < _definitionLevel)
        {
            Skip();
            json.WriteNullValue();
        }
        else if (Leaf is not null)
        {
            Leaf.WriteNext(json);
        }
        else if (IsMap)
        {
            WriteMap(json);
        }
        else if (IsList)
        {
            var repeated = _children[0];
            WriteItems(json, repeated, IsItemItself(repeated) ? item => item.WriteValue(json) : item => item._children[0].Write(json));
        }
        else
        {
            WriteMembers(json);
        }
    }

    /// <summary>Whether the repeated node of a list is the item, as older writers have it, rather than a group around the item.</summary>
    private bool IsItemItself(ParquetNode repeated) => repeated._children.Length != 1 || repeated.Name == "array" || repeated.Name == Name + "_tuple";

    private void WriteMembers(Utf8JsonWriter json)
    {
        json.WriteStartObject();
        foreach (var child in _children)
        {
            json.WritePropertyName(child.Name);
            child.Write(json);
        }
        json.WriteEndObject();
    }

    private static void WriteItems(Utf8JsonWriter json, ParquetNode repeated, Action<ParquetNode> write)
    {
        json.WriteStartArray();
        repeated.Repeat(() => write(repeated));
        json.WriteEndArray();
    }

    private void WriteMap(Utf8JsonWriter json)
    {
        json.WriteStartObject();
        _children[0].Repeat(() =>
        {
            json.WritePropertyName(_children[0]._children[0].Leaf is { } key ? key.NextAsText() : throw new InvalidDataException($"the keys of {Name} are no plain values"));
            _children[0]._children[1].Write(json);
        });
        json.WriteEndObject();
    }

    /// <summary>Calls for each item of this repeated node: another one follows as long as the next level repeats here.</summary>
    private void Repeat(Action write)
    {
        if (Leaves[0].DefinitionLevel < _definitionLevel)
        {
            Skip();
            return;
        }
        do write();
        while (Leaves[0].RepetitionLevel == _repetitionLevel);
    }

    private void Skip()
    {
        foreach (var leaf in Leaves) leaf.Skip();
    }
}
