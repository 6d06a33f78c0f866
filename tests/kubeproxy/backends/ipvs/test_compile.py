"""What one Service becomes, as golden text; and that the rules read back as they were written."""

import pytest

from kubewire.kubeproxy.backends.ipvs import rules
from kubewire.kubeproxy.backends.ipvs.compile import compile_frontend, where
from kubewire.kubeproxy.backends.ipvs.support import SUPPORT
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.ipvsoptions import IpvsOptions
from kubewire.kubeproxy.plan import Frontend, plan
from kubewire.kubeproxy.proxier import Feature
from kubewire.kubeproxy.topology import NodeView
from kubewire.lang.iptables.parse import parse
from tests.kubeproxy.rows import BALANCER, LOCAL, SRC, A, B, service, slice_

CONFIG = Config("ipvs", ("10.244.0.0/16", "fd00::/56"), ipvs=IpvsOptions("wlc"))


def frontends(**spec: object) -> dict[str, Frontend]:
    node = NodeView("node-a", ("192.0.2.1",))
    found = plan([service(**spec)], [slice_(A, B)], node, CONFIG)
    return {f.kind: f for f in found.frontends.values()}


def test_a_cluster_ip() -> None:
    assert where(frontends()["ClusterIP"], CONFIG) == [
        "-A -t 10.96.0.10:80 -s wlc",
        "-a -t 10.96.0.10:80 -r 10.244.0.1:8080 -m -w 1",
        "-a -t 10.96.0.10:80 -r 10.244.0.2:8080 -m -w 1",
        "add KUBE-CLUSTER-IP 10.96.0.10,tcp:80",
        "add KUBE-LOOP-BACK 10.244.0.1,tcp:8080,10.244.0.1",
        "address 10.96.0.10",
    ]


def test_a_local_balancer_has_a_second_server_for_clients_inside() -> None:
    frontend = frontends(**BALANCER, **LOCAL, **SRC)["LoadBalancer"]
    compiled = compile_frontend(frontend, CONFIG)
    plain, node, pods = compiled.servers
    assert [end.address for end in plain.destinations] == ["10.244.0.1"]
    assert [end.address for end in pods.destinations] == ["10.244.0.1", "10.244.0.2"]
    assert pods.destinations == node.destinations
    assert node.key.mark == pods.key.mark | CONFIG.mark
    assert not pods.key.mark & CONFIG.mark
    marks = f"0x{pods.key.mark:x}", f"0x{node.key.mark:x}"
    assert [r.render() for r in compiled.rules] == [
        f'-d 198.51.100.1/32 -p tcp -m addrtype --src-type LOCAL -m tcp --dport 80 -m comment --comment "ns/s:p from inside" -j MARK --set-xmark {marks[1]}/0xffffffff',
        f'-s 10.244.0.0/16 -d 198.51.100.1/32 -p tcp -m tcp --dport 80 -m comment --comment "ns/s:p from inside" -j MARK --set-xmark {marks[0]}/0xffffffff',
    ]
    assert dict(compiled.elements).keys() == {
        "KUBE-LOAD-BALANCER",
        "KUBE-LOAD-BALANCER-LOCAL",
        "KUBE-LOAD-BALANCER-FW",
        "KUBE-LOAD-BALANCER-SOURCE-CIDR",
        "KUBE-LOOP-BACK",
    }


def test_every_port_of_an_endpoint_may_be_its_own_client() -> None:
    ports = [{"name": "p", "port": n, "protocol": "TCP"} for n in (9, 8080)]
    found = plan([service()], [slice_(A, ports=ports)], NodeView("node-a"), CONFIG)
    (frontend,) = found.frontends.values()
    assert {e for n, e in compile_frontend(frontend, CONFIG).elements if "LOOP" in n} == {
        "10.244.0.1,tcp:9,10.244.0.1",
        "10.244.0.1,tcp:8080,10.244.0.1",
    }


def test_a_node_port_puts_no_address_on_the_node() -> None:
    compiled = compile_frontend(frontends(**BALANCER)["NodePort"], CONFIG)
    assert compiled.address == ""
    assert ("KUBE-NODE-PORT-TCP", "192.0.2.1,tcp:30080") in compiled.elements


@pytest.mark.parametrize("version", rules.VERSIONS)
def test_rules_read_back_as_they_were_written(version: int) -> None:
    tables = rules.tables(CONFIG, version)
    text = "".join(table.render() for table in tables.values())
    assert {n: rules.ours(t) for n, t in parse(text, version).items()} == tables


@pytest.mark.parametrize("version", rules.VERSIONS)
def test_no_rule_leads_to_a_chain_that_comes_later(version: int) -> None:
    for table in rules.tables(CONFIG, version).values():
        there: set[str] = set()
        for name, chain in table.chains.items():
            own = [r.target.chain for r in chain.rules if hasattr(r.target, "chain")]
            assert set(own) <= there, name
            there.add(name)


def test_names_fit_the_kernel() -> None:
    assert all(len(name) <= 31 for name in rules.SET_NAMES)
    assert len(rules.SET_NAMES) == 2 * 17


def test_every_feature_is_supported_or_said_why_not() -> None:
    assert SUPPORT.keys() == set(Feature)
