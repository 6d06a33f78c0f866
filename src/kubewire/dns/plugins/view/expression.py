"""The part of expr-lang that views use: calls, comparisons, boolean and string operators.

expr    = and { ("||" | "or") and }          and   = not { ("&&" | "and") not }
not     = ("!" | "not") not | compare
compare = value [ op value ]                 value = call | string | number | list | "(" expr ")"
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any

from kubewire.dns.plugin import Request
from kubewire.lang.dns import codes

_TOKEN = re.compile(
    r"\s*(?:(?P<string>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")|(?P<number>[0-9]+)"
    r"|(?P<op>==|!=|<=|>=|&&|\|\||[<>!()\[\],])|(?P<word>[A-Za-z_]\w*))"
)
_OPERATORS = frozenset(
    {"==", "!=", "<", ">", "<=", ">=", "in", "matches", "contains", "startsWith", "endsWith"}
)

Value = Callable[[Request], Any]


def _in_cidr(ip: str, cidr: str) -> bool:
    network = ipaddress.ip_network(cidr, strict=False)
    address = ipaddress.ip_address(ip)
    return address.version == network.version and address in network


def _metadata(request: Request, key: str) -> str:
    found = request.metadata.get(key)
    return found() if found else ""


_FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "bufsize": (0, lambda r: r.bufsize),
    "class": (0, lambda r: codes.class_name(r.qclass)),
    "client_ip": (0, lambda r: r.client[0]),
    "do": (0, lambda r: r.do),
    "id": (0, lambda r: r.message.id),
    "incidr": (2, lambda r, ip, cidr: _in_cidr(ip, cidr)),
    "metadata": (1, _metadata),
    "name": (0, lambda r: r.name),
    "opcode": (0, lambda r: r.message.opcode),
    "port": (0, lambda r: str(r.client[1])),
    "proto": (0, lambda r: r.network),
    "server_ip": (0, lambda r: r.local[0]),
    "server_port": (0, lambda r: str(r.local[1])),
    "size": (0, lambda r: r.size),
    "type": (0, lambda r: codes.type_name(r.qtype)),
}


class Expression:
    """A condition on a request. ValueError if the text is none."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._tokens = _tokenize(text)
        self._at = 0
        self._value = self._or()
        if self._at != len(self._tokens):
            raise ValueError(f"unexpected token {self._peek()!r} in expression '{text}'")

    def holds(self, request: Request) -> bool:
        """Evaluate; a failure (a wrong address, a type mix-up) counts as false."""
        try:
            return self._value(request) is True
        except (TypeError, ValueError, re.error):
            return False

    def _peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _take(self, *wanted: str) -> bool:
        if self._at < len(self._tokens):
            kind, text = self._tokens[self._at]
            if kind != "string" and text in wanted:
                self._at += 1
                return True
        return False

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise ValueError(f"expected {text!r} but found {self._peek()!r} in '{self.text}'")

    def _or(self) -> Value:
        left = self._and()
        while self._take("||", "or"):
            left = _either(left, self._and())
        return left

    def _and(self) -> Value:
        left = self._not()
        while self._take("&&", "and"):
            left = _both(left, self._not())
        return left

    def _not(self) -> Value:
        if self._take("!", "not"):
            inner = self._not()
            return lambda r: not inner(r)
        return self._compare()

    def _compare(self) -> Value:
        left = self._operand()
        negated = False
        if self._peek() == "not" and self._tokens[self._at + 1 : self._at + 2] == [("word", "in")]:
            self._at += 1
            negated = True
        if self._peek() not in _OPERATORS or self._tokens[self._at][0] == "string":
            return left
        operator = self._tokens[self._at][1]
        self._at += 1
        compared = _compare(operator, left, self._operand())
        return (lambda r: not compared(r)) if negated else compared

    def _operand(self) -> Value:
        if self._at >= len(self._tokens):
            raise ValueError(f"unexpected end of expression '{self.text}'")
        kind, text = self._tokens[self._at]
        self._at += 1
        if kind == "string":
            constant: Any = re.sub(r"\\(.)", r"\1", text[1:-1])
            return lambda r: constant
        if kind == "number":
            number = int(text)
            return lambda r: number
        if text == "(":
            inner = self._or()
            self._expect(")")
            return inner
        if text == "[":
            items = self._list("]")
            return lambda r: [i(r) for i in items]
        if text in ("true", "false"):
            return lambda r: text == "true"
        return self._call(text)

    def _call(self, name: str) -> Value:
        if name not in _FUNCTIONS:
            raise ValueError(f"unknown name {name} in '{self.text}'")
        count, function = _FUNCTIONS[name]
        self._expect("(")
        args = self._list(")")
        if len(args) != count:
            raise ValueError(f"{name} takes {count} arguments in '{self.text}'")
        return lambda r: function(r, *(a(r) for a in args))

    def _list(self, closing: str) -> list[Value]:
        items: list[Value] = []
        if self._take(closing):
            return items
        while True:
            items.append(self._or())
            if self._take(closing):
                return items
            self._expect(",")


def _either(left: Value, right: Value) -> Value:
    return lambda r: bool(left(r)) or bool(right(r))


def _both(left: Value, right: Value) -> Value:
    return lambda r: bool(left(r)) and bool(right(r))


def _compare(operator: str, left: Value, right: Value) -> Value:
    table: dict[str, Callable[[Any, Any], bool]] = {
        "==": lambda a, b: a == b,
        "!=": lambda a, b: a != b,
        "<": lambda a, b: a < b,
        ">": lambda a, b: a > b,
        "<=": lambda a, b: a <= b,
        ">=": lambda a, b: a >= b,
        "in": lambda a, b: a in b,
        "matches": lambda a, b: re.search(b, a) is not None,
        "contains": lambda a, b: b in a,
        "startsWith": lambda a, b: a.startswith(b),
        "endsWith": lambda a, b: a.endswith(b),
    }
    function = table[operator]
    return lambda r: function(left(r), right(r))


def _tokenize(text: str) -> list[tuple[str, str]]:
    found, at = [], 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if not match or match.lastgroup is None:
            raise ValueError(f"unexpected token {text[at:]!r} in expression '{text}'")
        found.append((match.lastgroup, match[match.lastgroup]))
        at = match.end()
    return found
