"""Asks the compiled rules, sets and virtual servers what they do to a packet, hook after hook."""

from __future__ import annotations

from dataclasses import replace

from kubewire.kubeproxy.backends.ipvs import rules
from kubewire.kubeproxy.backends.ipvs.compile import compile_frontend
from kubewire.kubeproxy.config import contains
from kubewire.kubeproxy.plan import FrontendKey
from kubewire.kubeproxy.trace import LOOPBACK, Answer, Flow, Tracer
from kubewire.lang.iptables.ipset import IpSet
from kubewire.lang.iptables.matches import World
from kubewire.lang.iptables.model import Rule, Table, evaluate
from kubewire.lang.ipvs.model import Servers, address_text, eligible, look_up
from kubewire.lang.packet import Outcome, Packet

BRIDGED = "pods0"
"""Stands for the interface of a pod where the configuration knows pods by a prefix alone."""


class IpvsTracer:
    """What a tracer's plan becomes; reasons come from the plan, which names the objects."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        compiled = {
            key: compile_frontend(frontend, tracer.config)
            for key, frontend in tracer.plan.frontends.items()
        }
        self._servers: Servers = {s.key: s for c in compiled.values() for s in c.servers}
        elements: dict[str, list[str]] = {}
        for name, element in {e for c in compiled.values() for e in c.elements}:
            elements.setdefault(name, []).append(element)
        self._bound = {c.address for c in compiled.values() if c.address} - set(tracer.node.ips)
        for ip in self._bound:
            name = rules.set_name("IPVS-IPS", 6 if ":" in ip else 4)
            elements.setdefault(name, []).append(ip)
        self._sets: dict[str, IpSet] = rules.sets(elements)
        self._inside: dict[int, list[Rule]] = {4: [], 6: []}
        for key, found in sorted(compiled.items()):
            self._inside[6 if ":" in key.address else 4] += found.rules
        self._tables = {v: rules.tables(tracer.config, v, self._inside[v]) for v in rules.VERSIONS}

    def ask(self, asked: Flow) -> Answer:
        """Walk a new connection through the hooks."""
        expected = self._tracer.ask(asked)
        packet = self._packet(asked)
        if packet is None:
            return expected
        first = "OUTPUT" if packet.saddr_local else "PREROUTING"
        # What the filter table of output sees has been through IPVS: it is asked by itself.
        before = self._walk(first, packet, ("mangle", "nat"))
        if before.verdict != "accept":
            return Answer("drop", reason=expected.reason)
        packet = replace(packet, mark=before.mark)
        second = "OUTPUT" if packet.saddr_local else "INPUT" if packet.daddr_local else "FORWARD"
        server = look_up(self._servers, packet) if packet.daddr_local else None
        if server is None or second == "INPUT":
            refused = self._walk(second, packet, ("filter",)).verdict
            if server is None or refused != "accept":
                verdict = "passthrough" if refused == "accept" else refused
                return Answer(verdict, reason=expected.reason)  # type: ignore[arg-type]
        targets = eligible(server)
        if not targets:
            return Answer("reject", reason=expected.reason)
        sent = [self._leaves(packet, t.address, t.port) for t in targets]
        frontend = self._tracer.plan.frontends[
            FrontendKey(asked.target, asked.protocol, asked.port)
        ]
        reason = f"{expected.reason} (ipvs {server.scheduler}{_weights(server.destinations)})"
        texts = tuple(address_text(*t) for t in targets)
        return Answer("accept", texts, any(sent), frontend.affinity, reason)

    def _walk(self, hook: str, packet: Packet, names: tuple[str, ...]) -> Outcome:
        tables: dict[str, Table] = {
            n: t for n, t in self._tables[packet.version].items() if n in names
        }
        return evaluate(tables, hook, packet, World(self._sets))

    def _leaves(self, packet: Packet, address: str, port: int) -> bool:
        """Tell whether the packet to one endpoint is masqueraded on its way out."""
        after = replace(packet, daddr=address, dport=port, daddr_local=False)
        return self._walk("POSTROUTING", after, ("nat",)).masquerade

    def _packet(self, asked: Flow) -> Packet | None:
        """The packet as this node sees it; None if it never comes here."""
        node, config = self._tracer.node, self._tracer.config
        source = self._tracer.source_class(asked.source)
        if contains(LOOPBACK, asked.target) and source != "node":
            return None
        here = {*node.ips, *self._bound}
        pods = config.bridge_interface or config.interface_name_prefix or BRIDGED
        return Packet(
            asked.source,
            asked.target,
            asked.protocol.lower(),
            dport=asked.port,
            iifname=pods if source == "pod" else "",
            saddr_local=source == "node",
            daddr_local=asked.target in here or contains(LOOPBACK, asked.target),
        )


def _weights(destinations: object) -> str:
    """Weights, where they are not all alike."""
    assert isinstance(destinations, dict)
    weights = {str(end): weight for end, weight in destinations.items()}
    if len(set(weights.values())) < 2:
        return ""
    return ", weights " + ", ".join(f"{end}={weight}" for end, weight in weights.items())
