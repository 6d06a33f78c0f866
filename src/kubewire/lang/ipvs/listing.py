"""Virtual servers as ``/proc/net/ip_vs`` prints them: all there are in one cheap reading.

Of persistence, schedulers and flags netlink tells more; this is to see at a glance what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kubewire.lang.ipvs.connections import address
from kubewire.lang.ipvs.model import DestinationKey, VirtualServer


class Entry(NamedTuple):
    """A server (with neither destination nor weight) or one of its destinations."""

    server: str
    destination: DestinationKey | None = None
    weight: int = 0


def entries(server: VirtualServer) -> Iterator[Entry]:
    """What is printed of a server."""
    key = server.key
    name = f"FWM {key.mark}" if key.mark else _name(key.protocol, key.address, key.port)
    yield Entry(name)
    for destination, weight in server.destinations.items():
        yield Entry(name, destination, weight)


def parse(lines: Iterable[str]) -> Iterator[Entry]:
    """Every entry; the head lines are left out."""
    name = ""
    for line in lines:
        words = line.split()
        if words[0] == "->" and name:
            yield Entry(name, DestinationKey(*_place(words[1])), int(words[3]))
        elif words[0] in ("TCP", "UDP", "SCTP"):
            name = _name(words[0], *_place(words[1]))
            yield Entry(name)
        elif words[0] == "FWM":
            name = f"FWM {int(words[1], 16)}"
            yield Entry(name)


def _place(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return address(host), int(port, 16)


def _name(protocol: str, ip: str, port: int) -> str:
    return f"{protocol} {ip} {port}"
