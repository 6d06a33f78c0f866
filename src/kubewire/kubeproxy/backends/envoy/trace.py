"""Asks the two halves what they do to a connection: the kernel's rules first, then Envoy."""

from __future__ import annotations

import copy
from dataclasses import replace

from kubewire.kubeproxy import backends
from kubewire.kubeproxy.backends.envoy import loop
from kubewire.kubeproxy.backends.envoy.compile import (
    ADDRESSES,
    BY_PORT,
    Way,
    cluster_name,
    compile_frontend,
    kernel_config,
    marks,
)
from kubewire.kubeproxy.plan import FrontendKey
from kubewire.kubeproxy.trace import Answer, Flow, Tracer
from kubewire.lang.nftables.evaluate import evaluate
from kubewire.lang.packet import Packet
from kubewire.lang.xds.model import Endpoint


class EnvoyTracer:
    """Reasons come from the plan, which names the objects."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._compiled = {k: compile_frontend(f) for k, f in tracer.plan.frontends.items()}
        self._kernel = backends.tracer("nftables", kernel_half(tracer))
        own = {ip for c in self._compiled.values() for ip in c.own}
        self._loop = loop.table(tracer.config, own)

    def ask(self, asked: Flow) -> Answer:
        """Let the kernel's rules decide; if they lead to Envoy, ask its cluster."""
        seen = self._kernel.ask(asked)
        way = _way(seen)
        if way is None:
            return seen
        key = FrontendKey(asked.target, asked.protocol, asked.port)
        endpoints = self._compiled[key].assignments[cluster_name(key, way)].offered()
        sent = [self._masqueraded(asked, way, one) for one in endpoints]
        reason = self._tracer.ask(asked).reason
        return Answer("accept", tuple(map(str, endpoints)), any(sent), None, reason)

    def _masqueraded(self, asked: Flow, way: Way, endpoint: Endpoint) -> bool:
        """Tell whether an endpoint sees the node instead of the client."""
        if self._tracer.source_class(asked.source) == "node":
            # Its address is the node's already; what the plan asks for is what it gets.
            frontend = self._tracer.plan.frontends[
                FrontendKey(asked.target, asked.protocol, asked.port)
            ]
            return frontend.decisions["node"].masquerade
        packet = Packet(
            asked.source,
            endpoint.address,
            dport=endpoint.port,
            mark=self._tracer.config.mark if way.sees == "masquerade" else 0,
            ct_mark=marks(self._tracer.config).back,
        )
        return evaluate([self._loop], "postrouting", packet).masquerade


def kernel_half(tracer: Tracer) -> Tracer:
    """The plan of the rules that lead to Envoy: its listeners are the endpoints."""
    half = copy.copy(tracer)
    half.config = kernel_config(tracer.config)
    kernel = {k: compile_frontend(f).kernel for k, f in tracer.plan.frontends.items()}
    half.plan = replace(tracer.plan, frontends=kernel)
    return half


def _way(seen: Answer) -> Way | None:
    """The listener that the kernel sends to, if it does."""
    if seen.verdict != "accept" or len(seen.endpoints) != 1:
        return None
    host, _, port = seen.endpoints[0].rpartition(":")
    if host.strip("[]") not in ADDRESSES.values():
        return None
    return BY_PORT.get(int(port))
