"""Which node an address of a LoadBalancer leads to."""

from ipaddress import ip_address, ip_network
from typing import Any

import msgspec
import pytest

from kubewire.api.core import Node
from kubewire.api.service import EndpointSlice, Service
from kubewire.cluster.vips import ways


def node(name: str, *ips: str, ready: str = "True") -> Node:
    addresses = [{"type": "InternalIP", "address": ip} for ip in ips]
    status = {"addresses": addresses, "conditions": [{"type": "Ready", "status": ready}]}
    return msgspec.convert({"metadata": {"name": name}, "status": status}, Node)


def service(name: str, *ips: str, policy: str = "Cluster", mode: str = "VIP") -> Service:
    ingress = [{"ip": ip, "ipMode": mode} for ip in ips]
    obj: dict[str, Any] = {
        "metadata": {"name": name, "namespace": "d"},
        "spec": {"type": "LoadBalancer", "externalTrafficPolicy": policy},
        "status": {"loadBalancer": {"ingress": ingress}},
    }
    return msgspec.convert(obj, Service)


def piece(name: str, *places: str) -> EndpointSlice:
    endpoints = [
        {"addresses": [f"10.0.0.{i}"], "nodeName": place.rstrip("!"), "conditions": {"ready": "!" not in place}}
        for i, place in enumerate(places, 1)
    ]  # fmt: skip
    labels = {"kubernetes.io/service-name": name}
    meta = {"name": f"{name}-x", "namespace": "d", "labels": labels}
    return msgspec.convert({"metadata": meta, "endpoints": endpoints}, EndpointSlice)


A, B = node("a", "172.30.0.10", "fd00::10"), node("b", "172.30.0.11", "fd00::11")


@pytest.mark.parametrize(
    ("services", "slices", "nodes", "expected"),
    [
        ([service("s", "1.1.1.1", policy="Local")], [piece("s", "b")], [A, B], {"1.1.1.1": "172.30.0.11"}),
        ([service("s", "1.1.1.1", policy="Local")], [piece("s", "a!", "b")], [A, B], {"1.1.1.1": "172.30.0.11"}),
        ([service("s", "1.1.1.1")], [piece("s", "b")], [A, node("b", "172.30.0.11", ready="Unknown")], {"1.1.1.1": "172.30.0.10"}),
        ([service("s", "fd01::1", policy="Local")], [piece("s", "a")], [A, B], {"fd01::1": "fd00::10"}),
        ([service("s", "1.1.1.1", mode="Proxy")], [piece("s", "a")], [A, B], {}),
        ([service("s", "1.1.1.1")], [], [], {}),
        ([service("s", "1.1.1.1", policy="Local"), service("t", "1.1.1.1", policy="Local")], [piece("s", "a", "b"), piece("t", "b")], [A, B], {"1.1.1.1": "172.30.0.11"}),
    ],
)  # fmt: skip
def test_ways(
    services: list[Service],
    slices: list[EndpointSlice],
    nodes: list[Node],
    expected: dict[str, str],
) -> None:
    found = {str(to.network_address): str(via) for to, via in ways(services, slices, nodes).items()}
    assert found == expected


def test_addresses_are_spread_and_stay() -> None:
    services = [service(f"s{i}", f"1.1.1.{i}") for i in range(1, 60)]
    both = ways(services, [], [A, B])
    assert {str(v) for v in both.values()} == {"172.30.0.10", "172.30.0.11"}
    only = ways(services, [], [A])
    moved = [to for to, via in both.items() if only[to] != via]
    assert moved == [to for to, via in both.items() if str(via) == "172.30.0.11"]
    assert both[ip_network("1.1.1.1")] in (ip_address("172.30.0.10"), ip_address("172.30.0.11"))
