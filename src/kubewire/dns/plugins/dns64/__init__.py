"""dns64: AAAA records made of A records (RFC 6147)."""

from __future__ import annotations

import ipaddress

from kubewire.dns.config import Block
from kubewire.dns.corefile import CorefileError
from kubewire.dns.metrics import Metric
from kubewire.dns.plugin import Plugin, Request, Response, Setup
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import CD
from kubewire.lang.dns.record import RR

TRANSLATED = Metric(
    "coredns_dns64_requests_translated_total", "Counter of DNS requests translated by dns64.",
    ("server",),
)  # fmt: skip
WELL_KNOWN = ipaddress.IPv6Network("64:ff9b::/96")
LENGTHS = (32, 40, 48, 56, 64, 96)
LONGEST = 600


class Dns64(Plugin):
    """For clients that reach IPv4 only through a translator."""

    name = "dns64"
    replayable = False

    def __init__(self, block: Block) -> None:
        self.prefix = WELL_KNOWN
        self.translate_all = False
        self.allow_ipv4 = False
        self._block = block

    @classmethod
    def setup(cls, setup: Setup) -> Dns64:
        """Read the directive."""
        plugin = cls(setup.block)
        args = setup.once()
        if len(args) > 1:
            raise setup.arg_err()
        if args:
            plugin.prefix = _prefix(args[0])
        for word, values in setup.properties():
            match word, values:
                case "prefix", [value]:
                    plugin.prefix = _prefix(value)
                case "translate_all", []:
                    plugin.translate_all = True
                case "allow_ipv4", []:
                    plugin.allow_ipv4 = True
                case (("prefix" | "translate_all" | "allow_ipv4"), _):
                    raise setup.arg_err()
                case _:
                    raise setup.err(f"unknown property '{word}'")
        setup.no_more()
        return plugin

    async def serve(self, request: Request) -> Response:
        """Translate if there is no AAAA of its own."""
        response = await self.next.serve(request)
        if not self._wanted(request, response):
            return response
        found = await self._block.lookup(request, request.qname, codes.A)
        self.metrics.add(TRANSLATED, request.server)
        if found.rcode or not any(r.type == codes.A for r in found.answer):
            return response
        limit = self._limit(response)
        made = found.copy()
        made.answer = [self._made(r, limit) for r in found.answer]
        made.reason = f"made of A records with {self.prefix}: {found.reason}"
        made.ad = made.aa = False
        return made

    def _wanted(self, request: Request, response: Response) -> bool:
        if request.qtype != codes.AAAA or request.qclass != codes.IN:
            return False
        if request.do and request.message.flags & CD:
            return False  # It validates by itself (RFC 6147, 5.5).
        if request.family == 1 and not self.allow_ipv4:
            return False
        if response.rcode not in (codes.NOERROR, codes.SERVFAIL):
            return False
        return self.translate_all or not any(r.type == codes.AAAA for r in response.answer)

    def _limit(self, response: Response) -> int:
        soas = [r for r in response.authority if r.type == codes.SOA]
        return soas[0].ttl if soas else LONGEST

    def _made(self, record: RR, limit: int) -> RR:
        if record.type != codes.A:
            return record
        raw = record.rdata[0]
        assert isinstance(raw, bytes)
        return RR(record.name, codes.AAAA, min(record.ttl, limit), (embed(self.prefix, raw),))


def embed(prefix: ipaddress.IPv6Network, v4: bytes) -> bytes:
    """An IPv4 address inside a prefix (RFC 6052, section 2.2): octet 8 stays zero."""
    octets = prefix.prefixlen // 8
    out = bytearray(prefix.network_address.packed[:octets])
    for byte in v4:
        if len(out) == 8:
            out.append(0)
        out.append(byte)
    return bytes(out.ljust(16, b"\0"))


def _prefix(text: str) -> ipaddress.IPv6Network:
    try:
        if "/" not in text:
            raise ValueError(text)
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise CorefileError(f"invalid CIDR address: {text}") from error
    if not isinstance(network, ipaddress.IPv6Network):
        raise CorefileError(f"dns64 prefix {text} is not a valid IPv6 prefix")
    if network.prefixlen not in LENGTHS:
        raise CorefileError(
            f"invalid prefix length {network.prefixlen}, must be one of 32, 40, 48, 56, 64, 96"
        )
    return network


PLUGIN = Dns64
