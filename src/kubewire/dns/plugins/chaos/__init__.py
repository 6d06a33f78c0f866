"""chaos: version and author questions in class CH."""

from __future__ import annotations

import random
import socket

from kubewire import __version__
from kubewire.dns.plugin import Plugin, Request, Response, Setup
from kubewire.lang.dns import codes
from kubewire.lang.dns.record import txt

AUTHORS = ("The kubewire authors",)


class Chaos(Plugin):
    """version.bind, version.server, authors.bind, hostname.bind and id.server."""

    name = "chaos"
    any_class = True

    def __init__(self, version: str, authors: list[str]) -> None:
        self.version, self.authors = version, authors

    @classmethod
    def setup(cls, setup: Setup) -> Chaos:
        """Read the directive."""
        args = setup.once()
        setup.nothing_else()
        return cls(args[0] if args else f"kubewire-{__version__}", args[1:] or list(AUTHORS))

    async def serve(self, request: Request) -> Response:
        """Answer the five names."""
        if request.qclass != codes.CH or request.qtype != codes.TXT:
            return await self.next.serve(request)
        match request.name:
            case "authors.bind.":
                texts = random.sample(self.authors, len(self.authors))
            case "version.bind." | "version.server.":
                texts = [self.version]
            case "hostname.bind." | "id.server.":
                texts = [socket.gethostname() or "localhost"]
            case _:
                return await self.next.serve(request)
        answer = [txt(request.qname, 0, text, rclass=codes.CH) for text in texts]
        return self.reply(answer=answer, aa=False, reason="about this server")


PLUGIN = Chaos
