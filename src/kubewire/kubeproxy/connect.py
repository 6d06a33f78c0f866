"""A plan asked of a real Envoy: packets tell where the rules lead, connections who is there.

The kernel's half (the rules that lead to Envoy) is asked by packets, as every back end's rules are.
Where they lead to Envoy, a connection is opened through it in namespaces of its own: a node with
Envoy and all its rules, and a world where every address is its own, which connects as whoever asks
and accepts as whichever endpoint is chosen.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from itertools import product

from kubewire.kernel import netns, sysctl
from kubewire.kernel.links import add_veth, set_link
from kubewire.kernel.namespaces import CLONE_NEWNET, unshare
from kubewire.kernel.netlink import NetlinkError
from kubewire.kernel.probe import Probe
from kubewire.kernel.routes import (
    TABLE_LOCAL,
    Route,
    Rule,
    add_rule,
    delete_rule,
    put_address,
    put_neighbour,
    put_route,
)
from kubewire.kernel.rtnetlink import RtNetlink
from kubewire.kubeproxy.backends.envoy.compile import ADDRESSES
from kubewire.kubeproxy.backends.envoy.proxier import EnvoyProxier
from kubewire.kubeproxy.backends.envoy.trace import kernel_half
from kubewire.kubeproxy.kerneltrace import KernelTracer
from kubewire.kubeproxy.table import Change
from kubewire.kubeproxy.trace import Answer, Flow, Tracer, endpoint_name

PATIENCE = 5.0
_PODS = 1
"""Mark of what must leave the world by the pods' device."""
_MACS = {"outside": ("02:00:00:00:01:01", "02:00:00:00:01:02"), "pods": ("02:00:00:00:01:03", "02:00:00:00:01:04")}  # fmt: skip
_FAMILIES = (
    (socket.AF_INET, "0.0.0.0/0", "169.254.1.1", "192.0.2.254"),
    (socket.AF_INET6, "::/0", "fe80::1", "2001:db8:ffff::fe"),
)
"""Family, everybody, a gateway that nobody has, the node's address if it has none."""
_REPLY = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_QUESTION = b"GET / HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n"


class ConnectionTracer:
    """Asks by packets first, then by connections."""

    def __init__(self, tracer: Tracer, probe: Probe) -> None:
        self._tracer = tracer
        self._packets = KernelTracer(kernel_half(tracer), probe)
        self._stack = contextlib.ExitStack()
        self._node, self._world = _namespace(self._stack), _namespace(self._stack)
        _furnish(self._node, self._world, tracer.node.ips)
        with netns.entered(self._node):
            self._proxier = EnvoyProxier(tracer.config, tracer.service_cidrs)
            changes = [Change(f.key, None, f) for f in tracer.plan.frontends.values()]
            self._proxier.sync(changes, tracer.plan.addresses)

    def close(self) -> None:
        """End Envoy; the namespaces go with it."""
        self._packets.close()
        with netns.entered(self._node):
            self._proxier.clear()
            self._proxier.close()
        self._stack.close()

    def ask(self, asked: Flow) -> Answer:
        """Connect until every endpoint that there should be was met, or long enough."""
        seen = self._packets.ask(asked)
        if not any(e.rpartition(":")[0].strip("[]") in ADDRESSES.values() for e in seen.endpoints):
            return seen
        expected = self._tracer.ask(asked)
        met: dict[str, str] = {}
        for _ in range(10 * len(expected.endpoints) + 1):
            found = self._connect(asked, expected)
            if found is None:
                return Answer("drop", reason=f"Envoy leads nowhere: {expected.reason}")
            met.setdefault(*found)
            if len(met) >= len(expected.endpoints):
                break
        masked = any(peer != asked.source for peer in met.values())
        if self._tracer.source_class(asked.source) == "node":
            # Its address is the node's in any case.
            masked = expected.masquerade
        return replace(expected, endpoints=tuple(sorted(met)), masquerade=masked)

    def _connect(self, asked: Flow, expected: Answer) -> tuple[str, str] | None:
        """(endpoint, client as the endpoint sees it) of one connection."""
        source = self._tracer.source_class(asked.source)
        family = socket.AF_INET6 if ":" in asked.target else socket.AF_INET
        ports = {int(e.rpartition(":")[2]) for e in expected.endpoints}
        with contextlib.ExitStack() as stack:
            # An endpoint may be the node itself.
            listeners = [
                stack.enter_context(_listening(place, family, port))
                for place, port in product((self._world, self._node), ports)
            ]
            where = self._node if source == "node" else self._world
            client = stack.enter_context(netns.socket_in(where, family))
            client.settimeout(PATIENCE)
            if source == "pod":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, _PODS)
            try:
                client.bind((asked.source, 0))
                client.connect((asked.target, asked.port))
                client.sendall(_QUESTION)
            except OSError:
                return None
            return self._accepted(listeners)

    def _accepted(self, listeners: Iterable[socket.socket]) -> tuple[str, str] | None:
        """Whoever is reached first; Envoy may have to be told of its cluster before."""
        by_fd = {one.fileno(): one for one in listeners}
        poll = select.poll()
        for fd in (*by_fd, self._proxier.fileno()):
            poll.register(fd, select.POLLIN)
        deadline = time.monotonic() + PATIENCE
        while (left := deadline - time.monotonic()) > 0:
            self._proxier.serve()
            for fd, _ in poll.poll(left * 1000):
                if fd in by_fd:
                    return _answered(by_fd[fd])
        return None


def _listening(place: int, family: int, port: int) -> socket.socket:
    found = netns.socket_in(place, family)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind(("", port))
    found.listen()
    return found


def _answered(listener: socket.socket) -> tuple[str, str]:
    accepted, peer = listener.accept()
    with accepted:
        accepted.sendall(_REPLY)
        return endpoint_name(*accepted.getsockname()[:2]), str(peer[0])


# -- namespaces -----------------------------------------------------------------------------------


def _namespace(stack: contextlib.ExitStack) -> int:
    home = netns.current()
    try:
        with netns.entered(home):
            unshare(CLONE_NEWNET)
            found = netns.current()
    finally:
        os.close(home)
    stack.callback(os.close, found)
    return found


def _furnish(node: int, world: int, addresses: tuple[str, ...]) -> None:
    for place, settings in (
        (node, {"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1}),
        (world, {"ipv4/conf/all/accept_local": 1, "ipv6/ip_nonlocal_bind": 1}),
    ):
        with netns.entered(place):
            common = {"ipv4/conf/all/rp_filter": 0, "ipv4/conf/default/rp_filter": 0, "ipv6/conf/default/accept_dad": 0}  # fmt: skip
            for name, value in (settings | common).items():
                sysctl.write(f"net/{name}", value)
    with RtNetlink(node) as here, RtNetlink(world) as there:
        for netlink in (here, there):
            netlink.transact([set_link("lo", up=True)])
        for name, (mac, far_mac) in _MACS.items():
            here.transact(
                [add_veth(name, f"{name}-far", peer_netns=world, mac=mac, peer_mac=far_mac)]
            )
            here.transact([set_link(name, up=True)])
            there.transact([set_link(f"{name}-far", up=True)])
        for family, everybody, gateway, fallback in _FAMILIES:
            _node_side(here, addresses, everybody, gateway, fallback)
            _world_side(there, family, everybody, gateway)


def _node_side(
    netlink: RtNetlink, addresses: tuple[str, ...], everybody: str, gateway: str, fallback: str
) -> None:
    via, device = ip_address(gateway), netlink.index("outside")
    own = [ip for ip in addresses if (":" in ip) == (via.version == 6)] or [fallback]
    batch = [put_address(device, ip_interface(f"{ip}/{via.max_prefixlen}")) for ip in own]
    batch.append(put_neighbour(device, via, _MACS["outside"][1]))
    batch.append(put_route(Route(ip_network(everybody), device, via, onlink=True)))
    netlink.transact(batch)


def _world_side(netlink: RtNetlink, family: int, everybody: str, gateway: str) -> None:
    """Every address is this namespace's; what it sends leaves by a device all the same."""
    via, anywhere = ip_address(gateway), ip_network(everybody)
    batch = []
    for name, table in (("outside", 100), ("pods", 101)):
        device = netlink.index(f"{name}-far")
        batch.append(put_neighbour(device, via, _MACS[name][0]))
        batch.append(put_route(Route(anywhere, device, via, onlink=True, table=table)))
    # Last: where every address is local none can be a gateway.
    batch.append(put_route(Route(anywhere, 1, table=TABLE_LOCAL, kind="local")))
    netlink.transact(batch)
    pods = Rule(101, 10, family, mark=_PODS, mask=_PODS, input_device="lo")
    rules = [pods, Rule(100, 11, family, input_device="lo"), Rule(TABLE_LOCAL, 12, family)]
    netlink.transact([add_rule(rule) for rule in rules])
    with contextlib.suppress(NetlinkError):
        netlink.transact([delete_rule(Rule(TABLE_LOCAL, 0, family))])
