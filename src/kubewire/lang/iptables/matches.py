"""Matches: what a rule asks of a packet. Each renders itself and evaluates itself.

``holds`` answers with a chance between 0 and 1: only ``Random`` ever says something between.
``rank`` is the place in a rule that ``iptables-save`` gives a match: the header's own options come
first, in a fixed order, modules follow as they were written.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, Protocol

from kubewire.lang.iptables.ipset import IpSet
from kubewire.lang.iptables.text import quote, spell
from kubewire.lang.packet import Packet

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
MODULE_RANK = 9
ICMP6 = "ipv6-icmp"
FULL_MARK = 0xFFFFFFFF
DICE = 1 << 31
"""The kernel compares 31 random bits."""


@dataclass(frozen=True, slots=True)
class World:
    """What rules ask about that is not in the packet."""

    sets: Mapping[str, IpSet] = field(default_factory=dict)
    remembered: frozenset[str] = frozenset()
    """Lists of ``recent`` that hold the packet's source."""


class UnanswerableError(Exception):
    """A rule asks something that no packet value can answer; the text names it."""


class Match(Protocol):
    """One condition of a rule."""

    rank: ClassVar[int]

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        ...

    def holds(self, packet: Packet, world: World) -> float:
        """The chance that it holds."""
        ...


def _not(invert: bool) -> str:
    return "! " if invert else ""


@lru_cache(maxsize=1 << 14)
def network(text: str) -> Network:
    """Read an address or a network; ValueError if it is none."""
    return ipaddress.ip_network(text, strict=False)


@dataclass(frozen=True, slots=True)
class Source:
    """``-s NETWORK``; the prefix length is always written."""

    network: str
    invert: bool = False
    rank: ClassVar[int] = 0

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        return f"! -s {self.network}" if self.invert else f"-s {self.network}"

    def holds(self, packet: Packet, world: World) -> bool:
        """Compare the source address."""
        return (ipaddress.ip_address(packet.saddr) in network(self.network)) is not self.invert


@dataclass(frozen=True, slots=True)
class Destination:
    """``-d NETWORK``; the prefix length is always written."""

    network: str
    invert: bool = False
    rank: ClassVar[int] = 1

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        return f"! -d {self.network}" if self.invert else f"-d {self.network}"

    def holds(self, packet: Packet, world: World) -> bool:
        """Compare the destination address."""
        if self.network.partition("/")[0] == packet.daddr and self.network.endswith(
            ("/32", "/128")
        ):
            return not self.invert
        return (ipaddress.ip_address(packet.daddr) in network(self.network)) is not self.invert


def _named(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("+") else name == pattern


@dataclass(frozen=True, slots=True)
class InInterface:
    """``-i NAME``; a ``+`` at the end stands for any rest."""

    name: str
    invert: bool = False
    rank: ClassVar[int] = 2

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        return f"{_not(self.invert)}-i {self.name}"

    def holds(self, packet: Packet, world: World) -> bool:
        """Compare the interface that it came by."""
        return _named(self.name, packet.iifname) is not self.invert


@dataclass(frozen=True, slots=True)
class OutInterface:
    """``-o NAME``; a ``+`` at the end stands for any rest."""

    name: str
    invert: bool = False
    rank: ClassVar[int] = 3

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        return f"{_not(self.invert)}-o {self.name}"

    def holds(self, packet: Packet, world: World) -> bool:
        """Compare the interface that it leaves by."""
        return _named(self.name, packet.oifname) is not self.invert


@dataclass(frozen=True, slots=True)
class Proto:
    """``-p tcp``."""

    name: str
    invert: bool = False
    rank: ClassVar[int] = 4

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        return f"! -p {self.name}" if self.invert else f"-p {self.name}"

    def holds(self, packet: Packet, world: World) -> bool:
        """Compare the protocol."""
        own = ICMP6 if packet.protocol == "icmpv6" else packet.protocol
        return (own == self.name) is not self.invert


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition(":")
    return int(low or 0), int(high or 65535) if ":" in text else int(low)


def _in_range(text: str, port: int) -> bool:
    low, high = _range(text)
    return low <= port <= high


@dataclass(frozen=True, slots=True)
class Ports:
    """``-m tcp --sport A --dport B:C`` (or udp, sctp); "" asks nothing."""

    module: str
    dport: str = ""
    sport: str = ""
    not_dport: bool = False
    not_sport: bool = False
    rank: ClassVar[int] = MODULE_RANK

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        text = f"-m {self.module}"
        if self.sport:
            text += f" {_not(self.not_sport)}--sport {self.sport}"
        if self.dport:
            text += f" {_not(self.not_dport)}--dport {self.dport}"
        return text

    def holds(self, packet: Packet, world: World) -> bool:
        """Compare protocol and ports."""
        if packet.protocol != self.module:
            return False
        if self.sport and _in_range(self.sport, packet.sport) is self.not_sport:
            return False
        return not self.dport or _in_range(self.dport, packet.dport) is not self.not_dport


@dataclass(frozen=True, slots=True)
class Multiport:
    """``-m multiport --dports 80,90:99``."""

    ports: tuple[str, ...]
    side: str = "dports"
    """dports, sports or ports (either)."""
    invert: bool = False
    rank: ClassVar[int] = MODULE_RANK

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        return f"-m multiport {_not(self.invert)}--{self.side} {','.join(self.ports)}"

    def holds(self, packet: Packet, world: World) -> bool:
        """Compare the ports that it names."""
        own = {"dports": (packet.dport,), "sports": (packet.sport,)}.get(
            self.side, (packet.sport, packet.dport)
        )
        return any(_in_range(r, port) for r in self.ports for port in own) is not self.invert


@dataclass(frozen=True, slots=True)
class IcmpType:
    """``-m icmp --icmp-type 8`` or ``-m icmp6 --icmpv6-type 135``; a packet has it as its sport."""

    type: str
    version: int = 4
    invert: bool = False
    rank: ClassVar[int] = MODULE_RANK

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        module, option = ("icmp", "icmp-type") if self.version == 4 else ("icmp6", "icmpv6-type")
        return f"-m {module} {_not(self.invert)}--{option} {self.type}"

    def holds(self, packet: Packet, world: World) -> bool:
        """Compare the type; codes are not part of a packet value."""
        wanted = self.type.partition("/")[0]
        same = wanted in ("any", "255") or int(wanted) == packet.sport
        return same is not self.invert


@dataclass(frozen=True, slots=True)
class AddrType:
    """``-m addrtype --dst-type LOCAL``."""

    type: str = "LOCAL"
    side: str = "dst"
    invert: bool = False
    rank: ClassVar[int] = MODULE_RANK

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        return f"-m addrtype {_not(self.invert)}--{self.side}-type {self.type}"

    def holds(self, packet: Packet, world: World) -> bool:
        """Ask what kind of address it is."""
        return (self._kind(packet) in self.type.split(",")) is not self.invert

    def _kind(self, packet: Packet) -> str:
        address, local = (
            (packet.daddr, packet.daddr_local)
            if self.side == "dst"
            else (packet.saddr, packet.saddr_local)
        )
        if local:
            return "LOCAL"
        ip = ipaddress.ip_address(address)
        if ip.is_multicast:
            return "MULTICAST"
        return "BROADCAST" if str(ip) == "255.255.255.255" else "UNICAST"


STATES = ("INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED", "SNAT", "DNAT")
"""In the order in which they are printed."""


@dataclass(frozen=True, slots=True)
class CtState:
    """``-m conntrack --ctstate RELATED,ESTABLISHED``; SNAT and DNAT are states here."""

    states: tuple[str, ...]
    invert: bool = False
    rank: ClassVar[int] = MODULE_RANK

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        shown = ",".join(s for s in STATES if s in self.states)
        return f"-m conntrack {_not(self.invert)}--ctstate {shown}"

    def holds(self, packet: Packet, world: World) -> bool:
        """Ask the connection's state."""
        own = {packet.ct_state.upper(), *(s.upper() for s in packet.ct_status)}
        return bool(own & set(self.states)) is not self.invert


STATUSES = ("EXPECTED", "SEEN_REPLY", "ASSURED", "CONFIRMED")


@dataclass(frozen=True, slots=True)
class CtStatus:
    """``-m conntrack --ctstatus ASSURED``."""

    statuses: tuple[str, ...]
    invert: bool = False
    rank: ClassVar[int] = MODULE_RANK

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        shown = ",".join(s for s in STATUSES if s in self.statuses) or "NONE"
        return f"-m conntrack {_not(self.invert)}--ctstatus {shown}"

    def holds(self, packet: Packet, world: World) -> bool:
        """Ask the connection's status."""
        own = {s.upper() for s in packet.ct_status} & set(STATUSES)
        return (bool(own & set(self.statuses)) or not (own or self.statuses)) is not self.invert


@dataclass(frozen=True, slots=True)
class Mark:
    """``-m mark --mark 0x4000/0x4000``."""

    value: int
    mask: int = FULL_MARK
    invert: bool = False
    rank: ClassVar[int] = MODULE_RANK

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        mask = "" if self.mask == FULL_MARK else f"/0x{self.mask:x}"
        return f"-m mark {_not(self.invert)}--mark 0x{self.value:x}{mask}"

    def holds(self, packet: Packet, world: World) -> bool:
        """Compare the bits under the mask."""
        return (packet.mark & self.mask == self.value) is not self.invert


@dataclass(frozen=True, slots=True)
class Comment:
    """``-m comment --comment TEXT``: always holds, and is a rule's reason."""

    text: str
    rank: ClassVar[int] = MODULE_RANK

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        return f"-m comment --comment {quote(self.text)}"

    def holds(self, packet: Packet, world: World) -> bool:
        """Always."""
        return True


@dataclass(frozen=True, slots=True)
class Random:
    """``-m statistic --mode random --probability P``, kept as the kernel does: P out of 2**31."""

    parts: int
    rank: ClassVar[int] = MODULE_RANK

    @classmethod
    def one_in(cls, count: int) -> Random:
        """The chance 1/count."""
        return cls(round(DICE / count))

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        return f"-m statistic --mode random --probability {self.parts / DICE:.11f}"

    def holds(self, packet: Packet, world: World) -> float:
        """The chance."""
        return self.parts / DICE


@dataclass(frozen=True, slots=True)
class Recent:
    """``-m recent``: remembers sources in a list (set), or asks for them (rcheck, update)."""

    action: str
    """set, rcheck, update or remove."""
    name: str
    seconds: int = 0
    reap: bool = False
    hitcount: int = 0
    version: int = 4
    invert: bool = False
    rank: ClassVar[int] = MODULE_RANK

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        text = f"-m recent {_not(self.invert)}--{self.action}"
        if self.seconds:
            text += f" --seconds {self.seconds}"
        if self.reap:
            text += " --reap"
        if self.hitcount:
            text += f" --hitcount {self.hitcount}"
        mask = "255.255.255.255" if self.version == 4 else "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        return f"{text} --name {self.name} --mask {mask} --rsource"

    def holds(self, packet: Packet, world: World) -> bool:
        """A set always holds; the others if the list has the source."""
        return (self.action == "set" or self.name in world.remembered) is not self.invert


@dataclass(frozen=True, slots=True)
class InSet:
    """``-m set --match-set NAME src,dst``."""

    name: str
    directions: tuple[str, ...] = ("src",)
    invert: bool = False
    rank: ClassVar[int] = MODULE_RANK

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        return f"-m set {_not(self.invert)}--match-set {self.name} {','.join(self.directions)}"

    def holds(self, packet: Packet, world: World) -> bool:
        """Look the packet up in the set."""
        found = world.sets.get(self.name)
        if found is None:
            raise UnanswerableError(f"the set {self.name} is not known")
        return found.has(packet, self.directions) is not self.invert


@dataclass(frozen=True, slots=True)
class Limit:
    """``-m limit --limit 10/min``; a single packet is within any limit."""

    rate: str
    burst: int = 5
    rank: ClassVar[int] = MODULE_RANK

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        burst = f" --limit-burst {self.burst}" if self.burst != 5 else ""
        return f"-m limit --limit {self.rate}{burst}"

    def holds(self, packet: Packet, world: World) -> bool:
        """Always, for a single packet."""
        return True


@dataclass(frozen=True, slots=True)
class OtherMatch:
    """A match that nothing here asks for: kept as it was written, for rules of others."""

    words: tuple[str, ...]
    rank: ClassVar[int] = MODULE_RANK

    def render(self) -> str:
        """The same words."""
        return " ".join(map(spell, self.words))

    def holds(self, packet: Packet, world: World) -> float:
        """Nobody knows."""
        raise UnanswerableError(f"{self.render()} cannot be told from a packet")
