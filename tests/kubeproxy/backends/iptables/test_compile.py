"""Names as kube-proxy makes them, and single rules that rows cannot tell apart."""

from dataclasses import replace

import pytest

from kubewire.api.meta import Key
from kubewire.kubeproxy.backends.iptables.base import Setting, base
from kubewire.kubeproxy.backends.iptables.compile import tables, where
from kubewire.kubeproxy.backends.iptables.names import ServicePort
from kubewire.kubeproxy.backends.iptables.support import SUPPORT
from kubewire.kubeproxy.backends.iptables.trace import IptablesTracer
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.plan import Frontend, plan
from kubewire.kubeproxy.proxier import Feature
from kubewire.kubeproxy.topology import NodeView
from kubewire.kubeproxy.trace import Flow, Tracer
from tests.kubeproxy.lab import Case, _fixture, cases
from tests.kubeproxy.rows import PODS, service, slice_

CONFIG = Config(mode="iptables", cluster_cidrs=PODS)
VIEW = NodeView("node-a", ("192.0.2.1",))


# Of listings that people have published.
@pytest.mark.parametrize(
    ("namespace", "name", "port", "protocol", "chain"),
    [
        ("default", "kubernetes", "https", "tcp", "KUBE-SVC-NPX46M4PTMTKRN6Y"),
        ("kube-system", "kube-dns", "dns", "udp", "KUBE-SVC-TCOU7JCQXEZGVUNU"),
        ("kube-system", "kube-dns", "dns-tcp", "tcp", "KUBE-SVC-ERIFXISQEP7F7OF4"),
        ("kube-system", "kube-dns", "metrics", "tcp", "KUBE-SVC-JD5MR3NA4I4DYORP"),
        ("default", "nginx", "", "tcp", "KUBE-SVC-2CMXP7HKUVJN7L6M"),
    ],
)
def test_names_of_services(namespace: str, name: str, port: str, protocol: str, chain: str) -> None:
    assert ServicePort(Key(namespace, name), port, protocol, 4).chain("KUBE-SVC-") == chain


def test_names_of_endpoints() -> None:
    dns = ServicePort(Key("kube-system", "kube-dns"), "dns-tcp", "tcp", 4)
    assert dns.endpoint_chain("192.168.2.202:53") == "KUBE-SEP-ZMSJI3VRIGJXZA3J"
    api = ServicePort(Key("default", "kubernetes"), "https", "tcp", 4)
    assert api.endpoint_chain("192.168.2.41:443") == "KUBE-SEP-QOWY5WNKXGKKZOZD"


def lines(config: Config, table: str = "nat", **spec: object) -> str:
    slices = [slice_("10.244.0.1@node-a", "10.244.0.2@node-b")]
    found = plan([service(**spec)], slices, VIEW, config).frontends.values()
    return "\n".join(tables(4, found, Setting(config))[table].lines())


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (CONFIG, "! -s 10.244.0.0/16 -d 10.96.0.10/32 -p tcp"),
        (replace(CONFIG, masquerade_all=True), "-d 10.96.0.10/32 -p tcp -m comment --comment \"ns/s:p cluster IP\" -m tcp --dport 80 -j KUBE-MARK-MASQ"),
        (replace(CONFIG, detect_local="BridgeInterface", bridge_interface="cni0"), "-d 10.96.0.10/32 ! -i cni0 -p tcp"),
        (replace(CONFIG, detect_local="InterfaceNamePrefix", interface_name_prefix="veth"), "-d 10.96.0.10/32 ! -i veth+ -p tcp"),
        (replace(CONFIG, cluster_cidrs=("10.244.0.0/24", "10.244.1.0/24")), "-j KUBE-MARK-MASQ-NOT-POD"),
        (replace(CONFIG, masquerade_bit=8), "-A KUBE-POSTROUTING -m mark ! --mark 0x100/0x100 -j RETURN"),
    ],
)  # fmt: skip
def test_masquerading(config: Config, wanted: str) -> None:
    assert wanted in lines(config)


def test_unknown_pods_are_not_masqueraded() -> None:
    assert 'cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ' not in lines(
        replace(CONFIG, cluster_cidrs=())
    )


@pytest.mark.parametrize(
    ("addresses", "localhost", "wanted"),
    [
        (None, True, ["-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"]),
        (None, False, ["! -d 127.0.0.0/8 -m comment --comment NOTE -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"]),
        (("primary",), True, ["-d 192.0.2.1/32 -m comment --comment NOTE -j KUBE-NODEPORTS"]),
        (("192.0.2.0/24", "localhost"), True, ["-d 127.0.0.1/32 -m comment --comment NOTE -j KUBE-NODEPORTS", "-d 192.0.2.1/32 -m comment --comment NOTE -j KUBE-NODEPORTS"]),
    ],
)  # fmt: skip
def test_node_port_addresses(
    addresses: tuple[str, ...] | None, localhost: bool, wanted: list[str]
) -> None:
    config = replace(CONFIG, node_port_addresses=addresses, localhost_node_ports=localhost)
    ports = [{"name": "p", "port": 80, "nodePort": 30080}]
    note = '"kubernetes service nodeports; NOTE: this must be the last rule in this chain"'
    text = lines(config, type="NodePort", ports=ports).replace(note, "NOTE")
    found = [line for line in text.splitlines() if line.endswith("-j KUBE-NODEPORTS")]
    assert len(found) == len(wanted)
    assert all(line.endswith(end) for line, end in zip(found, wanted, strict=True))


def test_invalid_packets_are_dropped_unless_conntrack_is_liberal() -> None:
    def forward(setting: Setting) -> str:
        return str(base(4, setting).chains["filter", "KUBE-FORWARD"])

    assert "INVALID" in forward(Setting(CONFIG))
    assert "INVALID" not in forward(Setting(CONFIG, liberal=True))


def test_the_guard_of_loopback_is_for_ipv4_only() -> None:
    guard = ("filter", "KUBE-FIREWALL")
    assert guard in base(4, Setting(CONFIG)).chains
    assert guard not in base(6, Setting(CONFIG)).chains
    assert guard not in base(4, Setting(replace(CONFIG, localhost_node_ports=False))).chains


def _interface(case: Case) -> Case:
    """The same case for a node that knows its pods by where they come in."""
    config = replace(
        case.tracer.config, detect_local="InterfaceNamePrefix", interface_name_prefix="veth"
    )
    tracer = Tracer(case.tracer.objects, case.tracer.config, case.tracer.node.name)
    tracer.config = config
    return replace(case, tracer=tracer)


@pytest.mark.parametrize("case", cases("iptables"), ids=lambda c: c.name)
def test_pods_known_by_their_interface(case: Case) -> None:
    if not case.tracer.config.cluster_cidrs:
        return
    given = _interface(case)
    answer = IptablesTracer(given.tracer).ask(given.flow)
    assert (answer.verdict, set(answer.endpoints), answer.masquerade) == (
        case.expected.verdict,
        set(case.expected.endpoints),
        case.expected.masquerade,
    )


def test_every_feature_is_supported_or_declared() -> None:
    assert SUPPORT.keys() == set(Feature)


def test_where_a_frontend_is() -> None:
    tracer = _fixture("lb-ranges", "iptables")
    frontend: Frontend = next(f for f in tracer.plan.frontends.values() if f.kind == "LoadBalancer")
    found = where(frontend, tracer.config)
    assert any(line.startswith("nat: -A KUBE-SERVICES -d 5.5.5.5/32") for line in found)
    assert any(line.startswith("filter: -A KUBE-PROXY-FIREWALL -d 5.5.5.5/32") for line in found)
    assert any("DNAT --to-destination 10.244.0.1:8080" in line for line in found)


def test_chances_are_even() -> None:
    tracer = _fixture("two-slices", "iptables")
    answer = IptablesTracer(tracer).ask(Flow("10.244.0.9", "10.96.0.41", 80))
    assert len(answer.endpoints) == 3
