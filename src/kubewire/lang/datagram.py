"""The first packet of a connection as bytes, and what a packet that was seen is: no I/O.

TCP SYN, UDP and SCTP INIT with right checksums (connection tracking looks at them), for IPv4 and
IPv6; and the ICMP errors that refuse them.
"""

from __future__ import annotations

import ipaddress
import struct
from functools import lru_cache
from typing import NamedTuple

from kubewire.lang.packet import PROTOCOLS

TCP, UDP, SCTP, ICMP, ICMPV6 = 6, 17, 132, 1, 58
PORTS = (TCP, UDP, SCTP)
_RST = 4


class Seen(NamedTuple):
    """A packet, as far as anybody here cares."""

    protocol: int
    source: str
    source_port: int
    target: str
    target_port: int
    refuses: bool = False
    """A TCP reset, or an ICMP error that says "port unreachable" or "prohibited"."""


def first_packet(source: str, source_port: int, target: str, port: int, protocol: str) -> bytes:
    """An IP packet that opens a connection."""
    number = PROTOCOLS[protocol.lower()]
    ends = ipaddress.ip_address(source).packed, ipaddress.ip_address(target).packed
    payload = _payload(number, source_port, port, ends)
    return header(number, ends, len(payload)) + payload


def header(protocol: int, ends: tuple[bytes, bytes], length: int) -> bytes:
    """The IP header in front of a payload."""
    source, target = ends
    if len(source) == 16:
        return struct.pack("!IHBB", 6 << 28, length, protocol, 64) + source + target
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, 64, protocol, 0)
    total = checksum(head + source + target)
    return head[:10] + struct.pack("!H", total) + source + target


def _payload(protocol: int, source: int, target: int, ends: tuple[bytes, bytes]) -> bytes:
    if protocol == SCTP:
        return _sctp(source, target)
    if protocol == TCP:
        body = struct.pack("!HHIIBBHHH", source, target, 1, 0, 5 << 4, 2, 64240, 0, 0)
        place = 16
    else:
        body = struct.pack("!HHHH", source, target, 12, 0) + b"hail"
        place = 6
    pseudo = b"".join(ends) + struct.pack("!IxxxB", len(body), protocol)
    total = checksum(pseudo + body)
    return body[:place] + struct.pack("!H", total) + body[place + 2 :]


def _sctp(source: int, target: int) -> bytes:
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, 1, 65536, 1, 1, 1)
    head = struct.pack("!HHI", source, target, 0)
    return head + struct.pack("<I", _crc32c(head + bytes(4) + chunk)) + chunk


def checksum(data: bytes) -> int:
    """The Internet checksum."""
    if len(data) & 1:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@lru_cache(maxsize=1)
def _table() -> tuple[int, ...]:
    found = []
    for number in range(256):
        value = number
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        found.append(value)
    return tuple(found)


def _crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _table()[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def read(packet: bytes) -> Seen | None:
    """What an IP packet is; None if it is nothing that is looked for."""
    if packet[0] >> 4 == 6:
        protocol, source, target, rest = packet[6], packet[8:24], packet[24:40], packet[40:]
    else:
        size = (packet[0] & 15) * 4
        protocol, source, target, rest = packet[9], packet[12:16], packet[16:20], packet[size:]
    return read_payload(protocol, _text(source), _text(target), rest)


def read_payload(protocol: int, source: str, target: str, rest: bytes) -> Seen | None:
    """The same, for what comes behind an IP header."""
    if protocol in PORTS and len(rest) >= 4:
        ports = struct.unpack_from("!HH", rest)
        reset = protocol == TCP and len(rest) > 13 and bool(rest[13] & _RST)
        return Seen(protocol, source, ports[0], target, ports[1], reset)
    if protocol in (ICMP, ICMPV6) and len(rest) > 1:
        # Unreachable: port, or prohibited (as netfilter's reject may be told to say).
        codes = {ICMP: (3, (3, 9, 10, 13)), ICMPV6: (1, (1, 4))}
        kind, refusing = codes[protocol]
        return Seen(protocol, source, 0, target, 0, rest[0] == kind and rest[1] in refusing)
    return None


def _text(address: bytes) -> str:
    return str(ipaddress.ip_address(address))
