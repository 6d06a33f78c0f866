"""Rows that need a configuration of their own: the plan, the nftables rules and the kernel agree."""

from typing import Any

import pytest

from kubewire.kernel.probe import Probe
from kubewire.kubeproxy.backends.nftables.trace import NftablesTracer
from kubewire.kubeproxy.config import read as read_config
from kubewire.kubeproxy.kerneltrace import KernelTracer, pods_device
from kubewire.kubeproxy.objects import read
from kubewire.kubeproxy.trace import Answer, Flow, Tracer
from tests.kubeproxy.table import (
    BOTH_OUT,
    CONFIG,
    HERE_OUT,
    JSON,
    NODE,
    NODE_IP,
    OTHER_IP,
    OUTSIDE,
    POD,
    Row,
    objects,
)

CLUSTER, LOOPBACK = "10.96.0.41", "127.0.0.1"
POD_ELSEWHERE = "10.244.1.9"


def under(config: JSON, *row: Any) -> Row:
    """A row in another configuration."""
    return Row(*row, config=config)


def pod(name: str, ip: str, node: str, **spec: Any) -> JSON:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "ns1"},
        "spec": {"nodeName": node, "containers": [], **spec},
        "status": {"phase": "Running", "podIP": ip},
    }


PODS = [
    pod("here", POD, NODE),
    pod("there", POD_ELSEWHERE, "node-2"),
    pod("host", NODE_IP, NODE, hostNetwork=True),
]
BRIDGE = {"detectLocalMode": "BridgeInterface", "detectLocal": {"bridgeInterface": "cbr0"}}
PREFIX = {"detectLocalMode": "InterfaceNamePrefix", "detectLocal": {"interfaceNamePrefix": "veth"}}
NODE_CIDR = {"detectLocalMode": "NodeCIDR"}
NO_PODS = {"clusterCIDR": ""}
ALL = {"nftables": {"masqueradeAll": True}}
LOCALHOST = {"nodePortAddresses": ["localhost"]}

ROWS = [
    # How pods are known decides who is masqueraded, and who passes by a Local policy.
    *(
        row
        for config in (BRIDGE, PREFIX, NODE_CIDR)
        for row in (
            under(config, "plain", POD, CLUSTER, 80, "accept", BOTH_OUT),
            under(config, "plain", POD_ELSEWHERE, CLUSTER, 80, "accept", BOTH_OUT, True),
            under(config, "plain", NODE_IP, CLUSTER, 80, "accept", BOTH_OUT, True),
            under(config, "plain", OUTSIDE, CLUSTER, 80, "accept", BOTH_OUT, True),
            under(config, "nodeport-local", POD, NODE_IP, 30080, "accept", BOTH_OUT),
            under(config, "nodeport-local", POD_ELSEWHERE, NODE_IP, 30080, "accept", HERE_OUT),
            under(config, "nodeport-local", NODE_IP, NODE_IP, 30080, "accept", BOTH_OUT, True),
        )
    ),
    under({}, "plain", POD_ELSEWHERE, CLUSTER, 80, "accept", BOTH_OUT),
    under({}, "nodeport-local", POD_ELSEWHERE, NODE_IP, 30080, "accept", BOTH_OUT),
    under(NO_PODS, "plain", POD, CLUSTER, 80, "accept", BOTH_OUT),
    under(NO_PODS, "plain", OUTSIDE, CLUSTER, 80, "accept", BOTH_OUT),
    under(NO_PODS, "nodeport-local", POD, NODE_IP, 30080, "accept", HERE_OUT),
    under(NO_PODS, "nodeport-local", NODE_IP, NODE_IP, 30080, "accept", BOTH_OUT, True),
    under(NO_PODS, "nodeport", OUTSIDE, NODE_IP, 30080, "accept", BOTH_OUT, True),
    *(under(ALL, "plain", s, CLUSTER, 80, "accept", BOTH_OUT, True) for s in (POD, NODE_IP, OUTSIDE)),
    under(ALL, "nodeport-local", OUTSIDE, NODE_IP, 30080, "accept", HERE_OUT),
    under({"nftables": {"masqueradeBit": 31}}, "plain", OUTSIDE, CLUSTER, 80, "accept", BOTH_OUT, True),
    under({"nftables": {"masqueradeBit": 0}}, "plain", OUTSIDE, CLUSTER, 80, "accept", BOTH_OUT, True),
    # Where nodePorts answer.
    *(
        under({"nodePortAddresses": given}, "nodeport", OUTSIDE, target, 30080, *outcome)
        for given, target, accepted in (
            (["primary"], NODE_IP, True),
            (["primary"], "192.168.9.2", False),
            (["all"], NODE_IP, True),
            (["all"], "192.168.9.2", True),
            (["0.0.0.0/0"], "192.168.9.2", True),
            (["192.168.9.0/24"], "192.168.9.2", True),
            (["192.168.9.0/24"], NODE_IP, False),
            (["192.168.9.0/24", "primary"], NODE_IP, True),
            (["10.0.0.0/8"], NODE_IP, False),
            (["2001:db8::/64"], NODE_IP, False),
            (["localhost"], NODE_IP, False),
        )
        for outcome in ([("accept", BOTH_OUT, True)] if accepted else [("passthrough",)])
    ),
    # Without endpoints it is refused there, and there only.
    *(
        under({"nodePortAddresses": ["192.168.9.0/24"]}, "empty", OUTSIDE, target, 30080, verdict)
        for target, verdict in (("192.168.9.2", "reject"), (NODE_IP, "passthrough"))
    ),
    # On the loopback, only where that is asked for by name; nobody else's is meant.
    *(under({"nodePortAddresses": g}, "nodeport", LOOPBACK, LOOPBACK, 30080, "accept", BOTH_OUT, True) for g in (["localhost"], ["127.0.0.0/8"], ["primary", "localhost"])),
    under(LOCALHOST, "nodeport-remote", LOOPBACK, LOOPBACK, 30080, "accept", "10.244.1.1:8080", True),
    under(LOCALHOST, "empty", LOOPBACK, LOOPBACK, 30080, "reject"),
    under(LOCALHOST, "nodeport", POD, LOOPBACK, 30080, "passthrough"),
    under({"nodePortAddresses": ["all"]}, "nodeport", LOOPBACK, LOOPBACK, 30080, "passthrough"),
    under({}, "nodeport", LOOPBACK, LOOPBACK, 30080, "passthrough"),
]  # fmt: skip


def tracer(row: Row) -> Tracer:
    found = objects(row.fixture)
    found[0]["spec"] = {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]}
    found[1]["spec"] = {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]}
    config = read_config({**CONFIG, **(row.config or {})}, "config")
    return Tracer(read((o, str) for o in (*found, *PODS)), config, NODE)


def told(answer: Answer) -> tuple[object, ...]:
    return answer.verdict, set(answer.endpoints), answer.masquerade


def expected(row: Row) -> tuple[object, ...]:
    return row.verdict, set(row.endpoints.split()), row.masquerade


def flow(row: Row) -> Flow:
    return Flow(row.source, row.target, row.port, row.protocol)


@pytest.mark.parametrize("row", ROWS)
def test_plan(row: Row) -> None:
    assert told(tracer(row).ask(flow(row))) == expected(row)


@pytest.mark.parametrize("row", ROWS)
def test_nftables_rules(row: Row) -> None:
    assert told(NftablesTracer(tracer(row)).ask(flow(row))) == expected(row)


@pytest.mark.kernel
@pytest.mark.parametrize("device", ["pods", "cbr0", "veth0"])
def test_real_packets(device: str) -> None:
    wrong = []
    with Probe((), device) as probe:
        for row in ROWS:
            plan = tracer(row)
            if pods_device(plan.config) != device:
                continue
            kernel = KernelTracer(plan, probe)
            if (seen := told(kernel.ask(flow(row)))) != expected(row):
                wrong.append((row, seen))
            kernel.close()
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize(
    ("mode", "given", "answers"),
    [
        ("iptables", None, True),
        ("iptables", ["all"], True),
        ("iptables", ["127.0.0.0/8"], True),
        ("iptables", ["192.168.0.0/24"], False),
        ("nftables", ["all"], False),
        ("nftables", ["0.0.0.0/0"], False),
        ("ipvs", ["localhost"], False),
    ],
)
def test_loopback_by_mode(mode: str, given: list[str] | None, answers: bool) -> None:
    config = read_config({**CONFIG, "mode": mode, "nodePortAddresses": given}, "config")
    found = Tracer(read((o, str) for o in objects("nodeport")), config, NODE)
    answer = found.ask(Flow(LOOPBACK, LOOPBACK, 30080))
    assert (answer.verdict == "accept") is answers


def test_others_reach_the_loopback_neither_with_nor_without_node_ports() -> None:
    config = {**CONFIG, "mode": "iptables", "iptables": {"localhostNodePorts": False}}
    found = Tracer(read((o, str) for o in objects("nodeport")), read_config(config, "c"), NODE)
    assert found.ask(Flow(LOOPBACK, LOOPBACK, 30080)).verdict == "passthrough"
    assert found.ask(Flow(OTHER_IP, LOOPBACK, 30080)).verdict == "passthrough"
