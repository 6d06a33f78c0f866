"""The cable of a pod by itself."""

import socket
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from kubewire.cni.wiring import Cable, entering, wire
from kubewire.kernel import netns
from kubewire.kernel.routes import put_address
from kubewire.kernel.rtnetlink import RtNetlink

pytestmark = pytest.mark.kernel


def test_the_first_packet_of_a_pod_is_not_lost() -> None:
    """A device whose carrier has only just come drops what it is to send."""
    with RtNetlink() as node, socket.socket(type=socket.SOCK_DGRAM) as server:
        node.transact([put_address(1, ip_interface("169.254.1.1/32"), 0)])
        server.bind(("169.254.1.1", 9))
        server.settimeout(2)
        for number in range(50):
            path = Path(f"/run/netns/p{number}")
            netns.create(path)
            address = ip_address("10.244.0.2") + number
            cable = Cable(f"kc{number}", "eth0", f"0a:00:00:00:00:{number:02x}", (address,))
            with entering(path) as room, netns.socket_in(path, kind=socket.SOCK_DGRAM) as pod:
                wire(node, room, cable)
                pod.sendto(b"x", ("169.254.1.1", 9))
            assert server.recvfrom(1)[1][0] == str(address)
