"""The nodes of a cluster, each with its own plan, made when it is asked about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kubewire.kubeproxy.config import Config, sloppy
from kubewire.kubeproxy.objects import Objects
from kubewire.kubeproxy.trace import Flow, Tracer


@dataclass(frozen=True, slots=True)
class Asked:
    """What a question is about, apart from the flow."""

    objects: Objects
    config: Config | None = None
    """None: pods are where the nodes' podCIDRs and the Pods' addresses are."""
    node: str = ""
    node_ips: tuple[str, ...] = ()
    service_cidrs: tuple[str, ...] = ()
    mode: str = "plan"


class Nodes:
    """Which node's plan a question is for."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self._known: dict[str, Tracer] = {}
        pods = {
            ip: pod.spec.node_name
            for pod in asked.objects.pods
            if not pod.finished
            for ip in pod.ips
        }
        nodes = {
            sloppy(ip): node.metadata.name
            for node in asked.objects.nodes
            for ip in node.internal_ips
        }
        self._homes = pods | nodes

    @property
    def fixed(self) -> bool:
        """The question itself says which node, or there is but one."""
        asked = self.asked
        named = asked.node or asked.node_ips or (asked.config and asked.config.hostname_override)
        return bool(named) or len(asked.objects.nodes) < 2

    def named(self, name: str) -> Tracer:
        """The plan of a node; with "" of the one that the question is about."""
        if name not in self._known:
            asked = self.asked
            ips: Iterable[str] = asked.node_ips if self.fixed else ()
            self._known[name] = Tracer(
                asked.objects,
                asked.config,
                name or asked.node,
                ips,
                asked.service_cidrs,
                asked.mode,
            )
        return self._known[name]

    def meeting(self, flow: Flow) -> Tracer:
        """The node whose rules a packet meets: the sender's, unless they let it pass to another one."""
        if self.fixed:
            return self.named("")
        target = self.home(flow.target)
        first = self.named(self.home(flow.source) or target)
        if target in ("", first.node.name) or first.ask(flow).verdict != "passthrough":
            return first
        return self.named(target)

    def all(self) -> list[Tracer]:
        """Every node, or the one that the question is about."""
        if self.fixed:
            return [self.named("")]
        return [self.named(node.metadata.name) for node in self.asked.objects.nodes]

    def home(self, address: str) -> str:
        """The node that has an address, or that runs the pod which has it."""
        return self._homes.get(address, "")
