import json
from dataclasses import replace
from typing import Any

import pytest

from kubewire.api.errors import InputError
from kubewire.api.meta import Key
from kubewire.kubeproxy.backends.envoy.trace import EnvoyTracer
from kubewire.kubeproxy.backends.nftables.trace import NftablesTracer
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.config import read as read_config
from kubewire.kubeproxy.explain import explained
from kubewire.kubeproxy.objects import Objects, read
from kubewire.kubeproxy.trace import Answer, Flow, Tracer, flow
from tests.kubeproxy.rows import service, slice_
from tests.kubeproxy.table import CONFIG, NODE, NODE_IP, POD, ROWS, Row, objects


def tracer(fixture: str, **changes: Any) -> Tracer:
    config = replace(read_config(CONFIG, "config"), **changes)
    found = read((o, lambda f: f"objects: {f}") for o in objects(fixture))
    return Tracer(found, config, NODE)


def check(row: Row, answer: Answer) -> None:
    seen = (answer.verdict, set(answer.endpoints), answer.masquerade, answer.sticky)
    assert seen == (row.verdict, set(row.endpoints.split()), row.masquerade, row.sticky)
    assert answer.reason


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.id)
def test_plan(row: Row) -> None:
    asked = Flow(row.source, row.target, row.port, row.protocol)
    check(row, tracer(row.fixture).ask(asked))


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.id)
def test_nftables_rules(row: Row) -> None:
    asked = Flow(row.source, row.target, row.port, row.protocol)
    check(row, NftablesTracer(tracer(row.fixture)).ask(asked))


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.id)
def test_envoy(row: Row) -> None:
    asked = Flow(row.source, row.target, row.port, row.protocol)
    check(row, EnvoyTracer(tracer(row.fixture)).ask(asked))


def test_masquerade_all_reaches_pods() -> None:
    asked = Flow(POD, "10.96.0.41", 80)
    assert tracer("plain", masquerade_all=True).ask(asked).masquerade


def test_without_pod_networks_nothing_to_a_cluster_ip_is_masqueraded() -> None:
    asked = Flow("203.0.113.2", "10.96.0.41", 80)
    assert not tracer("plain", cluster_cidrs=()).ask(asked).masquerade


@pytest.mark.parametrize(
    ("addresses", "target", "verdict"),
    [
        (("all",), "192.168.9.2", "accept"),
        (("192.168.9.0/24",), NODE_IP, "passthrough"),
        (("localhost",), "127.0.0.1", "accept"),
    ],
)
def test_node_port_addresses(addresses: tuple[str, ...], target: str, verdict: str) -> None:
    found = tracer("nodeport", node_port_addresses=addresses)
    assert found.ask(Flow(NODE_IP, target, 30080)).verdict == verdict


def test_iptables_leaves_unknown_ports_alone() -> None:
    found = tracer("plain", mode="iptables")
    assert found.ask(Flow(POD, "10.96.0.41", 81)).verdict == "passthrough"


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ({"from": "x", "to": "10.0.0.1", "port": 1}, "from"),
        ({"from": "10.0.0.1", "port": 1}, "to"),
        ({"from": "10.0.0.1", "to": "10.0.0.1", "port": 70000}, "port"),
        ({"from": "10.0.0.1", "to": "10.0.0.1", "port": 1, "protocol": "ICMP"}, "protocol"),
        ({"from": "10.0.0.1", "to": "fd00::1", "port": 1}, "families"),
    ],
)
def test_bad_flows_name_the_field(line: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=field):
        flow(line)


def test_explain_says_why_endpoints_are_out() -> None:
    record = explained(tracer("dying-beside"), Key("ns1", "svc1"))
    assert {e["address"]: (e["in"], e["why"]) for e in record["endpoints"]} == {
        "10.244.0.1:8080": (False, "terminating: others are ready"),
        "10.244.1.1:8080": (True, "ready"),
    }
    assert json.dumps(record)


def test_explain_shows_what_cannot_be_an_endpoint() -> None:
    slices = [
        slice_("fd00::1", "127.0.0.1", "169.254.0.1", "224.0.0.1", "10.244.0.1"),
        slice_("10.244.0.2", ports=[{"name": "q", "port": 1}]),
        slice_("web.example", family="FQDN"),
    ]
    record = explained(Tracer(Objects([service()], slices), Config()), Key("ns", "s"))
    assert {e["address"]: e["why"] for e in record["endpoints"]} == {
        "10.244.0.1:8080": "ready",
        "fd00::1": "must be an IPv4 address, as addressType says",
        "127.0.0.1": "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        "169.254.0.1": "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        "224.0.0.1": "may not be in the multicast range (224.0.0.0/4, ff00::/8)",
        "10.244.0.2": f'EndpointSlice {slices[1].metadata.name} has no TCP port named "p" (pods without the targetPort?)',
        "web.example": "addressType FQDN has no address to send to",
    }
    assert [e["in"] for e in record["endpoints"]].count(True) == 1


@pytest.mark.parametrize(
    ("spec", "status", "text"),
    [
        ({"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 1}]}, {}, "spec.ports[1]: Duplicate value: 1/TCP"),
        ({"ports": [{"name": "a", "port": 1}, {"name": "a", "port": 2}]}, {}, 'spec.ports[1].name: Duplicate value: "a"'),
        ({}, {"ingress": [{"ip": "192.0.2.9", "ipMode": "x"}]}, 'status.loadBalancer.ingress[0].ipMode: Unsupported value: "x": supported values: "Proxy", "VIP"'),
    ],
)  # fmt: skip
def test_a_service_that_means_nothing_is_refused(spec: Any, status: Any, text: str) -> None:
    obj = {"kind": "Service", "metadata": {"name": "s"}, "spec": spec, "status": {"loadBalancer": status}}  # fmt: skip
    with pytest.raises(InputError) as caught:
        read([(obj, lambda field: f"here: {field}")])
    assert str(caught.value) == f"here: {text}"


def test_config_names_unknown_fields() -> None:
    with pytest.raises(InputError, match='unknown field "moode"'):
        read_config({**CONFIG, "moode": "x"}, "config")
    assert read_config(CONFIG, "config").mode == Config().mode
