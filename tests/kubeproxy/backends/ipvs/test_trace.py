"""The rows against the compiled servers, sets and rules."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from kubewire.api.core import Pod
from kubewire.kubeproxy.backends.ipvs.trace import IpvsTracer
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.ipvsoptions import IpvsOptions
from kubewire.kubeproxy.objects import Objects
from kubewire.kubeproxy.trace import Answer, Flow, Tracer
from tests.kubeproxy import rows
from tests.kubeproxy.lab import Case, cases
from tests.kubeproxy.rows import BALANCER, LOCAL, NODE_IP, OUTSIDE, POD, VIP, A, B, service, slice_

CASES = cases("ipvs")


def seen(answer: Answer) -> tuple[object, ...]:
    return answer.verdict, sorted(answer.endpoints), answer.masquerade, answer.sticky


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_rows(case: Case) -> None:
    answer = IpvsTracer(case.tracer).ask(case.flow)
    assert seen(answer) == seen(case.expected)
    assert answer.reason


def ask(flow: Flow, *objects: Any, **changes: Any) -> Answer:
    row = rows.Row("", [objects[0]], list(objects[1:]), "")
    tracer = row.tracer()
    config = replace(tracer.config, mode="ipvs", **changes)
    return IpvsTracer(Tracer(tracer.objects, config, "node-a")).ask(flow)


def weighted(weight: str, *endpoints: str) -> Any:
    piece = slice_(*endpoints, name=f"w{weight}")
    notes = {"kubewire.dev/weight": weight}
    return msgspec.structs.replace(
        piece, metadata=msgspec.structs.replace(piece.metadata, annotations=notes)
    )


def test_weights_and_schedulers_are_named() -> None:
    piece = weighted("3", A)
    options = IpvsOptions(scheduler="wrr")
    answer = ask(Flow(POD, VIP, 80), service(), piece, slice_(B), ipvs=options)
    assert answer.reason.endswith("(ipvs wrr, weights 10.244.0.1:8080=3, 10.244.0.2:8080=1)")


def test_weight_nought_gets_nothing_new() -> None:
    assert ask(Flow(POD, VIP, 80), service(), weighted("0", A), slice_(B)).endpoints == (
        "10.244.0.2:8080",
    )
    assert ask(Flow(POD, VIP, 80), service(), weighted("0", A)).verdict == "reject"


@pytest.mark.parametrize("source", [POD, NODE_IP, OUTSIDE])
def test_ports_that_an_address_of_a_service_lacks_are_refused(source: str) -> None:
    for target in (VIP, "198.51.100.1"):
        assert ask(Flow(source, target, 22), service(**BALANCER), slice_(A)).verdict == "reject"
    assert ask(Flow(source, NODE_IP, 22), service(**BALANCER), slice_(A)).verdict == "passthrough"


@pytest.mark.parametrize(
    ("detect", "more"),
    [
        ("BridgeInterface", {"bridge_interface": "cni0"}),
        ("InterfaceNamePrefix", {"interface_name_prefix": "veth"}),
    ],
)
def test_pods_may_be_known_by_their_interface(detect: str, more: dict[str, str]) -> None:
    pod = {
        "metadata": {"name": "p", "namespace": "ns"},
        "spec": {"nodeName": "node-a"},
        "status": {"podIP": POD},
    }
    objects = Objects(
        [service(**BALANCER, **LOCAL)], [slice_(A, B)], [rows.NODE], [msgspec.convert(pod, Pod)]
    )
    config = Config("ipvs", detect_local=detect, **more)
    tracer = IpvsTracer(Tracer(objects, config, "node-a"))
    answers = [tracer.ask(Flow(s, "198.51.100.1", 80)) for s in (POD, NODE_IP, OUTSIDE)]
    assert [(len(a.endpoints), a.masquerade) for a in answers] == [
        (2, False),
        (2, True),
        (1, False),
    ]
