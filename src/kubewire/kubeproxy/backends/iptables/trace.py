"""Asks the compiled iptables rules what they do to a packet, hook after hook, as the kernel would."""

from __future__ import annotations

from dataclasses import replace

from kubewire.kubeproxy.backends.iptables.base import VERSIONS, Setting
from kubewire.kubeproxy.backends.iptables.compile import tables
from kubewire.kubeproxy.config import contains
from kubewire.kubeproxy.plan import FrontendKey
from kubewire.kubeproxy.trace import LOOPBACK, Answer, Flow, Tracer
from kubewire.lang.iptables.model import Tables, Way, walk
from kubewire.lang.packet import Packet


class IptablesTracer:
    """The rules of a tracer's plan; reasons come from the plan, which names the objects."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        setting = Setting(tracer.config)
        frontends = tracer.plan.frontends.values()
        self._tables = {v: tables(v, frontends, setting) for v in VERSIONS}

    def ask(self, asked: Flow) -> Answer:
        """Walk a new connection through the hooks."""
        expected = self._tracer.ask(asked)
        packet = self._packet(asked)
        if packet is None:
            return expected
        found = self._tables[packet.version]
        ends = [end for way in self._arrives(found, packet) for end in self._goes_on(found, way)]
        return self._answer(asked, expected, ends)

    def _packet(self, asked: Flow) -> Packet | None:
        """The packet as this node sees it; None if it never comes here."""
        here = self._tracer.node.ips
        kind = self._tracer.source_class(asked.source)
        if contains(LOOPBACK, asked.target) and kind != "node":
            return None
        own = asked.source in here or contains(LOOPBACK, asked.source)
        return Packet(
            asked.source,
            asked.target,
            asked.protocol.lower(),
            dport=asked.port,
            iifname=self._way_in() if kind == "pod" else "",
            saddr_local=own,
            daddr_local=self._is_local(asked.target),
        )

    def _way_in(self) -> str:
        config = self._tracer.config
        return config.bridge_interface or config.interface_name_prefix

    def _is_local(self, address: str) -> bool:
        own = self._tracer.node
        return address in own.ips or contains(LOOPBACK, address)

    @staticmethod
    def _arrives(found: Tables, packet: Packet) -> tuple[Way, ...]:
        """To the point where it is decided whether the packet goes on to somebody else."""
        return walk(found, "OUTPUT" if packet.saddr_local else "PREROUTING", packet)

    def _goes_on(self, found: Tables, way: Way) -> tuple[Way, ...]:
        """The filter of its way, and masquerading."""
        if way.verdict != "accept":
            return (way,)
        packet = replace(way.packet, daddr_local=self._is_local(way.packet.daddr))
        if packet.saddr_local and not packet.daddr_local:
            filtered: tuple[Way, ...] = (replace(way, packet=packet),)
        else:
            filtered = walk(found, "INPUT" if packet.daddr_local else "FORWARD", packet)
        return tuple(
            replace(
                last,
                verdict=one.verdict if one.verdict != "accept" else last.verdict,
                target=way.target,
                masquerade=last.masquerade,
            )
            for one in filtered
            for last in walk(found, "POSTROUTING", one.packet)
        )

    def _answer(self, asked: Flow, expected: Answer, ends: list[Way]) -> Answer:
        reason = expected.reason
        sent = [end for end in ends if end.verdict == "accept" and end.target]
        if not sent:
            verdicts = {end.verdict for end in ends}
            refused = "reject" if "reject" in verdicts else "drop" if "drop" in verdicts else ""
            return Answer(refused or "passthrough", reason=reason)  # type: ignore[arg-type]
        texts = [
            f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
            for ip, port in dict.fromkeys(end.target for end in sent if end.target)
        ]
        key = FrontendKey(asked.target, asked.protocol, asked.port)
        frontend = self._tracer.plan.frontends.get(key)
        sticky = frontend.affinity if frontend else None
        masquerade = any(end.masquerade for end in sent)
        return Answer("accept", tuple(texts), masquerade, sticky, reason)
