"""loop: find out at the start whether forwarding comes back to us."""

from __future__ import annotations

import asyncio
import logging
import secrets

from kubewire.dns.config import Block, Environment
from kubewire.dns.plugin import Plugin, Request, Response, Setup
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import Message, Question

log = logging.getLogger("kubewire.dns.plugin.loop")

SEEN = 2
"""Our own probe passes once; more often it has come back."""


class Loop(Plugin):
    """Sends a random HINFO question through the chain; ends the process if it returns."""

    name = "loop"

    def __init__(self, block: Block, env: Environment) -> None:
        zone = block.zones[0] if block.zones else "."
        label = f"{secrets.randbits(62)}.{secrets.randbits(62)}."
        self.qname = label + ("" if zone == "." else zone)
        self._block, self._env = block, env
        self._seen = 0
        self._looking = True
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def setup(cls, setup: Setup) -> Loop:
        """Read the directive."""
        if setup.once():
            raise setup.arg_err()
        setup.no_more()
        return cls(setup.block, setup.env)

    async def started(self) -> None:
        """Probe."""
        if not self._env.offline:
            self._task = asyncio.create_task(self._probe(), name="loop probe")

    async def stop(self, *, final: bool) -> None:
        """Give up the probe."""
        if self._task is not None:
            self._task.cancel()

    async def serve(self, request: Request) -> Response:
        """Count our probe."""
        if self._looking and request.qtype == codes.HINFO and request.name == self.qname:
            self._seen += 1
            if self._seen > SEEN:
                host, port = request.client
                log.critical(
                    "plugin/loop: Loop (%s:%d -> %s) detected for zone \"%s\", see "
                    'https://coredns.io/plugins/loop#troubleshooting. Query: "HINFO %s"',
                    f"[{host}]" if ":" in host else host, port,
                    request.server.partition("://")[2], self._block.zones[0], self.qname,
                )  # fmt: skip
                self._env.end(1)
                return self.fail(codes.SERVFAIL, "our own probe came back")
        return await self.next.serve(request)

    async def _probe(self) -> None:
        """Ask the first upstream for a name that nobody else would ask for."""
        question = Question(self.qname, codes.HINFO)
        request = Request(
            Message(id=secrets.randbits(16), flags=0x0100, question=question),
            client=("127.0.0.1", 0),
        )
        dispatcher = self._block.dispatcher
        request.server = dispatcher.label if dispatcher else ""
        try:
            async with asyncio.timeout(10):
                if dispatcher is not None:
                    await dispatcher.serve(request)
        except TimeoutError:
            log.debug("probe was not answered")
        await asyncio.sleep(30)
        self._looking = False


PLUGIN = Loop
