"""Rules as the legacy tables of the kernel hold them: one entry each, in the binary form of x_tables.

An entry is a header (addresses, interfaces, protocol, counters), the matches one after the other,
and the target. A jump's target is an offset in the table, so whoever places the entry fills it in:
it is the word that begins eight bytes before the entry's end, as in everything that ends with a
*standard* target (ACCEPT, DROP, RETURN, jumps, and no target at all: a jump to the next entry).

Sizes are those of a 64-bit kernel. Only what the rules of Services are made of is known here, in
the revisions that ``iptables`` 1.8 uses; `encode` raises `UnfitError` for everything else.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct, pack
from typing import Any, NamedTuple

from kubewire.lang.iptables import matches as m
from kubewire.lang.iptables import targets as t
from kubewire.lang.iptables.model import NOTHING, Rule

VERDICT = 8
"""A standard target's verdict begins so many bytes before the end of its entry."""
HEADERS = {
    4: Struct("4s4s4s4s16s16s16s16sHBBIHHI16x"),
    6: Struct("16s16s16s16s16s16s16s16sHBBB3xIHHI4x16x"),
}
"""Source, destination, their masks, interfaces in and out, their masks, protocol, [IPv6: tos,] flags,
inversions, [unused,] target's offset, length, [the kernel's,] counters."""
OFFSETS = {4: 88, 6: 140}
"""Where the offset of the target is in an entry; its length follows, and then what is the kernel's."""
_EXTENSION = Struct("H29sB")
"""Head of a match or a target: length, name, revision."""
_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, m.ICMP6: 58, "sctp": 132}
_USES_PROTOCOL, _GOTO = 1, {4: 2, 6: 4}
_NOT_IN, _NOT_OUT, _NOT_SOURCE, _NOT_DESTINATION, _NOT_PROTOCOL = 1, 2, 8, 16, 64
_VERDICTS = {"ACCEPT": -2, "DROP": -1, "RETURN": -5}
_PAIR = Struct("16s16s")


class UnfitError(Exception):
    """Something that cannot be written here; the text names it."""


class Entry(NamedTuple):
    """An entry without a place."""

    data: bytes
    jump: str = ""
    """The chain whose place is its verdict."""
    falls: bool = False
    """Its verdict is the place of the entry after it."""


def head(chain: str, version: int) -> Entry:
    """What a chain of one's own begins with."""
    return _entry(_Header(version), _extension("ERROR", 0, pack("30s2x", chain.encode())))


def tail(version: int) -> Entry:
    """What a chain of one's own ends with: back to the caller."""
    return _entry(_Header(version), _standard(_VERDICTS["RETURN"]))


def encode(rule: Rule, version: int) -> Entry:
    """A rule as an entry."""
    header = _Header(version)
    for match in rule.matches:
        if take := _HEADER.get(type(match)):
            take(header, match)
        elif spell := _MATCHES.get(type(match)):
            header.matches += _extension(*spell(match))
        else:
            raise UnfitError(f"a match of an unknown form: {match.render()}")
    target = rule.target
    if isinstance(target, t.Jump):
        header.flags |= _GOTO[version] if target.goto else 0
        return _entry(header, _standard(0))._replace(jump=target.chain)
    if target is NOTHING:
        return _entry(header, _standard(0))._replace(falls=True)
    if isinstance(target, t.Verdict):
        return _entry(header, _standard(_VERDICTS[target.name]))
    if shape := _TARGETS.get(type(target)):
        return _entry(header, _extension(*shape(target, version)))
    raise UnfitError(f"a target of an unknown form: {target.render()}")


def _extension(name: str, revision: int, data: bytes) -> bytes:
    length = _EXTENSION.size + (len(data) + 7 & ~7)
    return (_EXTENSION.pack(length, name.encode(), revision) + data).ljust(length, b"\0")


def _standard(verdict: int) -> bytes:
    return _extension("", 0, pack("i", verdict))


@dataclass(slots=True)
class _Header:
    version: int
    source: bytes = b""
    destination: bytes = b""
    source_mask: bytes = b""
    destination_mask: bytes = b""
    incoming: tuple[bytes, bytes] = (b"", b"")
    outgoing: tuple[bytes, bytes] = (b"", b"")
    protocol: int = 0
    flags: int = 0
    inversions: int = 0
    matches: bytes = b""


def _entry(header: _Header, target: bytes) -> Entry:
    packing = HEADERS[header.version]
    place = packing.size + len(header.matches)
    tos = () if header.version == 4 else (0,)
    names = (header.incoming[0], header.outgoing[0], header.incoming[1], header.outgoing[1])
    addresses = (header.source, header.destination, header.source_mask, header.destination_mask)
    bits = (header.protocol, *tos, header.flags, header.inversions)
    packed = packing.pack(*addresses, *names, *bits, 0, place, place + len(target), 0)
    return Entry(packed + header.matches + target)


# -- what the header holds ------------------------------------------------------------------------


def _source(header: _Header, match: m.Source) -> None:
    header.source, header.source_mask = _network(match.network)
    header.inversions |= _NOT_SOURCE if match.invert else 0


def _destination(header: _Header, match: m.Destination) -> None:
    header.destination, header.destination_mask = _network(match.network)
    header.inversions |= _NOT_DESTINATION if match.invert else 0


def _network(text: str) -> tuple[bytes, bytes]:
    network = m.network(text)
    return network.network_address.packed, network.netmask.packed


def _incoming(header: _Header, match: m.InInterface) -> None:
    header.incoming = _interface(match.name)
    header.inversions |= _NOT_IN if match.invert else 0


def _outgoing(header: _Header, match: m.OutInterface) -> None:
    header.outgoing = _interface(match.name)
    header.inversions |= _NOT_OUT if match.invert else 0


def _interface(name: str) -> tuple[bytes, bytes]:
    """Name and mask: a whole name is compared with the zero after it, a prefix without its ``+``."""
    length = len(name) - 1 if name.endswith("+") else len(name) + 1
    return name.encode(), b"\xff" * length


def _protocol(header: _Header, match: m.Proto) -> None:
    if match.name not in _PROTOCOLS:
        raise UnfitError(f"a protocol of an unknown number: {match.name}")
    header.protocol = _PROTOCOLS[match.name]
    header.flags |= _USES_PROTOCOL if header.version == 6 else 0
    header.inversions |= _NOT_PROTOCOL if match.invert else 0


_HEADER: dict[type, Callable[[_Header, Any], None]] = {
    m.Source: _source,
    m.Destination: _destination,
    m.InInterface: _incoming,
    m.OutInterface: _outgoing,
    m.Proto: _protocol,
}

# -- matches --------------------------------------------------------------------------------------

Spelled = tuple[str, int, bytes]
"""Name, revision, data."""


def _comment(match: m.Comment) -> Spelled:
    text = match.text.encode()
    if len(text) > 255:
        raise UnfitError(f"a comment of {len(text)} bytes")
    return "comment", 0, pack("256s", text)


_NO_CHUNKS = b"\xff\0\0" * 4


def _ports(match: m.Ports) -> Spelled:
    source, destination = (_range(text) for text in (match.sport, match.dport))
    inverted = match.not_sport | match.not_dport << 1
    if match.module == "tcp":
        return "tcp", 0, pack("4H4B", *source, *destination, 0, 0, 0, inverted)
    if match.module == "udp":
        return "udp", 0, pack("4HB", *source, *destination, inverted)
    source, destination = source if match.sport else (0, 0), destination if match.dport else (0, 0)
    used = bool(match.sport) | bool(match.dport) << 1
    return "sctp", 0, pack("4H260x12s4xII", *destination, *source, _NO_CHUNKS, used, inverted)


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition(":")
    return int(low or 0), int(high or 65535) if ":" in text or not text else int(low)


_KINDS = ("UNSPEC", "UNICAST", "LOCAL", "BROADCAST", "ANYCAST", "MULTICAST")


def _addrtype(match: m.AddrType) -> Spelled:
    if not set(match.type.split(",")) <= set(_KINDS):
        raise UnfitError(f"a kind of address without a number: {match.type}")
    bits = sum(1 << _KINDS.index(kind) for kind in match.type.split(","))
    source, destination = (bits, 0) if match.side == "src" else (0, bits)
    inverted = (1 if match.side == "src" else 2) if match.invert else 0
    return "addrtype", 1, pack("HHI", source, destination, inverted)


_STATES = {
    "INVALID": 1, "ESTABLISHED": 2, "RELATED": 4, "NEW": 8, "SNAT": 64, "DNAT": 128, "UNTRACKED": 256,
}  # fmt: skip
_BY_STATE = 1


def _state(match: m.CtState) -> Spelled:
    states = sum(_STATES[state] for state in match.states)
    inverted = _BY_STATE if match.invert else 0
    return "conntrack", 3, pack("146x3H12x", _BY_STATE, inverted, states)


def _mark(match: m.Mark) -> Spelled:
    return "mark", 1, pack("IIB", match.value, match.mask, match.invert)


def _random(match: m.Random) -> Spelled:
    # The program leaves the chance in a second place, too, and compares it when rules are deleted.
    return "statistic", 0, pack("HHI4xI8x", 0, 0, match.parts, match.parts)


_RECENT = {"rcheck": 1, "set": 2, "update": 4, "remove": 8}
_REAP = 32


def _recent(match: m.Recent) -> Spelled:
    actions = _RECENT[match.action] | (_REAP if match.reap else 0)
    numbers = (match.seconds, match.hitcount, actions, match.invert)
    mask = b"\xff" * (4 if match.version == 4 else 16)
    return "recent", 1, pack("IIBB200sBx16s", *numbers, match.name.encode(), 0, mask)


_MATCHES: dict[type, Callable[[Any], Spelled]] = {
    m.Comment: _comment,
    m.Ports: _ports,
    m.AddrType: _addrtype,
    m.CtState: _state,
    m.Mark: _mark,
    m.Random: _random,
    m.Recent: _recent,
}

# -- targets --------------------------------------------------------------------------------------

_REASONS = {
    4: (
        "icmp-net-unreachable", "icmp-host-unreachable", "icmp-proto-unreachable",
        "icmp-port-unreachable", "", "icmp-net-prohibited", "icmp-host-prohibited", "tcp-reset",
        "icmp-admin-prohibited",
    ),
    6: (
        "icmp6-no-route", "icmp6-adm-prohibited", "", "icmp6-addr-unreachable",
        "icmp6-port-unreachable", "", "tcp-reset",
    ),
}  # fmt: skip
"""By their numbers."""
_ADDRESS, _PORT, _PERSISTENT, _FULLY = 1, 2, 8, 16


def _reject(target: t.Reject, version: int) -> Spelled:
    if target.with_ not in _REASONS[version]:
        raise UnfitError(f"a reason without a number: {target.with_}")
    return "REJECT", 0, pack("i", _REASONS[version].index(target.with_))


def _set_mark(target: t.SetMark, version: int) -> Spelled:
    return "MARK", 2, pack("II", target.value, target.mask)


def _masquerade(target: t.Masquerade, version: int) -> Spelled:
    if target.to_ports:
        raise UnfitError("MASQUERADE with ports")
    flags = _FULLY if target.random_fully else 0
    return "MASQUERADE", 0, pack("II12x", 1, flags) if version == 4 else pack("I36x", flags)


def _dnat(target: t.Dnat, version: int) -> Spelled:
    if "-" in target.to:
        raise UnfitError(f"DNAT to a range: {target.to}")
    text, number = t.split_target(target.to)
    address, port = ipaddress.ip_address(text).packed, number.to_bytes(2, "big")
    flags = _ADDRESS | (_PORT if number else 0) | (_PERSISTENT if target.persistent else 0)
    return "DNAT", 2, pack("I", flags) + _PAIR.pack(address, address) + pack("2s2s4x", port, port)


_TARGETS: dict[type, Callable[[Any, int], Spelled]] = {
    t.Reject: _reject,
    t.SetMark: _set_mark,
    t.Masquerade: _masquerade,
    t.Dnat: _dnat,
}
