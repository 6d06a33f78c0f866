"""Data types of nftables keys and values, and how they are packed into registers."""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import NamedTuple


class Type(NamedTuple):
    """A type as nft names it; ``size`` in bytes, ``number`` as nft's libraries count types."""

    name: str
    number: int
    size: int


IPV4 = Type("ipv4_addr", 7, 4)
IPV6 = Type("ipv6_addr", 8, 16)
PROTO = Type("inet_proto", 12, 1)
PORT = Type("inet_service", 13, 2)
MARK = Type("mark", 19, 4)
IFNAME = Type("ifname", 41, 16)
INDEX = Type("mark", 19, 4)
"""A number as part of a key: nft cannot write ``integer`` there, ``mark`` has the same bytes."""


def padded(size: int) -> int:
    """Bytes that a field takes in a concatenation: whole 32-bit registers."""
    return (size + 3) & ~3


def ip_bytes(address: str) -> bytes:
    """Pack an address; ValueError if it is none."""
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    except OSError:
        raise ValueError(f"{address!r} is not an IP address") from None


def port_bytes(port: int) -> bytes:
    """A port, network order, as a field of a concatenation (padded)."""
    return struct.pack("!Hxx", port)


def proto_bytes(number: int) -> bytes:
    """A protocol number as a field of a concatenation (padded)."""
    return struct.pack("Bxxx", number)


def integer_bytes(value: int) -> bytes:
    """A 32-bit number in host order (numgen, marks)."""
    return struct.pack("=I", value)


def ifname_bytes(name: str) -> bytes:
    """An interface name, padded."""
    return name.encode().ljust(16, b"\0")


def text(type_: Type, data: bytes) -> str:
    """Render one field as nft writes it."""
    if type_ in (IPV4, IPV6):
        return str(ipaddress.ip_address(data[: type_.size]))
    if type_ == PROTO:
        return {6: "tcp", 17: "udp", 132: "sctp", 1: "icmp", 58: "ipv6-icmp"}.get(
            data[0], str(data[0])
        )
    if type_ == PORT:
        return str(struct.unpack("!H", data[:2])[0])
    if type_ == IFNAME:
        return '"' + data.rstrip(b"\0").decode() + '"'
    if type_ == MARK:
        return f"0x{struct.unpack('=I', data)[0]:08x}"
    return str(struct.unpack("=I", data)[0])


def split(types: tuple[Type, ...], data: bytes) -> list[bytes]:
    """Cut a key into its fields."""
    if len(types) == 1:
        return [data[: types[0].size]]
    found, offset = [], 0
    for type_ in types:
        found.append(data[offset : offset + type_.size])
        offset += padded(type_.size)
    return found
