"""Every scheduler's share over 1,000 connections: the kernel's count against the pure model's."""

import socket
from ipaddress import ip_interface, ip_network

import pytest

from kubewire.kernel import links, routes
from kubewire.kernel.ipvs import Ipvs
from kubewire.kernel.routes import TABLE_LOCAL, Route
from kubewire.kernel.rtnetlink import RtNetlink
from kubewire.lang.ipvs.model import (
    PORT_IN_HASH,
    DestinationKey,
    ServerKey,
    VirtualServer,
    diff,
)
from kubewire.lang.ipvs.schedulers import SCHEDULERS, share

pytestmark = pytest.mark.ipvs

CONNECTIONS = 1000
CLIENTS = [(f"10.9.{i >> 8}.{i & 255}", 20000 + i) for i in range(CONNECTIONS)]
WEIGHTS = {DestinationKey(f"10.244.0.{weight}", 8080): weight for weight in (1, 2, 3)}
HASHED = {"sh", "mh"}
BOUND = 5 * (CONNECTIONS / 4) ** 0.5
"""Five standard deviations of an even coin."""


def furnish() -> None:
    """Clients are addresses of this machine; what goes to a destination ends in a dummy."""
    with RtNetlink() as netlink:
        netlink.transact([links.add_dummy("sink")])
        sink, own = netlink.index("sink"), netlink.index("lo")
        netlink.transact(
            [
                links.set_link(sink, up=True),
                routes.add_address(sink, ip_interface("10.244.255.1/16")),
                routes.add_address(own, ip_interface("10.96.0.1/32")),
                routes.add_route(
                    Route(ip_network("10.9.0.0/16"), own, kind="local", table=TABLE_LOCAL)
                ),
            ]
        )


def connect(port: int) -> None:
    """One datagram each: to UDP, a connection that stays open for minutes."""
    for client in CLIENTS:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.bind(client)
            one.sendto(b"x", ("10.96.0.1", port))


def test_shares() -> None:
    furnish()
    ipvs = Ipvs()
    servers = {}
    for number, name in enumerate(SCHEDULERS):
        key = ServerKey(4, "10.96.0.1", "UDP", 1000 + number)
        flags = PORT_IN_HASH if name == "mh" else 0
        servers[key] = VirtualServer(key, name, None, flags, WEIGHTS)
    ipvs.commit(diff({}, servers))
    for key, server in servers.items():
        connect(key.port)
        found = {end: load.active for end, load in ipvs.loads(server).items()}
        assert sum(found.values()) == CONNECTIONS, server.scheduler
        expected = share(server, CLIENTS)
        if server.scheduler == "dh":
            # The order in which the kernel has them says which one it is.
            assert sorted(found.values()) == sorted(expected.values())
        else:
            bound = BOUND if server.scheduler in HASHED else 4
            assert found == pytest.approx(expected, abs=bound), server.scheduler
    table = ipvs.connections()
    assert len(table) == CONNECTIONS * len(SCHEDULERS)
    assert {c.state for c in table} == {"UDP"}
    ipvs.close()
