"""local: answer localhost and its reverse names."""

from __future__ import annotations

from kubewire.dns.metrics import Book, Metric
from kubewire.dns.plugin import Plugin, Replay, Request, Response, Setup
from kubewire.lang.dns import codes
from kubewire.lang.dns.name import within
from kubewire.lang.dns.record import address, ns, ptr, soa

REQUESTS = Metric(
    "coredns_local_localhost_requests_total", "Counter of special localhost subdomain requests."
)
TTL = 604800
LOCALHOST = "localhost."
ONE = "1.0.0.127.in-addr.arpa."
ZONES = (LOCALHOST, "0.in-addr.arpa.", "127.in-addr.arpa.", "255.in-addr.arpa.")


class Local(Plugin):
    """The trees that every server should know by itself (RFC 6303, RFC 6761)."""

    name = "local"

    def __init__(self) -> None:
        self.prefix = True
        """Names such as localhost.DOMAIN are ours too."""

    @classmethod
    def setup(cls, setup: Setup) -> Local:
        """Read the directive."""
        plugin = cls()
        if setup.once():
            raise setup.arg_err()
        for word, args in setup.properties():
            if word != "localhost_prefix":
                raise setup.unknown(word)
            if len(args) != 1:
                raise setup.arg_err()
            if args[0] not in ("on", "off"):
                raise setup.err(f"localhost_prefix expects 'on' or 'off', got \"{args[0]}\"")
            plugin.prefix = args[0] == "on"
        return plugin

    def measure(self, book: Book) -> None:
        """0 if nobody asked."""
        book.show(REQUESTS)

    async def serve(self, request: Request) -> Response:
        """Answer our trees."""
        name = request.name
        # localhost.DOMAIN comes from search paths; names below localhost are RFC 6761's.
        legacy = self.prefix and name.startswith(LOCALHOST)
        if name != LOCALHOST and (legacy or within(name, LOCALHOST)):
            if legacy:
                self.metrics.add(REQUESTS)
            response = self._zone(request, name, loopback=True)
            response.counted += ((REQUESTS, ()),) * legacy
            return response
        zone = next((z for z in ZONES if within(request.name, z)), "")
        if not zone:
            return await self.next.serve(request)
        return self._zone(request, zone)

    def _zone(self, request: Request, zone: str, *, loopback: bool = False) -> Response:
        spelled = request.qname[len(request.qname) - len(zone) :]
        apex = soa(
            spelled,
            TTL,
            LOCALHOST,
            f"root.{LOCALHOST}",
            1,
            refresh=0,
            retry=0,
            expire=0,
            minimum=TTL,
        )
        response = self.reply(aa=False, reason="localhost is known everywhere", replay=Replay())
        name, qtype = request.name, request.qtype
        if name == LOCALHOST or loopback:
            if qtype == codes.A:
                response.answer = [address(request.qname, TTL, "127.0.0.1")]
            elif qtype == codes.AAAA:
                response.answer = [address(request.qname, TTL, "::1")]
        if name == zone and not loopback:
            if qtype == codes.SOA:
                response.answer = [apex]
            elif qtype == codes.NS:
                response.answer = [ns(request.qname, TTL, LOCALHOST)]
        elif name == ONE:
            if qtype == codes.PTR:
                response.answer = [ptr(request.qname, TTL, LOCALHOST)]
        elif not loopback:
            response.rcode = codes.NXDOMAIN
        if not response.answer:
            response.authority = [apex]
        return response


PLUGIN = Local
