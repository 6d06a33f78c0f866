"""Services as virtual servers; what IPVS cannot do is told by sets that a few rules ask.

A frontend is one virtual server with the endpoints of ordinary clients. Its address is put on the
node, so that packets to it reach the input hook, where IPVS sits. Beside that it is an element of
sets (upstream's names) that say whether it is masqueraded, whose source ranges hold, and who is
dropped. Where clients inside the cluster get other endpoints than those outside (traffic policy
Local), rules give their first packet a mark, and IPVS finds a second virtual server by that mark.

``rules`` has the rules that ask the sets, which are the same whatever Services there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kubewire.kubeproxy.backends.ipvs.rules import INSIDE, pod_matches, set_name
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.ipvsoptions import SCHEDULERS
from kubewire.kubeproxy.plan import SOURCES, Decision, Frontend, Source
from kubewire.lang.iptables.matches import AddrType, Comment, Destination, Match, Ports, Proto
from kubewire.lang.iptables.model import Rule
from kubewire.lang.iptables.targets import SetMark
from kubewire.lang.ipvs.model import PORT_IN_HASH, DestinationKey, ServerKey, VirtualServer

Element = tuple[str, str]
"""(set, element)."""
_SETS = {
    "ClusterIP": "CLUSTER-IP",
    "ExternalIP": "EXTERNAL-IP",
    "LoadBalancer": "LOAD-BALANCER",
}
_LOCAL_SETS = {"ExternalIP": "EXTERNAL-IP-LOCAL", "LoadBalancer": "LOAD-BALANCER-LOCAL"}
_PROTOCOL_SETS = {"TCP": "TCP", "UDP": "UDP", "SCTP": "SCTP-HASH"}


@dataclass(frozen=True, slots=True)
class Compiled:
    """What one frontend needs."""

    servers: tuple[VirtualServer, ...]
    elements: tuple[Element, ...]
    rules: tuple[Rule, ...] = ()
    """Rules of the chain that marks clients inside the cluster."""
    address: str = ""
    """To be put on the node; "" for nodePorts, which answer on addresses that are there."""


def compile_frontend(frontend: Frontend, config: Config) -> Compiled:
    """Spell one frontend."""
    version = 6 if ":" in frontend.key.address else 4
    other, pod = frontend.decisions["other"], frontend.decisions["pod"]
    outside = other if other.action == "balance" else pod
    key = ServerKey(version, *frontend.key)
    servers = [_server(key, frontend, outside, config)]
    rules: tuple[Rule, ...] = ()
    if pod.action == other.action == "balance" and _ends(pod) != _ends(other):
        marks = _marks(frontend, version, config)
        for mark in dict.fromkeys(marks.values()):
            servers.append(_server(ServerKey(version, mark=mark), frontend, pod, config))
        rules = tuple(_marking(frontend, version, marks, config))
    elements = tuple((set_name(n, version), text) for n, text in _elements(frontend))
    return Compiled(tuple(servers), elements, rules, frontend.on_node)


def _ends(decision: Decision) -> set[tuple[str, int]]:
    return {(t.ip, t.port) for t in decision.endpoints}


def _server(
    key: ServerKey, frontend: Frontend, decision: Decision, config: Config
) -> VirtualServer:
    """A server without destinations refuses with an ICMP error: what "reject" means."""
    scheduler = frontend.scheduler if frontend.scheduler in SCHEDULERS else config.ipvs.scheduler
    affinity = frontend.affinity
    if (
        key.mark
        and affinity is not None
        and {t.port for t in decision.endpoints} != {frontend.key.port}
    ):
        # The kernel keeps clients of a mark with a destination, but not with another port than
        # they asked for; a hash of the client's address keeps them there as well.
        scheduler, affinity = "sh", None
    return VirtualServer(
        key,
        scheduler,
        affinity,
        # As upstream: without the port all connections of a client would go to one endpoint.
        PORT_IN_HASH if scheduler == "mh" else 0,
        {DestinationKey(t.ip, t.port): t.weight for t in decision.endpoints},
    )


# -- sets -----------------------------------------------------------------------------------------


def _elements(frontend: Frontend) -> Iterable[Element]:
    """Names (short) and elements of the sets that a frontend is in."""
    address, protocol, port = frontend.key
    own = f"{address},{protocol.lower()}:{port}"
    decisions = frontend.decisions
    inside_unmarked = decisions["pod"].action == "balance" and not decisions["pod"].masquerade
    if frontend.kind == "NodePort":
        yield f"NODE-PORT-{_PROTOCOL_SETS[protocol]}", own
        if inside_unmarked:
            yield f"NODE-PORT-LOCAL-{_PROTOCOL_SETS[protocol]}", own
    else:
        local = _LOCAL_SETS.get(frontend.kind) if inside_unmarked else None
        # Upstream lists a LoadBalancer in both sets, an externalIP in one of them.
        if local is None or frontend.kind == "LoadBalancer":
            yield _SETS[frontend.kind], own
        if local:
            yield local, own
    actions = {source: decisions[source].action for source in SOURCES}
    if set(actions.values()) == {"drop"}:
        yield "DROP", own
    elif actions["other"] == "drop":
        yield "DROP-OUTSIDE", own
    if frontend.source_ranges is not None:
        yield "LOAD-BALANCER-FW", own
        for network in frontend.source_ranges:
            yield "LOAD-BALANCER-SOURCE-CIDR", f"{own},{_element_network(network)}"
    for ip, number in {(t.ip, t.port) for s in SOURCES for t in decisions[s].endpoints if t.near}:
        yield "LOOP-BACK", f"{ip},{protocol.lower()}:{number},{ip}"


def _element_network(network: str) -> str:
    """As ipset writes it: a single address has no length."""
    address, _, length = network.partition("/")
    return address if length == ("128" if ":" in address else "32") else network


# -- clients inside -------------------------------------------------------------------------------


_INSIDE: tuple[Source, ...] = ("node", "pod")
"""The later rule decides: an address of the node that pods have, too, is a pod's."""


def _marks(frontend: Frontend, version: int, config: Config) -> dict[Source, int]:
    """The mark of each class that can be told: the frontend's number, the bit for masquerading."""
    digest = hashlib.blake2b(repr(frontend.key).encode(), digest_size=4).digest()
    never_zero = 1 << 31 if config.mark != 1 << 31 else 1 << 30
    number = int.from_bytes(digest, "big") & ~config.mark | never_zero
    return {
        source: number | (config.mark if frontend.decisions[source].masquerade else 0)
        for source in _INSIDE
        if _who(source, version, config)
    }


def _who(source: Source, version: int, config: Config) -> list[Match]:
    """What tells a class; any of them is enough."""
    return pod_matches(config, version) if source == "pod" else [AddrType("LOCAL", "src")]


def _marking(
    frontend: Frontend, version: int, marks: Mapping[Source, int], config: Config
) -> Iterable[Rule]:
    """Rules that mark the first packet of clients inside."""
    address, protocol, port = frontend.key
    header = (
        Destination(f"{address}/{32 if version == 4 else 128}"),
        Proto(protocol.lower()),
        Ports(protocol.lower(), str(port)),
        Comment(f"{frontend.service}:{frontend.port_name} from inside"),
    )
    for source, mark in marks.items():
        for who in _who(source, version, config):
            matches = sorted((who, *header), key=lambda m: m.rank)
            yield Rule(tuple(matches), SetMark(mark))


def where(frontend: Frontend, config: Config) -> list[str]:
    """Every virtual server, element of a set, address and rule that is there for a frontend."""
    compiled = compile_frontend(frontend, config)
    lines = [line for server in compiled.servers for line in server.lines()]
    lines += [f"add {name} {element}" for name, element in compiled.elements]
    lines += [f"-A {INSIDE} {rule.render()}" for rule in compiled.rules]
    return lines + ([f"address {compiled.address}"] if compiled.address else [])
