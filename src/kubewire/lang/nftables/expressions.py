"""What rules are made of: each expression renders itself, encodes itself and evaluates itself.

An expression's ``run`` returns True to go on with the next expression, False if the rule does not
match, or a Stop. Registers are numbered from 8 (NFT_REG32_00), four bytes each.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from kubewire.lang.nftables import wire
from kubewire.lang.nftables.types import (
    IFNAME,
    INDEX,
    IPV4,
    IPV6,
    MARK,
    PORT,
    PROTO,
    Type,
    ifname_bytes,
    integer_bytes,
    text,
)
from kubewire.lang.packet import PROTOCOLS, Packet

REG = 8
CT_STATES = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}
CT_STATUS = {"snat": 16, "dnat": 32}


@dataclass(slots=True)
class State:
    """A packet on its way through the rules: what the rules may read and change."""

    packet: Packet
    sets: Callable[[str], Any]
    """Set name -> Set."""
    mark: int = 0
    targets: tuple[tuple[bytes, bytes], ...] = ()
    """Chosen DNAT targets: (address, port or b"")."""
    masquerade: bool = False
    counts: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Verdict:
    """accept, drop, return, or jump and goto with a chain."""

    kind: str
    chain: str = ""

    CODES = {"accept": 1, "drop": 0, "jump": -3, "goto": -4, "return": -5, "continue": -1}  # noqa: RUF012

    def render(self) -> str:
        """As nft writes it."""
        return f"{self.kind} {self.chain}" if self.chain else self.kind

    def data(self) -> bytes:
        """As netlink data."""
        return wire.verdict(self.CODES[self.kind], self.chain)

    def encode(self) -> bytes:
        """As an expression."""
        return wire.expression("immediate", wire.be32(1, 0) + wire.nest(2, self.data()))

    def run(self, state: State) -> Any:
        """Ends the rule."""
        return self


ACCEPT, DROP, RETURN = Verdict("accept"), Verdict("drop"), Verdict("return")


class Load(Protocol):
    """Something that a key or a comparison can read."""

    @property
    def type(self) -> Type:
        """Its type."""
        ...

    def render(self) -> str:
        """As nft writes it."""
        ...

    def encode(self, register: int) -> bytes:
        """The expression that loads it."""
        ...

    def value(self, state: State) -> bytes:
        """Its value in a packet (unpadded)."""
        ...


@dataclass(frozen=True, slots=True)
class Payload:
    """Bytes of a header."""

    name: str
    type: Type
    base: int
    offset: int
    read: Callable[[Packet], bytes] = field(compare=False)

    def render(self) -> str:
        """As nft writes it."""
        return self.name

    def encode(self, register: int) -> bytes:
        """A payload expression."""
        return wire.expression(
            "payload",
            wire.be32(1, register)
            + wire.be32(2, self.base)
            + wire.be32(3, self.offset)
            + wire.be32(4, self.type.size),
        )

    def value(self, state: State) -> bytes:
        """The packet's bytes."""
        return self.read(state.packet)


def _port(number: int) -> bytes:
    return struct.pack("!H", number)


IP_SADDR = Payload("ip saddr", IPV4, 1, 12, lambda p: p.source)
IP_DADDR = Payload("ip daddr", IPV4, 1, 16, lambda p: p.destination)
IP6_SADDR = Payload("ip6 saddr", IPV6, 1, 8, lambda p: p.source)
IP6_DADDR = Payload("ip6 daddr", IPV6, 1, 24, lambda p: p.destination)
SPORT = Payload("th sport", PORT, 2, 0, lambda p: _port(p.sport))
DPORT = Payload("th dport", PORT, 2, 2, lambda p: _port(p.dport))


@dataclass(frozen=True, slots=True)
class Meta:
    """Something about the packet that is not in its headers."""

    name: str
    type: Type
    key: int
    read: Callable[[State], bytes] = field(compare=False)

    def render(self) -> str:
        """As nft writes it."""
        return self.name

    def encode(self, register: int) -> bytes:
        """A meta expression."""
        return wire.expression("meta", wire.be32(1, register) + wire.be32(2, self.key))

    def value(self, state: State) -> bytes:
        """Read it."""
        return self.read(state)


L4PROTO = Meta("meta l4proto", PROTO, 16, lambda s: bytes([PROTOCOLS[s.packet.protocol]]))
NFPROTO = Meta("meta nfproto", PROTO, 15, lambda s: bytes([2 if s.packet.version == 4 else 10]))
IIFNAME = Meta("iifname", IFNAME, 6, lambda s: ifname_bytes(s.packet.iifname))
META_MARK = Meta("meta mark", MARK, 3, lambda s: integer_bytes(s.mark))


@dataclass(frozen=True, slots=True)
class Numgen:
    """``numgen random mod N``: the evaluator takes every outcome."""

    modulus: int
    offset: int = 0
    type: Type = INDEX

    def render(self) -> str:
        """As nft writes it."""
        return f"numgen random mod {self.modulus}" + (
            f" offset {self.offset}" if self.offset else ""
        )

    def encode(self, register: int) -> bytes:
        """A numgen expression."""
        return wire.expression(
            "numgen",
            wire.be32(1, register)
            + wire.be32(2, self.modulus)
            + wire.be32(3, 1)
            + wire.be32(4, self.offset),
        )

    def value(self, state: State) -> bytes:
        """One outcome stands for all only where N is 1."""
        return integer_bytes(self.offset)


def _compare(data: bytes, *, equal: bool = True) -> bytes:
    body = wire.be32(1, REG) + wire.be32(2, 0 if equal else 1) + wire.nest(3, wire.value(data))
    return wire.expression("cmp", body)


@dataclass(frozen=True, slots=True)
class Match:
    """``load == value`` or ``load != value``; a short value is compared with the beginning."""

    load: Load
    data: bytes
    equal: bool = True

    def render(self) -> str:
        """As nft writes it."""
        return f"{self.load.render()} {'' if self.equal else '!= '}{self._text()}"

    def _text(self) -> str:
        if self.load is NFPROTO:
            return {2: "ipv4", 10: "ipv6"}[self.data[0]]
        shown = text(self.load.type, self.data)
        return f'{shown[:-1]}*"' if len(self.data) < self.load.type.size == IFNAME.size else shown

    def encode(self) -> bytes:
        """Load, compare."""
        return self.load.encode(REG) + _compare(self.data, equal=self.equal)

    def run(self, state: State) -> Any:
        """Go on if it holds."""
        return self.load.value(state).startswith(self.data) is self.equal


@dataclass(frozen=True, slots=True)
class MarkSet:
    """``meta mark & mask`` is (not) zero."""

    mask: int
    present: bool = True

    def render(self) -> str:
        """As nft writes it."""
        return f"meta mark & 0x{self.mask:08x} {'!=' if self.present else '=='} 0"

    def encode(self) -> bytes:
        """Load, mask, compare with zero."""
        return (
            META_MARK.encode(REG)
            + _bitwise(self.mask, 0)
            + _compare(bytes(4), equal=not self.present)
        )

    def run(self, state: State) -> Any:
        """Go on if it holds."""
        return bool(state.mark & self.mask) is self.present


def _bitwise(mask: int, xor: int) -> bytes:
    body = wire.be32(1, REG) + wire.be32(2, REG) + wire.be32(3, 4)
    return wire.expression(
        "bitwise",
        body
        + wire.nest(4, wire.value(integer_bytes(mask)))
        + wire.nest(5, wire.value(integer_bytes(xor))),
    )


@dataclass(frozen=True, slots=True)
class ChangeMark:
    """Set (or clear) bits of the mark, touching no other bit."""

    bits: int
    on: bool = True

    def render(self) -> str:
        """As nft writes it."""
        if self.on:
            return f"meta mark set meta mark | 0x{self.bits:08x}"
        return f"meta mark set meta mark & 0x{~self.bits & 0xFFFFFFFF:08x}"

    def encode(self) -> bytes:
        """Load, change, store."""
        change = _bitwise(~self.bits & 0xFFFFFFFF, self.bits if self.on else 0)
        return (
            META_MARK.encode(REG)
            + change
            + wire.expression("meta", wire.be32(2, 3) + wire.be32(3, REG))
        )

    def run(self, state: State) -> Any:
        """Change the packet's mark."""
        state.mark = state.mark | self.bits if self.on else state.mark & ~self.bits
        return True


@dataclass(frozen=True, slots=True)
class CtState:
    """``ct state established,related``."""

    states: tuple[str, ...]

    def render(self) -> str:
        """As nft writes it."""
        return f"ct state {','.join(self.states)}"

    def encode(self) -> bytes:
        """Load, mask, compare with zero."""
        mask = sum(CT_STATES[s] for s in self.states)
        load = wire.expression("ct", wire.be32(1, REG) + wire.be32(2, 0))
        return load + _bitwise(mask, 0) + _compare(bytes(4), equal=False)

    def run(self, state: State) -> Any:
        """Go on if the packet's state is one of them."""
        return state.packet.ct_state in self.states


@dataclass(frozen=True, slots=True)
class CtStatus:
    """``ct status dnat`` (or snat): the connection's address was rewritten."""

    status: str
    present: bool = True

    def render(self) -> str:
        """As nft writes it."""
        return f"ct status & {self.status} {'!=' if self.present else '=='} 0"

    def encode(self) -> bytes:
        """Load, mask, compare with zero."""
        load = wire.expression("ct", wire.be32(1, REG) + wire.be32(2, 2))
        return (
            load + _bitwise(CT_STATUS[self.status], 0) + _compare(bytes(4), equal=not self.present)
        )

    def run(self, state: State) -> Any:
        """Go on if it holds."""
        return (self.status in state.packet.ct_status) is self.present


@dataclass(frozen=True, slots=True)
class FibLocal:
    """``fib daddr type local`` (or saddr): the address is one of this machine's."""

    source: bool = False

    def render(self) -> str:
        """As nft writes it."""
        return f"fib {'saddr' if self.source else 'daddr'} type local"

    def encode(self) -> bytes:
        """Ask the routing table for the type (2 = local)."""
        which = wire.be32(3, 1 if self.source else 2)
        return wire.expression("fib", wire.be32(1, REG) + wire.be32(2, 3) + which) + _compare(
            integer_bytes(2)
        )

    def run(self, state: State) -> Any:
        """Go on if it is."""
        return state.packet.saddr_local if self.source else state.packet.daddr_local


@dataclass(frozen=True, slots=True)
class Masquerade:
    """``masquerade fully-random``."""

    def render(self) -> str:
        """As nft writes it."""
        return "masquerade fully-random"

    def encode(self) -> bytes:
        """NF_NAT_RANGE_PROTO_RANDOM_FULLY."""
        return wire.expression("masq", wire.be32(1, 16))

    def run(self, state: State) -> Any:
        """Note it."""
        state.masquerade = True
        return ACCEPT


@dataclass(frozen=True, slots=True)
class Notrack:
    """``notrack``: conntrack, and with it NAT, does not see the packet."""

    def render(self) -> str:
        """As nft writes it."""
        return "notrack"

    def encode(self) -> bytes:
        """No attributes."""
        return wire.expression("notrack")

    def run(self, state: State) -> Any:
        """Later hooks see an untracked packet."""
        state.packet = replace(state.packet, ct_state="untracked")
        return True


NOTRACK = Notrack()


@dataclass(frozen=True, slots=True)
class Reject:
    """``reject with tcp reset`` or ``reject`` (ICMP port unreachable)."""

    tcp_reset: bool = False

    def render(self) -> str:
        """As nft writes it."""
        return "reject with tcp reset" if self.tcp_reset else "reject"

    def encode(self) -> bytes:
        """ICMPX: a reject of both families, for inet tables."""
        if self.tcp_reset:
            return wire.expression("reject", wire.be32(1, 1) + wire.attr(2, b"\0"))
        return wire.expression("reject", wire.be32(1, 2) + wire.attr(2, b"\1"))

    def run(self, state: State) -> Any:
        """Ends the hook."""
        return Verdict("reject")
