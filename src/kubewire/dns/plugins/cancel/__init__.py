"""cancel: give up on a question after a while."""

from __future__ import annotations

import asyncio

from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugin import Plugin, Request, Response, Setup, duration
from kubewire.lang.dns import codes


class Cancel(Plugin):
    """Ends the rest of the chain after 5001 ms unless told otherwise."""

    name = "cancel"

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    @classmethod
    def setup(cls, setup: Setup) -> Cancel:
        """Read the directive."""
        args = setup.once()
        if len(args) > 1:
            raise setup.arg_err()
        seconds = 5.001
        if args:
            try:
                seconds = duration(args[0])
            except ValueError as error:
                raise CorefileError(f'invalid duration: "{args[0]}"') from error
            if seconds < 0:
                raise CorefileError(f'invalid negative duration: "{args[0]}"')
        setup.no_more()
        return cls(seconds)

    async def serve(self, request: Request) -> Response:
        """Let answers pass that come at once; put a time limit on those that wait."""
        loop = asyncio.get_running_loop()
        running = loop.create_task(self._next(request), name="cancel")
        done, _ = await asyncio.wait({running}, timeout=self.seconds)
        if done:
            return running.result()
        running.cancel()
        return self.fail(codes.SERVFAIL, f"no answer within {self.seconds:g} s")

    async def _next(self, request: Request) -> Response:
        return await self.next.serve(request)


PLUGIN = Cancel
