"""Where a packet to a Service goes, and why: the plan asked as the rules would be.

The answer covers a *new* connection that passes through the node which the plan is for. Several
endpoints mean that any of them may be chosen; ``masquerade`` is then true if one of the choices
would be (a connection that comes back to its own source always is).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from kubewire.api.core import Node
from kubewire.api.errors import InputError
from kubewire.api.meta import JSON, Key
from kubewire.kubeproxy.config import Config, contains, sloppy
from kubewire.kubeproxy.objects import PROTOCOLS, Objects, is_address
from kubewire.kubeproxy.plan import Decision, Frontend, FrontendKey, ServicePlan, Source, plan
from kubewire.kubeproxy.topology import NodeView, Target

Verdict = Literal["accept", "reject", "drop", "passthrough"]
ZONE = "topology.kubernetes.io/zone"
LOOPBACK = ("127.0.0.0/8", "::1/128")


@dataclass(frozen=True, slots=True)
class Flow:
    """A new connection."""

    source: str
    target: str
    port: int
    protocol: str = "TCP"


@dataclass(frozen=True, slots=True)
class Answer:
    """What happens to it."""

    verdict: Verdict
    endpoints: tuple[str, ...] = ()
    masquerade: bool = False
    sticky: int | None = None
    reason: str = ""

    def to_json(self) -> JSON:
        """As the command line prints it."""
        return {
            "verdict": self.verdict,
            "endpoints": list(self.endpoints),
            "masquerade": self.masquerade,
            "sticky": self.sticky,
            "reason": self.reason,
        }


def flow(question: JSON) -> Flow:
    """Read one line of a batch; InputError names the field."""
    for name in ("from", "to"):
        if not is_address(question.get(name)):
            known = "must be a valid IP address or [NAMESPACE/]POD of a known pod"
            raise InputError(f"{name}: {known}, not {question.get(name)!r}")
    port = question.get("port")
    if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
        raise InputError(f"port: must be between 1 and 65535, inclusive, not {port!r}")
    protocol = question.get("protocol") or "TCP"
    if not isinstance(protocol, str) or protocol.upper() not in PROTOCOLS:
        raise InputError(f"protocol: must be one of {', '.join(PROTOCOLS)}, not {protocol!r}")
    asked = Flow(sloppy(question["from"]), sloppy(question["to"]), port, protocol.upper())
    if (":" in asked.source) != (":" in asked.target):
        raise InputError(
            f"from and to: {asked.source} and {asked.target} are of different families"
        )
    return asked


class Asker(Protocol):
    """Whatever can be asked about a flow: a plan, or the rules that are made from it."""

    def ask(self, asked: Flow) -> Answer:
        """Say what happens to one new connection."""
        ...


def addressed(objects: Objects, question: JSON) -> JSON:
    """A question whose [namespace/]pod names have become addresses, of the other's family."""
    named = {side: question[side] for side in ("from", "to") if side in question}
    known = next((str(v) for v in named.values() if is_address(v)), "")
    return question | {
        side: _pod_address(objects, value, known)
        for side, value in named.items()
        if isinstance(value, str) and value and not is_address(value)
    }


def _pod_address(objects: Objects, name: str, like: str) -> str:
    namespace, slash, pod = name.rpartition("/")
    key = Key(namespace if slash else "default", pod)
    for one in objects.pods:
        if one.key == key:
            same = [ip for ip in one.ips if not like or (":" in ip) == (":" in like)]
            return same[0] if same else name
    return name


class Tracer:
    """A plan of one node, made from objects, that can be asked."""

    def __init__(
        self,
        objects: Objects,
        config: Config | None = None,
        node: str = "",
        node_ips: Iterable[str] = (),
        service_cidrs: Iterable[str] = (),
        mode: str = "plan",
    ) -> None:
        self.objects = objects
        given = tuple(map(sloppy, node_ips))
        self.node = _view(objects, node or (config.hostname_override if config else ""), given)
        found = _detecting(config, objects, self.node)
        # The plan is the configured mode's; the rules of a mode are made from that mode's plan.
        self.config = found if mode == "plan" else replace(found, mode=mode)
        self.service_cidrs = (*objects.service_cidrs, *service_cidrs)
        self.plan: ServicePlan = plan(objects.services, objects.slices, self.node, self.config)

    def source_class(self, address: str) -> Source:
        """Tell a pod, a process of this node and anybody else apart, as the rules do."""
        if contains(self.config.cluster_cidrs, address):
            return "pod"
        here = address in self.node.ips or contains(LOOPBACK, address)
        return "node" if here else "other"

    def ask(self, asked: Flow) -> Answer:
        """Say what happens to one new connection."""
        frontend = self.plan.frontends.get(FrontendKey(asked.target, asked.protocol, asked.port))
        source = self.source_class(asked.source)
        if contains(LOOPBACK, asked.target) and source != "node":
            return Answer("passthrough", reason=f"{asked.target} is the sender's own loopback")
        if frontend is None:
            return self._unknown(asked)
        ranges = frontend.source_ranges
        if ranges is not None and not contains(ranges, asked.source):
            reason = f"{frontend.reason}: {asked.source} is not in spec.loadBalancerSourceRanges"
            return Answer("drop", reason=reason)
        return _decided(frontend, frontend.decisions[source], asked.source)

    def _unknown(self, asked: Flow) -> Answer:
        """Only some back ends look after addresses and ports without a frontend."""
        what = f"{asked.target}:{asked.port}/{asked.protocol}"
        if self.config.mode == "ipvs":
            # The address is put on the node: without a rule its own ports would answer.
            owner = next(
                (f for f in self.plan.frontends.values() if f.on_node == asked.target), None
            )
            if owner and asked.target not in (*self.node.ips, *self.node.addresses):
                reason = f"Service {owner.service}: {asked.target} has no {asked.protocol} port {asked.port}"
                return Answer("reject", reason=reason)
        if self.config.mode in ("nftables", "envoy"):
            service = self.plan.cluster_ips.get(asked.target)
            if service:
                reason = f"Service {service}: spec.ports has no {asked.protocol} port {asked.port}"
                return Answer("reject", reason=reason)
            if contains(self.service_cidrs, asked.target):
                reason = f"{asked.target} is in the service CIDR, but no Service has it"
                return Answer("drop", reason=reason)
        return Answer("passthrough", reason=f"no Service has {what}: it is routed as it is")


def _decided(frontend: Frontend, decision: Decision, source: str) -> Answer:
    reason = f"{frontend.reason}: {decision.why}"
    if decision.action != "balance":
        return Answer(decision.action, reason=reason)
    hairpin = any(t.ip == source for t in decision.endpoints)
    if hairpin and not decision.masquerade:
        reason += "; masqueraded when the client itself is chosen"
    return Answer(
        "accept",
        tuple(map(endpoint_text, decision.endpoints)),
        decision.masquerade or hairpin,
        frontend.affinity,
        reason,
    )


def endpoint_text(target: Target) -> str:
    """``ip:port``, ``[v6]:port``."""
    return endpoint_name(target.ip, target.port)


def endpoint_name(ip: str, port: int) -> str:
    """``ip:port``, ``[v6]:port``."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _view(objects: Objects, name: str, ips: tuple[str, ...]) -> NodeView:
    """The node of that name; else the one that has the addresses; else the only one."""
    found: Node | None = None
    for node in objects.nodes:
        own = set(map(sloppy, node.internal_ips))
        if node.metadata.name == name if name else own & set(ips) or len(objects.nodes) == 1:
            found = node
            break
    if found is None:
        return NodeView(name, ips)
    own_ips = ips or tuple(sloppy(ip) for ip in found.internal_ips if is_address(ip))
    return NodeView(found.metadata.name, own_ips, found.labels.get(ZONE, ""))


def _detecting(config: Config | None, objects: Objects, node: NodeView) -> Config:
    """The configuration with the networks of pods that its detectLocalMode means.

    Interfaces cannot be seen in objects: there a pod of this node is what its Pod says. Without a
    configuration, pods are where the nodes' podCIDRs and the Pods' addresses are.
    """
    here = [n for n in objects.nodes if n.metadata.name == node.name]
    if config is not None and config.detect_local == "ClusterCIDR":
        return config
    if config is not None and config.detect_local == "NodeCIDR":
        return replace(config, cluster_cidrs=tuple(c for n in here for c in n.pod_cidrs))
    nodes = objects.nodes if config is None else here
    pods = [
        _host(sloppy(ip))
        for pod in objects.pods
        if not pod.spec.host_network and not pod.finished
        for ip in pod.ips
        if (config is None or pod.spec.node_name == node.name) and is_address(ip)
    ]
    cidrs = (*(c for n in nodes for c in n.pod_cidrs), *pods)
    return replace(config or Config(), cluster_cidrs=cidrs)


def _host(ip: str) -> str:
    return f"{ip}/{ipaddress.ip_address(ip).max_prefixlen}"
