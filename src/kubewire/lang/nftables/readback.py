"""What the kernel says about a table, parsed: to compare it with what was meant.

Rules come back as the kernel keeps them (attributes in its own order, registers renamed), so they
are compared with what was read when they were committed, never with what was sent. Elements of
maps are plain values and are compared with the table itself.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from kubewire.lang.nftables.expressions import Verdict
from kubewire.lang.nftables.model import HOOKS, Data, Set, Table
from kubewire.lang.nftables.types import IFNAME, IPV4, IPV6, MARK, PORT, PROTO, Type, split, text

_HEAD = struct.Struct("=HH")
_HOOK_NAMES = {number: name for name, number in HOOKS.items()}
_TYPES = {t.number: t for t in (IPV4, IPV6, PROTO, PORT, MARK, IFNAME)}
_VERDICTS = {code: kind for kind, code in Verdict.CODES.items()}
_TEXTS = {("lookup", 1), ("dynset", 1)}
_FIELDS = {
    "bitwise": ("sreg", "dreg", "len", "mask", "xor", "op", "data"),
    "cmp": ("sreg", "op", "data"),
    "ct": ("dreg", "key", "direction", "sreg"),
    "dynset": ("set", "id", "op", "sreg_key", "sreg_data", "timeout", "expr", "pad", "flags"),
    "fib": ("dreg", "result", "flags"),
    "immediate": ("dreg", "data"),
    "lookup": ("set", "sreg", "dreg", "id", "flags"),
    "masq": ("flags", "proto_min", "proto_max"),
    "meta": ("dreg", "key", "sreg"),
    "nat": ("type", "family", "addr_min", "addr_max", "port_min", "port_max", "flags"),
    "numgen": ("dreg", "modulus", "type", "offset"),
    "payload": ("dreg", "base", "offset", "len", "sreg", "csum_type", "csum_offset", "csum_flags"),
    "reject": ("type", "code"),
}


class ChainKind(NamedTuple):
    """What a chain is, apart from its rules; a plain one has no hook."""

    type: str = ""
    hook: str = ""
    priority: int = 0
    policy: str = "accept"

    def __str__(self) -> str:
        if not self.hook:
            return "plain"
        return f"type {self.type} hook {self.hook} priority {self.priority} policy {self.policy}"


class SetKind(NamedTuple):
    """What a set is, apart from its elements."""

    key: tuple[Type, ...]
    data: tuple[Type, ...] = ()
    verdicts: bool = False
    interval: bool = False
    dynamic: bool = False

    def __str__(self) -> str:
        data = " : verdict" if self.verdicts else f" : {_names(self.data)}" if self.data else ""
        flags = " interval" * self.interval + " dynamic" * self.dynamic
        return f"{_names(self.key)}{data}{flags}"


class KernelRule(NamedTuple):
    """A rule as the kernel keeps it."""

    expressions: bytes
    comment: str

    def __str__(self) -> str:
        shown = " ".join(_expressions(self.expressions))
        return f'{shown} comment "{self.comment}"' if self.comment else shown


Elements = Mapping[bytes, Data]


@dataclass(slots=True)
class Actual:
    """A table: as it is, or as it should be."""

    chains: dict[str, ChainKind] = field(default_factory=dict)
    rules: dict[str, list[KernelRule]] = field(default_factory=dict)
    sets: dict[str, SetKind] = field(default_factory=dict)
    elements: dict[str, Elements] = field(default_factory=dict)
    """Of interval sets: start -> end, as in ``Set``; those that rules fill are left out."""

    def extends(self, actual: Actual) -> bool:
        """Whether ``actual`` can be made into this by whole chains and sets, and elements.

        Whatever has the same name must be of the same kind, and chains must have the same rules;
        interval sets must be equal, because their elements cannot be told apart one by one.
        """
        if not actual.chains:  # There is no table.
            return False
        both = self.chains.keys() & actual.chains.keys()
        if any(self.chains[n] != actual.chains[n] for n in both):
            return False
        if any(self.rules.get(n, []) != actual.rules.get(n, []) for n in both):
            return False
        sets = self.sets.keys() & actual.sets.keys()
        return all(
            self.sets[n] == actual.sets[n]
            and (not self.sets[n].interval or self.elements[n] == actual.elements[n])
            for n in sets
        )

    def lines(self) -> list[str]:
        """One line for each thing, in one order."""
        found = [f"chain {name}: {kind}" for name, kind in self.chains.items()]
        for name, rules in self.rules.items():
            found += [f"rule {name}[{i}]: {rule}" for i, rule in enumerate(rules)]
        for name, kind in self.sets.items():
            found.append(f"set {name}: {kind}")
            elements = self.elements.get(name) or {}
            found += [f"element {name}: {element_text(kind, k, v)}" for k, v in elements.items()]
        return sorted(found)


def meant(table: Table, rules: dict[str, list[KernelRule]]) -> Actual:
    """A table as the kernel should show it; ``rules`` were read when they were committed."""
    return Actual(
        {n: ChainKind(c.type, c.hook, c.priority, c.policy) for n, c in table.chains.items()},
        rules,
        {n: kind_of(one) for n, one in table.sets.items()},
        {n: one.elements for n, one in table.sets.items() if not one.dynamic},
    )


def kind_of(one: Set) -> SetKind:
    """What a set is, apart from its elements."""
    return SetKind(one.key, one.data, one.verdicts, one.interval, one.dynamic)


def _names(types: tuple[Type, ...]) -> str:
    return " . ".join(t.name for t in types)


def element_text(kind: SetKind, key: bytes, data: Data) -> str:
    """One element as nft writes it."""
    shown = _fields(kind.key, key)
    if kind.interval and isinstance(data, bytes):
        end = text(kind.key[0], data)
        return shown if end == shown else f"{shown}-{end}"
    if isinstance(data, Verdict):
        return f"{shown} : {data.render()}"
    return f"{shown} : {_fields(kind.data, data)}" if isinstance(data, bytes) else shown


def _fields(types: tuple[Type, ...], data: bytes) -> str:
    return " . ".join(text(t, p) for t, p in zip(types, split(types, data), strict=True))


# -- netlink --------------------------------------------------------------------------------------


def attributes(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """(number, value) of each attribute."""
    while offset + 4 <= len(data):
        length, kind = _HEAD.unpack_from(data, offset)
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def chain(body: bytes) -> tuple[str, str, ChainKind]:
    """(table, name, what it is) of a NEWCHAIN message."""
    found = dict(attributes(body, 4))
    table, name = _string(found[1]), _string(found[3])
    if 4 not in found:
        return table, name, ChainKind()
    hook = dict(attributes(found[4]))
    (priority,) = struct.unpack("!i", hook[2])
    policy = "drop" if _number(found.get(5, b"\1")) == 0 else "accept"
    kind = ChainKind(_string(found[7]), _HOOK_NAMES[_number(hook[1])], priority, policy)
    return table, name, kind


def rule(body: bytes) -> tuple[str, KernelRule]:
    """(chain, rule) of a NEWRULE message."""
    found = dict(attributes(body, 4))
    comment, data = "", found.get(7, b"")
    if len(data) > 2 and data[0] == 0:
        comment = data[2 : 2 + data[1]].rstrip(b"\0").decode(errors="replace")
    return _string(found[2]), KernelRule(found.get(4, b""), comment)


def set_(body: bytes) -> tuple[str, SetKind]:
    """(name, what it is) of a NEWSET message."""
    found = dict(attributes(body, 4))
    flags, data = _number(found.get(3, b"")), _number(found.get(6, b""))
    verdicts = data == 0xFFFFFF00
    kind = SetKind(
        _types(_number(found[4])),
        () if verdicts else _types(data),
        verdicts,
        interval=bool(flags & 4),
        dynamic=bool(flags & 0x20),
    )
    return _string(found[2]), kind


def elements(bodies: Iterator[bytes], *, interval: bool) -> dict[bytes, Data]:
    """Elements of NEWSETELEM messages."""
    found: dict[bytes, Data] = {}
    bounds: list[tuple[bytes, bool]] = []
    for body in bodies:
        for kind, listed in attributes(body, 4):
            if kind != 3:
                continue
            for key, data, flags in _elements(listed):
                if interval:
                    bounds.append((key, bool(flags & 1)))
                else:
                    found[key] = data
    return _ranges(bounds) if interval else found


def _elements(data: bytes) -> Iterator[tuple[bytes, Data, int]]:
    """Hot: a hundred thousand of them are read back at once."""
    unpack, offset, end = _HEAD.unpack_from, 0, len(data)
    verdicts: dict[bytes, Verdict] = {}
    while offset < end:
        length, _ = unpack(data, offset)
        inner, stop = offset + 4, offset + length
        offset += (length + 3) & ~3
        key, flags = b"", 0
        value: Data = None
        while inner < stop:
            size, kind = unpack(data, inner)
            kind &= 0x3FFF
            if kind in (1, 2):
                inside, what = unpack(data, inner + 4)
                part = data[inner + 8 : inner + 4 + inside]
                if kind == 1:
                    key = part
                elif what & 0x3FFF == 1:
                    value = part
                else:
                    if part not in verdicts:
                        verdicts[part] = _verdict(part)
                    value = verdicts[part]
            elif kind == 3:
                flags = _number(data[inner + 4 : inner + size])
            inner += (size + 3) & ~3
        yield key, value, flags


def _verdict(data: bytes) -> Verdict:
    found = dict(attributes(data))
    (code,) = struct.unpack("!i", found[1])
    return Verdict(_VERDICTS.get(code, str(code)), _string(found.get(2, b"")))


def _ranges(bounds: list[tuple[bytes, bool]]) -> dict[bytes, Data]:
    """Start -> last address; the kernel keeps starts and the first address after each end."""
    found: dict[bytes, Data] = {}
    start: bytes | None = None
    for key, is_end in sorted(bounds, key=lambda b: (b[0], not b[1])):
        if is_end:
            if start is not None:
                found[start] = (int.from_bytes(key, "big") - 1).to_bytes(len(key), "big")
            start = None
        else:
            start = key
    if start is not None:
        found[start] = b"\xff" * len(start)
    return found


def _types(number: int) -> tuple[Type, ...]:
    found: list[Type] = []
    while number:
        one = number & 63
        found.insert(0, _TYPES.get(one, Type(f"type{one}", one, 4)))
        number >>= 6
    return tuple(found)


def _expressions(data: bytes) -> Iterator[str]:
    for _, listed in attributes(data):
        found = dict(attributes(listed))
        name = _string(found[1])
        names = _FIELDS.get(name, ())
        shown = [
            f"{names[number - 1] if number <= len(names) else number}={_value(name, number, value)}"
            for number, value in attributes(found.get(2, b""))
        ]
        yield f"{name}({' '.join(shown)})"


def _value(name: str, number: int, value: bytes) -> str:
    if (name, number) in _TEXTS:
        return _string(value)
    return str(_number(value)) if len(value) == 4 else value.hex()


def _string(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")
