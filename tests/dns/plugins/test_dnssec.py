"""dnssec: what is made up about names that are not there, and about zones below a cut."""

import pytest

from kubewire.dns.plugins.dnssec import lies
from kubewire.lang.dns import codes
from kubewire.lang.dns.record import RR, address, cname, ns, rdata_text, soa

ZONE = "example.org."
SOA = soa(ZONE, 300, "ns.example.org.", "host.example.org.", 1, minimum=60)
ANYWHERE = "HINFO TXT AAAA LOC SRV CERT SSHFP RRSIG NSEC TLSA HIP OPENPGPKEY SPF"


@pytest.mark.parametrize(
    ("name", "kind", "following", "types"),
    [
        # All that may be there is not denied by the way.
        ("a.example.org.", "A", "\\000.a.example.org.", ANYWHERE),
        ("A.example.org.", "AAAA", "\\000.A.example.org.", "A " + ANYWHERE.replace(" AAAA", "")),
        ("a.example.org.", "MX", "\\000.a.example.org.", "A " + ANYWHERE),
        ("a.example.org.", "NSEC", "\\000.a.example.org.", "A " + ANYWHERE),
        ("a.example.org.", "DS", "\\000.a.example.org.", "A " + ANYWHERE),
        (
            "Example.org.", "A", "\\000.Example.org.",
            "NS SOA HINFO MX TXT AAAA LOC SRV CERT SSHFP RRSIG NSEC DNSKEY TLSA HIP OPENPGPKEY SPF",
        ),
    ],
)  # fmt: skip
def test_denials(name: str, kind: str, following: str, types: str) -> None:
    qtype = codes.type_number(kind)
    assert qtype is not None
    found = lies.denial(name, qtype, ZONE, [SOA])
    assert (found.name, found.type, found.ttl) == (name, codes.NSEC, 60)
    assert rdata_text(found) == f"{following} {types}"


SUB = [ns("sub.example.org.", 300, "ns.sub.example.org.")]


def test_a_cut_without_ds() -> None:
    found = lies.unsigned(SUB)
    assert (found.name, found.ttl) == ("sub.example.org.", 300)
    assert rdata_text(found) == "sub\\000.example.org. NS RRSIG NSEC"


@pytest.mark.parametrize(
    ("authority", "answer", "cut", "missing"),
    [
        (SUB, [], True, False),
        ([SOA], [], False, True),
        ([SOA], [cname("a.example.org.", 5, "b.example.org.")], False, True),
        ([ns(ZONE, 300, "ns.example.org.")], [address("a.example.org.", 5, "192.0.2.1")], False, False),
        ([ns(ZONE, 300, "ns.example.org.")], [], False, False),
        ([], [], False, False),
    ],
)  # fmt: skip
def test_kinds_of_answers(authority: list[RR], answer: list[RR], cut: bool, missing: bool) -> None:
    assert bool(lies.cut(authority, answer, ZONE)) is cut
    assert lies.missing(authority, answer, codes.A) is missing
