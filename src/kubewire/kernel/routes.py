"""Requests about addresses, routes, neighbours, forwarding entries and rules, of both families.

Devices are named by index here. IPv6 addresses are given without duplicate address detection, so
that they can be used at once; permanent neighbours spare the first packet its ARP or ND wait.
"""

import socket
import struct
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_network,
)

from kubewire.kernel.links import mac_bytes, mac_text
from kubewire.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    attr,
    attributes,
    nest,
    text,
    u32,
)

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network

NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWNEIGH, DELNEIGH, GETNEIGH = 28, 29, 30
NEWRULE, DELRULE, GETRULE = 32, 33, 34

SCOPE_UNIVERSE, SCOPE_LINK, SCOPE_HOST = 0, 253, 254
TABLE_MAIN, TABLE_LOCAL = 254, 255
PROTOCOL_KUBEWIRE = 86
"""Marks our routes (``ip route show proto 86``), so that we only ever remove our own."""

PROTOCOL_KERNEL = 2

_TYPES = {"unicast": 1, "local": 2, "multicast": 5, "blackhole": 6, "unreachable": 7}
_TYPE_NAMES = {number: name for name, number in _TYPES.items()}
_ONLINK = 0x4
_FIB_MATCH = 0x2000
_IFA_F_NODAD = 0x02
_NUD_PERMANENT = 0x80
_NUD_NOARP = 0x40
_NTF_SELF = 0x02
_AF_BRIDGE = 7
_ADD = NLM_F_CREATE | NLM_F_EXCL
_PUT = NLM_F_CREATE | NLM_F_REPLACE

_IFADDR = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGH = struct.Struct("=BxxxiHBB")
_RULE = struct.Struct("=BBBBBBBBI")


def _family(value: Address | Network | Interface) -> int:
    return socket.AF_INET if value.version == 4 else socket.AF_INET6


# -- addresses ------------------------------------------------------------------------------------


def _address(
    kind: int, flags: int, index: int, address: Interface, verb: str, scope: int | None = None
) -> Message:
    if scope is None:
        scope = SCOPE_LINK if address.ip.is_link_local else SCOPE_UNIVERSE
    packed = address.ip.packed
    body = (
        _IFADDR.pack(_family(address), address.network.prefixlen, 0, scope, index)
        + attr(2, packed)
        + attr(1, packed)
        + u32(8, _IFA_F_NODAD if address.version == 6 else 0)
    )
    return Message(kind, flags, body, f"{verb} {address} on interface {index}")


def add_address(index: int, address: Interface) -> Message:
    """Give a device an address; EEXIST if it has it."""
    return _address(NEWADDR, _ADD, index, address, "address")


def put_address(index: int, address: Interface, scope: int | None = None) -> Message:
    """Give a device an address that it may already have; a link-local one is of the link's scope."""
    return _address(NEWADDR, _PUT, index, address, "address", scope)


def delete_address(index: int, address: Interface) -> Message:
    """Take an address from a device."""
    return _address(DELADDR, 0, index, address, "delete address")


def link_local(mac: str) -> IPv6Interface:
    """The fe80:: address that the kernel would have made, for use without its second of waiting.

    A node that forwards IPv6 needs one on its underlay: it asks for neighbours with it.
    """
    raw = mac_bytes(mac)
    low = bytes((raw[0] ^ 2,)) + raw[1:3] + b"\xff\xfe" + raw[3:]
    return IPv6Interface((b"\xfe\x80" + bytes(6) + low, 64))


# -- routes ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Route:
    """A route as a value: equal routes make equal requests."""

    destination: Network
    device: int = 0
    via: Address | None = None
    source: Address | None = None
    onlink: bool = False
    scope: int | None = None
    mtu: int = 0
    advmss: int = 0
    metric: int = 0
    table: int = TABLE_MAIN
    kind: str = "unicast"
    protocol: int = PROTOCOL_KUBEWIRE

    def __str__(self) -> str:
        parts = [f"route {self.destination}"]
        if self.kind != "unicast":
            parts.append(self.kind)
        if self.via:
            parts.append(f"via {self.via}")
        if self.device:
            parts.append(f"dev {self.device}")
        if self.table != TABLE_MAIN:
            parts.append(f"table {self.table}")
        return " ".join(parts)


def _route(kind: int, flags: int, route: Route, verb: str = "") -> Message:
    scope = route.scope
    if scope is None:
        scope = SCOPE_UNIVERSE if route.via or route.kind != "unicast" else SCOPE_LINK
        scope = SCOPE_HOST if route.kind == "local" else scope
    if route.destination.version == 6:
        scope = SCOPE_UNIVERSE
    small_table = route.table if route.table < 256 else 0
    parts = [
        _ROUTE.pack(
            _family(route.destination), route.destination.prefixlen, 0, 0, small_table,
            route.protocol, scope, _TYPES[route.kind], _ONLINK if route.onlink else 0,
        ),
        attr(1, route.destination.network_address.packed),
        u32(15, route.table),
    ]  # fmt: skip
    if route.device:
        parts.append(u32(4, route.device))
    if route.via:
        parts.append(_gateway(route.destination, route.via))
    if route.source:
        parts.append(attr(7, route.source.packed))
    if route.metric:
        parts.append(u32(6, route.metric))
    metrics = [u32(2, route.mtu)] if route.mtu else []
    if route.advmss:
        metrics.append(u32(8, route.advmss))
    if metrics:
        parts.append(nest(8, *metrics))
    return Message(kind, flags, b"".join(parts), f"{verb}{route}")


def _gateway(destination: Network, via: Address) -> bytes:
    if via.version == destination.version:
        return attr(5, via.packed)
    # RTA_VIA: an IPv4 destination behind an IPv6 neighbour.
    return attr(18, struct.pack("=H", _family(via)) + via.packed)


def add_route(route: Route) -> Message:
    """Add a route; EEXIST if the destination has one of that metric."""
    return _route(NEWROUTE, _ADD, route)


def put_route(route: Route) -> Message:
    """Add a route or replace the one to the same destination."""
    return _route(NEWROUTE, _PUT, route)


def get_route(destination: Address) -> Message:
    """Ask which route leads to an address."""
    head = _ROUTE.pack(
        _family(destination),
        destination.max_prefixlen,
        0,
        0,
        0,
        0,
        0,
        0,
        _FIB_MATCH,
    )
    return Message(GETROUTE, 0, head + attr(1, destination.packed), f"route to {destination}")


def delete_route(route: Route) -> Message:
    """Remove a route."""
    return _route(DELROUTE, 0, route, "delete ")


# -- neighbours and forwarding entries -------------------------------------------------------------


def put_neighbour(index: int, address: Address, mac: str, *, proxy: bool = False) -> Message:
    """A permanent neighbour: ``address`` on a device has this hardware address."""
    body = (
        _NEIGH.pack(_family(address), index, _NUD_PERMANENT, 0x08 if proxy else 0, 0)
        + attr(1, address.packed)
        + (b"" if proxy else attr(2, mac_bytes(mac)))
    )
    return Message(NEWNEIGH, _PUT, body, f"neighbour {address} on interface {index}")


def delete_neighbour(index: int, address: Address) -> Message:
    """Remove a neighbour."""
    body = _NEIGH.pack(_family(address), index, 0, 0, 0) + attr(1, address.packed)
    return Message(DELNEIGH, 0, body, f"delete neighbour {address} on interface {index}")


def put_fdb(index: int, mac: str, remote: Address) -> Message:
    """Tell a VXLAN device behind which outer address a hardware address is."""
    return _fdb(NEWNEIGH, _PUT, (index, mac, remote), "fdb")


def delete_fdb(index: int, mac: str, remote: Address) -> Message:
    """Remove a forwarding entry."""
    return _fdb(DELNEIGH, 0, (index, mac, remote), "delete fdb")


def _fdb(kind: int, flags: int, entry: tuple[int, str, Address], verb: str) -> Message:
    index, mac, remote = entry
    state = _NUD_PERMANENT | _NUD_NOARP
    body = (
        _NEIGH.pack(_AF_BRIDGE, index, state, _NTF_SELF, 0)
        + attr(2, mac_bytes(mac))
        + attr(1, remote.packed)
    )
    return Message(kind, flags, body, f"{verb} {mac} to {remote} on interface {index}")


# -- rules ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy routing rule: packets that match look into ``table``."""

    table: int
    priority: int
    family: int = socket.AF_INET
    mark: int = 0
    mask: int = 0
    input_device: str = ""
    source: Network | None = None
    destination: Network | None = None

    def __str__(self) -> str:
        return f"rule {self.priority} to table {self.table}"


def _rule(kind: int, flags: int, rule: Rule, verb: str = "") -> Message:
    parts = [
        _RULE.pack(
            rule.family,
            rule.destination.prefixlen if rule.destination else 0,
            rule.source.prefixlen if rule.source else 0,
            0, 0, 0, 0, 1, 0,
        ),
        u32(15, rule.table),
        u32(6, rule.priority),
    ]  # fmt: skip
    if rule.destination:
        parts.append(attr(1, rule.destination.network_address.packed))
    if rule.source:
        parts.append(attr(2, rule.source.network_address.packed))
    if rule.input_device:
        parts.append(text(3, rule.input_device))
    if rule.mark:
        parts.append(u32(10, rule.mark))
        parts.append(u32(16, rule.mask or 0xFFFFFFFF))
    return Message(kind, flags, b"".join(parts), f"{verb}{rule}")


def add_rule(rule: Rule) -> Message:
    """Add a policy routing rule."""
    return _rule(NEWRULE, _ADD, rule)


def delete_rule(rule: Rule) -> Message:
    """Remove a policy routing rule."""
    return _rule(DELRULE, 0, rule, "delete ")


# -- what the kernel reports -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeviceAddress:
    """An address of a device."""

    index: int
    address: Interface
    tentative: bool


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A neighbour or, with ``family`` AF_BRIDGE (7), a forwarding entry."""

    index: int
    family: int
    address: Address | None
    mac: str
    permanent: bool


def address_dump(family: int = 0) -> bytes:
    """Body of a dump of addresses."""
    return _IFADDR.pack(family, 0, 0, 0, 0)


def route_dump(family: int = 0) -> bytes:
    """Body of a dump of routes."""
    return _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)


def neighbour_dump(family: int = 0) -> bytes:
    """Body of a dump of neighbours."""
    return _NEIGH.pack(family, 0, 0, 0, 0)


def parse_address(body: bytes) -> DeviceAddress:
    """Read a NEWADDR or DELADDR message."""
    family, prefix, flags, _, index = _IFADDR.unpack_from(body)
    found = dict(attributes(body, _IFADDR.size))
    address = ip_address(found.get(2) or found[1])
    flags = int.from_bytes(found.get(8, bytes((flags,))), "little")
    kind = IPv4Interface if family == socket.AF_INET else IPv6Interface
    return DeviceAddress(index, kind(f"{address}/{prefix}"), bool(flags & 0x40))


def parse_route(body: bytes) -> Route | None:
    """Read a NEWROUTE or DELROUTE message; None for kinds that we never make."""
    family, prefix, _, _, table, protocol, scope, kind, flags = _ROUTE.unpack_from(body)
    if family not in (socket.AF_INET, socket.AF_INET6) or kind not in _TYPE_NAMES:
        return None
    found = dict(attributes(body, _ROUTE.size))
    size = 4 if family == socket.AF_INET else 16
    destination = ip_network((found.get(1, bytes(size)), prefix))
    metrics = dict(attributes(found.get(8, b"")))
    via = found[5] if 5 in found else found.get(18, b"\0\0")[2:]
    return Route(
        destination=destination,
        device=_number(found.get(4)),
        via=ip_address(via) if via else None,
        source=ip_address(found[7]) if 7 in found else None,
        onlink=bool(flags & _ONLINK),
        scope=scope,
        mtu=_number(metrics.get(2)),
        advmss=_number(metrics.get(8)),
        metric=_number(found.get(6)),
        table=_number(found.get(15)) or table,
        kind=_TYPE_NAMES[kind],
        protocol=protocol,
    )


def parse_neighbour(body: bytes) -> Neighbour:
    """Read a NEWNEIGH or DELNEIGH message."""
    family, index, state, _, _ = _NEIGH.unpack_from(body)
    found = dict(attributes(body, _NEIGH.size))
    return Neighbour(
        index=index,
        family=family,
        address=ip_address(found[1]) if 1 in found else None,
        mac=mac_text(found.get(2, b"")),
        permanent=bool(state & _NUD_PERMANENT),
    )


def _number(data: bytes | None) -> int:
    return struct.unpack_from("=I", data)[0] if data else 0
