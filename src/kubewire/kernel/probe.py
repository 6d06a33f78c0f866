"""Single packets through the rules of a scratch namespace: sent by hand, seen as they come out.

``Probe`` makes the current (fresh!) network namespace a node with two ways in: ``outside``, where
everything that leaves goes too, and ``pods``. A shot is the first packet of a connection, from any
address to any other; each carries a number that survives translation, so thousands can be on their
way and nobody waits: an extra packet that surely comes out tells that all before it have been dealt
with.

Nothing here knows what the rules mean: the same shots judge every back end.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import select
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal

from kubewire.kernel import links, routes, sysctl
from kubewire.kernel.conntrack import Conntrack
from kubewire.kernel.routes import Route
from kubewire.kernel.rtnetlink import RtNetlink

OUTSIDE, PODS = "outside", "pods"
MASQUERADED = {4: "100.127.255.1", 6: "fd00:ffff:ffff::1"}
"""The address of ``outside``: what masqueraded packets come from."""
_GATEWAY = {4: "100.127.255.2", 6: "fd00:ffff:ffff::2"}
_STRANGER = "100.127.254.1"
_MAC, _NOBODY = "02:00:00:00:00:01", "02:00:00:00:00:99"
_NUMBERS = {"TCP": 6, "UDP": 17, "SCTP": 132}
_IN_FLIGHT = 64
"""What fits into an ordinary receive buffer, seen twice."""
_SECONDS = 5.0
"""For what surely comes; it takes microseconds."""


@dataclass(frozen=True, slots=True)
class Shot:
    """The first packet of a connection."""

    source: str
    target: str
    port: int
    protocol: str = "TCP"
    way_in: str = OUTSIDE
    """outside, pods, or "": a process of the node itself sends it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of it."""

    verdict: Literal["sent", "local", "refused", "lost"] = "lost"
    """It left by an interface; reached this machine's own stack; was answered by an ICMP error."""
    source: str = ""
    target: str = ""
    port: int = 0
    """Of what reached this machine: where on it, as far as its connection is tracked."""


class Probe:
    """A namespace made ready; ``addresses`` are this node's own (more may be added: `own`).

    ``pods`` is the name of the device by which the pods' packets come in.
    """

    def __init__(self, addresses: Iterable[str], pods: str = PODS) -> None:
        self._local: set[str] = set()
        _furnish({OUTSIDE: OUTSIDE, PODS: pods})
        self.own(addresses)
        self._macs = {name: links.mac_bytes(_MAC) for name in (OUTSIDE, PODS)}
        self._ways = {name: _packet_socket(f"{name}-far") for name in (OUTSIDE, PODS)}
        self._watch = [_packet_socket(OUTSIDE), _packet_socket("lo")]
        self._raw = {4: _raw_socket(4), 6: _raw_socket(6)}
        self._own: dict[tuple[int, str, int], socket.socket] = {}
        self._numbers = count(1)

    def close(self) -> None:
        """Give the sockets up; the namespace ends with its last process."""
        for one in (*self._ways.values(), *self._watch, *self._raw.values(), *self._own.values()):
            one.close()

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def own(self, addresses: Iterable[str]) -> None:
        """Replace the node's addresses."""
        wanted = {a for a in addresses if not ipaddress.ip_address(a).is_loopback}
        with RtNetlink() as netlink:
            index = netlink.index("lo")
            gone = [routes.delete_address(index, _host(a)) for a in self._local - wanted]
            new = [routes.add_address(index, _host(a)) for a in wanted - self._local]
            netlink.transact([*gone, *new])
        self._local = wanted

    def fire(self, shots: Sequence[Shot]) -> list[Seen]:
        """Send every shot; what became of each, in order."""
        found: dict[int, Seen] = {}
        numbers: list[int] = []
        with _one_processor():
            for start in range(0, len(shots), _IN_FLIGHT):
                numbers += [self._send(shot) for shot in shots[start : start + _IN_FLIGHT]]
                self._settle(found)
        self._delivered(numbers, found)
        return [found.get(number, Seen()) for number in numbers]

    def _delivered(self, numbers: Iterable[int], found: dict[int, Seen]) -> None:
        """Where on the node it arrived: what its own stack answers, if anything, does not tell that.

        What a rule refuses or drops is never tracked.
        """
        here = {_source_port(n): n for n in numbers if found.get(n, Seen()).verdict != "sent"}
        if not here:
            return
        with Conntrack() as conntrack:
            for entry in conntrack.entries():
                if number := here.get(entry.original.source_port):
                    ip, port = entry.translated_to
                    found[number] = Seen("local", target=str(ip), port=port)

    def _settle(self, found: dict[int, Seen]) -> None:
        """Collect until the packets that mark the end have come out."""
        ends = [
            self._send(Shot(source, _GATEWAY[4], 9, "UDP", way_in))
            for source, way_in in ((_STRANGER, OUTSIDE), (_STRANGER, PODS), (MASQUERADED[4], ""))
        ]
        poll = select.epoll()
        for one in (*self._watch, *self._own.values()):
            poll.register(one, select.EPOLLIN)
        with contextlib.closing(poll):
            while not all(number in found for number in ends):
                if not poll.poll(_SECONDS):
                    raise TimeoutError("a packet that no rule touches did not come out")
                self._collect(found)
            self._collect(found)

    def _collect(self, found: dict[int, Seen]) -> None:
        for one in self._watch:
            for frame in _frames(one):
                number, seen = read(frame)
                if number and (number not in found or found[number].verdict == "lost"):
                    found[number] = seen
        for (_, protocol, port), listener in self._own.items():
            if protocol == "UDP":
                for data in _datagrams(listener):
                    found[struct.unpack("!I", data[:4])[0]] = Seen("local", port=port)

    def _send(self, shot: Shot) -> int:
        number = next(self._numbers)
        version = 6 if ":" in shot.target else 4
        if shot.target in self._local and shot.protocol != "SCTP":
            self.listen(version, shot.protocol, shot.port)
        packet = first_packet(shot, number, _source_port(number))
        if shot.way_in:
            kind = b"\x08\x00" if version == 4 else b"\x86\xdd"
            frame = self._macs[shot.way_in] + links.mac_bytes(_NOBODY) + kind + packet
            self._ways[shot.way_in].send(frame)
        else:
            # Refused at once where a rule rejects or drops it on its way out, or nobody could send
            # it from there (from 127.0.0.1 to another machine).
            with contextlib.suppress(OSError):
                self._raw[version].sendto(packet, (shot.target, 0))
        return number

    def listen(self, version: int, protocol: str, port: int) -> None:
        """What reaches a TCP or UDP port of the node's own stack must not look like a refusal."""
        key = (version, protocol, port)
        if key in self._own:
            return
        kind = socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        listener = socket.socket(family, kind)
        if version == 6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.setblocking(False)
        listener.bind(("", port))
        if protocol == "TCP":
            listener.listen()
        self._own[key] = listener


# -- packets --------------------------------------------------------------------------------------


def _source_port(number: int) -> int:
    return 1024 + number % 60000


def first_packet(shot: Shot, number: int, source_port: int) -> bytes:
    """A SYN, a datagram or an INIT that carries a number."""
    source, target = (ipaddress.ip_address(a).packed for a in (shot.source, shot.target))
    protocol = _NUMBERS[shot.protocol]
    body = _body(shot.protocol, source_port, shot.port, number)
    pseudo = source + target + struct.pack("!IxxxB", len(body), protocol)
    if shot.protocol != "SCTP":
        at = 16 if shot.protocol == "TCP" else 6
        total = checksum(pseudo + body) or 0xFFFF
        body = body[:at] + struct.pack("!H", total) + body[at + 2 :]
    if len(source) == 16:
        return struct.pack("!IHBB", 0x60000000, len(body), protocol, 64) + source + target + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0)
    head += source + target
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def _body(protocol: str, source_port: int, port: int, number: int) -> bytes:
    if protocol == "TCP":
        return struct.pack("!HHIIBBHHH", source_port, port, number, 0, 0x50, 2, 65535, 0, 0)
    if protocol == "UDP":
        return struct.pack("!HHHHI", source_port, port, 12, 0, number)
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, number, 65535, 1, 1, number)
    head = struct.pack("!HHI", source_port, port, 0)
    return head + struct.pack("<I", crc32c(head + bytes(4) + chunk)) + chunk


def checksum(data: bytes) -> int:
    """The Internet checksum."""
    data += b"\0" * (len(data) & 1)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def crc32c(data: bytes) -> int:
    """The checksum of SCTP."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def read(packet: bytes) -> tuple[int, Seen]:
    """(number, what it is) of a packet that came out; number 0: none of ours."""
    version = packet[0] >> 4
    if version not in (4, 6):
        return 0, Seen()
    size = (packet[0] & 15) * 4 if version == 4 else 40
    protocol: int = packet[9] if version == 4 else packet[6]
    low, width = (12, 4) if version == 4 else (8, 16)
    source, target = (
        str(ipaddress.ip_address(packet[at : at + width])) for at in (low, low + width)
    )
    body = packet[size:]
    if protocol in (1, 58):
        return _refusal(body, protocol)
    if protocol not in _NUMBERS.values() or len(body) < 8:
        return 0, Seen()
    tcp = protocol == _NUMBERS["TCP"]
    if tcp and body[13] & 0x16 != 2:
        return _acknowledged(body), Seen("local")
    port = int.from_bytes(body[2:4], "big")
    return _number(protocol, body), Seen("sent", source, target, port)


def _acknowledged(body: bytes) -> int:
    """The node's own stack answers a SYN by its number + 1."""
    return int.from_bytes(body[8:12], "big") - 1


def _number(protocol: int, body: bytes) -> int:
    at = {6: 4, 17: 8, 132: 16}[protocol]
    return int.from_bytes(body[at : at + 4], "big") if len(body) >= at + 4 else 0


def _refusal(body: bytes, protocol: int) -> tuple[int, Seen]:
    unreachable = {1: 3, 58: 1}[protocol]
    if len(body) < 16 or body[0] != unreachable:
        return 0, Seen()
    number, _ = read(body[8:])
    port_unreachable = body[1] == {1: 3, 58: 4}[protocol]
    return number, Seen("refused" if port_unreachable else "local")


# -- the namespace --------------------------------------------------------------------------------


def _furnish(devices: dict[str, str]) -> None:
    with RtNetlink() as netlink:
        for way, name in devices.items():
            netlink.transact([links.add_veth(name, f"{way}-far", mac=_MAC)])
            sysctl.write(f"net/ipv6/conf/{way}-far/disable_ipv6", 1)
            sysctl.write(f"net/ipv6/conf/{name}/accept_dad", 0)
            sysctl.write(f"net/ipv4/conf/{name}/rp_filter", 0)
            sysctl.write(f"net/ipv4/conf/{name}/accept_local", 1)
            netlink.transact([links.set_link(n, up=True) for n in (name, f"{way}-far")])
        _switches()
        index = netlink.index(OUTSIDE)
        for version, length in ((4, 30), (6, 64)):
            own = ipaddress.ip_interface(f"{MASQUERADED[version]}/{length}")
            gateway = ipaddress.ip_address(_GATEWAY[version])
            everywhere = ipaddress.ip_network("0.0.0.0/0" if version == 4 else "::/0")
            # Nobody has the gateway's hardware address: what is sent there is seen and forgotten.
            netlink.transact(
                [
                    routes.add_address(index, own),
                    routes.put_neighbour(index, gateway, _NOBODY),
                    routes.add_route(Route(everywhere, index, gateway)),
                ]
            )


def _host(address: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    return ipaddress.ip_interface(address)


def _switches() -> None:
    for name, value in (
        ("net.ipv4.conf.all.rp_filter", 0),
        ("net.ipv4.ip_forward", 1),
        ("net.ipv6.conf.all.forwarding", 1),
        # Errors are what is asked for, however many.
        ("net.ipv4.icmp_ratemask", 0),
        ("net.ipv6.icmp.ratelimit", 0),
    ):
        sysctl.write(name, value)


def _packet_socket(name: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    made.bind((name, 3))
    made.setblocking(False)
    return made


def _raw_socket(version: int) -> socket.socket:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    made = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
    made.setblocking(False)
    return made


def _frames(one: socket.socket) -> Iterator[bytes]:
    """Packets that go out by the device (each of loopback's is going out too, once)."""
    with contextlib.suppress(BlockingIOError):
        while True:
            data, (_, _, kind, *_) = one.recvfrom(2048)
            if kind == socket.PACKET_OUTGOING and len(data) > 34:
                yield data[14:]


def _datagrams(listener: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        while True:
            yield listener.recv(64)


@contextlib.contextmanager
def _one_processor() -> Iterator[None]:
    """Packets overtake each other only between processors."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
