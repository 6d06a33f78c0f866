"""Expressions that only policies need: counter, log, ranges of ports, blocks of addresses."""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from kubewire.lang.nftables import wire
from kubewire.lang.nftables.expressions import (
    ACCEPT,
    DPORT,
    L4PROTO,
    REG,
    Match,
    Payload,
    State,
)


@dataclass(frozen=True, slots=True)
class Counter:
    """``counter``: packets that came this far in the rule."""

    def render(self) -> str:
        """As nft writes it."""
        return "counter"

    def encode(self) -> bytes:
        """A counter that starts at zero."""
        return wire.expression("counter")

    def run(self, state: State) -> Any:
        """Always goes on."""
        return True


@dataclass(frozen=True, slots=True)
class Log:
    """``log group N prefix P``: NFLOG."""

    group: int
    prefix: str

    def render(self) -> str:
        """As nft writes it."""
        return f'log prefix "{self.prefix}" group {self.group}'

    def encode(self) -> bytes:
        """A log expression; the kernel takes prefixes of up to 127 bytes."""
        return wire.expression("log", wire.be16(1, self.group) + wire.string(2, self.prefix))

    def run(self, state: State) -> Any:
        """Always goes on."""
        return True


@dataclass(frozen=True, slots=True)
class PortRange:
    """``th dport LOW-HIGH``."""

    low: int
    high: int

    def render(self) -> str:
        """As nft writes it."""
        return f"th dport {self.low}-{self.high}"

    def encode(self) -> bytes:
        """Load, compare with both ends."""
        body = wire.be32(1, REG) + wire.be32(2, 0)
        for kind, port in ((3, self.low), (4, self.high)):
            body += wire.nest(kind, wire.value(port.to_bytes(2, "big")))
        return DPORT.encode(REG) + wire.expression("range", body)

    def run(self, state: State) -> Any:
        """Go on if the port is inside."""
        return self.low <= state.packet.dport <= self.high


@dataclass(frozen=True, slots=True)
class Inside:
    """``ip saddr 10.0.0.0/8``."""

    load: Payload
    network: IPv4Network | IPv6Network

    def render(self) -> str:
        """As nft writes it."""
        return f"{self.load.render()} {self.network}"

    def encode(self) -> bytes:
        """Load, mask, compare."""
        mask, address = self.network.netmask.packed, self.network.network_address.packed
        body = wire.be32(1, REG) + wire.be32(2, REG) + wire.be32(3, len(mask))
        body += wire.nest(4, wire.value(mask)) + wire.nest(5, wire.value(bytes(len(mask))))
        equal = wire.be32(1, REG) + wire.be32(2, 0) + wire.nest(3, wire.value(address))
        return (
            self.load.encode(REG) + wire.expression("bitwise", body) + wire.expression("cmp", equal)
        )

    def run(self, state: State) -> Any:
        """Go on if the address is inside."""
        first = self.network.network_address.packed
        return first <= self.load.value(state) <= self.network.broadcast_address.packed


@dataclass(frozen=True, slots=True)
class ByProfile:
    """``ip saddr map @numbers vmap @profiles``: an address has a number, the number a verdict.

    nft's language cannot say this; the kernel can. The number is the second half of what the map gives,
    behind a word of nothing, because nft's listing ends ("Assertion consumed > 0") unless it has seen a
    key's register being loaded by itself: it shows the address in the number's place.
    """

    load: Payload
    numbers: str
    profiles: str

    def render(self) -> str:
        """As close to nft as can be."""
        return f"{self.load.render()} map @{self.numbers} vmap @{self.profiles}"

    def encode(self) -> bytes:
        """Load the address, look up its number, look up the verdict."""
        empty = REG + self.load.type.size // 4
        number = wire.string(1, self.numbers) + wire.be32(2, REG) + wire.be32(3, empty)
        verdict = wire.string(1, self.profiles) + wire.be32(2, empty + 1) + wire.be32(3, 0)
        return (
            self.load.encode(empty + 1)
            + self.load.encode(REG)
            + wire.expression("lookup", number)
            + wire.expression("lookup", verdict)
        )

    def run(self, state: State) -> Any:
        """The verdict; an address without a number does not match."""
        found = state.sets(self.numbers).get(self.load.value(state))
        verdict = None if found is None else state.sets(self.profiles).get(found[4:])
        return False if verdict is None else verdict


@dataclass(frozen=True, slots=True)
class Midstream:
    """``tcp flags & (fin | syn | rst | ack) != syn``: not the start of a connection."""

    def render(self) -> str:
        """As nft writes it."""
        return "tcp flags & (fin | syn | rst | ack) != syn"

    def encode(self) -> bytes:
        """Compare the protocol, load the flags, mask, compare."""
        flags = wire.be32(1, REG) + wire.be32(2, 2) + wire.be32(3, 13) + wire.be32(4, 1)
        mask = wire.be32(1, REG) + wire.be32(2, REG) + wire.be32(3, 1)
        mask += wire.nest(4, wire.value(b"\x17")) + wire.nest(5, wire.value(b"\0"))
        other = wire.be32(1, REG) + wire.be32(2, 1) + wire.nest(3, wire.value(b"\x02"))
        return (
            Match(L4PROTO, b"\x06").encode()
            + wire.expression("payload", flags)
            + wire.expression("bitwise", mask)
            + wire.expression("cmp", other)
        )

    def run(self, state: State) -> Any:
        """Go on if it is."""
        return state.packet.protocol == "tcp" and state.packet.midstream


@dataclass(frozen=True, slots=True)
class Queue:
    """``queue num N bypass``: a program sees the packet before it goes on.

    Sent as iptables' NFQUEUE target: kernels without nf_tables' own expression have that one.
    """

    number: int

    def render(self) -> str:
        """As nft writes it."""
        return f"queue num {self.number} bypass"

    def encode(self) -> bytes:
        """Revision 3 of the target: number, how many queues, flags (1: bypass)."""
        info = struct.pack("=HHHxx", self.number, 1, 1)
        body = wire.string(1, "NFQUEUE") + wire.be32(2, 3) + wire.attr(3, info)
        return wire.expression("target", body)

    def run(self, state: State) -> Any:
        """What waits goes on to the next base chain."""
        return ACCEPT
