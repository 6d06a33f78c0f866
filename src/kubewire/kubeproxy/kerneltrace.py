"""A plan asked of a real kernel: its rules in a scratch namespace, real packets through them."""

from __future__ import annotations

from collections.abc import Sequence

from kubewire.kernel.conntrack import Conntrack
from kubewire.kernel.probe import MASQUERADED, OUTSIDE, PODS, Probe, Seen, Shot
from kubewire.kubeproxy import backends
from kubewire.kubeproxy.config import Config, contains
from kubewire.kubeproxy.plan import FrontendKey
from kubewire.kubeproxy.proxier import Remembers
from kubewire.kubeproxy.table import Change
from kubewire.kubeproxy.trace import LOOPBACK, Answer, Flow, Tracer, Verdict, endpoint_name


class KernelTracer:
    """The rules of a tracer's plan in the kernel; they stay until the namespace ends."""

    def __init__(self, tracer: Tracer, probe: Probe) -> None:
        self._tracer = tracer
        self._probe = probe
        probe.own(tracer.node.ips)
        with Conntrack() as conntrack:  # Of earlier rules.
            conntrack.delete_where(lambda _: True)
        self._proxier = backends.proxier(tracer.config, tracer.service_cidrs)
        self._load()

    def close(self) -> None:
        """Give up sockets."""
        self._proxier.close()

    def _load(self) -> None:
        plan = self._tracer.plan
        changes = [Change(key, None, frontend) for key, frontend in plan.frontends.items()]
        self._proxier.sync(changes, plan.addresses)

    def ask(self, asked: Flow) -> Answer:
        """Send so many packets that every endpoint that there should be is seen."""
        tracer = self._tracer
        expected, source = tracer.ask(asked), tracer.source_class(asked.source)
        if contains(LOOPBACK, asked.target) and source != "node":
            return expected  # It never leaves the sender.
        self._serve(expected, asked.protocol)
        way_in = {"pod": PODS, "node": "", "other": OUTSIDE}[source]
        shot = Shot(asked.source, asked.target, asked.port, asked.protocol, way_in)
        return self._answer(asked, self._fire(shot, expected), expected)

    def _serve(self, expected: Answer, protocol: str) -> None:
        """Be the endpoints that are the node's own."""
        for end in expected.endpoints if protocol != "SCTP" else ():
            host, _, port = end.rpartition(":")
            if host.strip("[]") in self._tracer.node.ips:
                self._probe.listen(6 if ":" in host else 4, protocol, int(port))

    def _fire(self, shot: Shot, expected: Answer) -> list[Seen]:
        tries = _tries(len(expected.endpoints))
        if expected.sticky is None or not isinstance(self._proxier, Remembers):
            return self._probe.fire([shot] * tries)
        # A client stays where it was sent first: each time it must be as if it had never come.
        seen = []
        for _ in range(tries):
            self._proxier.forget()
            seen += self._probe.fire([shot])
        return seen

    def _answer(self, asked: Flow, seen: Sequence[Seen], expected: Answer) -> Answer:
        found = {self._judged(asked, one) for one in seen}
        verdicts = {verdict for verdict, _ in found}
        verdict: Verdict = verdicts.pop() if len(verdicts) == 1 else "drop"
        reason = expected.reason
        if verdict != expected.verdict or verdicts:
            reason = f"the kernel says {verdict}, the plan {expected.verdict}: {reason}"
        if verdict != "accept":
            return Answer(verdict, reason=reason)
        key = FrontendKey(asked.target, asked.protocol, asked.port)
        frontend = self._tracer.plan.frontends.get(key)
        return Answer(
            "accept",
            tuple(sorted(end for _, end in found)),
            any(one.source in MASQUERADED.values() for one in seen),
            frontend.affinity if frontend else None,
            reason,
        )

    def _judged(self, asked: Flow, seen: Seen) -> tuple[Verdict, str]:
        """What one packet tells: (verdict, endpoint)."""
        if seen.verdict == "refused":
            return "reject", ""
        if seen.verdict == "lost":
            return "drop", ""
        if seen.target and (seen.target, seen.port) != (asked.target, asked.port):
            return "accept", endpoint_name(seen.target, seen.port)
        own = (*self._tracer.node.ips, "127.0.0.1", "::1")
        if seen.verdict == "local" and asked.target not in own:
            return "accept", self._own_endpoint(asked)
        return "passthrough", ""

    def _own_endpoint(self, asked: Flow) -> str:
        """Translated to the node itself: the endpoint that is there."""
        ends = self._tracer.ask(asked).endpoints
        own = [e for e in ends if e.rpartition(":")[0].strip("[]") in self._tracer.node.ips]
        return own[0] if own else f"{asked.target}:{asked.port}"


def _tries(endpoints: int) -> int:
    """An endpoint of N is missed by so many even choices once in ten thousand times."""
    return 1 if endpoints < 2 else 10 * endpoints + 10


def pods_device(config: Config) -> str:
    """The device by which pods' packets come in."""
    if config.detect_local == "BridgeInterface":
        return config.bridge_interface
    if config.detect_local == "InterfaceNamePrefix":
        return f"{config.interface_name_prefix}0"[:15]
    return PODS
