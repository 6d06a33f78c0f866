"""Which endpoints of a Service a node may use: data in, data out.

Two sets are chosen separately (KEP-1669): the *cluster* set (all nodes, narrowed by hints) and the
*local* set (this node). In each, ready endpoints win; without any, those that still serve while
they terminate are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from socket import AF_INET, inet_pton
from typing import NamedTuple

from kubewire.api.service import Endpoint, EndpointSlice, ForZone, ObjectReference, ServicePort
from kubewire.kubeproxy.config import parse_address, sloppy

VERSIONS = {"IPv4": 4, "IPv6": 6}
"""addressType -> version."""
NOBODY: frozenset[str] = frozenset()


class Target(NamedTuple):
    """One address and port that traffic may be sent to."""

    ip: str
    port: int
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    local: bool = False
    zones: frozenset[str] = frozenset()
    """hints.forZones."""
    nodes: frozenset[str] = frozenset()
    """hints.forNodes."""
    pod: str = ""
    """ns/name of the pod, if it is one."""
    weight: int = 1
    """Share of new connections, for back ends that can weigh; 0: none."""
    near: bool = True
    """It may be a client that this node meets: nobody says that it is on another one."""

    @property
    def usable(self) -> bool:
        """It may get traffic at all, if only as the last resort."""
        return self.ready or (self.serving and self.terminating)


class NodeView(NamedTuple):
    """The node that the rules are for."""

    name: str = ""
    ips: tuple[str, ...] = ()
    """Of its Node object, the primary one of each family first."""
    zone: str = ""
    addresses: tuple[str, ...] = ()
    """Of its interfaces, where they can be seen; nodePorts may answer on them."""

    def primary(self, version: int) -> str | None:
        """The first address of a family."""
        return next((ip for ip in self.ips if (":" in ip) == (version == 6)), None)


class Choice(NamedTuple):
    """What a node may use of a Service port."""

    cluster: tuple[Target, ...]
    local: tuple[Target, ...]
    everywhere: bool
    """There is a usable endpoint somewhere, on this node or not."""
    hint: str
    """How hints narrowed the cluster set; "" if they did not."""


def targets(
    port: ServicePort,
    slices: Iterable[EndpointSlice],
    node: NodeView,
    version: int,
    skipped: set[str] | None = None,
) -> tuple[Target, ...]:
    """Endpoints of one port and family: by port *name* and protocol, each address once.

    ``skipped`` is told which addresses cannot be used, and why.
    """
    wanted = "IPv4" if version == 4 else "IPv6"
    found: dict[tuple[str, int], Target] = {}
    for piece in slices:
        if piece.address_type == wanted:
            for number in _numbers(piece, port):
                _collect(found, piece, number, node, version, skipped)
    return tuple(sorted(found.values()))  # By address and port, which no two share.


def _numbers(piece: EndpointSlice, port: ServicePort) -> list[int]:
    return [
        p.port
        for p in piece.ports or ()
        if p.port and (p.name or "") == port.name and (p.protocol or "TCP") == port.protocol
    ]


def refused(
    port: ServicePort, slices: Iterable[EndpointSlice]
) -> Iterator[tuple[EndpointSlice, Endpoint, str]]:
    """What is in a Service's slices and yet no endpoint of a port, and why."""
    for piece in slices:
        lacking = ""
        if piece.address_type not in VERSIONS:
            lacking = f"addressType {piece.address_type} has no address to send to"
        elif not _numbers(piece, port):
            name = f' named "{port.name}"' if port.name else ""
            lacking = f"EndpointSlice {piece.metadata.name} has no {port.protocol} port{name} (pods without the targetPort?)"
        for endpoint in piece.endpoints or ():
            address = next(iter(endpoint.addresses), "")
            if why := lacking or unreachable(address, VERSIONS[piece.address_type]):
                yield piece, endpoint, why


def reachable(text: str, version: int) -> str | None:
    """An endpoint's address in its canonical form; None if it is ``unreachable``."""
    if version == 4 and _plain_ipv4(text):
        return text
    return None if unreachable(text, version) else sloppy(text)


def unreachable(text: str, version: int) -> str:
    """Why an address cannot be an endpoint's in a slice of a family; "" if it can."""
    try:
        ip = parse_address(text)
    except ValueError:
        return "must be a valid IP address"
    if ip.version != version:
        return f"must be an IPv{version} address, as addressType says"
    for fits, what in (
        (ip.is_unspecified, "unspecified (0.0.0.0 or ::)"),
        (ip.is_loopback, "in the loopback range (127.0.0.0/8, ::1/128)"),
        (ip.is_link_local, "in the link-local range (169.254.0.0/16, fe80::/10)"),
        (ip.is_multicast, "in the multicast range (224.0.0.0/4, ff00::/8)"),
    ):
        if fits:
            return f"may not be {what}"
    return ""


def _plain_ipv4(text: str) -> bool:
    """Canonical and unicast beyond doubt; told without the cost of ``ipaddress``."""
    try:
        first = inet_pton(AF_INET, text)[0]
    except (OSError, ValueError):
        return False
    return first not in (0, 127, 169) and first < 224


def _collect(
    found: dict[tuple[str, int], Target],
    piece: EndpointSlice,
    number: int,
    node: NodeView,
    version: int,
    skipped: set[str] | None,
) -> None:
    """Hot: runs for every endpoint of the cluster at a full sync."""
    weight, here, new = piece.weight, node.name or None, tuple.__new__
    for endpoint in piece.endpoints or ():
        if not endpoint.addresses:
            continue
        # Further addresses of one endpoint are interchangeable; upstream uses the first.
        text = endpoint.addresses[0]
        ip = reachable(text, version)
        if ip is None:
            if skipped is not None:
                skipped.add(_complaint(piece, endpoint, unreachable(text, version)))
            continue
        state, hints, reference = endpoint.conditions, endpoint.hints, endpoint.target_ref
        local = here is not None and endpoint.node_name == here
        target = new(
            Target,
            (
                ip,
                number,
                state.ready is not False,
                state.serving is not False,
                state.terminating is True,
                local,
                NOBODY if hints is None else _named(hints.for_zones),
                NOBODY if hints is None else _named(hints.for_nodes),
                "" if reference is None else pod_name(piece, reference),
                weight,
                local or not (here and endpoint.node_name),
            ),
        )
        known = found.setdefault((ip, number), target)
        if known is not target and _newer(target) > _newer(known):
            found[ip, number] = target


def _newer(target: Target) -> tuple[bool, bool, bool]:
    """Of two with one address: a pod that got it from one that ends; else what says more for it."""
    return not target.terminating, target.ready, target.local


def _complaint(piece: EndpointSlice, endpoint: Endpoint, why: str) -> str:
    meta, index = piece.metadata, (piece.endpoints or []).index(endpoint)
    field = f"endpoints[{index}].addresses[0]"
    return f'EndpointSlice {meta.namespace}/{meta.name}: {field}: Invalid value: "{endpoint.addresses[0]}": {why}'


def _named(given: Iterable[ForZone] | None) -> frozenset[str]:
    return frozenset(one.name for one in given or ())


def pod_name(piece: EndpointSlice, reference: ObjectReference | None) -> str:
    """ns/name of the pod that an endpoint is; "" if it is none."""
    if reference is None or reference.kind != "Pod":
        return ""
    return f"{reference.namespace or piece.metadata.namespace}/{reference.name}"


def choose(found: Sequence[Target], node: NodeView) -> Choice:
    """Pick the two sets."""
    ready = tuple(found) if all(t.ready for t in found) else tuple(t for t in found if t.ready)
    pick, hint = _by_hints(ready, node)
    cluster = tuple(t for t in ready if pick(t)) if pick else ready
    if not cluster:
        cluster, hint = tuple(t for t in found if t.usable), ""
    local = [t for t in ready if t.local] or [t for t in found if t.local and t.usable]
    return Choice(cluster, tuple(local), bool(ready) or any(t.usable for t in found), hint)


def _by_hints(
    ready: Sequence[Target], node: NodeView
) -> tuple[Callable[[Target], bool] | None, str]:
    """(filter, why) if every ready endpoint has a hint and one names this node or its zone."""
    if (
        ready
        and node.name
        and all(t.nodes for t in ready)
        and any(node.name in t.nodes for t in ready)
    ):
        return (lambda t: node.name in t.nodes), f"hints.forNodes names {node.name}"
    if (
        ready
        and node.zone
        and all(t.zones for t in ready)
        and any(node.zone in t.zones for t in ready)
    ):
        return (lambda t: node.zone in t.zones), f"hints.forZones names {node.zone}"
    return None, ""
