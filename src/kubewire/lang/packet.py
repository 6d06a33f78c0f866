"""A packet as rules see it, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from kubewire.lang.nftables.types import ip_bytes

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet at a hook; addresses as text, ports 0 where the protocol has none."""

    saddr: str
    daddr: str
    protocol: str = "tcp"
    sport: int = 40000
    dport: int = 0
    iifname: str = ""
    oifname: str = ""
    mark: int = 0
    ct_state: str = "new"
    """new, established, related or invalid."""
    ct_status: frozenset[str] = frozenset()
    """Of dnat, snat."""
    ct_mark: int = 0
    ct_reply: bool = False
    """It goes against the direction of the connection's first packet."""
    daddr_local: bool = False
    """The destination is an address of this machine (fib daddr type local)."""
    saddr_local: bool = False
    """The source is an address of this machine."""
    midstream: bool = False
    """A TCP packet that does not open a connection."""

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.daddr else 4

    @property
    def source(self) -> bytes:
        """Packed source address."""
        return ip_bytes(self.saddr)

    @property
    def destination(self) -> bytes:
        """Packed destination address."""
        return ip_bytes(self.daddr)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a hook did to a packet."""

    verdict: str
    """accept, drop or reject."""
    targets: tuple[tuple[str, int], ...] = ()
    """Every (address, port) that a DNAT may have chosen; port 0: unchanged."""
    masquerade: bool = False
    mark: int = 0
    reasons: tuple[str, ...] = field(default=())
    """Reasons of the rules that matched, in order."""
