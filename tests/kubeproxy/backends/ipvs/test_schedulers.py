"""Every scheduler's share over 1,000 connections: the kernel's count against the pure model's."""

import resource
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from ipaddress import ip_interface, ip_network

import pytest

from kubewire.kernel import routes
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
    """Clients, the virtual address and its destinations are all addresses of this machine."""
    with RtNetlink() as netlink:
        own = netlink.index("lo")
        clients = Route(ip_network("10.9.0.0/16"), own, kind="local", table=TABLE_LOCAL)
        addresses = ["10.96.0.1", *(end.address for end in WEIGHTS)]
        netlink.transact(
            [
                routes.add_route(clients),
                *(routes.add_address(own, ip_interface(f"{a}/32")) for a in addresses),
            ]
        )
    limit = CONNECTIONS + 200
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (limit, max(limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    )


@contextmanager
def connected() -> Iterator[None]:
    """Every client has a connection that stays open; nobody needs to accept it for that."""
    with ExitStack() as stack:
        stack.enter_context(socket.create_server(("", 8080), backlog=4096))
        for client in CLIENTS:
            one = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.bind(client)
            one.connect(("10.96.0.1", 80))
        yield


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_share(scheduler: str) -> None:
    furnish()
    flags = PORT_IN_HASH if scheduler == "mh" else 0
    server = VirtualServer(ServerKey(4, "10.96.0.1", "TCP", 80), scheduler, None, flags, WEIGHTS)
    with closing(Ipvs()) as ipvs:
        ipvs.commit(diff({}, {server.key: server}))
        with connected():
            found = {end: load.active for end, load in ipvs.loads(server).items()}
            table = ipvs.connections()
    assert Counter(c.state for c in table) == {"ESTABLISHED": CONNECTIONS}
    assert {(c.client, c.client_port) for c in table} == set(CLIENTS)
    # The kernel keeps the one that came last at the head of its list.
    backwards = dict(reversed(WEIGHTS.items()))
    expected = share(replace(server, destinations=backwards), CLIENTS)
    assert found == pytest.approx(expected, abs=BOUND if scheduler in HASHED else 4)
