"""Leads addresses of LoadBalancers from the nodes' network to a node, as a router outside would.

The sandbox itself is that router: it has a host route for every address, to a node that may take
the traffic. With externalTrafficPolicy Local that is one with a ready endpoint, so a client's own
address reaches the pod. An address stays where it is while its node may keep it; which node that is
follows from the names alone, so a restart changes nothing.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network

from kubewire.api.core import Node
from kubewire.api.meta import Key
from kubewire.api.resources import ENDPOINT_SLICES, NODES, SERVICES
from kubewire.api.service import EndpointSlice, Service
from kubewire.client.informer import Informer
from kubewire.client.loop import Changes, Loop
from kubewire.client.rest import Client
from kubewire.cluster.addresses import Address, Network
from kubewire.cni.routes import addresses
from kubewire.kernel import routes
from kubewire.kernel.netlink import Message
from kubewire.kernel.routes import Route
from kubewire.kernel.rtnetlink import RtNetlink

PROTOCOL = 87
"""Number of the routes that are made here: only those are ever removed."""
GONE = (errno.ESRCH, errno.ENOENT, errno.ENODEV)

Ways = dict[Network, Address]
"""An address of a LoadBalancer -> the node's address that leads there."""


def ways(
    services: Iterable[Service], slices: Iterable[EndpointSlice], nodes: Iterable[Node]
) -> Ways:
    """Which node takes which address; one that no node may take goes to any."""
    ready = {n.metadata.name: n for n in nodes if _ready(n)}
    homes = _homes(slices)
    found: dict[str, set[str]] = {}
    for service in sorted(services, key=lambda s: s.key):
        for ingress in service.status.load_balancer.ingress or ():
            if ingress.ip and ingress.ip_mode != "Proxy":
                able = _able(service, homes, ready)
                before = found.get(ingress.ip)
                # Services that share an address: where all of them can be served, if anywhere.
                found[ingress.ip] = (before & able) or before if before else able
    result: Ways = {}
    for text, able in found.items():
        address = ip_address(text)
        ends = {name: end for name in able or ready if (end := _end(ready[name], address))}
        if ends:
            best = max(ends, key=lambda name: hashlib.sha256(f"{text} {name}".encode()).digest())
            result[ip_network(address)] = ends[best]
    return result


def _ready(node: Node) -> bool:
    conditions = {c.type: c.status for c in node.status.conditions or ()}
    return conditions.get("Ready") == "True" and node.metadata.deletion_timestamp is None


def _homes(slices: Iterable[EndpointSlice]) -> Mapping[Key, set[str]]:
    """Nodes that have a ready endpoint of a Service."""
    found: dict[Key, set[str]] = {}
    for piece in slices:
        key = Key(piece.metadata.namespace, piece.service_name)
        names = (e.node_name for e in piece.endpoints or () if e.ready and e.node_name)
        found.setdefault(key, set()).update(names)
    return found


def _able(service: Service, homes: Mapping[Key, set[str]], ready: Mapping[str, Node]) -> set[str]:
    if service.spec.external_traffic_policy != "Local":
        return set(ready)
    return homes.get(service.key, set()) & ready.keys()


def _end(node: Node, address: Address) -> Address | None:
    return next((ip for ip in addresses(node) if ip.version == address.version), None)


class Vips:
    """Keeps the routes of the current network namespace in step."""

    def __init__(self, client: Client, device: str) -> None:
        agent = "load-balancer-routes/sandbox"
        self._services = Informer(client, SERVICES, Service, agent=agent)
        self._slices = Informer(client, ENDPOINT_SLICES, EndpointSlice, agent=agent)
        self._nodes = Informer(client, NODES, Node, agent=agent)
        self.loop = Loop(agent, [self._services, self._slices, self._nodes], self._reconcile)
        self._netlink = RtNetlink()
        self._device = self._netlink.index(device)
        self._applied: Ways | None = None

    def close(self) -> None:
        """Close the socket; the routes stay."""
        self._netlink.close()

    async def _reconcile(self, changes: Changes) -> None:
        wanted = ways(
            self._services.store.values(), self._slices.store.values(), self._nodes.store.values()
        )
        before = self._found() if self._applied is None or changes.full else self._applied
        self._applied = None
        messages: list[Message] = [
            routes.put_route(self._route(to, via))
            for to, via in wanted.items()
            if before.get(to) != via
        ]
        messages += [
            routes.delete_route(self._route(to, via)).tolerate(*GONE)
            for to, via in before.items()
            if to not in wanted
        ]
        self._netlink.transact(messages)
        self._applied = wanted

    def _route(self, to: Network, via: Address) -> Route:
        return Route(to, self._device, via, protocol=PROTOCOL)

    def _found(self) -> Ways:
        """What an earlier run left."""
        kept = (r for r in self._netlink.routes() if r.protocol == PROTOCOL)
        return {r.destination: r.via for r in kept if r.via}
