"""Who leaves the node with the node's address."""

from ipaddress import ip_network

import pytest

from kubewire.cni import masquerade
from kubewire.lang.nftables.model import evaluate
from kubewire.lang.packet import Packet

TABLE = masquerade.table(
    "t",
    [ip_network("10.244.1.0/24"), ip_network("10.244.0.0/24"), ip_network("fd00::/64")],
    [ip_network("192.168.0.0/16")],
)


@pytest.mark.parametrize(
    ("source", "destination", "masqueraded"),
    [
        ("10.244.1.2", "8.8.8.8", True),
        ("10.244.1.2", "10.244.0.2", False),
        ("10.244.1.2", "192.168.3.4", False),
        ("10.244.1.2", "224.0.0.251", False),
        ("172.30.0.1", "8.8.8.8", False),
        ("fd00::2", "2001:db8::1", True),
        ("fd00::2", "fd00::3", False),
        ("fd00::2", "ff02::1", False),
    ],
)
def test_masqueraded(source: str, destination: str, masqueraded: bool) -> None:
    packet = Packet(source, destination, dport=80)
    assert evaluate([TABLE], "postrouting", packet).masquerade is masqueraded
