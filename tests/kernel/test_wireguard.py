"""WireGuard's netlink messages, byte for byte; a kernel that has it is asked, too.

The expected bytes are laid out by hand after include/uapi/linux/wireguard.h, not by our own packer.
"""

import errno
import struct
from ipaddress import ip_address, ip_network

import pytest

from kubewire.kernel import links, wireguard
from kubewire.kernel.netlink import NetlinkError, attributes
from kubewire.kernel.rtnetlink import RtNetlink
from kubewire.kernel.wireguard import Device, Peer, WireGuard

KEY = bytes(range(32))
OTHER = bytes(range(32, 64))
V4 = Peer(KEY, ip_address("172.30.0.11"), 51820, (ip_network("10.244.1.0/24"),))
V6 = Peer(OTHER, ip_address("fd30::11"), 51820, (ip_network("fd01::/64"), ip_network("10.1.0.0/16")))  # fmt: skip


def test_a_key_and_a_port() -> None:
    assert wireguard.set_device(7, key=KEY, port=51820) == (
        b"\x01\x01\x00\x00"  # WG_CMD_SET_DEVICE, version 1
        + struct.pack("=HHI", 8, 1, 7)  # IFINDEX
        + struct.pack("=HH", 36, 3) + KEY  # PRIVATE_KEY
        + struct.pack("=HHHH", 6, 6, 51820, 0)  # LISTEN_PORT, padded
    )  # fmt: skip


def test_a_peer() -> None:
    allowed = (
        struct.pack("=HHHH", 6, 1, 2, 0)  # FAMILY: AF_INET, padded
        + struct.pack("=HH4s", 8, 2, bytes((10, 244, 1, 0)))  # IPADDR
        + struct.pack("=HHB3x", 5, 3, 24)  # CIDR_MASK, padded
    )
    peer = (
        struct.pack("=HH", 36, 1) + KEY  # PUBLIC_KEY
        + struct.pack("=HHI", 8, 3, 2)  # FLAGS: REPLACE_ALLOWEDIPS
        + struct.pack("=HH", 20, 4) + struct.pack("=H", 2)  # ENDPOINT: sockaddr_in
        + struct.pack("!H4s8x", 51820, bytes((172, 30, 0, 11)))
        + struct.pack("=HH", len(allowed) + 8, 9 | 0x8000)  # ALLOWEDIPS
        + struct.pack("=HH", len(allowed) + 4, 0x8000) + allowed
    )  # fmt: skip
    assert wireguard.set_device(7, peers=[V4]) == (
        b"\x01\x01\x00\x00"
        + struct.pack("=HHI", 8, 1, 7)
        + struct.pack("=HH", len(peer) + 8, 8 | 0x8000)  # PEERS
        + struct.pack("=HH", len(peer) + 4, 0x8000) + peer
    )  # fmt: skip


def test_a_peer_that_goes() -> None:
    peer = struct.pack("=HH", 36, 1) + KEY + struct.pack("=HHI", 8, 3, 1)  # FLAGS: REMOVE_ME
    assert wireguard.remove_peers(7, [KEY]) == (
        b"\x01\x01\x00\x00"
        + struct.pack("=HHI", 8, 1, 7)
        + struct.pack("=HH", len(peer) + 8, 8 | 0x8000)
        + struct.pack("=HH", len(peer) + 4, 0x8000) + peer
    )  # fmt: skip


def test_an_endpoint_of_ipv6_is_a_sockaddr_in6() -> None:
    body = wireguard.set_device(7, peers=[V6])
    peers = dict(attributes(body, 4))[8]
    (_, peer), *_ = attributes(peers)
    assert dict(attributes(peer))[4] == (
        struct.pack("=H", 10) + struct.pack("!HI", 51820, 0) + V6.endpoint.packed + bytes(4)
    )


def test_what_the_kernel_reports_is_read_back() -> None:
    body = wireguard.set_device(7, key=KEY, port=51820, peers=[V4, V6])
    assert wireguard.parse_device(body) == Device(KEY, b"", 51820, (V4, V6))
    assert wireguard.parse_device(wireguard.set_device(7, key=bytes(32))) == Device()


@pytest.mark.kernel
def test_a_device_keeps_what_it_was_given_where_the_kernel_has_them() -> None:
    with RtNetlink() as netlink, WireGuard() as genetlink:
        try:
            netlink.transact([links.add_wireguard("wg0")])
        except NetlinkError as error:
            assert error.errno == errno.EOPNOTSUPP
            with pytest.raises(NetlinkError, match="find WireGuard: ENOENT"):
                genetlink.set(1, key=KEY)
            return
        index = netlink.index("wg0")
        genetlink.set(index, key=KEY, port=51820, peers=[V4, V6])
        found = genetlink.get(index)
        assert (found.port, set(found.peers)) == (51820, {V4, V6})
        assert found.public_key not in (b"", KEY)
        genetlink.remove(index, [KEY])
        assert genetlink.get(index).peers == (V6,)
