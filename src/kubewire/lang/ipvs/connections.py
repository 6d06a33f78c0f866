"""The kernel's connection table, as ``/proc/net/ip_vs_conn`` prints it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection; client port 0: the memory of a client (persistence), not a connection."""

    protocol: str
    client: str
    client_port: int
    virtual: str
    virtual_port: int
    destination: str
    destination_port: int
    state: str
    expires: int
    """Seconds."""

    @property
    def template(self) -> bool:
        """A client's place with its destination, kept by session affinity."""
        return self.client_port == 0


def parse(lines: Iterable[str]) -> Iterator[Connection]:
    """Every entry; the head line and what is no entry are left out."""
    for line in lines:
        words = line.split()
        if len(words) < 9 or words[0] not in _PROTOCOLS:
            continue
        client, virtual, destination = (address(words[i]) for i in (1, 3, 5))
        ports = (int(words[i], 16) for i in (2, 4, 6))
        client_port, virtual_port, destination_port = ports
        yield Connection(
            words[0], client, client_port, virtual, virtual_port, destination, destination_port,
            words[7], int(words[8]),
        )  # fmt: skip


_PROTOCOLS = ("TCP", "UDP", "SCTP", "IP")


def address(text: str) -> str:
    """From ``0A000001``, or an IPv6 address written out in brackets."""
    if ":" in text:
        return str(IPv6Address(text.strip("[]")))
    return str(IPv4Address(int(text, 16)))
