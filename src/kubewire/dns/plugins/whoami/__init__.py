"""whoami: tell clients how they look from here."""

from __future__ import annotations

from kubewire.dns.plugin import Plugin, Request, Response, Setup
from kubewire.lang.dns.name import BadNameError, to_wire
from kubewire.lang.dns.record import address, srv


class Whoami(Plugin):
    """Client address, port and transport in the additional section."""

    name = "whoami"

    @classmethod
    def setup(cls, setup: Setup) -> Whoami:
        """Read the directive."""
        if setup.once():
            raise setup.arg_err()
        return cls()

    async def serve(self, request: Request) -> Response:
        """Answer every name."""
        host, port = request.client
        proto = request.network
        labels = f"_{proto}.{request.qname}" if request.qname != "." else f"_{proto}."
        try:
            to_wire(labels)
        except BadNameError:
            labels = request.qname
        return self.reply(
            additional=[
                address(request.qname, 0, host or "0.0.0.0"),
                srv(labels, 0, 0, 0, port, "."),
            ],
            reason=f"the client is {host} port {port} over {proto}",
        )


PLUGIN = Whoami
