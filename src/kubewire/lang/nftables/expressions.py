"""What rules are made of: each expression renders itself, encodes itself and evaluates itself.

An expression's ``run`` returns True to go on with the next expression, False if the rule does not
match, or a Stop. Registers are numbered from 8 (NFT_REG32_00), four bytes each.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

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
    padded,
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
ICMPV6_TYPE = Payload("icmpv6 type", PROTO, 2, 0, lambda p: bytes([p.sport & 0xFF]))


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
OIFNAME = Meta("oifname", IFNAME, 7, lambda s: ifname_bytes(s.packet.oifname))
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


def _keys(loads: Sequence[Load], register: int = REG) -> bytes:
    found = b""
    for load in loads:
        found += load.encode(register)
        register += padded(load.type.size) // 4
    return found


def _key_value(loads: Sequence[Load], state: State) -> bytes:
    if len(loads) == 1:
        return loads[0].value(state)
    return b"".join(v + bytes(-len(v) & 3) for v in (load.value(state) for load in loads))


def _key_text(loads: Sequence[Load]) -> str:
    return " . ".join(load.render() for load in loads)


@dataclass(frozen=True, slots=True)
class Lookup:
    """``a . b @set``, or ``!= @set``."""

    loads: tuple[Load, ...]
    set: str
    inverted: bool = False

    def render(self) -> str:
        """As nft writes it."""
        return f"{_key_text(self.loads)} {'!= ' if self.inverted else ''}@{self.set}"

    def encode(self) -> bytes:
        """Load the key, look it up."""
        body = wire.string(1, self.set) + wire.be32(2, REG)
        return _keys(self.loads) + wire.expression(
            "lookup", body + (wire.be32(5, 1) if self.inverted else b"")
        )

    def run(self, state: State) -> Any:
        """Go on if the key is (not) in the set."""
        return state.sets(self.set).has(_key_value(self.loads, state)) is not self.inverted


@dataclass(frozen=True, slots=True)
class Vmap:
    """``a . b vmap @map``."""

    loads: tuple[Load, ...]
    map: str

    def render(self) -> str:
        """As nft writes it."""
        return f"{_key_text(self.loads)} vmap @{self.map}"

    def encode(self) -> bytes:
        """Load the key, look up a verdict."""
        return _keys(self.loads) + wire.expression(
            "lookup", wire.string(1, self.map) + wire.be32(2, REG) + wire.be32(3, 0)
        )

    def run(self, state: State) -> Any:
        """The verdict; without one the rule does not match."""
        found = state.sets(self.map).get(_key_value(self.loads, state))
        return False if found is None else found


@dataclass(frozen=True, slots=True)
class DnatMap:
    """``dnat to <key> map @m``: the map gives address . port; a numgen in the key gives a choice."""

    loads: tuple[Load, ...]
    map: str
    version: int = 4

    def render(self) -> str:
        """As nft writes it."""
        family = "ip" if self.version == 4 else "ip6"
        return f"dnat {family} to {_key_text(self.loads)} map @{self.map}"

    def encode(self) -> bytes:
        """Load the key, look up the target, translate."""
        return _keys(self.loads) + _lookup(self.map, REG, REG) + _translate(REG, self.version)

    def run(self, state: State) -> Any:
        """Collect every target; ends the evaluation of the hook, as nat does."""
        return _run_choice(self.loads, self.map, self.version, state)


def _choices(loads: Sequence[Load], state: State) -> list[bytes]:
    keys = [b""]
    for load in loads:
        if isinstance(load, Numgen):
            keys = [
                k + integer_bytes(i)
                for k in keys
                for i in range(load.offset, load.offset + load.modulus)
            ]
        else:
            found = load.value(state)
            keys = [k + found + bytes(-len(found) & 3) for k in keys]
    return keys


def _run_choice(
    loads: Sequence[Load], name: str, version: int, state: State, skipped: int = 0
) -> Any:
    size = 4 if version == 4 else 16
    found = (state.sets(name).get(choice) for choice in _choices(loads, state))
    targets = [f[skipped:] for f in found if f is not None]
    if not targets:
        return False
    state.targets = tuple((t[:size], t[size : size + 2]) for t in targets)
    return ACCEPT


class _Registers(NamedTuple):
    """client . frontend, and right behind it a target: a rule that is sticky keeps them apart.

    What a map gives is the frontend's port . address . port, so the first part goes where the
    frontend's port is, and the rule fills the other two before it asks. Both are for nft's listing
    alone: it must have seen each register of a key being loaded by itself, or it ends (1.0.6: "Assertion
    consumed > 0"), whatever was to be listed, for it cannot tell the length of what a map gives.
    """

    key: int
    frontend: int
    port: int
    target: int

    @classmethod
    def of(cls, version: int) -> _Registers:
        words = 1 if version == 4 else 4
        return cls(REG, REG + words, REG + 2 * words + 1, REG + 2 * words + 2)

    def seen(self, loads: Sequence[Load]) -> bytes:
        """Something in the place of the target: an address and a port."""
        return _keys((loads[0], loads[-1]), self.target)

    def remember(self, memory: str, timeout: int) -> bytes:
        """Client . frontend -> target, from now on."""
        body = wire.string(1, memory) + wire.be32(3, 1) + wire.be32(4, self.key)
        return wire.expression(
            "dynset", body + wire.be32(5, self.port) + wire.be64(6, timeout * 1000)
        )


@dataclass(frozen=True, slots=True)
class StickyDnat:
    """Send a client where it was sent before, if that is still an endpoint.

    ``memory`` maps client . frontend to the target; ``valid`` holds frontend . target. A client
    whose target is gone is not renewed towards it (kubernetes#110302). nft's language cannot say
    this; the kernel can: the target travels in registers 12 ff. from one look-up to the next.
    """

    client: Load
    loads: tuple[Load, ...]
    memory: str
    valid: str
    timeout: int
    version: int = 4

    def render(self) -> str:
        """As close to nft as can be."""
        key = _key_text((self.client, *self.loads))
        return f"update @{self.memory} {{ {key} timeout {self.timeout}s }} dnat to {key} map @{self.memory}"

    def encode(self) -> bytes:
        """Look the client up, check the target, renew, translate."""
        at = _Registers.of(self.version)
        found = at.seen(self.loads) + _keys((self.client, *self.loads), at.key)
        found += _lookup(self.memory, at.key, at.port)
        # The frontend once more, right in front of the target: together they are the key of valid.
        found += _keys(self.loads, at.frontend)
        found += wire.expression("lookup", wire.string(1, self.valid) + wire.be32(2, at.frontend))
        found += at.remember(self.memory, self.timeout)
        return found + _translate(at.target, self.version)

    def run(self, state: State) -> Any:
        """A new client is in nobody's memory."""
        found = state.sets(self.memory).get(_key_value((self.client, *self.loads), state))
        target = None if found is None else found[4:]
        if target is None or not state.sets(self.valid).has(_key_value(self.loads, state) + target):
            return False
        size = 4 if self.version == 4 else 16
        state.targets = ((target[:size], target[size : size + 2]),)
        return ACCEPT


@dataclass(frozen=True, slots=True)
class RememberingDnat:
    """Choose a target as DnatMap does, and remember it for the client.

    What the map gives begins with the frontend's port, and so does what is remembered.
    """

    client: Load
    loads: tuple[Load, ...]
    map: str
    memory: str
    timeout: int
    version: int = 4

    def render(self) -> str:
        """As close to nft as can be."""
        choice = DnatMap(self.loads, self.map, self.version).render()
        return (
            f"add @{self.memory} {{ {self.client.render()} ... timeout {self.timeout}s }} {choice}"
        )

    def encode(self) -> bytes:
        """Choose into the registers behind the client's key, forget, remember, translate."""
        at = _Registers.of(self.version)
        frontend = tuple(x for x in self.loads if not isinstance(x, Numgen))
        found = at.seen(frontend) + _keys(self.loads) + _lookup(self.map, REG, at.port)
        found += _keys((self.client, *frontend), at.key)
        # An update would keep the old target, so it is deleted first.
        body = wire.string(1, self.memory) + wire.be32(3, 2) + wire.be32(4, at.key)
        found += wire.expression("dynset", body + wire.be32(5, at.port))
        found += at.remember(self.memory, self.timeout)
        return found + _translate(at.target, self.version)

    def run(self, state: State) -> Any:
        """As the choice."""
        return _run_choice(self.loads, self.map, self.version, state, skipped=4)


def _lookup(name: str, source: int, target: int) -> bytes:
    return wire.expression(
        "lookup", wire.string(1, name) + wire.be32(2, source) + wire.be32(3, target)
    )


def _translate(register: int, version: int) -> bytes:
    port = register + (1 if version == 4 else 4)
    body = wire.be32(1, 1) + wire.be32(2, 2 if version == 4 else 10)
    return wire.expression("nat", body + wire.be32(3, register) + wire.be32(5, port))


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
