"""any: a small answer to ANY questions (RFC 8482)."""

from __future__ import annotations

from kubewire.dns.plugin import Plugin, Replay, Request, Response, Setup
from kubewire.lang.dns import codes
from kubewire.lang.dns.record import hinfo

TTL = 8482


class Any(Plugin):
    """Answers ANY with one HINFO record."""

    name = "any"

    @classmethod
    def setup(cls, setup: Setup) -> Any:
        """Read the directive."""
        if setup.once():
            raise setup.arg_err()
        setup.nothing_else()
        return cls()

    async def serve(self, request: Request) -> Response:
        """Answer ANY only."""
        if request.qtype != codes.ANY:
            return await self.next.serve(request)

        return self.reply(
            answer=[hinfo(request.qname, TTL, "ANY obsoleted", "See RFC 8482")],
            aa=False,
            reason="ANY is refused politely",
            replay=Replay(),
        )


PLUGIN = Any
