"""Which node an address of a LoadBalancer leads to."""

from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import msgspec
import pytest

from kubewire.api.core import Node
from kubewire.api.resources import SERVICES
from kubewire.api.service import EndpointSlice, Service
from kubewire.client.loop import running
from kubewire.cluster.vips import PROTOCOL, Vips, ways
from kubewire.kernel import links, routes
from kubewire.kernel.routes import Route
from kubewire.kernel.rtnetlink import RtNetlink
from kubewire.testing.fakeapi import FakeApi


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


@pytest.mark.kernel
async def test_routes_follow_and_only_its_own_are_touched() -> None:
    with RtNetlink() as netlink:
        netlink.transact([links.add_veth("underlay", "far"), links.set_link("underlay", up=True)])
        device = netlink.index("underlay")
        own = ip_interface("172.30.0.1/16")
        netlink.transact([routes.put_address(device, own), links.set_link("far", up=True)])
        foreign = Route(ip_network("9.9.9.9/32"), device, ip_address("172.30.0.9"))
        stale = Route(ip_network("8.8.8.8/32"), device, ip_address("172.30.0.9"), protocol=PROTOCOL)
        netlink.transact([routes.put_route(foreign), routes.put_route(stale)])

        def found() -> dict[str, str]:
            kept = (r for r in netlink.routes() if r.protocol in (PROTOCOL, foreign.protocol))
            return {str(r.destination): str(r.via) for r in kept if r.via}

        kept = {"9.9.9.9/32": "172.30.0.9"}
        api = FakeApi(*(raw(o, "v1", "Node") for o in (A, B)))
        api.put(raw(service("s", "1.1.1.1", policy="Local"), "v1", "Service"))
        api.put(raw(piece("s", "a"), "discovery.k8s.io/v1", "EndpointSlice"))
        vips = Vips(api.client(), "underlay")
        async with running(vips.loop):
            await api.converge()
            assert found() == {**kept, "1.1.1.1/32": "172.30.0.10"}
            api.put(raw(piece("s", "b"), "discovery.k8s.io/v1", "EndpointSlice"))
            await api.converge()
            assert found() == {**kept, "1.1.1.1/32": "172.30.0.11"}
            api.remove(SERVICES, "s", "d")
            await api.converge()
            assert found() == kept
        vips.close()


def raw(obj: Any, version: str, kind: str) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, **msgspec.to_builtins(obj)}
