"""Prints generated templates with what Python's jinja2 makes of them, one JSON object a line.

usage: reference.py SEED COUNT
"""
import json
import random
import sys

import jinja2

random.seed(int(sys.argv[1]))
count = int(sys.argv[2])
VALUES = {
    "a": "text", "b": "", "v": "1.20.3", "u": "Grün ß 'x' \"y\"", "n": 7, "z": 0, "m": -3, "f": 2.5, "t": True, "no": None,
    "l": [3, 1, 2], "w": ["b", "A", "c", "a"], "e": [], "p": ("x", 1), "d": {"k": "v", "n": 2, "l": [1, [2]]},
}
pick = random.choice


def literal():
    return pick(["1", "0", "2", "-1", "10", "1.5", "0.1", "1e3", "'x'", "''", '"a b"', "'1.2'", "'\\n'", "true", "False", "none", "[]",
                 "[1, 'a']", "(1, 2)", "('x',)", "{'k': 1}", "{'a': [1], 2: 'b'}", "'12'", "' pad '", "'a,b,c'"])


def name():
    return pick(list(VALUES) + ["missing"] * (random.random() < 0.15))


def expression(depth):
    if depth <= 0:
        return pick([literal, name])()
    inner = lambda: expression(depth - 1)
    return pick([
        lambda: literal(), lambda: name(), lambda: name(),
        lambda: f"({inner()})",
        lambda: f"{inner()} {pick(['+', '-', '*', '/', '//', '%', '~', '~', '+'])} {inner()}",
        lambda: f"{inner()} {pick(['==', '!=', '<', '<=', '>', '>='])} {inner()}",
        lambda: f"{inner()} {pick(['in', 'not in'])} {inner()}",
        lambda: f"{inner()} {pick(['and', 'or'])} {inner()}",
        lambda: f"not {inner()}",
        lambda: f"-{inner()}",
        lambda: f"{inner()} if {inner()} else {inner()}",
        lambda: f"[{inner()}, {inner()}]", lambda: f"({inner()}, {inner()})", lambda: f"{{{literal()}: {inner()}}}",
        lambda: f"{name()}[{inner()}]", lambda: f"({inner()})[{pick(['0', '1', '-1', '5'])}]",
        lambda: f"{name()}[{pick(['', '0', '1', '-2'])}:{pick(['', '2', '-1', '9'])}{pick(['', ':', ':2', ':-1'])}]",
        lambda: f"d.{pick(['k', 'n', 'l', 'nothing'])}",
        lambda: f"({inner()}) | {filter_call()}", lambda: f"{name()} | {filter_call()}",
        lambda: f"{name()} | {filter_call()} | {filter_call()}",
        lambda: f"{name()}.{method()}", lambda: f"('{pick(['a b', 'X', 'one.two.three', ' s '])}').{method()}",
        lambda: f"{name()} is {test()}", lambda: f"({inner()}) is not {test()}",
    ])()


def filter_call():
    return pick(["lower", "upper", "length", "count", "first", "last", "list", "join", "join('-')", "join(', ')", "trim", "string", "int",
                 "int(5)", "float", "abs", "sort", "sort(reverse=true)", "reverse | list", "unique | list", "sum", "min", "max", "title",
                 "capitalize", "default('dd')", "default('dd', true)", "d(1)", "replace('a', 'b')", "replace('.', '_')",
                 "replace('.', '_', 1)", "replace('', '-')", "map('int') | list", "map('upper') | list", "select | list", "reject | list",
                 "select('odd') | list", "map('string') | join('+')", "round", "round(1)", "round(1, 'floor')", "items | list"])


def method():
    return pick(["lower()", "upper()", "split()", "split('.')", "split('.', 1)", "split('.')[0]", "split('.')[:2]", "rsplit('.', 1)", "strip()",
                 "lstrip()", "rstrip()", "strip('x')", "replace('.', '-')", "replace('x', 'yy', 1)", "startswith('1')", "endswith('3')",
                 "title()", "capitalize()", "join(['a', 'b'])", "count('.')", "find('.')", "isdigit()", "zfill(6)", "splitlines()",
                 "keys() | list", "values() | list", "items() | list", "get('k')", "get('q', 5)", "index(2)", "removeprefix('t')"])


def test():
    return pick(["defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "mapping", "sequence", "iterable", "odd",
                 "even", "divisibleby 3", "divisibleby(2)", "eq(1)", "ne('x')", "lt(3)", "ge(2)", "in([1, 2])", "true", "false", "lower",
                 "upper", "sameas(none)" if False else "eq(none)"])


def statement(depth):
    inner = lambda: statement(depth - 1) if depth > 0 else body()
    minus = lambda: pick(["", "", "-"])

    def tag(text):
        return "{%" + minus() + " " + text + " " + minus() + "%}"

    space = lambda: pick(["", " ", "\n", "  \n  "])
    return pick([
        body,
        lambda: tag(f"if {expression(1)}") + space() + inner() + space() + tag("else") + space() + inner() + tag("endif"),
        lambda: tag(f"if {expression(1)}") + inner() + tag(f"elif {expression(1)}") + inner() + tag("endif"),
        lambda: tag(f"for i in {pick(['l', 'w', 'e', 'd', 'p', 'range(3)', 'v.split(chr)'.replace('chr', chr(39) + '.' + chr(39))])}")
        + space() + "{{ i }}" + inner() + pick(["", "{{ loop.index }}", tag("if not loop.last") + "," + tag("endif"), "{{ loop.first }}"])
        + space() + tag("endfor"),
        lambda: tag("for i in l if i > 1") + "{{ i }}" + tag("else") + "none" + tag("endfor"),
        lambda: tag("for k, x in d.items()") + "{{ k }}={{ x }};" + tag("endfor"),
        lambda: tag(f"set q = {expression(1)}") + space() + "{{ q }}" + inner(),
        lambda: tag("set q") + inner() + tag("endset") + "<{{ q }}>",
        lambda: "{#" + minus() + " remark " + minus() + "#}" + inner(),
        lambda: tag("raw") + " {{ raw }} {% x %} " + tag("endraw"),
        lambda: inner() + space() + inner(),
    ])()


def body():
    minus = lambda: pick(["", "", "", "-"])
    return pick(["text", " ", "\n", "a\n b", "{", "}}", "{{" + minus() + " " + expression(1) + " " + minus() + "}}", "x{{ a }}y"])


strict = jinja2.Environment(undefined=jinja2.StrictUndefined)
lenient = jinja2.Environment()
for number in range(count):
    uses_statements = number % 4 == 3
    text = statement(3) if uses_statements else "{{ " + expression(random.randint(1, 3)) + " }}"
    if random.random() < 0.1:
        text += pick(["\n", "\n\n", "\r\n", " tail\n"])
    environment = lenient if uses_statements else strict
    try:
        # Results of lazy filters name memory addresses, which nobody can predict.
        output = environment.from_string(text).render(**VALUES)
        if "<generator" in output or " at 0x" in output or "dict_" in output:
            continue
        print(json.dumps({"text": text, "statements": uses_statements, "output": output}))
    except Exception as error:
        print(json.dumps({"text": text, "statements": uses_statements, "error": f"{type(error).__name__}: {error}"[:200]}))
