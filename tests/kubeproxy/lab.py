"""The rows with real packets: a back end's rules in a scratch namespace, single packets through them.

    faults = judge(cases("iptables"), lambda config, cidrs: IptablesProxier(config))
    assert not faults

Both tables of rows become ``Case``s. Cases of one fixture share the rules, and each fixture's come over the
last one's; as many packets are sent for each as it takes to see every endpoint that may be chosen. Run it in a ``kernel`` test.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby

from kubewire.api.meta import Key
from kubewire.kernel.probe import MASQUERADED, OUTSIDE, PODS, Probe, Seen, Shot
from kubewire.kubeproxy.config import Config, contains
from kubewire.kubeproxy.config import read as read_config
from kubewire.kubeproxy.objects import Objects, read
from kubewire.kubeproxy.proxier import Proxier
from kubewire.kubeproxy.table import Change
from kubewire.kubeproxy.trace import LOOPBACK, Answer, Flow, Tracer, endpoint_name
from tests.kubeproxy import rows, table

MANY, FEW = 40, 4
"""Packets of a case with several endpoints (one of three is missed once in 10**7), and of others."""
Make = Callable[[Config, Sequence[str]], Proxier]


@dataclass(frozen=True)
class Case:
    """One flow of one fixture, in one mode, and what the plan says about it."""

    name: str
    fixture: str
    tracer: Tracer
    flow: Flow
    expected: Answer


def cases(mode: str = "nftables") -> list[Case]:
    """Both tables of rows in a mode; those of one fixture follow each other."""
    return [*_of_rows(mode), *_of_table(mode)]


def _of_rows(mode: str) -> Iterator[Case]:
    for row in rows.ROWS:
        objects = Objects(row.services, row.slices, [rows.NODE])
        config = replace(row.config, mode=mode)
        tracer = Tracer(objects, config, "node-a", service_cidrs=("10.96.0.0/16",))
        flow = Flow(row.source, row.to, row.port, row.protocol)
        yield Case(row.name, row.name, tracer, flow, tracer.ask(flow))


def _of_table(mode: str) -> Iterator[Case]:
    for row in table.ROWS:
        tracer = _fixture(row.fixture, mode)
        flow = Flow(row.source, row.target, row.port, row.protocol)
        yield Case(row.id, row.fixture, tracer, flow, tracer.ask(flow))


@cache
def _fixture(name: str, mode: str) -> Tracer:
    found = read((o, str) for o in table.objects(name))
    return Tracer(found, replace(read_config(table.CONFIG, "config"), mode=mode), table.NODE)


def changes(tracer: Tracer) -> tuple[list[Change], dict[Key, tuple[str, ...]]]:
    """A tracer's plan as a proxier is told it."""
    frontends = [Change(key, None, f) for key, f in tracer.plan.frontends.items()]
    addresses: dict[Key, tuple[str, ...]] = {}
    for ip, service in tracer.plan.cluster_ips.items():
        addresses[service] = (*addresses.get(service, ()), ip)
    return frontends, addresses


def judge(given: Iterable[Case], make: Make) -> list[str]:
    """Load each fixture's rules, send the packets; every case that went another way, in words."""
    faults = []
    with Probe(()) as probe:
        for (config, cidrs), alike in groupby(given, key=lambda c: _kind(c.tracer)):
            proxier = make(config, cidrs)
            try:
                for _, group in groupby(alike, key=lambda c: c.fixture):
                    faults += _judge(probe, list(group), proxier)
            finally:
                proxier.clear()
                proxier.close()
    return faults


def _kind(tracer: Tracer) -> tuple[Config, tuple[str, ...]]:
    return tracer.config, tracer.service_cidrs


def _judge(probe: Probe, group: list[Case], proxier: Proxier) -> list[str]:
    tracer = group[0].tracer
    probe.own(tracer.node.ips)
    proxier.sync(*changes(tracer))
    for case in group:
        serve(probe, case)
    asked = [(case, shot) for case in group for shot in shots(case)]
    seen = probe.fire([shot for _, shot in asked])
    return [
        f"{case.name}: {fault}"
        for case in group
        if (fault := wrong(case, [s for (c, _), s in zip(asked, seen, strict=True) if c is case]))
    ]


def serve(probe: Probe, case: Case) -> None:
    """Be the endpoints that are the node's own."""
    for end in _own(case) if case.flow.protocol != "SCTP" else ():
        host, _, port = end.rpartition(":")
        probe.listen(6 if ":" in host else 4, case.flow.protocol, int(port))


def _own(case: Case) -> list[str]:
    own = case.tracer.node.ips
    return [e for e in case.expected.endpoints if e.rpartition(":")[0].strip("[]") in own]


def shots(case: Case) -> list[Shot]:
    """Packets of a case; none if they never come to this node."""
    flow, kind = case.flow, case.tracer.source_class(case.flow.source)
    if contains(LOOPBACK, flow.target) and kind != "node":
        return []
    way_in = {"pod": PODS, "node": "", "other": OUTSIDE}[kind]
    shot = Shot(flow.source, flow.target, flow.port, flow.protocol, way_in)
    return [shot] * (MANY if len(case.expected.endpoints) > 1 else FEW)


def wrong(case: Case, seen: Sequence[Seen]) -> str:
    """What does not fit; "" if all does."""
    expected = case.expected
    got = {_shown(s, case) for s in seen}
    if not seen:
        return ""
    if expected.verdict == "accept":
        masquerade = any(s.source in MASQUERADED.values() for s in seen)
        wanted = set(expected.endpoints)
        fits = len(got) == 1 and got <= wanted if expected.sticky else got == wanted
        return "" if fits and masquerade == expected.masquerade else f"{expected}, but {set(seen)}"
    flow = case.flow
    fine = {
        "reject": {"refused"},
        "drop": {"lost"},
        "passthrough": {"local", endpoint_name(flow.target, flow.port)},
    }[expected.verdict]
    return "" if got <= fine else f"{expected}, but {set(seen)}"


def _shown(seen: Seen, case: Case) -> str:
    """Where it went, as an endpoint is written."""
    shown = endpoint_name(seen.target, seen.port) if seen.target else seen.verdict
    return shown if seen.verdict == "sent" or shown in _own(case) else seen.verdict
