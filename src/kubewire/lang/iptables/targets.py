"""Targets: what a rule does with a packet. Each renders itself and says what becomes of the packet.

``apply`` returns the packet as it goes on and a verdict: "" to go on with the next rule, a chain to
jump or go to is the walk's business (``model``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from kubewire.lang.iptables.matches import FULL_MARK, UnanswerableError
from kubewire.lang.iptables.text import quote, spell
from kubewire.lang.packet import Packet


@dataclass(frozen=True, slots=True)
class Effect:
    """What a target did."""

    packet: Packet
    verdict: str = ""
    """accept, drop, reject, return, or "" for: go on."""
    target: tuple[str, int] | None = None
    """Where DNAT sends it; port 0: unchanged."""
    masquerade: bool = False
    """Its source is rewritten (MASQUERADE or SNAT)."""


class Target(Protocol):
    """The action of a rule."""

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        ...

    def apply(self, packet: Packet) -> Effect:
        """What becomes of the packet."""
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """ACCEPT, DROP or RETURN."""

    name: str

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        return f"-j {self.name}"

    def apply(self, packet: Packet) -> Effect:
        """The end of the walk, or of the chain."""
        return Effect(packet, self.name.lower())


ACCEPT, DROP, RETURN = Verdict("ACCEPT"), Verdict("DROP"), Verdict("RETURN")


@dataclass(frozen=True, slots=True)
class Jump:
    """``-j CHAIN``, or ``-g CHAIN``: its end is then the end of this chain too."""

    chain: str
    goto: bool = False

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        return f"-g {self.chain}" if self.goto else f"-j {self.chain}"

    def apply(self, packet: Packet) -> Effect:
        """Nothing by itself."""
        return Effect(packet)


@dataclass(frozen=True, slots=True)
class NoTarget:
    """A rule without ``-j``: it counts, or its matches remember something."""

    def render(self) -> str:
        """Nothing."""
        return ""

    def apply(self, packet: Packet) -> Effect:
        """Go on."""
        return Effect(packet)


@dataclass(frozen=True, slots=True)
class Reject:
    """``-j REJECT --reject-with icmp-port-unreachable``."""

    with_: str = "icmp-port-unreachable"

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        return f"-j REJECT --reject-with {self.with_}"

    def apply(self, packet: Packet) -> Effect:
        """The end, and the sender is told."""
        return Effect(packet, "reject")


REJECT = {4: Reject(), 6: Reject("icmp6-port-unreachable")}
"""The default of each family."""


@dataclass(frozen=True, slots=True)
class SetMark:
    """``-j MARK --set-xmark VALUE/MASK``: the bits of the mask are zeroed, then VALUE is xored in."""

    value: int
    mask: int = FULL_MARK

    @classmethod
    def or_(cls, bits: int) -> SetMark:
        """``--or-mark``."""
        return cls(bits, bits)

    @classmethod
    def xor(cls, bits: int) -> SetMark:
        """``--xor-mark``."""
        return cls(bits, 0)

    @classmethod
    def and_(cls, bits: int) -> SetMark:
        """``--and-mark``."""
        return cls(0, ~bits & FULL_MARK)

    @classmethod
    def set(cls, value: int, mask: int = FULL_MARK) -> SetMark:
        """``--set-mark``: the bits of the mask are zeroed, then VALUE is *or*ed in."""
        return cls(value, value | mask)

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        return f"-j MARK --set-xmark 0x{self.value:x}/0x{self.mask:x}"

    def apply(self, packet: Packet) -> Effect:
        """Change the mark and go on."""
        return Effect(replace(packet, mark=(packet.mark & ~self.mask) ^ self.value))


@dataclass(frozen=True, slots=True)
class Masquerade:
    """``-j MASQUERADE``."""

    random_fully: bool = False
    to_ports: str = ""

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        ports = f" --to-ports {self.to_ports}" if self.to_ports else ""
        return f"-j MASQUERADE{ports}{' --random-fully' if self.random_fully else ''}"

    def apply(self, packet: Packet) -> Effect:
        """The source becomes an address of this machine."""
        return Effect(packet, "accept", masquerade=True)


@dataclass(frozen=True, slots=True)
class Snat:
    """``-j SNAT --to-source ADDRESS[:PORTS]``."""

    to: str
    random_fully: bool = False

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        return f"-j SNAT --to-source {self.to}{' --random-fully' if self.random_fully else ''}"

    def apply(self, packet: Packet) -> Effect:
        """The source becomes a given address."""
        source, port = split_target(self.to)
        packet = replace(packet, saddr=source, sport=port or packet.sport)
        return Effect(packet, "accept", masquerade=True)


@dataclass(frozen=True, slots=True)
class Dnat:
    """``-j DNAT --to-destination ADDRESS[:PORT]``."""

    to: str
    persistent: bool = False

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        return f"-j DNAT --to-destination {self.to}{' --persistent' if self.persistent else ''}"

    def apply(self, packet: Packet) -> Effect:
        """The destination becomes another one."""
        address, port = split_target(self.to)
        changed = replace(
            packet,
            daddr=address or packet.daddr,
            dport=port or packet.dport,
            ct_status=packet.ct_status | {"dnat"},
        )
        return Effect(changed, "accept", (changed.daddr, port))


def split_target(text: str) -> tuple[str, int]:
    """``1.2.3.4:80``, ``[v6]:80``, or an address alone (port 0); the first of a range."""
    if text.startswith("["):
        address, _, port = text[1:].partition("]:")
    elif text.count(":") > 1:
        address, port = text, ""
    else:
        address, _, port = text.partition(":")
    return address.partition("-")[0], int(port.partition("-")[0] or 0)


@dataclass(frozen=True, slots=True)
class Redirect:
    """``-j REDIRECT --to-ports PORT``: to this machine itself."""

    to_ports: str = ""

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        return f"-j REDIRECT --to-ports {self.to_ports}" if self.to_ports else "-j REDIRECT"

    def apply(self, packet: Packet) -> Effect:
        """The destination becomes this machine (its loopback address stands for it)."""
        address = "127.0.0.1" if packet.version == 4 else "::1"
        port = int(self.to_ports.partition("-")[0] or 0)
        changed = replace(
            packet,
            daddr=address,
            dport=port or packet.dport,
            daddr_local=True,
            ct_status=packet.ct_status | {"dnat"},
        )
        return Effect(changed, "accept", (address, port))


@dataclass(frozen=True, slots=True)
class Nflog:
    """``-j NFLOG --nflog-prefix TEXT --nflog-group N``."""

    group: int = 0
    prefix: str = ""

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        prefix = f" --nflog-prefix {quote(self.prefix)}" if self.prefix else ""
        group = f" --nflog-group {self.group}" if self.group else ""
        return f"-j NFLOG{prefix}{group}"

    def apply(self, packet: Packet) -> Effect:
        """Go on."""
        return Effect(packet)


@dataclass(frozen=True, slots=True)
class Log:
    """``-j LOG --log-prefix TEXT``."""

    prefix: str = ""
    level: int = 4

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        prefix = f" --log-prefix {quote(self.prefix)}" if self.prefix else ""
        level = f" --log-level {self.level}" if self.level != 4 else ""
        return f"-j LOG{prefix}{level}"

    def apply(self, packet: Packet) -> Effect:
        """Go on."""
        return Effect(packet)


@dataclass(frozen=True, slots=True)
class Notrack:
    """``-j NOTRACK`` (raw table), or its newer spelling ``-j CT --notrack``."""

    ct: bool = False

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        return "-j CT --notrack" if self.ct else "-j NOTRACK"

    def apply(self, packet: Packet) -> Effect:
        """The packet has no connection."""
        return Effect(replace(packet, ct_state="untracked"))


@dataclass(frozen=True, slots=True)
class OtherTarget:
    """A target that nothing here uses: kept as it was written, for rules of others."""

    words: tuple[str, ...]

    def render(self) -> str:
        """The same words."""
        return " ".join(map(spell, self.words))

    def apply(self, packet: Packet) -> Effect:
        """Nobody knows."""
        raise UnanswerableError(f"{self.render()} cannot be told from a packet")
