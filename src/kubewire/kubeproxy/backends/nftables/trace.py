"""Asks the compiled nftables rules what they do to a packet, hook after hook, as the kernel would."""

from __future__ import annotations

from dataclasses import replace

from kubewire.kubeproxy.backends.nftables.compile import base_table, with_frontends
from kubewire.kubeproxy.config import contains
from kubewire.kubeproxy.plan import FrontendKey
from kubewire.kubeproxy.trace import LOOPBACK, Answer, Flow, Tracer
from kubewire.lang.nftables.evaluate import evaluate
from kubewire.lang.packet import Outcome, Packet


class NftablesTracer:
    """The rules of a tracer's plan; reasons come from the plan, which names the objects."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        frontends = tracer.plan.frontends.values()
        base = base_table(tracer.config, tracer.service_cidrs)
        table = with_frontends(base, frontends, tracer.plan.cluster_ips, tracer.config)
        # What the filter chains see has been translated before: they are asked by themselves.
        filters = {n for n in table.chains if n.startswith("filter-")}
        nat = {n: c for n, c in table.chains.items() if n not in filters}
        self._nat = replace(table, chains=nat)
        rest = {n: c for n, c in table.chains.items() if n in filters or not c.hook}
        self._filter = replace(table, chains=rest)

    def ask(self, asked: Flow) -> Answer:
        """Walk a new connection through the hooks."""
        packet = self._packet(asked)
        expected = self._tracer.ask(asked)
        if packet is None:
            return expected
        first = "output" if packet.saddr_local else "prerouting"
        seen = evaluate([self._nat], first, packet)
        if seen.verdict != "accept":
            return self._answer(seen, expected)
        if not seen.targets:
            return self._answer(self._filtered(packet), expected)
        sent = [self._leaves(packet, seen, target) for target in seen.targets]
        frontend = self._tracer.plan.frontends[
            FrontendKey(asked.target, asked.protocol, asked.port)
        ]
        texts = tuple(f"[{ip}]:{p}" if ":" in ip else f"{ip}:{p}" for ip, p in seen.targets)
        return Answer("accept", texts, any(sent), frontend.affinity, expected.reason)

    def _packet(self, asked: Flow) -> Packet | None:
        """The packet as this node sees it; None if it never comes here."""
        here = self._tracer.node.ips
        own = asked.source in here or contains(LOOPBACK, asked.source)
        if contains(LOOPBACK, asked.target) and self._tracer.source_class(asked.source) != "node":
            return None
        return Packet(
            asked.source,
            asked.target,
            asked.protocol.lower(),
            dport=asked.port,
            iifname=self._device(asked),
            saddr_local=own,
            daddr_local=asked.target in here or contains(LOOPBACK, asked.target),
        )

    def _device(self, asked: Flow) -> str:
        """The interface that it comes in by, where pods are known by that."""
        config = self._tracer.config
        if self._tracer.source_class(asked.source) != "pod":
            return ""
        return config.bridge_interface or config.interface_name_prefix

    def _filtered(self, packet: Packet) -> Outcome:
        if packet.saddr_local:
            return evaluate([self._filter], "output", packet)
        return evaluate([self._filter], "input" if packet.daddr_local else "forward", packet)

    def _leaves(self, packet: Packet, seen: Outcome, target: tuple[str, int]) -> bool:
        """Tell whether the packet to one endpoint is masqueraded on its way out."""
        address, port = target
        after = replace(
            packet, daddr=address, dport=port, mark=seen.mark, ct_status=frozenset({"dnat"})
        )
        return evaluate([self._nat], "postrouting", after).masquerade

    def _answer(self, seen: Outcome, expected: Answer) -> Answer:
        if seen.verdict == "drop":
            return Answer("drop", reason=expected.reason)
        if seen.verdict == "reject":
            return Answer("reject", reason=expected.reason)
        return Answer("passthrough", reason=expected.reason)
