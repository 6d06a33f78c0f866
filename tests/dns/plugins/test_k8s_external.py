"""k8s_external: objects and a question -> the answer, as CoreDNS 1.14.7 gave it beside the same objects."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kubewire.dns.config import Environment, build
from kubewire.dns.dispatch import Dispatcher
from kubewire.dns.plugins.kubernetes import Kubernetes
from kubewire.dns.plugins.kubernetes.objects import Service
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import AA, Message, Question, encode, parse
from kubewire.lang.dns.record import RR, rdata_text


def _service(name: str, spec: dict[str, Any], *ingress: dict[str, str]) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"ports": ports, **spec}, "status": {"loadBalancer": {"ingress": list(ingress)}},
    }  # fmt: skip


def _slice(service: str, *endpoints: dict[str, Any], port: int = 8080) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": service, "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
        "endpoints": list(endpoints), "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
    }  # fmt: skip


OBJECTS = [
    _service("web", {"clusterIP": "10.96.0.7", "externalIPs": ["192.0.2.9"]}, {"ip": "198.51.100.7"}),
    _service("lb", {"clusterIP": "10.96.0.8"}, {"hostname": "lb.example.net"}),
    _service("inner", {"clusterIP": "10.96.0.9"}),
    _slice("inner", {"addresses": ["10.244.0.3"], "hostname": "i-0"}),
    _service("db", {"clusterIP": "None"}),
    _slice("db", {"addresses": ["10.244.0.1"], "hostname": "db-0"}, {"addresses": ["10.244.0.2"]}),
    _service("both", {"clusterIP": "None", "externalIPs": ["192.0.2.10"]}),
    _slice("both", {"addresses": ["10.244.0.4"]}),
    _service("bare", {"clusterIP": "10.96.0.11", "externalIPs": ["192.0.2.9"], "ports": []}),
]  # fmt: skip
PLAIN, HEADLESS = "", "headless"
SOA = "example.org. 7 SOA"


def _ask(options: str, question: str, zones: str = "example.org", more: str = "") -> Message:
    text = (
        f". {{\n{more}\nkubernetes cluster.local\nk8s_external {zones} {{\nttl 7\n{options}\n}}\n}}"
    )
    [(at, blocks)] = build(text, "Corefile", Environment(objects=OBJECTS)).listeners().items()
    name, _, kind = question.partition(" ")
    qtype = codes.type_number(kind)
    assert qtype is not None
    data = encode(Message(7, 0x0100, Question(name, qtype)))

    async def ask() -> bytes:
        found = Dispatcher(at, blocks).receive(data, ("10.0.0.1", 4000), ("10.0.0.2", 53), "tcp")
        ready = found if isinstance(found, bytes | list) else await found  # type: ignore[misc]
        assert ready
        return ready if isinstance(ready, bytes) else ready[0]

    return parse(asyncio.run(ask()))


def _rows(records: list[RR]) -> list[str]:
    return [f"{r.name} {r.ttl} {codes.type_name(r.type)} {rdata_text(r)}" for r in records]


ROWS: list[tuple[str, str, str, list[str], list[str]]] = [
    # options, question, rcode, answer, additional
    (PLAIN, "web.default.example.org. A", "NOERROR", ["web.default.example.org. 7 A 192.0.2.9", "web.default.example.org. 7 A 198.51.100.7"], []),
    (PLAIN, "WEB.default.Example.org. SRV", "NOERROR", ["WEB.default.Example.org. 5 SRV 0 50 80 web.default.example.org."], ["web.default.example.org. 7 A 192.0.2.9", "web.default.example.org. 7 A 198.51.100.7"]),
    (PLAIN, "_http._tcp.web.default.example.org. A", "NOERROR", ["_http._tcp.web.default.example.org. 7 A 192.0.2.9", "_http._tcp.web.default.example.org. 7 A 198.51.100.7"], []),
    (PLAIN, "anything.web.default.example.org. A", "NOERROR", ["anything.web.default.example.org. 7 A 192.0.2.9", "anything.web.default.example.org. 7 A 198.51.100.7"], []),
    (PLAIN, "_dns._tcp.web.default.example.org. SRV", "NXDOMAIN", [], []),
    (PLAIN, "a.b.c.web.default.example.org. A", "NXDOMAIN", [], []),
    (PLAIN, "web.default.example.org. AAAA", "NOERROR", [], []),
    (PLAIN, "web.default.example.org. PTR", "NOERROR", [], []),
    (PLAIN, "lb.default.example.org. A", "NOERROR", ["lb.default.example.org. 5 CNAME lb.example.net.", "lb.example.net. 3600 A 203.0.113.5"], []),
    (PLAIN, "lb.default.example.org. SRV", "NOERROR", ["lb.default.example.org. 5 SRV 0 100 80 lb.example.net."], ["lb.example.net. 3600 A 203.0.113.5"]),
    (PLAIN, "both.default.example.org. A", "NOERROR", ["both.default.example.org. 7 A 192.0.2.10"], []),
    (PLAIN, "db.default.example.org. A", "NXDOMAIN", [], []),
    (PLAIN, "bare.default.example.org. A", "NXDOMAIN", [], []),
    (PLAIN, "i-0.inner.default.example.org. A", "NXDOMAIN", [], []),
    (PLAIN, "nope.example.org. A", "NXDOMAIN", [], []),
    (PLAIN, "default.example.org. A", "NOERROR", [], []),
    (HEADLESS, "db.default.example.org. A", "NOERROR", ["db.default.example.org. 7 A 10.244.0.1", "db.default.example.org. 7 A 10.244.0.2"], []),
    (HEADLESS, "DB-0.db.default.example.org. A", "NOERROR", ["DB-0.db.default.example.org. 7 A 10.244.0.1"], []),
    (HEADLESS, "10-244-0-2.db.default.example.org. SRV", "NOERROR", ["10-244-0-2.db.default.example.org. 5 SRV 0 100 8080 10-244-0-2.db.default.example.org."], ["10-244-0-2.db.default.example.org. 7 A 10.244.0.2"]),
    (HEADLESS, "_http._tcp.db.default.example.org. SRV", "NOERROR", ["_http._tcp.db.default.example.org. 5 SRV 0 50 8080 db-0.db.default.example.org.", "_http._tcp.db.default.example.org. 5 SRV 0 50 8080 10-244-0-2.db.default.example.org."], ["db-0.db.default.example.org. 7 A 10.244.0.1", "10-244-0-2.db.default.example.org. 7 A 10.244.0.2"]),
    (HEADLESS, "both.default.example.org. A", "NOERROR", ["both.default.example.org. 7 A 192.0.2.10"], []),
    (HEADLESS, "inner.default.example.org. A", "NXDOMAIN", [], []),
    (HEADLESS, "i-0.inner.default.example.org. A", "NOERROR", ["i-0.inner.default.example.org. 7 A 10.244.0.3"], []),
    (HEADLESS, "i-0.inner.default.example.org. SRV", "NOERROR", ["i-0.inner.default.example.org. 5 SRV 0 100 8080 i-0.inner.default.example.org."], ["i-0.inner.default.example.org. 7 A 10.244.0.3"]),
    (HEADLESS, "i-1.inner.default.example.org. A", "NXDOMAIN", [], []),
]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "question", "rcode", "answer", "additional"),
    ROWS, ids=[f"{r[0] or 'plain'} {r[1]}" for r in ROWS],
)  # fmt: skip
def test_answers(
    options: str, question: str, rcode: str, answer: list[str], additional: list[str]
) -> None:
    got = _ask(options, question, more="hosts {\n203.0.113.5 lb.example.net\nfallthrough\n}")
    assert codes.rcode_name(got.rcode) == rcode
    assert got.flags & AA
    assert (_rows(got.answer), _rows(got.additional)) == (answer, additional)
    # The zone is written as the Corefile has it, whatever the question's spelling.
    assert [row.startswith(SOA) for row in _rows(got.authority)] == [True] * (not answer)


def test_reverse_names_of_outer_addresses() -> None:
    zones = "example.org 192.0.2.0/24"
    got = _ask(PLAIN, "9.2.0.192.in-addr.arpa. PTR", zones)
    assert _rows(got.answer) == [
        "9.2.0.192.in-addr.arpa. 7 PTR web.default.example.org.",
        "9.2.0.192.in-addr.arpa. 7 PTR bare.default.example.org.",
    ]
    assert _ask(PLAIN, "8.2.0.192.in-addr.arpa. PTR", zones).rcode == codes.NXDOMAIN
    assert _ask(PLAIN, "7.100.51.198.in-addr.arpa. PTR", zones).rcode == codes.SERVFAIL


def test_the_root_as_a_zone() -> None:
    assert _rows(_ask(PLAIN, "web.default. SRV", ".").answer) == [
        "web.default. 5 SRV 0 50 80 web.default."
    ]
    assert _rows(_ask(PLAIN, ". NS", ".").answer) == [". 7 NS ns1.dns."]
    [name] = _rows(_ask(PLAIN, "7.100.51.198.in-addr.arpa. PTR", ".").answer)
    assert name == "7.100.51.198.in-addr.arpa. 7 PTR web.default."


def test_a_name_that_fell_through_is_not_replayed_for_a_new_service(tmp_path: Path) -> None:
    (tmp_path / "zone").write_text(
        "@ 60 IN SOA a. b. 1 2 3 4 5\nlater.default 60 IN A 203.0.113.5\n"
    )
    text = f""". {{
        kubernetes cluster.local
        k8s_external example.org {{
            fallthrough
        }}
        file {tmp_path}/zone example.org
    }}"""
    [(at, blocks)] = build(text, "Corefile", Environment(objects=OBJECTS)).listeners().items()
    dispatcher, kubernetes = Dispatcher(at, blocks), blocks[0].plugin("kubernetes")
    assert isinstance(kubernetes, Kubernetes)
    data = encode(Message(7, 0x0100, Question("later.default.example.org.", codes.A)))

    def ask() -> list[str]:
        kept = dispatcher.tables["udp"].entries.get(data[2:])
        if kept is not None:
            return [rdata_text(r) for r in parse(data[:2] + kept.answers[0][2:]).answer]
        found = dispatcher.receive(data, ("10.0.0.1", 4000), ("10.0.0.2", 53), "udp")
        assert isinstance(found, bytes)
        return [rdata_text(r) for r in parse(found).answer]

    assert ask() == ask() == ["203.0.113.5"]
    later = _service("later", {"clusterIP": "10.96.0.20", "externalIPs": ["192.0.2.30"]})
    kubernetes.changed(kubernetes.cluster.apply(None, msgspec.convert(later, Service), 1))
    assert ask() == ["192.0.2.30"]


def test_a_transfer_lists_what_questions_find() -> None:
    got = _ask(HEADLESS, "example.org. AXFR", more="transfer example.org {\nto *\n}")
    first, *rows, last = _rows(got.answer)
    assert first == last
    assert first.startswith(SOA)
    assert rows[0] == "example.org. 7 NS ns1.dns.example.org."
    assert len(set(rows)) == len(rows)
    for row in (
        "web.default.example.org. 7 A 198.51.100.7",
        "web.default.example.org. 5 SRV 0 50 80 web.default.example.org.",
        "_http._tcp.web.default.example.org. 5 SRV 0 50 80 web.default.example.org.",
        "lb.default.example.org. 5 CNAME lb.example.net.",
        "db.default.example.org. 7 A 10.244.0.2",
        "db-0.db.default.example.org. 7 A 10.244.0.1",
        "_http._tcp.db.default.example.org. 5 SRV 0 50 8080 db-0.db.default.example.org.",
        "both.default.example.org. 7 A 192.0.2.10",
    ):
        assert row in rows
    assert not any("inner" in row for row in rows)
