"""Real connections through a back end that answers them itself: who is there in the end, and who asks.

A proxy's first packet says only that the proxy is there. So the probe's world becomes everybody: a
namespace where every address is its own, which connects as whoever asks and accepts as whichever
endpoint is chosen.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import product

from kubewire.kernel import netns, sysctl
from kubewire.kernel.links import set_link
from kubewire.kernel.netlink import NetlinkError
from kubewire.kernel.routes import (
    TABLE_LOCAL,
    Route,
    Rule,
    add_rule,
    delete_rule,
    put_neighbour,
    put_route,
)
from kubewire.kernel.rtnetlink import RtNetlink
from kubewire.kubeproxy.backends.envoy.compile import ADDRESSES
from kubewire.kubeproxy.probe import NODE_MAC, PODS_MAC, KernelTracer, Probe, judged
from kubewire.kubeproxy.trace import Flow, Tracer, endpoint_name
from kubewire.lang.datagram import Seen
from kubewire.lang.packet import PROTOCOLS

PATIENCE = 5.0
_PODS = 1
"""Mark of what must leave by the pods' device."""
_FAMILIES = (
    (socket.AF_INET, "0.0.0.0/0", "169.254.1.2"),
    (socket.AF_INET6, "::/0", "fe80::2"),
)
_REPLY = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_QUESTION = b"GET / HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n"


def kernel_tracer(tracer: Tracer) -> KernelTracer:
    """Packets for back ends that are rules, connections for one that is a proxy."""
    return (ConnectionTracer if tracer.config.mode == "envoy" else KernelTracer)(tracer)


class ConnectionTracer(KernelTracer):
    """Asks by packets; where they lead to the proxy, by connections."""

    def __init__(self, tracer: Tracer, probe: Probe | None = None) -> None:
        super().__init__(tracer, probe)
        make_everybody(self._probe.world)

    def close(self) -> None:
        """End the proxy too: the namespace would not."""
        self._proxier.clear()
        super().close()

    def _load(self) -> None:
        """Without affinity: a hash gives one client one endpoint, and all are asked for."""
        frontends = self._tracer.plan.frontends.values()
        self._sync(replace(frontend, affinity=None) for frontend in frontends)

    def _once(self, asked: Flow) -> tuple[str, str, bool]:
        source = self._tracer.source_class(asked.source)
        seen = self._probe.send(asked, pod=source == "pod")
        # Everybody's own words, and what is left of earlier connections, are no packets of the flow.
        kept = [one for one in seen if _of(one, asked, self._probe.port)]
        verdict, target, masked = judged(kept, asked, self._probe.port)
        if target.rpartition(":")[0].strip("[]") not in ADDRESSES.values():
            return verdict, target, masked
        expected = self._tracer.ask(asked)
        ports = {int(e.rpartition(":")[2]) for e in expected.endpoints}
        where = None if source == "node" else self._probe.world
        met = connected(asked, where, self._probe.world, ports, pod=source == "pod")
        if met is None:
            return "drop", "", False
        endpoint, peer = met
        # A process of the node has the node's address in any case.
        return "accept", endpoint, expected.masquerade if source == "node" else peer != asked.source


def _of(one: Seen, asked: Flow, port: int) -> bool:
    """Tell whether a packet belongs to the first one of a flow."""
    if one.refuses:
        tcp = one.protocol == PROTOCOLS["tcp"]
        return one.target == asked.source and (not tcp or one.target_port == port)
    if one.protocol != PROTOCOLS[asked.protocol.lower()]:
        return False
    if asked.protocol != "TCP":
        return True
    to_proxy = one.target in ADDRESSES.values()
    to_target = (one.target, one.target_port) == (asked.target, asked.port)
    return one.source_port == port and (to_proxy or to_target)


def make_everybody(world: int) -> None:
    """Every address is this namespace's; what it sends leaves by a device all the same."""
    with netns.entered(world):
        for name in ("rp_filter", "accept_local"):
            for device in ("all", "default", "world1", "pods1"):
                value = int(name == "accept_local")
                sysctl.write(f"net/ipv4/conf/{device}/{name}", value)
        sysctl.write("net/ipv6/ip_nonlocal_bind", 1)
    with RtNetlink(world) as netlink:
        if any(route.table == 101 for route in netlink.routes()):
            return
        netlink.transact([set_link("lo", up=True)])
        for family, everything, gateway in _FAMILIES:
            via, anywhere = ip_address(gateway), ip_network(everything)
            batch = []
            for device, mac, table in (("world1", NODE_MAC, 100), ("pods1", PODS_MAC, 101)):
                index = netlink.index(device)
                batch.append(put_neighbour(index, via, mac))
                batch.append(put_route(Route(anywhere, index, via, onlink=True, table=table)))
            # Last: where every address is local none can be a gateway.
            batch.append(put_route(Route(anywhere, 1, table=TABLE_LOCAL, kind="local")))
            netlink.transact(batch)
            own = Rule(101, 10, family, mark=_PODS, mask=_PODS, input_device="lo")
            rules = [own, Rule(100, 11, family, input_device="lo"), Rule(TABLE_LOCAL, 12, family)]
            netlink.transact([add_rule(rule) for rule in rules])
            with contextlib.suppress(NetlinkError):
                netlink.transact([delete_rule(Rule(TABLE_LOCAL, 0, family))])


def connected(
    asked: Flow, where: int | None, world: int, ports: Iterable[int], *, pod: bool
) -> tuple[str, str] | None:
    """(endpoint, client as the endpoint sees it) of one connection; None if nobody was met.

    ``where`` is the namespace of the client; None: this one.
    """
    family = socket.AF_INET6 if ":" in asked.target else socket.AF_INET
    with contextlib.ExitStack() as stack:
        listeners = {}
        here = stack.enter_context(_current())
        # An endpoint may be the node itself.
        for place, port in product((world, here), ports):
            listener = stack.enter_context(netns.socket_in(place, family))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("", port))
            listener.listen()
            listeners[listener.fileno()] = listener
        client = socket.socket(family) if where is None else netns.socket_in(where, family)
        stack.enter_context(client)
        client.settimeout(PATIENCE)
        if pod:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, _PODS)
        try:
            client.bind((asked.source, 0))
            client.connect((asked.target, asked.port))
            client.sendall(_QUESTION)
        except OSError:
            return None
        return next(_accepted(listeners), None)


@contextlib.contextmanager
def _current() -> Iterator[int]:
    found = netns.current()
    try:
        yield found
    finally:
        os.close(found)


def _accepted(listeners: dict[int, socket.socket]) -> Iterator[tuple[str, str]]:
    poll = select.poll()
    for fd in listeners:
        poll.register(fd, select.POLLIN)
    for fd, _ in poll.poll(PATIENCE * 1000):
        found, peer = listeners[fd].accept()
        with found:
            found.sendall(_REPLY)
            host, port = found.getsockname()[:2]
            yield endpoint_name(host, port), str(peer[0])
