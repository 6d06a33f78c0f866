"""IPVS of one network namespace: its generic netlink family, connection table and settings.

A kernel without it, or one that keeps it for the machine's own root, is an `IpvsError` whose text
holds the fix.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from kubewire.kernel.netlink import Message, NetlinkError, NetlinkSocket, attributes, text
from kubewire.kernel.netns import Netns, entered
from kubewire.lang.ipvs import connections, listing, wire
from kubewire.lang.ipvs.model import (
    DestinationKey,
    Operation,
    ServerKey,
    VirtualServer,
)

_NETLINK_GENERIC = 16
_CTRL, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 3, 1, 2
_HEADER = struct.Struct("=BBH")
_VERSION = 1
_ABSENT = "this kernel has no IPVS: load it (modprobe ip_vs) or install a kernel that has it (Debian: linux-image-amd64)"
_FORBIDDEN = "the kernel lets nobody but the machine's root set up IPVS (before Linux 6.10 also not in a user namespace): run as root"

_FOR_EVERYBODY = (6, 10)

Loads = dict[DestinationKey, wire.Load]


class IpvsError(RuntimeError):
    """IPVS cannot be used here; the text says why and what helps."""


def lacking() -> str:
    """Why IPVS cannot be used by this user on this kernel, "" if it can; changes nothing.

    An ordinary user becomes root of a user namespace at most.
    """
    with NetlinkSocket(_NETLINK_GENERIC) as asking:
        try:
            _family(asking)
        except NetlinkError:
            return _ABSENT
    return _FORBIDDEN if os.geteuid() and kernel_release() < _FOR_EVERYBODY else ""


def kernel_release() -> tuple[int, ...]:
    """The first two numbers of the kernel's version."""
    numbers = os.uname().release.split("-")[0].split(".")[:2]
    return tuple(int(n) for n in numbers if n.isdecimal())


def _family(asked: NetlinkSocket) -> int:
    body = _HEADER.pack(_GET_FAMILY, 1, 0) + text(_FAMILY_NAME, "IPVS")
    _, answer = asked.ask(Message(_CTRL, 0, body, "generic netlink family IPVS"))
    found = dict(attributes(answer, _HEADER.size))
    return int(struct.unpack_from("=H", found[_FAMILY_ID])[0])


class Ipvs:
    """A socket to IPVS of the current network namespace, or of a given one."""

    def __init__(self, netns: Netns | None = None) -> None:
        self._netns = netns
        self._socket = NetlinkSocket(_NETLINK_GENERIC, netns)
        try:
            self._family = _family(self._socket)
            # The kernel asks for the privilege with every request: find out now.
            self.servers()
        except NetlinkError as error:
            self._socket.close()
            raise IpvsError(_FORBIDDEN if error.errno == errno.EPERM else _ABSENT) from error

    def close(self) -> None:
        """Close the socket; the servers stay."""
        self._socket.close()

    def _message(self, command: int, body: bytes, what: str) -> Message:
        return Message(self._family, 0, _HEADER.pack(command, _VERSION, 0) + body, what)

    # -- servers ----------------------------------------------------------------------------------

    def commit(self, operations: Iterable[Operation]) -> None:
        """Carry out operations in order; NetlinkError names those that failed.

        What is gone by itself when it is to be removed is no failure.
        """
        messages = []
        for operation in operations:
            message = self._message(*wire.pack(operation), str(operation))
            if operation.verb == "remove":
                message = message.tolerate(errno.ENOENT, errno.ESRCH)
            messages.append(message)
        self._socket.transact(messages)

    def servers(self) -> dict[ServerKey, VirtualServer]:
        """Every virtual server, with its destinations."""
        bare = [wire.parse_server(data) for data in self._dump(wire.GET_SERVICE, b"", "servers")]
        return {
            server.key: replace(server, destinations=self._destinations(server)) for server in bare
        }

    def _destinations(self, server: VirtualServer) -> dict[DestinationKey, int]:
        return {key: weight for key, weight, _ in self._parsed(server)}

    def loads(self, server: VirtualServer) -> Loads:
        """What each destination of a server has to do; none if there is no such server."""
        try:
            return {key: load for key, _, load in self._parsed(server)}
        except NetlinkError as error:
            if error.errno in (errno.ESRCH, errno.ENOENT):
                return {}
            raise

    def _parsed(self, server: VirtualServer) -> list[tuple[DestinationKey, int, wire.Load]]:
        asked = wire.pack_server(server, full=False)
        answers = self._dump(wire.GET_DEST, asked, f"destinations of {server.key}")
        return [wire.parse_destination(data) for data in answers]

    def _dump(self, command: int, body: bytes, what: str) -> list[bytes]:
        request = _HEADER.pack(command, _VERSION, 0) + body
        answers = self._socket.dump(self._family, request, f"list {what}")
        return [data[_HEADER.size :] for _, data in answers]

    # -- settings ---------------------------------------------------------------------------------

    def set_timeouts(self, tcp: int, fin: int, udp: int) -> None:
        """Set timeouts of connections in seconds; 0 leaves one as it is."""
        body = wire.pack_timeouts(tcp, fin, udp)
        self._socket.transact([self._message(wire.SET_CONFIG, body, "timeouts of IPVS")])

    def timeouts(self) -> tuple[int, int, int]:
        """(tcp, tcp fin, udp) in seconds."""
        _, answer = self._socket.ask(self._message(wire.GET_CONFIG, b"", "timeouts of IPVS"))
        return wire.parse_timeouts(answer[_HEADER.size :])

    def connections(self) -> list[connections.Connection]:
        """The connection table."""
        return list(connections.parse(self._lines("ip_vs_conn")))

    def listed(self) -> set[listing.Entry]:
        """Every virtual server and destination, in one reading."""
        return set(listing.parse(self._lines("ip_vs")))

    def _lines(self, file: str) -> list[str]:
        if self._netns is None:
            return _read(file)
        with entered(self._netns):
            return _read(file)


def _read(file: str) -> list[str]:
    path = Path("/proc/thread-self/net", file)
    return path.read_text().splitlines() if path.exists() else []
