"""The rows with real packets, on a kernel that has IPVS (``make test-ipvs``)."""

from collections.abc import Iterator
from itertools import groupby

import pytest

from kubewire.kernel.probe import Probe, Seen
from kubewire.kubeproxy.backends.ipvs.proxier import IpvsProxier
from kubewire.kubeproxy.plan import Frontend, FrontendKey
from kubewire.kubeproxy.table import Change
from kubewire.kubeproxy.trace import endpoint_name
from tests.kubeproxy.lab import Case, cases, serve, shots, wrong

pytestmark = [pytest.mark.ipvs, pytest.mark.tool("iptables", "ipset")]

ROUNDS = 4
"""Packets of a case: rr comes to each of three endpoints."""


def world(case: Case) -> str:
    """What a proxier is told once: cases of one world share it."""
    return repr((case.tracer.config, case.tracer.node))


def test_rows() -> None:
    faults: list[str] = []
    given = sorted(cases("ipvs"), key=world)
    with Probe(()) as probe:
        for _, group in groupby(given, key=world):
            faults += rows_of_one_world(probe, list(group))
    assert faults == []


def at_own_endpoint(case: Case, seen: Seen) -> Seen:
    """An endpoint that is the node itself shows by what its own stack answers."""
    known = endpoint_name(seen.target, seen.port) if seen.target else ""
    ends = sorted(case.expected.endpoints, key=lambda e: e != known)
    for target in ends if seen.verdict == "local" else ():
        address, _, port = target.rpartition(":")
        if address in case.tracer.node.ips:
            return Seen("sent", case.flow.source, address, int(port))
    return seen


def rows_of_one_world(probe: Probe, group: list[Case]) -> Iterator[str]:
    """From one fixture to the next by what changes, as a watch would."""
    probe.own(group[0].tracer.node.ips)
    proxier = IpvsProxier(group[0].tracer.config)
    before: dict[FrontendKey, Frontend] = {}
    proxier.sync([], {})
    for _, fixture in groupby(group, key=lambda c: c.fixture):
        found = list(fixture)
        after = found[0].tracer.plan.frontends
        keys = [k for k in {**before, **after} if before.get(k) != after.get(k)]
        proxier.apply([Change(k, before.get(k), after.get(k)) for k in keys], {})
        before = after
        for case in found:
            serve(probe, case)
        asked = [(case, shot) for case in found for shot in shots(case)[:ROUNDS]]
        seen = probe.fire([shot for _, shot in asked])
        for case in found:
            own = [s for (c, _), s in zip(asked, seen, strict=True) if c is case]
            fault = wrong(case, [at_own_endpoint(case, s) for s in own])
            if fault:
                yield f"{case.name}: {fault}"
    proxier.clear()
    proxier.close()
