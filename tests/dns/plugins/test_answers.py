"""What plugins answer, down to flags and sections: each row was compared with CoreDNS 1.14.7."""

import asyncio
from pathlib import Path

import pytest

from kubewire.dns.config import Environment, build
from kubewire.dns.dispatch import Dispatcher
from kubewire.dns.plugins.kubernetes import Kubernetes
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import AA, TC, Edns, Message, Question, encode, parse
from kubewire.lang.dns.record import RR, rdata_text

ZONE = """@ 300 IN SOA ns1 admin 1 7200 3600 1209600 3600
@ 300 IN NS ns1
@ 300 IN MX 10 mail
ns1 300 IN A 192.0.2.2
mail 300 IN A 192.0.2.3
web 300 IN A 192.0.2.4
lost 300 IN CNAME nothing
out 300 IN CNAME web.other.test.
low 60 IN A 192.0.2.5
dn 300 IN DNAME below
"""
HOSTS = "192.0.2.20 one.test other.example\n"
TEMPLATE = 'template IN A x.test {\nmatch ^a\nanswer "{{ .Name }} 5 IN {{ .Type }} 192.0.2.1"\n}'
DNS64 = "dns64 {\nallow_ipv4\n}\nfile zone example.org"

NS1 = "example.org. 300 NS ns1.example.org."
SOA = "example.org. 300 SOA ns1.example.org. admin.example.org. 1 7200 3600 1209600 3600"
OUTSIDE = "out.example.org. 300 CNAME web.other.test."
OUT = "file zone example.org\ntemplate ANY ANY other.test {\nrcode %s\n}"
ERRATIC = [
    "a.test. 0 SOA sns.dns.icann.org. noc.dns.icann.org. 2018050825 7200 3600 1209600 3600",
    "a.test. 0 NS b.a.test.",
    "a.test. 0 NS a.a.test.",
    "a.a.test. 0 AAAA 2001:bd8::53",
    "b.a.test. 0 AAAA 2001:500::54",
]
ERRATIC.append(ERRATIC[0])
LOCAL_SOA = "SOA localhost. root.localhost. 1 0 0 0 604800"

ROWS: list[tuple[str, str, str, list[str], list[str], list[str]]] = [
    # directive, question, rcode and AA, answer, authority, additional
    ("file zone example.org", "web.example.org. A", "NOERROR aa", ["web.example.org. 300 A 192.0.2.4"], [NS1], []),
    ("file zone example.org", "example.org. NS", "NOERROR aa", [NS1], [], ["ns1.example.org. 300 A 192.0.2.2"]),
    ("file zone example.org", "example.org. MX", "NOERROR aa", ["example.org. 300 MX 10 mail.example.org."], [NS1], ["mail.example.org. 300 A 192.0.2.3"]),
    ("file zone example.org", "lost.example.org. A", "NXDOMAIN aa", ["lost.example.org. 300 CNAME nothing.example.org."], [SOA], []),
    ("any\nfile zone example.org", "example.org. ANY", "NOERROR", ['example.org. 8482 HINFO "ANY obsoleted" "See RFC 8482"'], [], []),
    ("local", "localhost. A", "NOERROR", ["localhost. 604800 A 127.0.0.1"], [], []),
    ("local", "a.localhost. AAAA", "NOERROR", ["a.localhost. 604800 AAAA ::1"], [], []),
    ("local", "a.localhost. MX", "NOERROR", [], [f"a.localhost. 604800 {LOCAL_SOA}"], []),
    ("local", "localhost.example.org. A", "NOERROR", ["localhost.example.org. 604800 A 127.0.0.1"], [], []),
    ("local {\nlocalhost_prefix off\n}\nfile zone example.org", "localhost.example.org. A", "NXDOMAIN aa", [], [SOA], []),
    ("local", "127.in-addr.arpa. NS", "NOERROR", ["127.in-addr.arpa. 604800 NS localhost."], [], []),
    ("local", "1.0.0.127.in-addr.arpa. PTR", "NOERROR", ["1.0.0.127.in-addr.arpa. 604800 PTR localhost."], [], []),
    ("local", "2.0.0.127.in-addr.arpa. A", "NXDOMAIN", [], [f"127.in-addr.arpa. 604800 {LOCAL_SOA}"], []),
    ("hosts hosts test", "20.2.0.192.in-addr.arpa. PTR", "NOERROR aa", ["20.2.0.192.in-addr.arpa. 3600 PTR one.test."], [], []),
    ("hosts hosts test {\nfallthrough\n}\nwhoami", "one.test. PTR", "NOERROR aa", [], [], ["one.test. 0 A 10.0.0.1", "_udp.one.test. 0 SRV 0 0 4000 ."]),
    ("hosts hosts test {\nfallthrough\nfallthrough_unsupported\n}\nwhoami", "one.test. TXT", "NOERROR aa", [], [], ["one.test. 0 A 10.0.0.1", "_udp.one.test. 0 SRV 0 0 4000 ."]),
    ("file zone example.org {\nfallthrough\n}\nwhoami", "lost.example.org. A", "NXDOMAIN aa", ["lost.example.org. 300 CNAME nothing.example.org."], [SOA], []),
    ("rewrite cname suffix example.org. example.net.\nfile zone example.org", "lost.example.org. A", "NXDOMAIN aa", ["lost.example.org. 300 CNAME nothing.example.net."], [SOA], []),
    ("rewrite name suffix .old.test .example.org answer auto answer value (.*)\\.example\\.org {1}.val.test\nfile zone example.org", "web.old.test. A", "NOERROR aa", ["web.old.test. 300 A 192.0.2.4"], ["example.org. 300 NS ns1.val.test."], []),
    (TEMPLATE, "a.x.test. ANY", "NOERROR aa", ["a.x.test. 5 A 192.0.2.1"], [], []),
    (TEMPLATE, "A.x.test. A", "NOERROR aa", ["a.x.test. 5 A 192.0.2.1"], [], []),
    (DNS64, "web.example.org. AAAA", "NOERROR", ["web.example.org. 300 AAAA 64:ff9b::c000:204"], [NS1], []),
    (DNS64, "low.example.org. AAAA", "NOERROR", ["low.example.org. 60 AAAA 64:ff9b::c000:205"], [NS1], []),
    # What lies outside is the whole server's: its rcode, and no more than that it is not there.
    (OUT % "NXDOMAIN", "out.example.org. A", "NXDOMAIN aa", [OUTSIDE], [SOA], []),
    (OUT % "SERVFAIL", "out.example.org. A", "SERVFAIL aa", [OUTSIDE], [NS1], []),
    (OUT % "NOERROR", "out.example.org. A", "NOERROR aa", [OUTSIDE], [SOA], []),
    ("file zone example.org", "a.dn.example.org. CNAME", "NOERROR aa", ["dn.example.org. 300 DNAME below.example.org.", "a.dn.example.org. 300 CNAME a.below.example.org."], [NS1], []),
    ("file zone example.org", "a.dn.example.org. A", "NXDOMAIN aa", ["dn.example.org. 300 DNAME below.example.org.", "a.dn.example.org. 300 CNAME a.below.example.org."], [SOA], []),
    ("erratic {\ndrop 0\nlarge\n}", "a.test. A", "NOERROR aa", ["a.test. 0 A 192.0.2.53"] * 30, [], []),
    ("erratic {\ndrop 0\n}", "a.test. AXFR", "NOERROR aa", ERRATIC, [], []),
    ("erratic {\ndrop 0\n}", "a.test. SRV", "SERVFAIL", [], [], []),
    ("header {\nresponse set ra\n}\nfile zone example.org", "other. A", "REFUSED", [], [], []),
    ("cache {\nsuccess 100 15 10\nkeepttl\n}\nfile zone example.org", "web.example.org. A", "NOERROR aa", ["web.example.org. 15 A 192.0.2.4"], [NS1.replace("300", "15")], []),
]  # fmt: skip


def _rows(records: list[RR]) -> list[str]:
    return [f"{r.name} {r.ttl} {codes.type_name(r.type)} {rdata_text(r)}" for r in records]


@pytest.mark.parametrize(
    ("directives", "question", "head", "answer", "authority", "additional"),
    ROWS, ids=[f"{r[0].split()[0]} {r[1]}" for r in ROWS],
)  # fmt: skip
def test_answers(
    tmp_path: Path,
    directives: str,
    question: str,
    head: str,
    answer: list[str],
    authority: list[str],
    additional: list[str],
) -> None:
    (tmp_path / "zone").write_text(ZONE)
    (tmp_path / "hosts").write_text(HOSTS)
    text = f".:53 {{\nroot {tmp_path}\n{directives}\n}}"
    [(at, blocks)] = build(text, "Corefile", Environment(objects=[])).listeners().items()
    name, _, kind = question.partition(" ")
    qtype = codes.type_number(kind)
    assert qtype is not None

    async def ask() -> bytes:
        data = encode(Message(7, 0x0100, Question(name, qtype)))
        found = Dispatcher(at, blocks).receive(data, ("10.0.0.1", 4000), ("10.0.0.2", 53), "udp")
        ready = found if isinstance(found, bytes) else await found  # type: ignore[misc]
        assert isinstance(ready, bytes)
        return ready

    got = parse(asyncio.run(ask()))
    assert f"{codes.rcode_name(got.rcode)}{' aa' if got.flags & AA else ''}" == head
    assert _rows(got.answer) == answer
    assert _rows(got.authority) == authority
    assert _rows(got.additional) == additional


def test_an_external_name_that_is_an_address_is_not_transferred() -> None:
    objects = [
        {
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"type": "ExternalName", "externalName": target},
        }
        for name, target in (("address", "192.0.2.1"), ("name", "a.example"))
    ]  # fmt: skip
    configuration = build(
        ". {\nkubernetes cluster.local\n}", "Corefile", Environment(objects=objects)
    )
    [plugin] = configuration.plugins
    assert isinstance(plugin, Kubernetes)
    records = plugin.transfer("cluster.local.", 0)
    assert records is not None
    assert [r.target for r in records if r.type == codes.CNAME] == ["a.example."]


async def test_erratic_drops_the_first_of_two_and_cuts_every_second() -> None:
    text = ".:53 {\nerratic {\ndrop 2\ntruncate 3\n}\n}"
    [(at, blocks)] = build(text, "Corefile", Environment(objects=[])).listeners().items()
    dispatcher = Dispatcher(at, blocks)
    data = encode(Message(7, 0x0100, Question("a.test.", codes.A)))
    found = [
        dispatcher.receive(data, ("10.0.0.1", 4000), ("10.0.0.2", 53), "udp") for _ in range(6)
    ]
    cut = [bool(parse(f).flags & TC) if isinstance(f, bytes) else None for f in found]
    assert cut == [None, False, None, True, None, False]


@pytest.mark.parametrize(
    ("action", "rcode", "code"), [("block", codes.REFUSED, 15), ("filter", codes.NOERROR, 17)]
)
async def test_acl_says_why_with_the_bare_code(action: str, rcode: int, code: int) -> None:
    text = f".:53 {{\nacl {{\n{action}\n}}\nwhoami\n}}"
    [(at, blocks)] = build(text, "Corefile", Environment(objects=[])).listeners().items()
    data = encode(Message(7, 0x0100, Question("a.test.", codes.A), edns=Edns()))
    found = Dispatcher(at, blocks).receive(data, ("10.0.0.1", 4000), ("10.0.0.2", 53), "udp")
    assert isinstance(found, bytes)
    answer = parse(found)
    assert answer.edns is not None
    assert (answer.rcode, answer.edns.options) == (rcode, ((15, bytes((0, code))),))
