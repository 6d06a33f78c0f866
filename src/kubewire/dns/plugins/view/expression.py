"""The part of expr-lang that conditions on a question can use.

    expr    = binary [ "?" expr ":" expr ]
    binary  = unary { operator unary }            by the precedence in _BINARY
    unary   = ( "!" | "not" | "-" | "+" ) unary | primary { "[" index "]" | "[" from ":" to "]" }
    primary = string | number | "true" | "false" | "nil" | "#" | "[" list "]" | "(" expr ")" | call
    call    = name "(" list ")" | name "(" expr "," "{" expr "}" ")"

A value is a function of the request and of the item (``#``) that a condition on a list looks at.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from kubewire.dns import re2
from kubewire.dns.plugin import Request
from kubewire.dns.plugins.view.functions import ABOUT, OVER, PLAIN

_TOKEN = re.compile(
    r"\s*(?:(?P<string>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|`[^`]*`)"
    r"|(?P<number>0x[0-9A-Fa-f]+|[0-9]+\.[0-9]+|[0-9][0-9_]*)"
    r"|(?P<op>==|!=|<=|>=|&&|\|\||\?\?|\*\*|\.\.|[-+*/%^<>!()\[\]{},?:#|])|(?P<word>[A-Za-z_]\w*))"
)

Value = Callable[[Request, Any], Any]


def _divide(a: float, b: float) -> float:
    return a / b if b else math.copysign(math.inf, a)


_OPERATIONS: dict[str, tuple[int, Callable[[Any, Any], Any]]] = {
    "==": (20, lambda a, b: a == b and isinstance(a, bool) == isinstance(b, bool)),
    "!=": (20, lambda a, b: a != b or isinstance(a, bool) != isinstance(b, bool)),
    "<": (20, lambda a, b: a < b),
    ">": (20, lambda a, b: a > b),
    "<=": (20, lambda a, b: a <= b),
    ">=": (20, lambda a, b: a >= b),
    "in": (20, lambda a, b: a in b),
    "matches": (20, lambda a, b: re2.pattern(b).search(a) is not None),
    "contains": (20, lambda a, b: b in a),
    "startsWith": (20, lambda a, b: a.startswith(b)),
    "endsWith": (20, lambda a, b: a.endswith(b)),
    "..": (25, lambda a, b: list(range(a, b + 1))),
    "+": (30, lambda a, b: a + b),
    "-": (30, lambda a, b: a - b),
    "*": (60, lambda a, b: a * b),
    "/": (60, _divide),
    "%": (60, lambda a, b: int(math.fmod(a, b))),
    "**": (100, lambda a, b: float(a) ** b),
    "^": (100, lambda a, b: float(a) ** b),
}
"""Operators that need both sides: how tightly they bind, and what they do."""
_LAZY = {"|": 0, "||": 10, "or": 10, "&&": 15, "and": 15, "??": 500}
"""Operators that may do without their right side, and the pipe."""
_BINARY = {**{name: rank for name, (rank, _) in _OPERATIONS.items()}, **_LAZY}
_RIGHT = frozenset({"**", "^"})
_UNARY: dict[str, tuple[int, Callable[[Any], Any]]] = {
    "!": (50, lambda a: not _bool(a)),
    "not": (50, lambda a: not _bool(a)),
    "-": (90, lambda a: -a),
    "+": (90, lambda a: +a),
}


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


class Expression:
    """A condition on a request. ValueError if the text is none."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._tokens = _tokenize(text)
        self._at = 0
        self._value = self._expression()
        if self._at != len(self._tokens):
            raise ValueError(f"unexpected token {self._peek()!r} in expression '{text}'")

    def holds(self, request: Request) -> bool:
        """Evaluate; a failure (a wrong address, a type mix-up) counts as false."""
        try:
            return self._value(request, None) is True
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, re.error):
            return False

    def _peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _sign(self) -> str:
        """The next token, unless it is a constant."""
        if self._at < len(self._tokens) and self._tokens[self._at][0] in ("op", "word"):
            return self._tokens[self._at][1]
        return ""

    def _take(self, wanted: str) -> bool:
        found = self._sign() == wanted
        self._at += found
        return found

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise ValueError(f"expected {text!r} but found {self._peek()!r} in '{self.text}'")

    def _expression(self) -> Value:
        test = self._binary(0)
        if not self._take("?"):
            return test
        yes = self._expression()
        self._expect(":")
        no = self._expression()
        return lambda r, i: yes(r, i) if _bool(test(r, i)) else no(r, i)

    def _binary(self, lowest: int) -> Value:
        left = self._unary()
        while True:
            operator = self._sign()
            negated = operator == "not" and self._following() in _OPERATIONS
            if negated:
                operator = self._following()
            rank = _BINARY.get(operator, -1)
            if rank < lowest:
                return left
            self._at += 1 + negated
            if operator == "|":
                left = self._call(self._word(), left)
                continue
            right = self._binary(rank if operator in _RIGHT else rank + 1)
            left = _joined(operator, left, right)
            if negated:
                left = _negation(left)

    def _following(self) -> str:
        after = self._tokens[self._at + 1 : self._at + 2]
        return after[0][1] if after and after[0][0] == "word" else ""

    def _unary(self) -> Value:
        found = _UNARY.get(self._sign())
        if found is None:
            return self._postfix(self._primary())
        self._at += 1
        rank, function = found
        inner = self._binary(rank)
        return lambda r, i: function(inner(r, i))

    def _postfix(self, value: Value) -> Value:
        while self._take("["):
            start = None if self._sign() == ":" else self._expression()
            if self._take(":"):
                end = None if self._sign() == "]" else self._expression()
                value = _piece(value, start, end)
            elif start is not None:
                value = _item(value, start)
            self._expect("]")
        return value

    def _primary(self) -> Value:
        if self._at >= len(self._tokens):
            raise ValueError(f"unexpected end of expression '{self.text}'")
        kind, text = self._tokens[self._at]
        self._at += 1
        if kind == "string":
            return _constant(text[1:-1] if text[0] == "`" else re.sub(r"\\(.)", r"\1", text[1:-1]))
        if kind == "number":
            return _constant(float(text) if "." in text else int(text.replace("_", ""), 0))
        if text == "(":
            inner = self._expression()
            self._expect(")")
            return inner
        if text == "[":
            items = self._list("]")
            return lambda r, i: [item(r, i) for item in items]
        if text == "#":
            return lambda r, i: i
        if text in _CONSTANTS:
            return _constant(_CONSTANTS[text])
        if kind != "word":
            raise ValueError(f"unexpected token {text!r} in expression '{self.text}'")
        return self._call(text)

    def _word(self) -> str:
        word = self._peek()
        self._at += 1
        return word

    def _call(self, name: str, piped: Value | None = None) -> Value:
        if name not in ABOUT and name not in PLAIN and name not in OVER:
            raise ValueError(f"unknown name {name} in '{self.text}'")
        self._expect("(")
        if name in OVER:
            return self._over(name, piped)
        args = [piped] if piped else []
        args += self._list(")")
        count = ABOUT[name][0] if name in ABOUT else None
        if count != len(args) if count is not None else len(args) not in PLAIN[name][0]:
            raise ValueError(f"{name} takes another number of arguments in '{self.text}'")
        if name in ABOUT:
            about = ABOUT[name][1]
            return lambda r, i: about(r, *(a(r, i) for a in args))
        plain = PLAIN[name][1]
        return lambda r, i: plain(*(a(r, i) for a in args))

    def _over(self, name: str, items: Value | None) -> Value:
        if items is None:
            items = self._expression()
            self._expect(",")
        braces = self._take("{")
        test = self._expression()
        if braces:
            self._expect("}")
        self._expect(")")
        function = OVER[name]
        return lambda r, i: function(lambda item: test(r, item), items(r, i))

    def _list(self, closing: str) -> list[Value]:
        items: list[Value] = []
        while not self._take(closing):
            if items:
                self._expect(",")
            items.append(self._expression())
        return items


_CONSTANTS: dict[str, Any] = {"true": True, "false": False, "nil": None}


def _constant(value: Any) -> Value:
    return lambda r, i: value


def _negation(value: Value) -> Value:
    return lambda r, i: not _bool(value(r, i))


def _item(value: Value, at: Value) -> Value:
    return lambda r, i: value(r, i)[at(r, i)]


def _piece(value: Value, start: Value | None, end: Value | None) -> Value:
    def cut(r: Request, i: Any) -> Any:
        return value(r, i)[start(r, i) if start else None : end(r, i) if end else None]

    return cut


def _joined(operator: str, left: Value, right: Value) -> Value:
    if operator in ("||", "or"):
        return lambda r, i: _bool(left(r, i)) or _bool(right(r, i))
    if operator in ("&&", "and"):
        return lambda r, i: _bool(left(r, i)) and _bool(right(r, i))
    if operator == "??":
        return lambda r, i: right(r, i) if (found := left(r, i)) is None else found
    function = _OPERATIONS[operator][1]
    return lambda r, i: function(left(r, i), right(r, i))


def _tokenize(text: str) -> list[tuple[str, str]]:
    found, at = [], 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if not match or match.lastgroup is None:
            raise ValueError(f"unexpected token {text[at:]!r} in expression '{text}'")
        found.append((match.lastgroup, match[match.lastgroup]))
        at = match.end()
    return found
