"""The part of Go's text/template that Corefiles use.

Actions: fields (``.Name``, ``.Group.x``), variables (``$x := ..``, ``$``), calls of the functions in
``functions.py`` and of ``.Meta "key"``, pipelines, ``if``, ``with`` and ``range`` with ``else`` and
``end``, ``{{- -}}``. Not: ``define`` and ``template``, ``break`` and ``continue``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from kubewire.dns.plugins.template.functions import FUNCTIONS, TemplateError, text

_ACTION = re.compile(r"\{\{(-\s)?\s*(.*?)\s*(\s-)?\}\}", re.DOTALL)
_WORD = re.compile(r"\"(?:[^\"\\]|\\.)*\"|`[^`]*`|\(|\)|\||[^\s()|]+")
_ASSIGNED = re.compile(r"(\$\w+)(?:\s*,\s*(\$\w+))?\s*(:?=)\s*(.*)", re.DOTALL)

Data = Mapping[str, Any]


class Scope(NamedTuple):
    """What an action sees."""

    dot: Any
    names: dict[str, list[Any]]
    """Variables, each in a cell that inner scopes share; ``$`` is the data."""

    def inner(self, dot: Any, **names: Any) -> Scope:
        """What stands between an action and its end."""
        return Scope(dot, {**self.names, **{name: [value] for name, value in names.items()}})


Value = Callable[[Scope], Any]
Node = Callable[[Scope], str]


class Template:
    """A parsed text. TemplateError if it cannot be parsed."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._pieces = _pieces(text)
        self._at = 0
        self._known = {"$"}
        self._nodes = self._block(top=True)

    def render(self, data: Data) -> str:
        """Fill the text. TemplateError if something is missing."""
        return _run(self._nodes, Scope(data, {"$": [data]}))

    def _block(self, *, top: bool = False) -> list[Node]:
        nodes: list[Node] = []
        while self._at < len(self._pieces):
            kind, action = self._pieces[self._at]
            word, _, rest = action.partition(" ")
            if kind == "text":
                self._at += 1
                nodes.append(_constant(action))
            elif word in ("end", "else"):
                if top:
                    raise TemplateError(f"unexpected {{{{{action}}}}}")
                return nodes
            elif word in _CONTROLS and rest:
                nodes.append(self._control(word, rest))
            else:
                self._at += 1
                if action and not action.startswith("/*"):
                    nodes.append(self._action(action))
        if not top:
            raise TemplateError("unexpected EOF")
        return nodes

    def _action(self, action: str) -> Node:
        found = _ASSIGNED.fullmatch(action)
        if not found or found[2]:
            return _printed(parse(action, self._known))
        value, name = parse(found[4], self._known), found[1]
        if found[3] == "=" and name not in self._known:
            raise TemplateError(f"undefined variable {name!r}")
        self._known.add(name)
        return _kept(name, value, fresh=found[3] == ":=")

    def _control(self, word: str, rest: str) -> Node:
        self._at += 1
        found = _ASSIGNED.fullmatch(rest)
        value = parse(found[4] if found else rest, self._known)
        before = set(self._known)
        names = tuple(n for n in found.groups()[:2] if n) if found else ()
        self._known.update(names)
        yes, no = self._block(), list[Node]()
        self._known = set(before)
        closing = self._pieces[self._at][1]
        if closing.startswith("else "):
            chained, _, condition = closing[5:].strip().partition(" ")
            no = [self._control(chained, condition)]
        else:
            self._at += 1
            if closing == "else":
                no = self._block()
                self._known = before
                self._at += 1
        return _CONTROLS[word](value, names, yes, no)


def _run(nodes: Iterable[Node], scope: Scope) -> str:
    return "".join(node(scope) for node in nodes)


def _kept(name: str, value: Value, *, fresh: bool) -> Node:
    def keep(scope: Scope) -> str:
        if fresh:
            scope.names[name] = [value(scope)]
        else:
            scope.names[name][0] = value(scope)
        return ""

    return keep


def _if(value: Value, names: tuple[str, ...], yes: list[Node], no: list[Node]) -> Node:
    def choose(scope: Scope) -> str:
        found = value(scope)
        return _run(yes if found else no, scope.inner(scope.dot, **dict.fromkeys(names, found)))

    return choose


def _with(value: Value, names: tuple[str, ...], yes: list[Node], no: list[Node]) -> Node:
    def enter(scope: Scope) -> str:
        found = value(scope)
        inner = scope.inner(found if found else scope.dot, **dict.fromkeys(names, found))
        return _run(yes if found else no, inner)

    return enter


def _range(value: Value, names: tuple[str, ...], yes: list[Node], no: list[Node]) -> Node:
    def repeat(scope: Scope) -> str:
        found = value(scope)
        if isinstance(found, Mapping):
            pairs = sorted(found.items())
        elif isinstance(found, int) and not isinstance(found, bool):
            pairs = list(zip(range(found), range(found), strict=True))
        elif isinstance(found, list | tuple):
            pairs = list(enumerate(found))
        elif found is None:
            pairs = []
        else:
            raise TemplateError(f"range can't iterate over {text(found)}")
        out = []
        for key, item in pairs:
            bound = dict(zip(names, (item,) if len(names) == 1 else (key, item), strict=False))
            out.append(_run(yes, scope.inner(item, **bound)))
        return "".join(out) if pairs else _run(no, scope.inner(scope.dot))

    return repeat


_CONTROLS = {"if": _if, "with": _with, "range": _range}


def _pieces(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    at = 0
    for match in _ACTION.finditer(text):
        before = text[at : match.start()]
        found.append(("text", before.rstrip() if match[1] else before))
        found.append(("action", match[2]))
        at = match.end()
        if match[3]:
            while at < len(text) and text[at].isspace():
                at += 1
    if "{{" in text[at:]:
        raise TemplateError("unclosed action")
    found.append(("text", text[at:]))
    return found


def _constant(constant: str) -> Node:
    return lambda _: constant


def _printed(value: Value) -> Node:
    return lambda scope: text(value(scope))


def parse(action: str, known: Iterable[str] = ("$",)) -> Value:
    """A pipeline as a function of what it sees."""
    words = _WORD.findall(action)
    for word in words:
        if word[0] == "$" and word.partition(".")[0] not in known:
            raise TemplateError(f"undefined variable {word.partition('.')[0]!r}")
    value, rest = _pipeline(words)
    if rest:
        raise TemplateError(f"unexpected {rest[0]!r} in {{{{{action}}}}}")
    return value


def _pipeline(words: list[str]) -> tuple[Value, list[str]]:
    value, words = _command(words, None)
    while words[:1] == ["|"]:
        value, words = _command(words[1:], value)
    return value, words


def _command(words: list[str], piped: Value | None) -> tuple[Value, list[str]]:
    if not words:
        raise TemplateError("missing value for command")
    head, args = words[0], list[Value]()
    rest = words[1:]
    if head == "(":
        value, rest = _pipeline(rest)
        if rest[:1] != [")"]:
            raise TemplateError("unclosed left paren")
        return value, rest[1:]
    while rest and rest[0] not in ("|", ")"):
        if rest[0] == "(":
            inner, rest = _pipeline(rest[1:])
            if rest[:1] != [")"]:
                raise TemplateError("unclosed left paren")
            args.append(inner)
            rest = rest[1:]
        else:
            args.append(_operand(rest[0]))
            rest = rest[1:]
    if piped is not None:
        args.append(piped)
    if head in FUNCTIONS:
        function = FUNCTIONS[head]
        return (lambda scope: _call(function, [a(scope) for a in args])), rest
    operand = _operand(head)
    if args:
        return (lambda scope: _call(operand(scope), [a(scope) for a in args])), rest
    return operand, rest


def _call(function: Any, args: list[Any]) -> Any:
    try:
        return function(*args)
    except (TypeError, ValueError, LookupError) as error:
        raise TemplateError(str(error)) from error


def _operand(word: str) -> Value:
    if word[0] == '"':
        constant = re.sub(r"\\(.)", r"\1", word[1:-1])
        return lambda _: constant
    if word[0] == "`":
        return lambda _: word[1:-1]
    if re.fullmatch(r"-?[0-9]+", word):
        return lambda _: int(word)
    if word in ("true", "false"):
        return lambda _: word == "true"
    if word == "nil":
        return lambda _: None
    first, *path = word.split(".")
    path = [p for p in path if p]
    if first.startswith("$"):
        return lambda scope: _field(scope.names[first][0], path)
    if first:
        raise TemplateError(f'function "{word}" not defined')
    return lambda scope: _field(scope.dot, path)


def _field(data: Any, path: list[str]) -> Any:
    for step in path:
        if not isinstance(data, Mapping):
            raise TemplateError(f"can't evaluate field {step}")
        if step not in data and data.get("") is not None:
            raise TemplateError(f"can't evaluate field {step}")
        data = data.get(step)
    return data
