"""systemd-resolved, by message: what it sends at each of its feature levels, and what makes it trust.

It begins with EDNS0 (with DO if it is to validate), and goes one level down whenever an answer looks
as if the server could not cope: FORMERR, NOTIMP or SERVFAIL, an OPT that is missing or unasked for, DO
that is not copied, a datagram that is larger than announced. NXDOMAIN is asked again without EDNS
(DVE-2018-0001), so that it must not depend on the level. Truncated answers are fetched by TCP, several
at once on one connection. While validating it asks for DS, DNSKEY and SOA up to the root.
"""

import asyncio
from pathlib import Path
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import pytest

pytestmark = pytest.mark.kernel

COREFILE = """.:0 {
    errors
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    OPTIONS
    file WORLD .
}
"""
WORLD = """@ 60 IN SOA a.root.test. nstld.test. 1 1800 900 604800 60
@ 60 IN NS a.root.test.
a.root.test. 60 IN A 192.0.2.53
"""


def service(name: str, ip: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
    }  # fmt: skip


CLUSTER = [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}},
    service("web", "10.96.0.7"),
    service("big", "None"),
    {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "big-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "big"}},
        "endpoints": [{"addresses": [f"10.244.{i // 250}.{i % 250 + 1}"]} for i in range(400)],
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
    },
]  # fmt: skip

LEVELS = {
    # feature level: EDNS size or None, DO
    "TCP": (None, False),
    "UDP": (None, False),
    "UDP+EDNS0": (512, False),
    "UDP+EDNS0+DO": (1472, True),
    "UDP+EDNS0+DO+LARGE": (65494, True),
}
UNDERSTOOD = [(5, bytes([5, 7, 8, 10, 13, 14, 15])), (6, bytes([1, 2, 4])), (7, bytes([1]))]
"""Algorithms for signatures and digests (RFC 6975), sent with DO."""


def corefile(folder: Path, options: str = "") -> str:
    (folder / "world").write_text(WORLD)
    return COREFILE.replace("OPTIONS", options).replace("WORLD", str(folder / "world"))


def message(name: str, kind: str, level: str, number: int = 4711) -> dns.message.Message:
    size, do = LEVELS[level]
    asked = dns.message.make_query(name, kind, id=number)
    asked.flags = dns.flags.RD | (dns.flags.CD if do else 0)
    if size is not None:
        options: list[dns.edns.Option] = []
        if do:
            kinds = dns.edns.OptionType
            options += [dns.edns.GenericOption(kinds.make(n), data) for n, data in UNDERSTOOD]
        asked.use_edns(0, dns.flags.DO if do else 0, size, options=options)
    return asked


def trusted(asked: dns.message.Message, data: bytes, *, tcp: bool) -> dns.message.Message:
    """An answer, once it gives no reason to go a level down."""
    answer = dns.message.from_wire(data)
    assert asked.is_response(answer)
    assert answer.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)
    assert answer.question[0].name.to_text() == asked.question[0].name.to_text()
    assert (answer.edns >= 0) == (asked.edns >= 0)
    assert answer.flags & dns.flags.RD
    assert (answer.flags ^ asked.flags) & dns.flags.CD == 0
    if asked.edns >= 0:
        assert answer.edns == 0
        assert answer.ednsflags == asked.ednsflags
        assert not {o.otype for o in answer.options} & {5, 6, 7}
    if tcp:
        assert not answer.flags & dns.flags.TC
    else:
        assert len(data) <= max(512, asked.payload if asked.edns >= 0 else 512)
    if not answer.answer and not answer.flags & dns.flags.TC:
        assert [r.rdtype for r in answer.authority] == [dns.rdatatype.SOA]
    return answer


QUESTIONS = [
    # name, type, rcode, how many records
    ("web.default.svc.cluster.local.", "A", "NOERROR", 1),
    ("web.default.svc.cluster.local.", "AAAA", "NOERROR", 0),
    ("web.default.svc.cluster.local.", "HTTPS", "NOERROR", 0),
    ("WEB.default.svc.Cluster.local.", "A", "NOERROR", 1),
    ("web.svc.cluster.local.", "A", "NXDOMAIN", 0),
    ("web.cluster.local.", "A", "NXDOMAIN", 0),
    ("web.", "A", "NXDOMAIN", 0),
    ("_http._tcp.web.default.svc.cluster.local.", "SRV", "NOERROR", 1),
    ("big.default.svc.cluster.local.", "A", "NOERROR", 400),
    ("7.0.96.10.in-addr.arpa.", "PTR", "NOERROR", 1),
    ("8.0.96.10.in-addr.arpa.", "PTR", "NXDOMAIN", 0),
    # Proofs that a zone is signed, from below to the root.
    ("web.default.svc.cluster.local.", "DS", "NOERROR", 0),
    ("default.svc.cluster.local.", "DS", "NOERROR", 0),
    ("svc.cluster.local.", "SOA", "NOERROR", 0),
    ("cluster.local.", "SOA", "NOERROR", 1),
    ("cluster.local.", "DS", "NOERROR", 0),
    ("cluster.local.", "DNSKEY", "NOERROR", 0),
    ("local.", "DS", "NXDOMAIN", 0),
    (".", "DS", "NOERROR", 0),
    (".", "DNSKEY", "NOERROR", 0),
    (".", "SOA", "NOERROR", 1),
]


@pytest.mark.parametrize("options", ["", "cache 30\n    loadbalance"])
@pytest.mark.parametrize("level", LEVELS)
async def test_every_level_is_trusted(serve: Any, tmp_path: Path, level: str, options: str) -> None:
    async with serve(corefile(tmp_path, options), CLUSTER) as server:
        for _ in range(2):  # The second answer comes from the table.
            for name, kind, rcode, count in QUESTIONS:
                asked = message(name, kind, level)
                if level != "TCP":
                    answer = trusted(asked, await server.raw(asked.to_wire()), tcp=False)
                    if not answer.flags & dns.flags.TC:
                        assert _facts(answer) == (rcode, count), name
                        continue
                [whole] = await stream(server, asked)
                assert _facts(trusted(asked, whole, tcp=True)) == (rcode, count), name


async def test_questions_that_wait_on_one_connection(serve: Any, tmp_path: Path) -> None:
    async with serve(corefile(tmp_path), CLUSTER) as server:
        asked = [
            message(name, kind, "UDP+EDNS0+DO", number)
            for number, (name, kind, _, _) in enumerate(QUESTIONS, 1)
        ]
        found = {int.from_bytes(data[:2], "big"): data for data in await stream(server, *asked)}
        for question, (_, _, rcode, count) in zip(asked, QUESTIONS, strict=True):
            answer = trusted(question, found[question.id], tcp=True)
            assert _facts(answer) == (rcode, count)


async def test_what_is_cut_says_so(serve: Any, tmp_path: Path) -> None:
    async with serve(corefile(tmp_path), CLUSTER) as server:
        for level, cut in (("UDP", True), ("UDP+EDNS0", True), ("UDP+EDNS0+DO+LARGE", False)):
            asked = message("big.default.svc.cluster.local.", "A", level)
            answer = dns.message.from_wire(await server.raw(asked.to_wire()))
            assert bool(answer.flags & dns.flags.TC) == cut, level


async def stream(server: Any, *messages: dns.message.Message) -> list[bytes]:
    """Ask over one connection, all at once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        for asked in messages:
            data = asked.to_wire()
            writer.write(len(data).to_bytes(2, "big") + data)
        found = []
        for _ in messages:
            length = int.from_bytes(await reader.readexactly(2), "big")
            found.append(await reader.readexactly(length))
        return found
    finally:
        writer.close()


def _facts(answer: dns.message.Message) -> tuple[str, int]:
    return dns.rcode.to_text(answer.rcode()), sum(len(rrset) for rrset in answer.answer)
