import json
from typing import Any

import msgspec
import pytest

from kubewire.api.service import Service
from kubewire.kubeproxy.backends import notes
from kubewire.kubeproxy.backends.envoy.compile import (
    WAYS,
    bootstrap,
    compile_frontend,
    marks,
    where,
)
from kubewire.kubeproxy.backends.envoy.support import SUPPORT
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.plan import Frontend, application, plan
from kubewire.kubeproxy.proxier import Feature
from kubewire.kubeproxy.topology import NodeView
from tests.kubeproxy.rows import BALANCER, LOCAL, PODS, A, B, service, slice_

VIEW = NodeView("node-a", ("192.0.2.1",), "z1")


def frontends(*slices: str, **spec: Any) -> dict[str, Frontend]:
    config = Config(mode="envoy", cluster_cidrs=PODS, node_port_addresses=("primary", "localhost"))
    found = plan([service(**spec)], [slice_(*slices)], VIEW, config).frontends
    return {f"{k.address}:{k.port}": f for k, f in found.items()}


def ways(frontend: Frontend) -> dict[str, str]:
    """Source -> listener, or what the kernel does by itself."""
    kernel = compile_frontend(frontend).kernel
    by_port = {way.port: way.name for way in WAYS}
    return {
        source: by_port[d.endpoints[0].port] if d.endpoints else d.action
        for source, d in kernel.decisions.items()
    }


@pytest.mark.parametrize(
    ("spec", "address", "expected"),
    [
        ({}, "10.96.0.10:80", "tcp-first-client tcp-first-client tcp-first-masquerade"),
        (BALANCER, "192.0.2.1:30080", "tcp-first-masquerade " * 3),
        (BALANCER, "127.0.0.1:30080", "tcp-first-node " * 3),
        (BALANCER | LOCAL, "198.51.100.1:80", "tcp-first-client tcp-first-client tcp-second-client"),
        ({"ports": [{"name": "p", "port": 80, "appProtocol": "http"}]}, "10.96.0.10:80", "http-first-client http-first-client http-first-masquerade"),
    ],
)  # fmt: skip
def test_which_listener_a_client_comes_to(
    spec: dict[str, Any], address: str, expected: str
) -> None:
    found = ways(frontends(A, B, **spec)[address])
    assert [found[s] for s in ("pod", "node", "other")] == expected.split()


def test_the_local_set_is_a_cluster_of_its_own() -> None:
    compiled = compile_frontend(frontends(A, B, **BALANCER, **LOCAL)["198.51.100.1:80"])
    told = {n: list(map(str, a.endpoints)) for n, a in compiled.assignments.items()}
    assert told == {
        "198.51.100.1:80": ["10.244.0.1:8080", "10.244.0.2:8080"],
        "second/198.51.100.1:80": ["10.244.0.1:8080"],
    }
    assert {c.stat_name for c in compiled.clusters.values()} == {"ns/s/p"}
    assert compiled.own == {"10.244.0.1"}


def test_what_is_not_envoys_is_left_as_it_is() -> None:
    for found in (
        frontends()["10.96.0.10:80"],
        frontends(A, ports=[{"name": "p", "port": 80, "protocol": "UDP"}])["10.96.0.10:80"],
    ):
        assert compile_frontend(found).kernel is found
        assert not compile_frontend(found).clusters
    assert where(found, Config()) == ["the kernel's maps: Envoy carries TCP, not UDP"]


@pytest.mark.parametrize(
    ("port", "annotation", "expected"),
    [
        ({"name": "http"}, None, "http"),
        ({"name": "http-web"}, None, "http"),
        ({"name": "https"}, None, ""),
        ({"name": "web"}, None, ""),
        ({"name": "http", "appProtocol": "kubernetes.io/h2c"}, None, "h2c"),
        ({"name": "http", "appProtocol": "https"}, None, ""),
        ({"name": "web", "appProtocol": "http"}, None, "http"),
        ({"name": "web", "appProtocol": "kubernetes.io/ws"}, None, "http"),
        ({"name": "http"}, "tcp", ""),
        ({"name": "web"}, "http", "http"),
        ({"name": "http", "protocol": "UDP"}, "http", ""),
    ],
)
def test_what_a_port_speaks(port: dict[str, str], annotation: str | None, expected: str) -> None:
    annotations = {"kubewire.dev/protocol": annotation} if annotation else {}
    obj = {
        "metadata": {"name": "s", "annotations": annotations},
        "spec": {"ports": [{"port": 80, **port}]},
    }
    found = msgspec.convert(obj, Service)
    assert application(found, (found.spec.ports or [])[0]) == expected


def test_the_bits_of_the_mark_differ() -> None:
    for bit in (14, 16, 17, 18):
        config = Config(masquerade_bit=bit)
        assert len({config.mark, *marks(config)}) == 3


def test_no_listener_knows_a_service() -> None:
    told = json.loads(bootstrap("n", (4, 6), Config()))
    names = [one["name"] for one in told["static_resources"]["listeners"]]
    assert names == ["metrics", *(way.name for way in WAYS)]
    assert len({way.port for way in WAYS}) == len(WAYS) == 12


def test_every_feature_is_had_or_explained() -> None:
    assert set(SUPPORT) == set(Feature)
    assert any(note.startswith("UDP and SCTP") for note in notes("envoy"))
