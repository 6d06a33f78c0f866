"""Requests about network devices: veth, bridge, macvlan, vxlan, dummy, wireguard, and how they are set.

A device is named by its name or, where another namespace or a batch asks for it, by its index.
Devices are created down: IFF_UP on a veth's peer at creation is refused (ENOTCONN), and so is an
address generation mode (EAFNOSUPPORT); `set_link` does both afterwards.
"""

import errno
import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address

from kubewire.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    attr,
    attributes,
    be16,
    nest,
    text,
    u8,
    u32,
)

NEWLINK = 16
DELLINK = 17
GETLINK = 18

_IFF_UP = 0x1

_ADDRESS = 1
_IFNAME = 3
_MTU = 4
_LINK = 5
_MASTER = 10
_LINKINFO = 18
_ALIAS = 20
_STATS64 = 23
_AF_SPEC = 26
_GROUP = 27
_NET_NS_FD = 28
_NUM_TX_QUEUES = 31
_NUM_RX_QUEUES = 32
_GSO_MAX_SIZE = 41
_GSO_IPV4_MAX_SIZE = 63
_GRO_IPV4_MAX_SIZE = 64
_INFO_KIND = 1
_INFO_DATA = 2
_INFO_SLAVE_KIND = 4
_INFO_SLAVE_DATA = 5
_BRPORT_MODE = 4
_MACVLAN_MODE = 1
_MACVLAN_BRIDGE = 4

_BODY = struct.Struct("=BxHiII")
_AF_INET6 = 10
_CREATE = NLM_F_CREATE | NLM_F_EXCL


@dataclass(frozen=True, slots=True)
class Gso:
    """The largest packets that TCP may hand over at once, to be cut by the last device.

    0 leaves, or is, what the kernel has: 64 KiB. Larger ones need Linux 5.19 (IPv6) and 6.3 (IPv4).
    """

    v4: int = 0
    v6: int = 0


DEFAULT_GSO = Gso()


def mac_bytes(mac: str) -> bytes:
    """Six bytes of ``0a:58:0a:f4:00:02``."""
    return bytes.fromhex(mac.replace(":", ""))


def mac_text(data: bytes) -> str:
    """The text form of a hardware address."""
    return data.hex(":")


def _body(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return _BODY.pack(0, 0, index, flags, change)


def _new(name: str, kind: str, *data: bytes, common: bytes = b"", what: str = "") -> Message:
    info = nest(_LINKINFO, text(_INFO_KIND, kind), *([nest(_INFO_DATA, *data)] if data else []))
    return Message(
        NEWLINK, _CREATE, _body() + text(_IFNAME, name) + common + info, what or f"{kind} {name}"
    )


def _common(mac: str = "", mtu: int = 0, gso: Gso = DEFAULT_GSO) -> bytes:
    address = attr(_ADDRESS, mac_bytes(mac)) if mac else b""
    # Packets that come in small are not put together beyond 64 KiB for IPv6: a router could not pass them on.
    v6 = u32(_GSO_MAX_SIZE, gso.v6) if gso.v6 else b""
    v4 = u32(_GSO_IPV4_MAX_SIZE, gso.v4) + u32(_GRO_IPV4_MAX_SIZE, gso.v4) if gso.v4 else b""
    return address + (u32(_MTU, mtu) if mtu else b"") + v6 + v4


def add_veth(
    name: str,
    peer: str,
    *,
    peer_netns: int | None = None,
    mac: str = "",
    peer_mac: str = "",
    mtu: int = 0,
    gso: Gso = DEFAULT_GSO,
) -> Message:
    """A veth pair; the peer is born in the namespace of the descriptor ``peer_netns``.

    ``gso`` is that of both ends.
    """
    # The kernel uses one queue whatever there are, and waits for all processors to drop the others.
    queues = u32(_NUM_TX_QUEUES, 1) + u32(_NUM_RX_QUEUES, 1)
    other = _body() + text(_IFNAME, peer) + _common(peer_mac, mtu, gso) + queues
    if peer_netns is not None:
        other += u32(_NET_NS_FD, peer_netns)
    return _new(
        name,
        "veth",
        attr(1, other),
        common=_common(mac, mtu, gso) + queues,
        what=f"veth {name} - {peer}",
    )


def add_bridge(name: str, *, mac: str = "", mtu: int = 0) -> Message:
    """A bridge."""
    return _new(name, "bridge", common=_common(mac, mtu))


def add_dummy(name: str, *, mac: str = "", mtu: int = 0) -> Message:
    """A dummy device."""
    return _new(name, "dummy", common=_common(mac, mtu))


def add_macvlan(name: str, lower: int, *, netns: int | None = None, mac: str = "") -> Message:
    """A device of its own hardware address on another one; those of one ``lower`` reach each other."""
    common = _common(mac) + u32(_LINK, lower)
    if netns is not None:
        common += u32(_NET_NS_FD, netns)
    return _new(name, "macvlan", u32(_MACVLAN_MODE, _MACVLAN_BRIDGE), common=common)


def add_wireguard(name: str, *, mtu: int = 0) -> Message:
    """A WireGuard device; EOPNOTSUPP where the kernel has none."""
    return _new(name, "wireguard", common=_common(mtu=mtu))


def add_vxlan(
    name: str,
    vni: int,
    *,
    local: IPv4Address | IPv6Address,
    device: int,
    port: int = 8472,
    mac: str = "",
    mtu: int = 0,
) -> Message:
    """A VXLAN device that learns nothing: its FDB is written by `add_fdb`."""
    local_kind = 4 if local.version == 4 else 17
    return _new(
        name,
        "vxlan",
        u32(1, vni),
        attr(local_kind, local.packed),
        u32(3, device),
        u8(7, 0),
        be16(15, port),
        common=_common(mac, mtu),
    )


def set_link(
    link: str | int,
    *,
    up: bool | None = None,
    name: str = "",
    mtu: int = 0,
    mac: str = "",
    gso: Gso = DEFAULT_GSO,
    master: int | None = None,
    netns: int | None = None,
    alias: str = "",
    group: int = 0,
    no_autoconf: bool = False,
) -> Message:
    """Change a device; ``no_autoconf`` keeps the kernel from making a link-local address.

    EINVAL where ``gso`` is more than the device can take.
    """
    parts = [text(_IFNAME, link)] if isinstance(link, str) else []
    if name:
        parts.append(text(_IFNAME, name))
    parts.append(_common(mac, mtu, gso))
    if master is not None:
        parts.append(u32(_MASTER, master))
    if netns is not None:
        parts.append(u32(_NET_NS_FD, netns))
    if alias:
        parts.append(text(_ALIAS, alias))
    if group:
        parts.append(u32(_GROUP, group))
    if no_autoconf:
        parts.append(nest(_AF_SPEC, nest(_AF_INET6, u8(8, 1))))
    body = _body(
        0 if isinstance(link, str) else link,
        _IFF_UP if up else 0,
        0 if up is None else _IFF_UP,
    )
    return Message(NEWLINK, 0, body + b"".join(parts), f"set link {link}")


def bring_up(link: str | int) -> tuple[Message, Message]:
    """Take a device into use without the link-local address that the kernel would make.

    Two requests: Linux 6.1 looks at "up" first where both come in one, and makes the address.
    """
    # There is no IPv6 on a device whose MTU is too small for it, or where the kernel has none.
    quiet = set_link(link, no_autoconf=True).tolerate(errno.EAFNOSUPPORT)
    return quiet, set_link(link, up=True)


def set_hairpin(port: str, on: bool = True) -> Message:
    """Let a bridge send frames back out of the port they came in by."""
    info = nest(_LINKINFO, text(_INFO_SLAVE_KIND, "bridge"), nest(_INFO_SLAVE_DATA, u8(_BRPORT_MODE, int(on))))  # fmt: skip
    return Message(NEWLINK, 0, _body() + text(_IFNAME, port) + info, f"hairpin of {port}")


def delete_link(link: str | int) -> Message:
    """Remove a device (and, of a veth, its peer)."""
    if isinstance(link, str):
        return Message(DELLINK, 0, _body() + text(_IFNAME, link), f"delete link {link}")
    return Message(DELLINK, 0, _body(link), f"delete link {link}")


def delete_group(group: int) -> Message:
    """Remove all devices of a group at once: one wait for the kernel instead of one per device."""
    return Message(DELLINK, 0, _body() + u32(_GROUP, group), f"delete links of group {group}")


def get_link(link: str | int) -> Message:
    """Ask for one device."""
    if isinstance(link, str):
        return Message(GETLINK, 0, _body() + text(_IFNAME, link), f"link {link}")
    return Message(GETLINK, 0, _body(link), f"link {link}")


def settle(link: str | int) -> Message:
    """Have the kernel take notice of a carrier that has just come (Linux 6.8; by itself it does a bit later).

    Until then the device drops what it is to send, and IPv6 has not begun on it.
    """
    return replace(get_link(link), what=f"settle link {link}")


def all_links() -> bytes:
    """Body of a dump of every device."""
    return _body()


@dataclass(frozen=True, slots=True)
class Link:
    """A network device as the kernel reports it."""

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    up: bool
    master: int
    parent: int
    alias: str
    gso: Gso = DEFAULT_GSO
    vni: int = 0
    local: IPv4Address | IPv6Address | None = None
    port: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0


def parse_link(body: bytes) -> Link:
    """Read a NEWLINK or DELLINK message."""
    _, _, index, flags, _ = _BODY.unpack_from(body)
    found = dict(attributes(body, _BODY.size))
    info = dict(attributes(found.get(_LINKINFO, b"")))
    kind = _string(info.get(_INFO_KIND, b""))
    data = dict(attributes(info.get(_INFO_DATA, b""))) if kind == "vxlan" else {}
    local = data.get(4) or data.get(17)
    statistics = found.get(_STATS64, bytes(192))
    return Link(
        index=index,
        name=_string(found.get(_IFNAME, b"")),
        kind=kind,
        mac=mac_text(found.get(_ADDRESS, b"")),
        mtu=_number(found.get(_MTU, b"")),
        up=bool(flags & _IFF_UP),
        master=_number(found.get(_MASTER, b"")),
        parent=_number(found.get(_LINK, b"")),
        alias=_string(found.get(_ALIAS, b"")),
        gso=Gso(
            _number(found.get(_GSO_IPV4_MAX_SIZE, b"")), _number(found.get(_GSO_MAX_SIZE, b""))
        ),
        vni=_number(data.get(1, b"")),
        local=ip_address(local) if local else None,
        port=int.from_bytes(data.get(15, b""), "big"),
        received_bytes=struct.unpack_from("=Q", statistics, 16)[0],
        sent_bytes=struct.unpack_from("=Q", statistics, 24)[0],
    )


def _string(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")


def _number(data: bytes) -> int:
    return struct.unpack_from("=I", data)[0] if len(data) >= 4 else 0
