"""What only policies need: a packet to its own sender, one in the middle of a connection, a queue."""

from dataclasses import dataclass
from typing import ClassVar

from kubewire.lang.iptables.matches import MODULE_RANK, World
from kubewire.lang.iptables.targets import Effect
from kubewire.lang.packet import Packet

_LOAD, _KEEP, _SAME, _RETURN = 0x20, 0x07, 0x1D, 0x06
"""BPF: load a word of the packet, keep it in X, jump by comparing with X, return."""


@dataclass(frozen=True, slots=True)
class Itself:
    """``-m bpf``: source and destination are one address. iptables has no match of its own for it."""

    version: int = 4
    rank: ClassVar[int] = MODULE_RANK

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        source, target, words = (12, 16, 1) if self.version == 4 else (8, 24, 4)
        code: list[tuple[int, int, int, int]] = []
        for word in range(0, 4 * words, 4):
            code += [(_LOAD, 0, 0, source + word), (_KEEP, 0, 0, 0), (_LOAD, 0, 0, target + word)]
            # Past the rest of the words and the return that says yes.
            code.append((_SAME, 0, 4 * words - word - 3, 0))
        code += [(_RETURN, 0, 0, 1), (_RETURN, 0, 0, 0)]
        text = ",".join(" ".join(map(str, step)) for step in code)
        return f'-m bpf --bytecode "{len(code)},{text}"'

    def holds(self, packet: Packet, world: World) -> bool:
        """Compare the ends."""
        return packet.source == packet.destination


@dataclass(frozen=True, slots=True)
class Midstream:
    """``-m tcp ! --syn``: not the start of a connection."""

    rank: ClassVar[int] = MODULE_RANK

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        return "-m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN"

    def holds(self, packet: Packet, world: World) -> bool:
        """Ask the packet."""
        return packet.protocol == "tcp" and packet.midstream


@dataclass(frozen=True, slots=True)
class Queue:
    """``-j NFQUEUE``: a program sees the packet before it goes on."""

    number: int

    def render(self) -> str:
        """As ``iptables-save`` prints it."""
        return f"-j NFQUEUE --queue-num {self.number} --queue-bypass"

    def apply(self, packet: Packet) -> Effect:
        """What waits goes on to the next table."""
        return Effect(packet, "accept")
