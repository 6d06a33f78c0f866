"""EDNS options without a parser: answers are kept without them, and given back with them.

Most clients that send options send a cookie that nobody else sends, so an answer that were kept with
it would never be asked for again. Only options that no plugin reads are treated so; a question with
any other goes through the chain.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

COOKIE = 10
PLAIN = frozenset({9, 10, 11, 12})
"""EXPIRE, COOKIE, KEEPALIVE and PADDING: they come back, and change nothing else of an answer."""
EMPTY = frozenset({9, 11})
"""EXPIRE and KEEPALIVE, of which only the empty ones need not be looked at."""

Option = tuple[int, bytes]
Sign = Callable[[tuple[Option, ...]], tuple[Option, ...] | None]

_ONE_OPT = b"\0\1\0\0\0\0\0\1"
_FIXED = 11
"""Octets of an OPT record before its options."""


class Question(NamedTuple):
    """A message whose options are taken off."""

    key: bytes
    """Everything behind the id."""
    options: tuple[Option, ...]


def take_off(data: bytes) -> Question | None:
    """The same message without its options, if it has some, and only plain ones."""
    if data[4:12] != _ONE_OPT:
        return None
    at, end = 12, len(data)
    while at < end and data[at]:
        if data[at] > 63:
            return None
        at += 1 + data[at]
    at += 5
    start = at + _FIXED
    if data[at : at + 3] != b"\0\0\x29" or start >= end:
        return None
    if int.from_bytes(data[start - 2 : start], "big") != end - start:
        return None
    options = _read(data, start)
    if options is None:
        return None
    return Question(data[2 : start - 2] + b"\0\0", options)


def _read(data: bytes, at: int) -> tuple[Option, ...] | None:
    found: list[Option] = []
    while at < len(data):
        code = int.from_bytes(data[at : at + 2], "big")
        end = at + 4 + int.from_bytes(data[at + 2 : at + 4], "big")
        if code not in PLAIN or at + 4 > len(data) or end > len(data):
            return None
        if code in EMPTY and end > at + 4:
            return None
        found.append((code, data[at + 4 : end]))
        at = end
    return tuple(found)


def put_on(answer: bytes, options: Iterable[Option]) -> bytes | None:
    """An answer that ends in an empty OPT record, with options; None if there is no room."""
    if answer[-_FIXED:-8] != b"\0\0\x29" or answer[-2:] != b"\0\0":
        return None
    raw = b"".join(c.to_bytes(2, "big") + len(v).to_bytes(2, "big") + v for c, v in options)
    if len(answer) + len(raw) > max(512, int.from_bytes(answer[-8:-6], "big")):
        return None
    return answer[:-2] + len(raw).to_bytes(2, "big") + raw
