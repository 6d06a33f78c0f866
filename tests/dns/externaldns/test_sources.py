"""Objects -> the record sets that they ask for."""

from typing import Any

import msgspec
import pytest

from kubewire.api.core import Node, Pod
from kubewire.api.ingress import Ingress
from kubewire.api.meta import Key
from kubewire.api.service import Service
from kubewire.dns.externaldns.record import merged
from kubewire.dns.externaldns.sources import Rules, World, wanted

NEW, OLD = "external-dns.kubernetes.io/", "external-dns.alpha.kubernetes.io/"


def service(
    notes: dict[str, str], spec: dict[str, Any] | None = None, *points: dict[str, str]
) -> Service:
    return msgspec.convert(
        {
            "metadata": {"name": "s", "namespace": "d", "annotations": notes},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.7", **(spec or {})},
            "status": {"loadBalancer": {"ingress": list(points)}},
        },
        Service,
    )


def ingress(
    notes: dict[str, str], hosts: list[str], tls: list[str], *points: dict[str, str]
) -> Ingress:
    return msgspec.convert(
        {
            "metadata": {"name": "i", "namespace": "d", "annotations": notes},
            "spec": {"rules": [{"host": h} for h in hosts], "tls": [{"hosts": tls}]},
            "status": {"loadBalancer": {"ingress": list(points)}},
        },
        Ingress,
    )


def node(name: str, **addresses: str) -> Node:
    listed = [{"type": kind, "address": ip} for kind, ip in addresses.items()]
    return msgspec.convert({"metadata": {"name": name}, "status": {"addresses": listed}}, Node)


def pod(name: str, *ips: str, **spec: str) -> Pod:
    status = {"podIP": ips[0], "podIPs": [{"ip": ip} for ip in ips]}
    meta = {"name": name, "namespace": "d"}
    return msgspec.convert({"metadata": meta, "spec": spec, "status": status}, Pod)


V4, V6, LB = {"ip": "192.0.2.7"}, {"ip": "2001:db8::7"}, {"hostname": "LB.example.net."}
HOST = {NEW + "hostname": "a.example.org"}
NODES = (
    node("n1", InternalIP="10.0.0.1", ExternalIP="198.51.100.1"),
    node("n2", InternalIP="10.0.0.2"),
)
PODS = {
    Key("d", "s"): (
        (pod("p0", "10.244.0.5", "fd00::5", hostname="p0", nodeName="n1"), True),
        (pod("p1", "10.244.0.6", nodeName="n1"), False),
    )
}

ROWS: list[tuple[str, Any, dict[str, Any], dict[str, tuple[str, ...]]]] = [
    ("no annotation", service({}, None, V4), {}, {}),
    ("one address", service(HOST, None, V4), {}, {"a.example.org A": ("192.0.2.7",)}),
    (
        "both families",
        service(HOST, None, V4, V6),
        {},
        {"a.example.org A": ("192.0.2.7",), "a.example.org AAAA": ("2001:db8::7",)},
    ),
    (
        "a load balancer's name",
        service(HOST, None, LB),
        {},
        {"a.example.org CNAME": ("lb.example.net",)},
    ),
    (
        "a name cannot be an alias and have addresses",
        service(HOST, None, LB, V4),
        {},
        {"a.example.org A": ("192.0.2.7",)},
    ),
    (
        "older prefix, list, dots, case",
        service({OLD + "hostname": "A.example.org., b.example.org"}, None, V4),
        {},
        {"a.example.org A": ("192.0.2.7",), "b.example.org A": ("192.0.2.7",)},
    ),
    (
        "newer prefix holds",
        service({OLD + "hostname": "old.example.org", **HOST}, None, V4),
        {},
        {"a.example.org A": ("192.0.2.7",)},
    ),
    ("another controller's", service({**HOST, NEW + "controller": "other"}, None, V4), {}, {}),
    (
        "named as ours",
        service({**HOST, OLD + "controller": "dns-controller"}, None, V4),
        {},
        {"a.example.org A": ("192.0.2.7",)},
    ),
    (
        "targets by annotation",
        service({**HOST, NEW + "target": "203.0.113.1,203.0.113.2"}, None, V4),
        {},
        {"a.example.org A": ("203.0.113.1", "203.0.113.2")},
    ),
    (
        "externalIPs before the status",
        service(HOST, {"externalIPs": ["203.0.113.9"]}, V4),
        {},
        {"a.example.org A": ("203.0.113.9",)},
    ),
    ("not assigned yet", service(HOST), {}, {}),
    ("ClusterIP is internal", service(HOST, {"type": "ClusterIP"}), {}, {}),
    (
        "ClusterIP when asked for",
        service(HOST, {"type": "ClusterIP"}),
        {"publish_internal": True},
        {"a.example.org A": ("10.96.0.7",)},
    ),
    (
        "internal-hostname",
        service({NEW + "internal-hostname": "i.example.org"}, None, V4),
        {},
        {"i.example.org A": ("10.96.0.7",)},
    ),
    (
        "ExternalName",
        service(HOST, {"type": "ExternalName", "externalName": "Far.example.net"}),
        {},
        {"a.example.org CNAME": ("far.example.net",)},
    ),
    (
        "NodePort: external addresses of nodes, and SRV",
        service(HOST, {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}),
        {},
        {
            "a.example.org A": ("198.51.100.1",),
            "_s._tcp.a.example.org SRV": ("0 50 30080 a.example.org.",),
        },
    ),
    (
        "NodePort: internal addresses when asked for",
        service({**HOST, NEW + "access": "private"}, {"type": "NodePort"}),
        {},
        {"a.example.org A": ("10.0.0.1", "10.0.0.2")},
    ),
    (
        "NodePort, Local: nodes with a pod only",
        service(
            {**HOST, NEW + "access": "private"},
            {"type": "NodePort", "externalTrafficPolicy": "Local"},
        ),
        {},
        {"a.example.org A": ("10.0.0.1",)},
    ),
    (
        "headless: ready pods, hostnames below",
        service(HOST, {"type": "ClusterIP", "clusterIP": "None"}),
        {},
        {
            "a.example.org A": ("10.244.0.5",),
            "a.example.org AAAA": ("fd00::5",),
            "p0.a.example.org A": ("10.244.0.5",),
            "p0.a.example.org AAAA": ("fd00::5",),
        },
    ),
    (
        "headless: pods that are not ready when the Service says so",
        service(HOST, {"type": "ClusterIP", "clusterIP": "None", "publishNotReadyAddresses": True}),
        {},
        {
            "a.example.org A": ("10.244.0.5", "10.244.0.6"),
            "a.example.org AAAA": ("fd00::5",),
            "p0.a.example.org A": ("10.244.0.5",),
            "p0.a.example.org AAAA": ("fd00::5",),
        },
    ),
    (
        "types that are not wanted",
        service(HOST, None, V4),
        {"service_types": frozenset({"NodePort"})},
        {},
    ),
    (
        "ingress: rules, tls and annotation",
        ingress({NEW + "hostname": "c.example.org"}, ["a.example.org", ""], ["b.example.org"], V4),
        {},
        {f"{x}.example.org A": ("192.0.2.7",) for x in "abc"},
    ),
    (
        "ingress: hosts of the spec only",
        ingress(
            {
                NEW + "hostname": "c.example.org",
                NEW + "ingress-hostname-source": "defined-hosts-only",
            },
            ["a.example.org"],
            [],
            V4,
        ),
        {},
        {"a.example.org A": ("192.0.2.7",)},
    ),
    (
        "ingress: annotation only",
        ingress(
            {NEW + "hostname": "c.example.org", NEW + "ingress-hostname-source": "annotation-only"},
            ["a.example.org"],
            ["b.example.org"],
            V4,
        ),
        {},
        {"c.example.org A": ("192.0.2.7",)},
    ),
    (
        "ingress: target",
        ingress({OLD + "target": "lb.example.net"}, ["*.example.org"], [], V4),
        {},
        {"*.example.org CNAME": ("lb.example.net",)},
    ),
]


@pytest.mark.parametrize(
    ("obj", "rules", "expected"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS]
)
def test_records(obj: Any, rules: dict[str, Any], expected: dict[str, tuple[str, ...]]) -> None:
    services = [obj] if isinstance(obj, Service) else []
    ingresses = [obj] if isinstance(obj, Ingress) else []
    found = merged(wanted(World(services, ingresses, PODS, NODES), Rules(**rules)))
    assert {f"{k.name} {k.type}": r.targets for k, r in found.items()} == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("60", 60), ("1m", 60), ("1h30m", 5400), ("0", None), ("x", None), ("", None), ("1x", None)],
)
def test_ttl(text: str, seconds: int | None) -> None:
    (record,) = wanted(World([service({**HOST, NEW + "ttl": text}, None, V4)]), Rules())
    assert record.ttl == seconds
    assert record.resource == "service/d/s"


def test_one_name_of_several_objects() -> None:
    other = ingress({}, ["a.example.org"], [], {"ip": "192.0.2.8"})
    found = merged(wanted(World([service(HOST, None, V4)], [other]), Rules()))
    (record,) = found.values()
    assert record.targets == ("192.0.2.7", "192.0.2.8")
