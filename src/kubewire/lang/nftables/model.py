"""Tables as values: sets and maps, chains, rules; rendering, netlink encoding, differences.

A ``Table`` is what is meant. ``replace`` makes the whole table anew in one transaction;
``difference`` changes only the elements, chains and rules that differ. Set elements are packed
bytes from the start (see ``types``): a hundred thousand of them cost neither parsing nor objects.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kubewire.lang.nftables import wire
from kubewire.lang.nftables.expressions import Verdict
from kubewire.lang.nftables.types import Type, padded, split, text

Data = bytes | Verdict | None

HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
PRIORITIES = {
    "raw": -300,
    "mangle": -150,
    "dstnat": -100,
    "filter": 0,
    "security": 50,
    "srcnat": 100,
}
FAMILIES = {"inet": 1, "ip": 2, "ip6": 10}

_SUBSYSTEM = 10 << 8
(
    NEWTABLE,
    DELTABLE,
    NEWCHAIN,
    DELCHAIN,
    NEWRULE,
    DELRULE,
    NEWSET,
    DELSET,
    NEWELEMENTS,
    DELELEMENTS,
) = 0, 2, 3, 5, 6, 8, 9, 11, 12, 14
_REQUEST, _ACK, _CREATE, _APPEND = 1, 4, 0x400, 0x800
_UNUSED = 0x100
"""NLM_F_NONREC: not together with what is in it."""
COMMENT_BYTES = 250
"""The kernel has room for 255; the nft program itself takes 128."""
CHUNK = 60000
"""Bytes of elements in one message: a nested attribute ends at 64 KiB."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Expressions that must all match, and why the rule is there."""

    expressions: tuple[Any, ...]
    reason: str = ""

    def render(self) -> str:
        """As nft writes it."""
        shown = " ".join(e.render() for e in self.expressions)
        comment = self.reason.encode()[:127].decode(errors="ignore").replace('"', "'")
        return f'{shown} comment "{comment}"' if comment else shown


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain; with a hook it is a base chain."""

    name: str
    rules: tuple[Rule, ...] = ()
    type: str = ""
    hook: str = ""
    priority: int = 0
    policy: str = "accept"


@dataclass(frozen=True, slots=True, eq=False)
class Set:
    """A set (``data`` empty), a map, or a verdict map; compared by identity."""

    name: str
    key: tuple[Type, ...]
    data: tuple[Type, ...] = ()
    verdicts: bool = False
    elements: Mapping[bytes, Data] = field(default_factory=dict)
    dynamic: bool = False
    """Rules fill it, with a timeout for each element."""
    interval: bool = False
    """Single-field keys that are ranges: elements map start -> end (inclusive)."""
    size: int = 0

    @property
    def key_size(self) -> int:
        """Bytes of a key."""
        return _size(self.key)

    def has(self, key: bytes) -> bool:
        """Look a key up."""
        if not self.interval:
            return key in self.elements
        return any(
            low <= key <= high for low, high in self.elements.items() if isinstance(high, bytes)
        )

    def get(self, key: bytes) -> Data:
        """Look a value up."""
        return self.elements.get(key)


def _size(types: tuple[Type, ...]) -> int:
    return types[0].size if len(types) == 1 else sum(padded(t.size) for t in types)


def _number(types: tuple[Type, ...]) -> int:
    number = 0
    for type_ in types:
        number = number << 6 | type_.number
    return number


@dataclass(frozen=True, slots=True)
class Table:
    """A whole table; the names of sets and chains are its keys."""

    name: str
    family: str = "inet"
    sets: Mapping[str, Set] = field(default_factory=dict)
    chains: Mapping[str, Chain] = field(default_factory=dict)


# -- text -----------------------------------------------------------------------------------------


def render(table: Table) -> str:
    """The table as ``nft -f`` reads it."""
    lines = [f"table {table.family} {table.name} {{"]
    for one in table.sets.values():
        lines += [f"\t{line}" for line in _render_set(one)]
    for chain in table.chains.values():
        lines.append(f"\tchain {chain.name} {{")
        if chain.hook:
            lines.append(
                f"\t\ttype {chain.type} hook {chain.hook} priority {chain.priority}; policy {chain.policy};"
            )
        lines += [f"\t\t{rule.render()}" for rule in chain.rules]
        lines.append("\t}")
    return "\n".join([*lines, "}", ""])


def _render_set(one: Set) -> Iterator[str]:
    key = " . ".join(t.name for t in one.key)
    if one.verdicts:
        key += " : verdict"
    elif one.data:
        key += " : " + " . ".join(t.name for t in one.data)
    yield f"{'map' if one.verdicts or one.data else 'set'} {one.name} {{"
    yield f"\ttype {key}"
    if one.dynamic:
        yield f"\tsize {one.size or 65536}"
        yield "\tflags dynamic,timeout"
    if one.interval:
        yield "\tflags interval"
    if one.elements:
        shown = ", ".join(_render_element(one, k, v) for k, v in one.elements.items())
        yield f"\telements = {{ {shown} }}"
    yield "}"


def _render_element(one: Set, key: bytes, data: Data) -> str:
    name = " . ".join(text(t, part) for t, part in zip(one.key, split(one.key, key), strict=True))
    if one.interval and isinstance(data, bytes):
        end = text(one.key[0], data)
        return name if end == name else f"{name}-{end}"
    if isinstance(data, Verdict):
        return f"{name} : {data.render()}"
    if isinstance(data, bytes):
        return f"{name} : " + " . ".join(
            text(t, part) for t, part in zip(one.data, split(one.data, data), strict=True)
        )
    return name


# -- netlink --------------------------------------------------------------------------------------


class Transaction:
    """Messages that the kernel applies all together or not at all."""

    def __init__(self, family: str) -> None:
        self.messages: list[tuple[bytes, str]] = []
        """(message without a sequence number, what it is about)."""
        self._family = FAMILIES[family]
        self._ids = 0

    def __bool__(self) -> bool:
        return bool(self.messages)

    def empty(self) -> Transaction:
        """Another one for the same family."""
        other = Transaction("inet")
        other._family = self._family
        return other

    def add(self, kind: int, flags: int, body: bytes, what: str) -> None:
        """Append one message."""
        head = struct.pack(
            "=HHIIBBH", _SUBSYSTEM | kind, _REQUEST | flags, 0, 0, self._family, 0, 0
        )
        self.messages.append((struct.pack("=I", 20 + len(body)) + head + body, what))

    def add_table(self, name: str) -> None:
        """Make sure that the table exists."""
        self.add(NEWTABLE, _CREATE, wire.string(1, name), f"table {name}")

    def delete_table(self, name: str) -> None:
        """Remove a table that exists."""
        self.add(DELTABLE, 0, wire.string(1, name), f"delete table {name}")

    def add_set(self, table: str, one: Set) -> None:
        """Create a set without elements."""
        self._ids += 1
        flags = (4 if one.interval else 0) | (8 if one.verdicts or one.data else 0)
        flags |= 0x10 | 0x20 if one.dynamic else 0
        body = wire.string(1, table) + wire.string(2, one.name) + wire.be32(3, flags)
        body += wire.be32(4, _number(one.key)) + wire.be32(5, one.key_size)
        if one.verdicts:
            body += wire.be32(6, 0xFFFFFF00) + wire.be32(7, 0)
        elif one.data:
            body += wire.be32(6, _number(one.data)) + wire.be32(7, _size(one.data))
        if one.dynamic:
            body += wire.nest(9, wire.be32(1, one.size or 65536))
        self.add(NEWSET, _CREATE, body + wire.be32(10, self._ids), f"set {one.name}")

    def delete_set(self, table: str, name: str) -> None:
        """Remove a set that no rule uses any more."""
        self.add(DELSET, 0, wire.string(1, table) + wire.string(2, name), f"delete set {name}")

    def add_elements(self, table: str, one: Set, elements: Mapping[bytes, Data]) -> None:
        """Add elements that are not there yet."""
        self._elements(NEWELEMENTS, _CREATE, table, one, elements)

    def remember(self, table: str, one: Set, entries: Iterable[tuple[bytes, bytes, int]]) -> None:
        """Add elements of a dynamic map: key, value, and the seconds for which each stays."""
        head = wire.string(1, table) + wire.string(2, one.name)
        encoded = (
            wire.nest(
                1,
                wire.nest(1, wire.value(key))
                + wire.nest(2, wire.value(data))
                + wire.be64(4, 1000 * seconds),
            )
            for key, data, seconds in entries
        )
        for chunk in _chunks(encoded):
            body = head + wire.nest(3, chunk)
            self.add(NEWELEMENTS, _CREATE, body, f"elements of {one.name}")

    def delete_elements(self, table: str, one: Set, elements: Mapping[bytes, Data]) -> None:
        """Remove elements that are there."""
        self._elements(DELELEMENTS, 0, table, one, elements)

    def flush_set(self, table: str, name: str) -> None:
        """Remove every element."""
        body = wire.string(1, table) + wire.string(2, name)
        self.add(DELELEMENTS, 0, body, f"delete elements of {name}")

    def _elements(
        self, kind: int, flags: int, table: str, one: Set, elements: Mapping[bytes, Data]
    ) -> None:
        verb = "" if kind == NEWELEMENTS else "delete "
        head = wire.string(1, table) + wire.string(2, one.name)
        adding = kind == NEWELEMENTS
        if one.interval or (adding and one.verdicts):
            chunks = _chunks(_encoded(one, elements))
        else:
            chunks = _alike(one, elements, values=adding)
        for chunk in chunks:
            self.add(kind, flags, head + wire.nest(3, chunk), f"{verb}elements of {one.name}")

    def add_chain(self, table: str, chain: Chain) -> None:
        """Create a chain without rules."""
        body = wire.string(1, table) + wire.string(3, chain.name)
        if chain.hook:
            hook = wire.be32(1, HOOKS[chain.hook]) + wire.be32(2, chain.priority)
            body += (
                wire.nest(4, hook)
                + wire.be32(5, 0 if chain.policy == "drop" else 1)
                + wire.string(7, chain.type)
            )
        self.add(NEWCHAIN, _CREATE, body, f"chain {chain.name}")

    def delete_chain(self, table: str, name: str) -> None:
        """Remove an empty chain that nothing leads to any more."""
        self.add(DELCHAIN, 0, wire.string(1, table) + wire.string(3, name), f"delete chain {name}")

    def delete_unused(self, table: str, chains: Iterable[str]) -> None:
        """Remove a table and these chains of it; refused while there is anything else in them."""
        named = wire.string(1, table)
        for name in chains:
            body = named + wire.string(3, name)
            self.add(DELCHAIN, _UNUSED, body, f"delete unused chain {name}")
        self.add(DELTABLE, _UNUSED, named, f"delete unused table {table}")

    def flush_chain(self, table: str, name: str) -> None:
        """Remove the rules of a chain."""
        self.add(DELRULE, 0, wire.string(1, table) + wire.string(2, name), f"flush chain {name}")

    def add_rules(self, table: str, chain: Chain) -> None:
        """Append the rules of a chain."""
        head = wire.string(1, table) + wire.string(2, chain.name)
        for rule in chain.rules:
            body = head + wire.nest(4, b"".join(e.encode() for e in rule.expressions))
            if rule.reason:
                comment = rule.reason.encode()[:COMMENT_BYTES] + b"\0"
                body += wire.attr(7, bytes([0, len(comment)]) + comment)
            self.add(
                NEWRULE, _CREATE | _APPEND, body, f"rule {rule.render()} of chain {chain.name}"
            )


def _alike(one: Set, elements: Mapping[bytes, Data], *, values: bool) -> Iterator[bytes]:
    """List members that all have one length, joined; hot: no statement is run for each of them."""
    data_size = _size(one.data) if values and one.data else 0
    middle, end = bytes(-one.key_size & 3), bytes(-data_size & 3)
    if data_size:
        middle += struct.pack("=HHHH", 8 + data_size, 2 | 0x8000, 4 + data_size, 1)
    length = 12 + one.key_size + len(middle) + data_size + len(end)
    head = struct.pack("=HH", length, 1 | 0x8000) + _key_head(one)
    data: Iterable[Any] = elements.values() if data_size else itertools.repeat(b"")
    first, second, last = map(itertools.repeat, (head, middle, end))
    members = zip(first, elements, second, data, last)  # noqa: B905
    while joined := b"".join(
        itertools.chain.from_iterable(itertools.islice(members, CHUNK // length))
    ):
        yield joined


def _key_head(one: Set) -> bytes:
    return struct.pack("=HHHH", 8 + one.key_size, 1 | 0x8000, 4 + one.key_size, 1)


def _encoded(one: Set, elements: Mapping[bytes, Data]) -> Iterator[bytes]:
    """List members of differing lengths: ranges, and keys with verdicts."""
    if one.interval:
        yield from _bounds(one, elements)
        return
    key_head, key_pad = _key_head(one), bytes(-one.key_size & 3)
    heads: dict[Data, tuple[bytes, bytes]] = {}
    for key, verdict in elements.items():
        known = heads.get(verdict)
        if known is None:
            assert isinstance(verdict, Verdict)
            tail = key_pad + wire.nest(2, verdict.data())
            length = 4 + len(key_head) + one.key_size + len(tail)
            known = heads[verdict] = struct.pack("=HH", length, 1 | 0x8000) + key_head, tail
        yield known[0] + key + known[1]


def _bounds(one: Set, elements: Mapping[bytes, Data]) -> Iterator[bytes]:
    """The first address of each range, and the one after its last."""
    for low, high in elements.items():
        assert isinstance(high, bytes)
        yield wire.nest(1, wire.nest(1, wire.value(low)))
        after = int.from_bytes(high, "big") + 1
        if after < 1 << (8 * one.key_size):
            end = wire.value(after.to_bytes(one.key_size, "big"))
            yield wire.nest(1, wire.nest(1, end) + wire.be32(3, 1))


def _chunks(encoded: Iterable[bytes]) -> Iterator[bytes]:
    found: list[bytes] = []
    length = 0
    for element in encoded:
        if length + len(element) > CHUNK:
            yield b"".join(found)
            found, length = [], 0
        found.append(element)
        length += len(element)
    if found:
        yield b"".join(found)


def replace(table: Table) -> Transaction:
    """Put a whole table in place of what may be there, in one transaction."""
    change = Transaction(table.family)
    # Added first, so that the deletion never misses it.
    change.add_table(table.name)
    change.delete_table(table.name)
    change.add_table(table.name)
    _create(change, table)
    return change


def _create(change: Transaction, table: Table) -> None:
    for chain in table.chains.values():
        change.add_chain(table.name, chain)
    for one in table.sets.values():
        change.add_set(table.name, one)
    for one in table.sets.values():
        change.add_elements(table.name, one, one.elements)
    for chain in table.chains.values():
        change.add_rules(table.name, chain)


def difference(old: Table, new: Table) -> Transaction:
    """What turns one table into another; sets that are the same object are not looked into."""
    change = Transaction(new.family)
    name = new.name
    for key, one in new.sets.items():
        if key in old.sets and one is not old.sets[key] and _kind(one) != _kind(old.sets[key]):
            raise ValueError(f"set {key}: its type cannot change; give the new one another name")
    fresh = [c for key, c in new.chains.items() if key not in old.chains]
    altered = [c for key, c in new.chains.items() if key in old.chains and old.chains[key] != c]
    gone = [key for key in old.chains if key not in new.chains]
    for chain in fresh:
        change.add_chain(name, chain)
    for key, one in new.sets.items():
        if key not in old.sets:
            change.add_set(name, one)
    for chain in [*altered, *(old.chains[key] for key in gone)]:
        change.flush_chain(name, chain.name)
    for chain in altered:
        _base_difference(change, name, old.chains[chain.name], chain)
    for key, one in new.sets.items():
        _set_difference(change, name, old.sets.get(key), one)
    for chain in [*fresh, *altered]:
        change.add_rules(name, chain)
    for key in old.sets.keys() - new.sets.keys():
        change.delete_set(name, key)
    for key in gone:
        change.delete_chain(name, key)
    return change


def _kind(one: Set) -> tuple[object, ...]:
    return one.key, one.data, one.verdicts, one.dynamic, one.interval


def _base_difference(change: Transaction, table: str, old: Chain, new: Chain) -> None:
    """A policy can be changed in place; a hook or a priority needs a new chain."""
    if (old.type, old.hook, old.priority) != (new.type, new.hook, new.priority):
        change.delete_chain(table, old.name)
        change.add_chain(table, new)
    elif old.policy != new.policy:
        change.add_chain(table, new)


def _set_difference(change: Transaction, table: str, old: Set | None, new: Set) -> None:
    if old is new:
        return
    before = old.elements if old else {}
    dropped = {k: v for k, v in before.items() if k not in new.elements or new.elements[k] != v}
    added = {k: v for k, v in new.elements.items() if k not in before or before[k] != v}
    change.delete_elements(table, new, dropped)
    change.add_elements(table, new, added)
