"""Virtual servers as values; the difference of two states is a list of operations.

A virtual server is found by address, protocol and port, or by the mark that a rule gave the packet;
a marked packet is looked up by its mark first. Its destinations get new connections by weight, in
the way of its scheduler; one of weight 0 keeps the connections that it has and gets no new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from kubewire.lang.packet import Packet

PORT_IN_HASH = 0x10
"""Flag of ``sh`` and ``mh``: the client's port counts too, not its address alone."""
FALLBACK = 0x8
"""Flag of ``sh`` and ``mh``: a client whose destination is out gets another one."""


class ServerKey(NamedTuple):
    """What a packet is addressed to: address, protocol and port, or a mark alone."""

    version: int
    address: str = ""
    protocol: str = ""
    port: int = 0
    mark: int = 0

    def __str__(self) -> str:
        if self.mark:
            return f"-f {self.mark}{' -6' if self.version == 6 else ''}"
        flag = {"TCP": "-t", "UDP": "-u", "SCTP": "--sctp-service"}[self.protocol]
        return f"{flag} {address_text(self.address, self.port)}"


class DestinationKey(NamedTuple):
    """Where connections are sent."""

    address: str
    port: int

    def __str__(self) -> str:
        return address_text(self.address, self.port)


def address_text(address: str, port: int) -> str:
    """``ip:port``, ``[v6]:port``."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@dataclass(frozen=True, slots=True)
class VirtualServer:
    """One virtual server; connections are translated (NAT), as Services need it."""

    key: ServerKey
    scheduler: str = "rr"
    persistence: int | None = None
    """Seconds that a client stays with its destination."""
    flags: int = 0
    """Of the scheduler: `PORT_IN_HASH`, `FALLBACK`."""
    destinations: Mapping[DestinationKey, int] = field(default_factory=dict)
    """Weights."""

    @property
    def bare(self) -> VirtualServer:
        """The same without destinations."""
        return replace(self, destinations={})

    def lines(self) -> Iterator[str]:
        """As ``ipvsadm --save -n`` prints it, destinations in order."""
        sticky = f" -p {self.persistence}" if self.persistence is not None else ""
        names = [name for bit, name in _flag_names(self.scheduler) if self.flags & bit]
        flags = f" -b {','.join(names)}" if names else ""
        yield f"-A {self.key} -s {self.scheduler}{sticky}{flags}"
        for destination, weight in sorted(self.destinations.items()):
            yield f"-a {self.key} -r {destination} -m -w {weight}"


def _flag_names(scheduler: str) -> tuple[tuple[int, str], ...]:
    if scheduler in ("sh", "mh"):
        return (FALLBACK, f"{scheduler}-fallback"), (PORT_IN_HASH, f"{scheduler}-port")
    return (FALLBACK, "flag-1"), (PORT_IN_HASH, "flag-2")


Servers = Mapping[ServerKey, VirtualServer]


# -- differences ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Operation:
    """One request to the kernel."""

    verb: str
    """add, set or remove."""
    server: VirtualServer
    """What it is about, without destinations; of a removal only the key counts."""
    destination: DestinationKey | None = None
    """None: the server itself."""
    weight: int = 0

    def __str__(self) -> str:
        if self.destination is None:
            return f"{self.verb} virtual server {self.server.key}"
        return f"{self.verb} destination {self.destination} of {self.server.key}"


def diff(old: Servers, new: Servers) -> list[Operation]:
    """The operations that lead from one state to the other.

    Servers come before their destinations; what is gone goes first, so that a mark can be given to
    another server.
    """
    found = [Operation("remove", old[key].bare) for key in old if key not in new]
    for key, server in new.items():
        before = old.get(key)
        if before is None:
            found.append(Operation("add", server.bare))
        elif before.bare != server.bare:
            found.append(Operation("set", server.bare))
        found += _destinations(server, before.destinations if before else {})
    return found


def _destinations(server: VirtualServer, old: Mapping[DestinationKey, int]) -> Iterator[Operation]:
    bare, new = server.bare, server.destinations
    for key, weight in new.items():
        if key not in old:
            yield Operation("add", bare, key, weight)
        elif old[key] != weight:
            yield Operation("set", bare, key, weight)
    # Last: between two requests there is always somewhere to go.
    for key in old:
        if key not in new:
            yield Operation("remove", bare, key)


def apply(servers: Servers, operations: Iterable[Operation]) -> dict[ServerKey, VirtualServer]:
    """What the kernel would hold afterwards."""
    state = dict(servers)
    for operation in operations:
        key, destination = operation.server.key, operation.destination
        if destination is not None:
            weights = dict(state[key].destinations)
            if operation.verb == "remove":
                del weights[destination]
            else:
                weights[destination] = operation.weight
            state[key] = replace(state[key], destinations=weights)
        elif operation.verb == "remove":
            del state[key]
        else:
            kept = state[key].destinations if operation.verb == "set" else {}
            state[key] = replace(operation.server, destinations=kept)
    return state


def draining(
    wanted: VirtualServer, present: VirtualServer, busy: Iterable[DestinationKey]
) -> VirtualServer:
    """The wanted server and, with weight 0, destinations that it lost but that still have work.

    UDP has no end of a connection to wait for: there they go at once.
    """
    if wanted.key.protocol == "UDP":
        return wanted
    leaving = {
        key: 0 for key in busy if key in present.destinations and key not in wanted.destinations
    }
    return replace(wanted, destinations={**wanted.destinations, **leaving}) if leaving else wanted


# -- evaluation -----------------------------------------------------------------------------------


def look_up(servers: Servers, packet: Packet) -> VirtualServer | None:
    """The server that a packet is for, as the kernel looks: by mark, else by where it goes."""
    marked = servers.get(ServerKey(packet.version, mark=packet.mark)) if packet.mark else None
    key = ServerKey(packet.version, packet.daddr, packet.protocol.upper(), packet.dport)
    return marked or servers.get(key)


def eligible(server: VirtualServer) -> tuple[DestinationKey, ...]:
    """Destinations that a new connection may get; none: it is refused with an ICMP error."""
    return tuple(key for key, weight in server.destinations.items() if weight > 0)
