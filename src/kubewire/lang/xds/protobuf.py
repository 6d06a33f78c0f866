"""The binary form of the messages that travel over gRPC: written from JSON by a table, read flat.

Only what kubewire itself sends is in the table (``fields``); a field that is not is an error, never
left out in silence.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kubewire.lang.xds.fields import MESSAGES
from kubewire.lang.xds.model import JSON

_PREFIX = "type.googleapis.com/"


def encode(value: JSON) -> bytes:
    """A resource, by its ``@type``."""
    kind = value["@type"].removeprefix(_PREFIX)
    return _message(kind, {k: v for k, v in value.items() if k != "@type"})


def resource(value: Any) -> bytes:
    """A resource as JSON, or as a value of ``model``."""
    return encode(value if isinstance(value, dict) else value.to_json())


def any_(kind: str, body: bytes) -> bytes:
    """A google.protobuf.Any around a message."""
    return field(1, kind.encode()) + field(2, body)


def field(number: int, data: bytes) -> bytes:
    """A field that holds bytes, a text or a message."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    """A number, seven bits in a byte."""
    if value < 0x80:
        return bytes((value,))
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _message(kind: str, value: Mapping[str, Any]) -> bytes:
    table = MESSAGES[kind]
    found = []
    for name, one in value.items():
        number, of = table[name]
        for item in one if isinstance(one, list) else (one,):
            found.append(_field(number, of, item))
    return b"".join(found)


def _field(number: int, kind: Any, value: Any) -> bytes:
    if kind == "text":
        return field(number, value.encode())
    if kind == "bytes":
        return field(number, base64.b64decode(value))
    if kind == "any":
        return field(number, any_(value["@type"], encode(value)))
    if kind in ("uint", "bool"):
        return varint(number << 3) + varint(int(value))
    if kind == "wrapped":
        return field(number, b"\x08" + varint(int(value)))
    if kind == "duration":
        return field(number, _duration(value))
    if kind == "anys":
        return b"".join(
            field(number, field(1, key.encode()) + field(2, any_(one["@type"], encode(one))))
            for key, one in value.items()
        )
    if isinstance(kind, Mapping):
        return varint(number << 3) + varint(kind[value])
    return field(number, _message(kind, value))


def _duration(text: str) -> bytes:
    seconds, _, fraction = text.removesuffix("s").partition(".")
    nanos = int(fraction.ljust(9, "0")[:9]) if fraction else 0
    return b"\x08" + varint(int(seconds)) + (b"\x10" + varint(nanos) if nanos else b"")


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a message; ValueError if it is none."""
    offset = 0
    while offset < len(data):
        key, offset = _number(data, offset)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, offset = _number(data, offset)
            yield number, value
        elif kind == 2:
            length, offset = _number(data, offset)
            if offset + length > len(data):
                raise ValueError("a field is longer than its message")
            yield number, data[offset : offset + length]
            offset += length
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            yield number, data[offset : offset + size]
            offset += size
        else:
            raise ValueError(f"wire type {kind}")


def _number(data: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if offset >= len(data) or shift > 63:
            raise ValueError("a number has no end")
        byte = data[offset]
        value |= (byte & 0x7F) << shift
        offset, shift = offset + 1, shift + 7
        if byte < 0x80:
            return value, offset


def texts(data: Sequence[tuple[int, int | bytes]], number: int) -> tuple[str, ...]:
    """Every text of one field."""
    return tuple(v.decode() for n, v in data if n == number and isinstance(v, bytes))


def frame(message: bytes) -> bytes:
    """A message as gRPC puts it into a stream."""
    return struct.pack("!BI", 0, len(message)) + message


def unframed(buffer: bytearray) -> Iterator[bytes]:
    """Take every whole message out of what has arrived."""
    while len(buffer) >= 5:
        length = int.from_bytes(buffer[1:5], "big")
        if len(buffer) < 5 + length:
            return
        message = bytes(buffer[5 : 5 + length])
        del buffer[: 5 + length]
        yield message
