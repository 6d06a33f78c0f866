"""Functions that templates call, as Go's text/template has them, and ``parseInt`` of CoreDNS."""

from __future__ import annotations

import html
import re
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

_VERB = re.compile(r"%([-+# 0]*)(\d+)?(?:\.(\d+))?([a-zA-Z%])")


class TemplateError(ValueError):
    """A text that is no template, or one that does not fit the data."""


def text(value: Any) -> str:
    """How Go prints a value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + " ".join(map(text, value)) + "]"
    return "<no value>" if value is None else str(value)


def _printf(form: str, *args: Any) -> str:
    left = list(args)

    def one(match: re.Match[str]) -> str:
        flags, width, places, verb = match.groups()
        if verb == "%":
            return "%"
        if not left:
            return f"%!{verb}(MISSING)"
        value = left.pop(0)
        size = flags + (width or "") + (f".{places}" if places else "")
        if verb in "vs":
            return f"%{size}s" % text(value)
        if verb == "q":
            return f"%{size}s" % _quoted(text(value))
        if verb == "t" and isinstance(value, bool):
            return text(value)
        if verb in "doxXcb" and isinstance(value, int):
            return format(value, "b") if verb == "b" else f"%{size}{verb}" % value
        if verb in "xX" and isinstance(value, str):
            return value.encode().hex()
        if verb in "feg" and isinstance(value, float):
            return f"%{size}{verb}" % value
        return f"%!{verb}({text(value)})"

    return _VERB.sub(one, form)


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _parse_int(value: str, base: int, bits: int) -> int:
    found = int(value, base)
    if found.bit_length() > bits:
        raise ValueError(f'parsing "{value}": value out of range')
    return found


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else value[key]
    return value


def _slice(value: Any, start: int = 0, end: int | None = None) -> Any:
    if start > len(value) or (end is not None and not start <= end <= len(value)):
        raise LookupError(f"index out of range: {end if end is not None else start}")
    return value[start:end]


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "and": lambda *a: next((x for x in a if not x), a[-1]),
    "eq": lambda a, *b: any(a == x for x in b),
    "ge": lambda a, b: a >= b,
    "gt": lambda a, b: a > b,
    "html": lambda *a: html.escape("".join(map(text, a))).replace("&quot;", "&#34;").replace("&#x27;", "&#39;"),
    "index": _index,
    "le": lambda a, b: a <= b,
    "len": len,
    "lt": lambda a, b: a < b,
    "ne": lambda a, b: a != b,
    "not": lambda a: not a,
    "or": lambda *a: next((x for x in a if x), a[-1]),
    "parseInt": _parse_int,
    "print": lambda *a: "".join(map(text, a)),
    "printf": _printf,
    "println": lambda *a: " ".join(map(text, a)) + "\n",
    "slice": _slice,
    "urlquery": lambda *a: urllib.parse.quote_plus("".join(map(text, a)), safe="-_.~"),
}  # fmt: skip
