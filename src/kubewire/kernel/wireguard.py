"""WireGuard devices over generic netlink: own key and port, peers and what comes from them.

The device itself is made by `kernel.links.add_wireguard`. Numbers are those of
``include/uapi/linux/wireguard.h``. Whether a kernel has WireGuard is found out by making a device
in a scratch namespace: a module that could be loaded counts, too.
"""

import errno
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from kubewire.kernel import links, sandbox
from kubewire.kernel.netlink import (
    Message,
    NetlinkError,
    NetlinkSocket,
    attr,
    attributes,
    nest,
    text,
    u8,
    u16,
    u32,
)
from kubewire.kernel.netns import Netns
from kubewire.kernel.rtnetlink import RtNetlink

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

AT_ONCE = 64
"""Peers of one message: a nested attribute ends at 64 KiB."""

_NETLINK_GENERIC = 16
_CONTROLLER = 0x10
_GET_FAMILY = 3
_FAMILY_ID, _FAMILY_NAME = 1, 2
_GET_DEVICE, _SET_DEVICE = 0, 1
_VERSION = 1
_IFINDEX, _PRIVATE_KEY, _PUBLIC_KEY, _LISTEN_PORT, _PEERS = 1, 3, 4, 6, 8
_PEER_KEY, _PEER_FLAGS, _ENDPOINT, _ALLOWED = 1, 3, 4, 9
_REMOVE, _REPLACE_ALLOWED = 1, 2
_ALLOWED_FAMILY, _ALLOWED_ADDRESS, _ALLOWED_PREFIX = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Peer:
    """Another end: its public key, where it is, and the sources that it may send from."""

    key: bytes
    endpoint: Address
    port: int
    allowed: tuple[Network, ...]


@dataclass(frozen=True, slots=True)
class Device:
    """A device as the kernel reports it; keys are empty until they are set."""

    private_key: bytes = b""
    public_key: bytes = b""
    port: int = 0
    peers: tuple[Peer, ...] = ()


def available() -> bool:
    """Whether this kernel has WireGuard; needs the right to make namespaces."""
    return bool(sandbox.run(_can_make))


def _can_make() -> bool:
    with RtNetlink() as netlink:
        try:
            netlink.transact([links.add_wireguard("probe")])
        except NetlinkError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            return False
    return True


class WireGuard(NetlinkSocket):
    """Configures the WireGuard devices of one network namespace."""

    def __init__(self, netns: Netns | None = None) -> None:
        super().__init__(_NETLINK_GENERIC, netns)
        self._family = 0

    @property
    def family(self) -> int:
        """Number of the protocol in this kernel; NetlinkError ENOENT if it has none."""
        if not self._family:
            body = _general(_GET_FAMILY) + text(_FAMILY_NAME, "wireguard")
            _, answer = self.ask(Message(_CONTROLLER, 0, body, "find WireGuard"))
            self._family = struct.unpack("=H", dict(attributes(answer, 4))[_FAMILY_ID])[0]
        return self._family

    def set(
        self, index: int, *, key: bytes = b"", port: int = 0, peers: Sequence[Peer] = ()
    ) -> None:
        """Set a device's key and port, and add or replace peers; the other peers stay."""
        bodies = [set_device(index, key=key, port=port, peers=peers[:AT_ONCE])]
        for start in range(AT_ONCE, len(peers), AT_ONCE):
            bodies.append(set_device(index, peers=peers[start : start + AT_ONCE]))
        what = f"configure WireGuard device {index}"
        self.transact([Message(self.family, 0, body, what) for body in bodies])

    def remove(self, index: int, keys: Iterable[bytes]) -> None:
        """Remove peers; those that are gone already are fine."""
        body = remove_peers(index, keys)
        self.transact([Message(self.family, 0, body, f"remove peers of device {index}")])

    def get(self, index: int) -> Device:
        """A device's key, port and peers."""
        body = _general(_GET_DEVICE) + u32(_IFINDEX, index)
        answers = self.dump(self.family, body, f"WireGuard device {index}")
        parts = [parse_device(answer) for _, answer in answers]
        return replace(parts[0], peers=tuple(peer for part in parts for peer in part.peers))


def set_device(index: int, *, key: bytes = b"", port: int = 0, peers: Sequence[Peer] = ()) -> bytes:
    """Body of a WG_CMD_SET_DEVICE."""
    body = _general(_SET_DEVICE) + u32(_IFINDEX, index)
    if key:
        body += attr(_PRIVATE_KEY, key)
    if port:
        body += u16(_LISTEN_PORT, port)
    if peers:
        body += nest(_PEERS, *(nest(0, _peer(peer)) for peer in peers))
    return body


def remove_peers(index: int, keys: Iterable[bytes]) -> bytes:
    """Body of a WG_CMD_SET_DEVICE that takes peers away."""
    gone = (nest(0, attr(_PEER_KEY, key) + u32(_PEER_FLAGS, _REMOVE)) for key in keys)
    return _general(_SET_DEVICE) + u32(_IFINDEX, index) + nest(_PEERS, *gone)


def _general(command: int) -> bytes:
    """struct genlmsghdr."""
    return struct.pack("=BBH", command, _VERSION, 0)


def _peer(peer: Peer) -> bytes:
    return (
        attr(_PEER_KEY, peer.key)
        + u32(_PEER_FLAGS, _REPLACE_ALLOWED)
        + attr(_ENDPOINT, _socket_address(peer.endpoint, peer.port))
        + nest(_ALLOWED, *(nest(0, _allowed(network)) for network in peer.allowed))
    )


def _allowed(network: Network) -> bytes:
    return (
        u16(_ALLOWED_FAMILY, socket.AF_INET if network.version == 4 else socket.AF_INET6)
        + attr(_ALLOWED_ADDRESS, network.network_address.packed)
        + u8(_ALLOWED_PREFIX, network.prefixlen)
    )


def _socket_address(address: Address, port: int) -> bytes:
    """struct sockaddr_in or sockaddr_in6."""
    if address.version == 4:
        return struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, address.packed)
    head = struct.pack("=H", socket.AF_INET6)
    return head + struct.pack("!HI16sI", port, 0, address.packed, 0)


def parse_device(answer: bytes) -> Device:
    """Read one message of the answer to WG_CMD_GET_DEVICE; a device with many peers has several."""
    found = dict(attributes(answer, 4))
    peers = [dict(attributes(one)) for _, one in attributes(found.get(_PEERS, b""))]
    return Device(
        private_key=_set_key(found.get(_PRIVATE_KEY, b"")),
        public_key=_set_key(found.get(_PUBLIC_KEY, b"")),
        port=struct.unpack("=H", found.get(_LISTEN_PORT, b"\0\0"))[0],
        peers=tuple(_parse_peer(peer) for peer in peers if _ENDPOINT in peer),
    )


def _parse_peer(found: dict[int, bytes]) -> Peer:
    where = found[_ENDPOINT]
    size = 4 if struct.unpack_from("=H", where)[0] == socket.AF_INET else 16
    start = 4 if size == 4 else 8
    allowed = [dict(attributes(one)) for _, one in attributes(found.get(_ALLOWED, b""))]
    return Peer(
        key=found[_PEER_KEY],
        endpoint=ip_address(where[start : start + size]),
        port=struct.unpack_from("!H", where, 2)[0],
        allowed=tuple(
            ip_network((one[_ALLOWED_ADDRESS], one[_ALLOWED_PREFIX][0])) for one in allowed
        ),
    )


def _set_key(key: bytes) -> bytes:
    """A key of zeros is none."""
    return key if any(key) else b""
