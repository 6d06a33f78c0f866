"""Operations as the attributes of the kernel's generic netlink family ``IPVS``, and back."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from kubewire.lang.ipvs.model import (
    FALLBACK,
    PORT_IN_HASH,
    DestinationKey,
    Operation,
    ServerKey,
    VirtualServer,
)

NEW_SERVICE, SET_SERVICE, DEL_SERVICE, GET_SERVICE = 1, 2, 3, 4
NEW_DEST, SET_DEST, DEL_DEST, GET_DEST = 5, 6, 7, 8
SET_CONFIG, GET_CONFIG = 12, 13
_SERVICE, _DEST, _TIMEOUT_TCP, _TIMEOUT_FIN, _TIMEOUT_UDP = 1, 2, 4, 5, 6
_PERSISTENT = 0x1
_TRANSLATE = 0
_COMMANDS = {
    ("add", False): NEW_SERVICE,
    ("set", False): SET_SERVICE,
    ("remove", False): DEL_SERVICE,
    ("add", True): NEW_DEST,
    ("set", True): SET_DEST,
    ("remove", True): DEL_DEST,
}
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_PROTOCOLS = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP, "SCTP": socket.IPPROTO_SCTP}
_NAMES = {int(number): name for name, number in _PROTOCOLS.items()}

Attributes = Mapping[int, bytes]


def _attr(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", len(data) + 4, kind) + data + bytes(-len(data) % 4)


def _nest(kind: int, data: bytes) -> bytes:
    return _attr(kind | 0x8000, data)


def _u32(kind: int, value: int) -> bytes:
    return _attr(kind, struct.pack("=I", value))


def _address(kind: int, text: str) -> bytes:
    # The kernel's union of both families: always 16 bytes.
    return _attr(kind, ip_address(text).packed.ljust(16, b"\0") if text else bytes(16))


def pack(operation: Operation) -> tuple[int, bytes]:
    """(command, attributes) of an operation."""
    command = _COMMANDS[operation.verb, operation.destination is not None]
    full = operation.destination is None and operation.verb != "remove"
    body = pack_server(operation.server, full=full)
    if operation.destination is not None:
        body += _pack_destination(operation)
    return command, body


def pack_server(server: VirtualServer, *, full: bool) -> bytes:
    """A server, to name it or (``full``) to define it."""
    key = server.key
    parts = [_attr(1, struct.pack("=H", _FAMILY[key.version]))]
    if key.mark:
        parts.append(_u32(5, key.mark))
    else:
        parts.append(_attr(2, struct.pack("=H", _PROTOCOLS[key.protocol])))
        parts.append(_address(3, key.address))
        parts.append(_attr(4, struct.pack(">H", key.port)))
    if full:
        sticky = _PERSISTENT if server.persistence is not None else 0
        parts.append(_attr(6, server.scheduler.encode() + b"\0"))
        parts.append(_attr(7, struct.pack("=II", server.flags | sticky, 0xFFFFFFFF)))
        parts.append(_u32(8, server.persistence or 0))
        # A whole address is what a client is told by; of IPv6 it is the prefix length.
        parts.append(_u32(9, 0xFFFFFFFF if key.version == 4 else 128))
    return _nest(_SERVICE, b"".join(parts))


def _pack_destination(operation: Operation) -> bytes:
    assert operation.destination is not None
    address, port = operation.destination
    parts = [_address(1, address), _attr(2, struct.pack(">H", port))]
    if operation.verb != "remove":
        parts += [_u32(3, _TRANSLATE), _u32(4, operation.weight), _u32(5, 0), _u32(6, 0)]
    parts.append(_attr(11, struct.pack("=H", _FAMILY[operation.server.key.version])))
    return _nest(_DEST, b"".join(parts))


def pack_timeouts(tcp: int, fin: int, udp: int) -> bytes:
    """Seconds; 0 leaves one as it is."""
    return _u32(_TIMEOUT_TCP, tcp) + _u32(_TIMEOUT_FIN, fin) + _u32(_TIMEOUT_UDP, udp)


# -- answers --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """What a destination has to do, and has done."""

    active: int
    inactive: int
    persistent: int
    connections: int
    """In all, since it is there; the kernel brings this and the bytes up to date every 2 s."""
    bytes_in: int
    bytes_out: int

    @property
    def busy(self) -> bool:
        """There is a connection."""
        return self.active + self.inactive > 0


def walk(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in ``data``."""
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            return
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def parse_server(data: bytes) -> VirtualServer:
    """A server without destinations, from an answer to GET_SERVICE."""
    found = dict(walk(dict(walk(data))[_SERVICE]))
    version = 4 if _u16_of(found, 1) == socket.AF_INET else 6
    mark = _u32_of(found, 5)
    if mark:
        key = ServerKey(version, mark=mark)
    else:
        protocol = _NAMES.get(_u16_of(found, 2), str(_u16_of(found, 2)))
        key = ServerKey(version, _text(found[3], version), protocol, _port(found[4]))
    flags = _u32_of(found, 7)
    return VirtualServer(
        key,
        found[6].rstrip(b"\0").decode(),
        _u32_of(found, 8) if flags & _PERSISTENT else None,
        flags & (FALLBACK | PORT_IN_HASH),
    )


def parse_destination(data: bytes) -> tuple[DestinationKey, int, Load]:
    """(destination, weight, load) from an answer to GET_DEST."""
    found = dict(walk(dict(walk(data))[_DEST]))
    version = 6 if _u16_of(found, 11) == socket.AF_INET6 else 4
    key = DestinationKey(_text(found[1], version), _port(found[2]))
    numbers = dict(walk(found.get(12) or found.get(10, b"")))
    load = Load(
        active=_u32_of(found, 7),
        inactive=_u32_of(found, 8),
        persistent=_u32_of(found, 9),
        connections=_number(numbers.get(1, b"")),
        bytes_in=_number(numbers.get(4, b"")),
        bytes_out=_number(numbers.get(5, b"")),
    )
    return key, _u32_of(found, 4), load


def parse_timeouts(data: bytes) -> tuple[int, int, int]:
    """(tcp, tcp fin, udp) in seconds."""
    found = dict(walk(data))
    return _u32_of(found, _TIMEOUT_TCP), _u32_of(found, _TIMEOUT_FIN), _u32_of(found, _TIMEOUT_UDP)


def _text(data: bytes, version: int) -> str:
    return str(ip_address(data[: 4 if version == 4 else 16]))


def _port(data: bytes) -> int:
    return int.from_bytes(data[:2], "big")


def _u16_of(found: Attributes, kind: int) -> int:
    return _number(found.get(kind, b"")[:2])


def _u32_of(found: Attributes, kind: int) -> int:
    return _number(found.get(kind, b"")[:4])


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little" if _LITTLE else "big")


_LITTLE = struct.pack("=H", 1) == b"\1\0"
