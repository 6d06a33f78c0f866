"""Rows that need a configuration of their own: the plan in iptables mode, the rules, the kernel."""

import pytest

from kubewire.kernel.probe import Probe
from kubewire.kubeproxy.backends.iptables.trace import IptablesTracer
from kubewire.kubeproxy.config import read as read_config
from kubewire.kubeproxy.kerneltrace import KernelTracer, pods_device
from kubewire.kubeproxy.objects import read
from kubewire.kubeproxy.trace import Tracer
from tests.kubeproxy.table import CONFIG, NODE, objects
from tests.kubeproxy.test_configured import PODS, ROWS, Row, flow, told


def tracer(row: Row) -> Tracer:
    found = objects(row.fixture)
    found[0]["spec"] = {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]}
    found[1]["spec"] = {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]}
    given = {("iptables" if k == "nftables" else k): v for k, v in (row.config or {}).items()}
    config = read_config({**CONFIG, "mode": "iptables", **given}, "config")
    return Tracer(read((o, str) for o in (*found, *PODS)), config, NODE)


@pytest.mark.parametrize("row", ROWS)
def test_rules(row: Row) -> None:
    plan = tracer(row)
    assert told(IptablesTracer(plan).ask(flow(row))) == told(plan.ask(flow(row)))


PLANNED = [(row, tracer(row)) for row in ROWS]


@pytest.mark.kernel
@pytest.mark.tool("iptables-nft", "iptables-legacy")
@pytest.mark.parametrize("device", sorted({pods_device(plan.config) for _, plan in PLANNED}))
def test_real_packets(device: str) -> None:
    wrong = []
    rows = [(row, plan) for row, plan in PLANNED if pods_device(plan.config) == device]
    probe = Probe(rows[0][1].node.ips, device)
    for row, plan in rows:
        kernel = KernelTracer(plan, probe)
        if (seen := told(kernel.ask(flow(row)))) != (wanted := told(plan.ask(flow(row)))):
            wrong.append((row, seen, wanted))
        kernel._proxier.clear()
        kernel.close()
    probe.close()
    assert not wrong, "\n".join(map(str, wrong))
