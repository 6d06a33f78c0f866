"""forward: ask other servers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

from kubewire.dns.metrics import Book, Metric
from kubewire.dns.plugin import Plugin, Request, Response, Setup
from kubewire.dns.plugins.forward import options
from kubewire.dns.plugins.forward.stanza import Stanza
from kubewire.dns.plugins.forward.upstream import Upstream, UpstreamError
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import AA, AD, CD, RA, RD, TC, Message

DEADLINE = 5.0
PAUSE = 0.01
HOP = frozenset({10, 11, 12})
"""COOKIE, KEEPALIVE and PADDING are between two servers; what else an upstream says goes on."""
BROKEN = Metric(
    "coredns_forward_healthcheck_broken_total",
    "Counter of the number of complete failures of the healthchecks.",
)
REJECTED = Metric(
    "coredns_forward_max_concurrent_rejects_total",
    "Counter of the number of queries rejected because the concurrent queries were at maximum.",
)


class Forward(Plugin):
    """Tries upstreams by policy and health; several stanzas in the order of the file."""

    name = "forward"
    any_class = True

    def __init__(self, stanzas: list[Stanza], *, offline: bool) -> None:
        self.stanzas = stanzas
        self._offline = offline

    @classmethod
    def setup(cls, setup: Setup) -> Forward:
        """Read the directive."""
        stanzas = [options.read(setup, args) for args in setup.stanzas()]
        return cls(stanzas, offline=setup.env.offline)

    async def stop(self, *, final: bool) -> None:
        """Close the sockets."""
        for stanza in self.stanzas:
            for upstream in stanza.upstreams:
                upstream.close()

    async def serve(self, request: Request) -> Response:
        """Ask the first stanza that takes the name; the next one if it says so."""
        for index, stanza in enumerate(self.stanzas):
            if not stanza.takes(request.name):
                continue
            response = await self._ask(stanza, request)
            if index + 1 == len(self.stanzas) or not stanza.hands_on(response):
                return response
        return await self.next.serve(request)

    def measure(self, book: Book) -> None:
        """0 as long as all went well."""
        book.show(BROKEN, REJECTED)

    async def _ask(self, stanza: Stanza, request: Request) -> Response:
        names = ", ".join(map(str, stanza.upstreams)) or "no upstream"
        if self._offline:
            return self.fail(codes.SERVFAIL, f"forwarded to {names}, which is not asked offline")
        most = stanza.max_concurrent
        if most and stanza.busy >= most:
            self.metrics.add(REJECTED)
            return self.fail(codes.REFUSED, f"concurrent queries exceeded maximum {most}")
        stanza.busy += 1
        try:
            # A task of its own: timeouts need one, and the caller may not have one yet.
            return await asyncio.get_running_loop().create_task(
                self._exchange(stanza, request), name="forward"
            )
        finally:
            stanza.busy -= 1

    async def _exchange(self, stanza: Stanza, request: Request) -> Response:
        end = asyncio.get_running_loop().time() + DEADLINE
        why, last = "no healthy proxies", None
        failovers = 0
        for upstream in self._turns(stanza, end):
            if upstream is None:
                await asyncio.sleep(PAUSE)
                continue
            if request.block is not None and request.block.metadata:
                request.metadata["forward/upstream"] = upstream.__str__
            try:
                answer = await _answer(stanza, upstream, request, end)
            except UpstreamError as error:
                why = str(error)
                if stanza.max_fails:
                    upstream.failed()
                continue
            last = _response(request, answer, upstream)
            failovers += answer.rcode in stanza.failover
            if answer.rcode not in stanza.failover or failovers >= len(stanza.upstreams):
                return last
        return last or self.fail(codes.SERVFAIL, why)

    def _turns(self, stanza: Stanza, end: float) -> Iterator[Upstream | None]:
        """Upstreams one after the other, until time or attempts are used up.

        If all are down, probing may be what is broken: one at random is asked nevertheless.
        None: all were asked; those that refuse at once need not be asked as fast as they do.
        """
        loop = asyncio.get_running_loop()
        order = stanza.order()
        most = len(order) * 2 if stanza.max_attempts is None else stanza.max_attempts
        attempts, down = 0, 0
        while order and loop.time() < end and (not most or attempts < most):
            if attempts and attempts % len(order) == 0:
                yield None
            for upstream in order:
                if not upstream.down(stanza.max_fails):
                    attempts += 1
                    yield upstream
                elif (down := down + 1) == len(order):
                    self.metrics.add(BROKEN)
                    if not stanza.fail_fast:
                        yield random.choice(order)
                    return
                if loop.time() >= end or (most and attempts >= most):
                    return
            down = 0


async def _answer(stanza: Stanza, upstream: Upstream, request: Request, end: float) -> Message:
    """Ask one upstream; by TCP what UDP cut, if it was only preferred."""
    loop = asyncio.get_running_loop()
    preferred = stanza.prefer_udp and not stanza.force_tcp
    tcp = stanza.force_tcp or (request.network == "tcp" and not preferred)
    seconds = min(stanza.read_timeout, end - loop.time())
    answer = await upstream.ask(request.message, tcp=tcp, seconds=seconds)
    if answer.flags & TC and preferred:
        seconds = min(stanza.read_timeout, end - loop.time())
        return await upstream.ask(request.message, tcp=True, seconds=seconds)
    return answer


def _response(request: Request, answer: Message, upstream: Upstream) -> Response:
    flags = answer.flags
    # A code that only EDNS can carry would be cut to another one for who does not speak it.
    rcode = answer.rcode if answer.rcode < 16 or request.message.edns else codes.SERVFAIL
    response = Response(
        rcode,
        answer=answer.answer,
        authority=answer.authority,
        additional=answer.additional,
        aa=bool(flags & AA),
        plugin="forward",
        reason=f"upstream {upstream}",
    )
    response.tc, response.ra, response.ad = bool(flags & TC), bool(flags & RA), bool(flags & AD)
    response.rd, response.cd = bool(flags & RD), bool(flags & CD)
    if answer.edns is not None:
        response.options = tuple(o for o in answer.edns.options if o[0] not in HOP)
    return response


PLUGIN = Forward
