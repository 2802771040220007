"""Checks that Jinja2, set up as transformers does, gives what the JavaScript package gives, or what templates.json records as its own.

usage: python3 templates.py OUTPUT     (OUTPUT/templates.jsonl is what templates.mjs wrote)
"""
import json
import pathlib
import sys

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    """{% generation %}: what is in it is written as it is."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_written"), [], [], body).set_lineno(line)

    def _written(self, caller):
        return caller()


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def refuse(message):
    raise TemplateError(message)


environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
environment.filters["tojson"] = to_json
environment.globals["raise_exception"] = refuse

wrong = 0
lines = pathlib.Path(sys.argv[1], "templates.jsonl").read_text().splitlines()
for line in map(json.loads, lines):
    expected = line["jinja2"] if "jinja2" in line else line.get("text")
    try:
        actual = environment.from_string(line["template"]).render(**line["data"])
    except Exception:
        actual = None
    if actual != expected:
        wrong += 1
        print(f"{line['name']}: expected {expected!r}, Jinja2 gives {actual!r}")
    elif "jinja2" in line and line["jinja2"] == line.get("text"):
        wrong += 1
        print(f"{line['name']}: what templates.json records is what the package gives")
print(f"templates: {len(lines) - wrong} of {len(lines)} as Jinja2 renders them")
sys.exit(wrong > 0)
