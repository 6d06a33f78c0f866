"""dnssec: sign answers on their way out; deny with the shortest NSEC that is true."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kubewire.dns.corefile import CorefileError
from kubewire.dns.metrics import Book, Metric
from kubewire.dns.plugin import Plugin, Request, Response, Setup
from kubewire.dns.plugins.dnssec import lies
from kubewire.lang.dns import codes
from kubewire.lang.dns.name import longest_zone, within
from kubewire.lang.dns.record import RR, rdata_wire, split_rdata

TTL = 3600
VALID = 8 * 86400
EARLY = 3 * 3600


class Key:
    """A signing key: the DNSKEY record and its private half."""

    def __init__(self, base: str) -> None:
        import dns.dnssec
        import dns.rdata

        public = Path(base + ".key").read_text()
        lines = [x for x in public.splitlines() if x.strip() and not x.startswith(";")]
        name, *rest = lines[0].split()
        text = " ".join(rest[rest.index("DNSKEY") + 1 :])
        self.owner = name.lower()
        dnskey: Any = dns.rdata.from_text("IN", "DNSKEY", text)
        self.dnskey = dnskey
        self.private: Any = _private(Path(base + ".private").read_text(), self.dnskey.algorithm)
        self.tag = dns.dnssec.key_id(self.dnskey)

    @property
    def secure_entry_point(self) -> bool:
        """A key signing key."""
        return bool(self.dnskey.flags & 1)


def _private(text: str, algorithm: int) -> Any:
    import base64

    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    if "PrivateKey" not in fields:
        raise CorefileError("only ECDSA and Ed25519 keys can sign")
    raw = base64.b64decode(fields["PrivateKey"])
    if algorithm == 15:
        return ed25519.Ed25519PrivateKey.from_private_bytes(raw)
    curve = {13: ec.SECP256R1(), 14: ec.SECP384R1()}.get(algorithm)
    if curve is None:
        raise CorefileError("only ECDSA and Ed25519 keys can sign")
    return ec.derive_private_key(int.from_bytes(raw, "big"), curve)


ENTRIES = Metric(
    "coredns_dnssec_cache_entries", "The number of elements in the dnssec cache.",
    ("server", "type"), "gauge",
)  # fmt: skip
HITS = Metric("coredns_dnssec_cache_hits_total", "The count of cache hits.", ("server",))
MISSES = Metric("coredns_dnssec_cache_misses_total", "The count of cache misses.", ("server",))


class Dnssec(Plugin):
    """Signs what is not signed yet, for clients that set DO."""

    name = "dnssec"

    def __init__(self, zones: list[str], keys: list[Key], capacity: int) -> None:
        self.zones, self.keys, self.capacity = zones, keys, capacity
        self._signatures: dict[tuple[RR, ...], tuple[float, list[RR]]] = {}
        self._servers: set[str] = set()

    @classmethod
    def setup(cls, setup: Setup) -> Dnssec:
        """Read the directive."""
        zones = setup.zones(setup.once())
        keys: list[Key] = []
        capacity = 10000
        for word, args in setup.properties():
            match word, args:
                case "key", ["file", *names] if names:
                    keys += [Key(_base(setup.path(n))) for n in names]
                case "cache_capacity", [value]:
                    capacity = int(value)
                case "key", ["aws_secretsmanager", *_]:
                    raise setup.err("keys by AWS Secrets Manager are not offered")
                case (("key" | "cache_capacity"), _):
                    raise setup.arg_err()
                case _:
                    raise setup.err(f"unknown property '{word}'")
        for key in keys:
            if not any(within(z, key.owner) or within(key.owner, z) for z in zones):
                raise CorefileError(
                    f"key {key.owner} (keyid: {key.tag}) can not sign any of the zones"
                )
        setup.no_more()
        return cls(zones, keys, capacity)

    async def serve(self, request: Request) -> Response:
        """Answer DNSKEY, sign the rest."""
        zone = longest_zone(request.name, self.zones)
        if not zone or not self.keys:
            return await self.next.serve(request)
        if request.name == zone and request.qtype == codes.DNSKEY:
            response = self.reply(answer=self._dnskeys(zone), reason="keys of the zone")
        else:
            response = await self.next.serve(request)
        if not request.do or response.raw is not None or not response.written:
            return response
        if any(r.type == codes.RRSIG for r in (*response.answer, *response.authority)):
            return response
        response.replay = None
        if servers := lies.cut(response.authority, response.answer, zone):
            self._refer(request, response, servers, zone)
            return response
        if lies.missing(response.authority, response.answer, request.qtype):
            self._deny(request, response, zone)
        for section in ("answer", "authority", "additional"):
            setattr(response, section, self._signed(request, getattr(response, section), zone))
        return response

    def _dnskeys(self, zone: str) -> list[RR]:
        return [
            RR(zone, codes.DNSKEY, TTL, (k.dnskey.to_wire(),)) for k in self.keys if k.owner == zone
        ]

    def _deny(self, request: Request, response: Response, zone: str) -> None:
        """The name exists, and so does everything at it but what was asked for."""
        name = response.answer[-1].target if response.answer else request.qname
        if not within(name.lower(), zone):
            return
        found = lies.denial(name, request.qtype, zone, response.authority)
        response.rcode = codes.NOERROR
        if request.qtype == codes.NSEC:
            response.answer, response.authority = [*response.answer, found], []
        else:
            response.authority = [*response.authority, found]

    def _refer(self, request: Request, response: Response, servers: list[RR], zone: str) -> None:
        """Of a referral only what says whether the other zone is signed is ours to sign."""
        ds = [r for r in response.authority if r.type == codes.DS] or [lies.unsigned(servers)]
        others = [r for r in response.authority if r.type != codes.DS]
        response.authority = [*others, *self._signed(request, ds, zone)]

    def _signed(self, request: Request, records: list[RR], zone: str) -> list[RR]:
        out: list[RR] = []
        done: set[tuple[str, int]] = set()
        for record in records:
            kind = (record.name.lower(), record.type)
            if kind in done:
                continue
            done.add(kind)
            rrset = [r for r in records if (r.name.lower(), r.type) == kind]
            out += rrset
            if within(record.name.lower(), zone) and record.type != codes.OPT:
                out += self._signatures_of(request, rrset, zone)
        return out

    def measure(self, book: Book) -> None:
        """How many signatures are kept."""
        for server in self._servers:
            book.set(ENTRIES, len(self._signatures), server, "signature")

    def _signatures_of(self, request: Request, rrset: Sequence[RR], zone: str) -> list[RR]:
        now = time.time()
        key = tuple(sorted(rrset, key=rdata_wire))
        found = self._signatures.get(key)
        self._servers.add(request.server)
        if found is not None and found[0] > now:
            self.metrics.add(HITS, request.server)
            return found[1]
        self.metrics.add(MISSES, request.server)
        made = [_sign(rrset, k, zone, now) for k in self._signers(rrset, zone)]
        if len(self._signatures) >= self.capacity:
            del self._signatures[next(iter(self._signatures))]
        self._signatures[key] = (now + VALID - EARLY - 86400, made)
        return made

    def _signers(self, rrset: Sequence[RR], zone: str) -> list[Key]:
        own = [k for k in self.keys if k.owner == zone] or self.keys
        strong = [k for k in own if k.secure_entry_point]
        weak = [k for k in own if not k.secure_entry_point]
        if rrset[0].type == codes.DNSKEY:
            return strong or own
        return weak or own


def _sign(rrset: Sequence[RR], key: Key, zone: str, now: float) -> RR:
    import dns.dnssec
    import dns.name
    import dns.rdata
    import dns.rdataclass
    import dns.rdatatype
    import dns.rrset

    first = rrset[0]
    rtype = dns.rdatatype.RdataType.make(first.type)
    rdatas = [
        dns.rdata.from_wire(dns.rdataclass.IN, rtype, raw, 0, len(raw))
        for raw in map(rdata_wire, rrset)
    ]
    signature = dns.dnssec.sign(
        dns.rrset.from_rdata_list(dns.name.from_text(first.name), first.ttl, rdatas),
        key.private,
        dns.name.from_text(zone),
        key.dnskey,
        inception=now - EARLY,
        expiration=now + VALID,
    )
    wire = signature.to_wire()
    assert wire is not None
    return RR(first.name, codes.RRSIG, first.ttl, split_rdata(wire, 0, len(wire), codes.RRSIG))


def _base(path: str) -> str:
    return path.removesuffix(".key").removesuffix(".private")


PLUGIN = Dnssec
