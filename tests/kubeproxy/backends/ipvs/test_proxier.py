"""The proxier on a kernel that has IPVS (``make test-ipvs``)."""

import time
from itertools import groupby

import pytest

from kubewire.kernel.probe import Probe
from kubewire.kubeproxy.backends.ipvs.proxier import IpvsProxier
from kubewire.kubeproxy.table import Change
from tests.kubeproxy.lab import Case, cases, changes, shots, wrong

pytestmark = [pytest.mark.ipvs, pytest.mark.tool("iptables", "ipset"), pytest.mark.timeout(200)]

ROUNDS = 4
"""Packets of a case: rr comes to each of three endpoints."""


def test_rows_with_real_packets() -> None:
    faults: list[str] = []
    given = sorted(cases("ipvs"), key=lambda c: repr((c.tracer.config, c.tracer.node)))
    with Probe(()) as probe:
        for _, group in groupby(given, key=lambda c: repr((c.tracer.config, c.tracer.node))):
            faults += rows_of_one_config(probe, list(group))
    assert faults == []


def rows_of_one_config(probe: Probe, group: list[Case]) -> list[str]:
    """From one fixture to the next by what changes, as a watch would."""
    faults = []
    probe.own(group[0].tracer.node.ips)
    proxier = IpvsProxier(group[0].tracer.config)
    before: dict = {}
    proxier.sync([], {})
    for _, fixture in groupby(group, key=lambda c: c.fixture):
        found = list(fixture)
        t = time.time()
        frontends = {c.key: c.new for c in changes(found[0].tracer)[0]}
        keys = [k for k in {**before, **frontends} if before.get(k) != frontends.get(k)]
        proxier.apply([Change(k, before.get(k), frontends.get(k)) for k in keys], {})
        before = frontends
        t1 = time.time()
        asked = [(case, shot) for case in found for shot in shots(case)[:ROUNDS]]
        seen = probe.fire([shot for _, shot in asked])
        print(found[0].fixture, "apply", t1 - t, "fire", time.time() - t1, len(asked), flush=True)
        for case in found:
            fault = wrong(case, [s for (c, _), s in zip(asked, seen, strict=True) if c is case])
            faults += [f"{case.name}: {fault}"] if fault else []
    t = time.time()
    proxier.clear()
    print("clear", time.time() - t, flush=True)
    proxier.close()
    return faults
