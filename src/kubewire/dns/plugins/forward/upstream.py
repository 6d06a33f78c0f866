"""One upstream server: sockets, matching of answers, health."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import ssl
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, cast

from kubewire.dns.metrics import SECONDS, Book, Metric
from kubewire.dns.plugins.forward.streams import Keeping, Streams
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import QR, Message, Question, WireError, encode, parse

if TYPE_CHECKING:
    from kubewire.dns.plugins.forward.https import Https

log = logging.getLogger("kubewire.dns.plugin.forward")

READ_TIMEOUT = 2.0
SOCKETS = 8
PROBE_TIMEOUT = 1.0
_TO = ("proxy_name", "to")
DURATION = Metric(
    "coredns_proxy_request_duration_seconds", "Histogram of the time each request took.",
    (*_TO, "rcode"), "histogram", SECONDS,
)  # fmt: skip
PROBE_FAILURES = Metric(
    "coredns_proxy_healthcheck_failures_total", "Counter of the number of failed healthchecks.", _TO
)
KEPT = Metric(
    "coredns_proxy_conn_cache_hits_total",
    "Counter of connection cache hits per upstream and protocol.", (*_TO, "proto"),
)  # fmt: skip
OPENED = Metric(
    "coredns_proxy_conn_cache_misses_total",
    "Counter of connection cache misses per upstream and protocol.", (*_TO, "proto"),
)  # fmt: skip


class UpstreamError(Exception):
    """An upstream that did not answer."""


class _Udp(asyncio.DatagramProtocol):
    """A connected socket with the questions that wait on it, by id."""

    def __init__(self) -> None:
        self.born = time.monotonic()
        self.waiting: dict[int, tuple[Question | None, asyncio.Future[Message]]] = {}
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # No isinstance: until Python 3.12 the event loop's own class does not derive from it.
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: object) -> None:
        """Give an answer to who waits for it; what fits nobody is dropped."""
        try:
            answer = parse(data)
        except WireError:
            return
        question, future = self.waiting.get(answer.id, (None, None))
        if future is not None and not future.done() and _fits(question, answer):
            future.set_result(answer)

    def error_received(self, exc: Exception) -> None:
        for _, future in self.waiting.values():
            if not future.done():
                future.set_exception(exc)


def _fits(question: Question | None, answer: Message) -> bool:
    if question is None or not answer.flags & QR or answer.opcode != codes.QUERY:
        return False
    found = answer.question
    if found is None:
        return answer.rcode in (codes.FORMERR, codes.NOTIMP, codes.SERVFAIL, codes.REFUSED)
    return (found.name.lower(), found.type, found.rclass) == (
        question.name.lower(), question.type, question.rclass,
    )  # fmt: skip


@dataclass
class Manner:
    """How an upstream is asked; one for all upstreams of a stanza."""

    keeping: Keeping = field(default_factory=Keeping)
    tls: ssl.SSLContext | None = None
    https: ssl.SSLContext | None = None
    source: str = ""
    doh_method: str = "POST"
    interval: float = 0.5
    """Seconds between probes."""
    probe_by_tcp: bool = False
    recursive: bool = True
    domain: str = "."


class Upstream:
    """Asks one server; counts failures and probes it until it answers again."""

    metrics: Book

    def __init__(
        self, host: str, port: int, manner: Manner, *, scheme: str = "dns", server_name: str = ""
    ) -> None:
        self.host, self.port, self.scheme = host, port, scheme
        self.fails = 0
        """Probes in a row that were not answered."""
        self._manner = manner
        self._server_name = server_name
        self._source = (manner.source, 0) if manner.source else None
        self._sockets: list[_Udp] = []
        self._probing: asyncio.Task[None] | None = None
        self._streams = Streams(
            host, port, manner.keeping, context=manner.tls if scheme == "tls" else None,
            server_name=server_name, source=self._source,
            count=partial(self._count, "tcp-tls" if scheme == "tls" else "tcp"),
        )  # fmt: skip
        self._https: Https | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def down(self, max_fails: int) -> bool:
        """Too many probes failed since it last answered."""
        return max_fails > 0 and self.fails >= max_fails

    def close(self) -> None:
        """Close every socket."""
        if self._probing is not None:
            self._probing.cancel()
        for udp in self._sockets:
            if udp.transport is not None:
                udp.transport.close()
        self._sockets.clear()
        self._streams.close()
        if self._https is not None:
            self._https.close()

    async def ask(self, message: Message, *, tcp: bool, seconds: float = READ_TIMEOUT) -> Message:
        """Ask once, and count it. Raises UpstreamError."""
        began = time.perf_counter()
        answer = await self._ask(message, tcp=tcp, seconds=seconds)
        spent, rcode = time.perf_counter() - began, codes.rcode_name(answer.rcode)
        self.metrics.observe(DURATION, spent, "forward", str(self), rcode)
        return answer

    async def _ask(self, message: Message, *, tcp: bool, seconds: float) -> Message:
        asked = Message(
            secrets.randbits(16), message.flags, message.question, edns=message.edns,
            additional=message.additional,
        )  # fmt: skip
        by_datagram = self.scheme == "dns" and not tcp
        try:
            async with asyncio.timeout(seconds):
                if by_datagram:
                    return await self._by_datagram(asked)
                return await self._by_stream(asked)
        except TimeoutError as error:
            proto = "udp" if by_datagram else "tcp"
            raise UpstreamError(f"read {proto} {self}: i/o timeout") from error
        except OSError as error:
            why = os.strerror(error.errno).lower() if error.errno else str(error)
            how = f"read udp {self}: read" if by_datagram else f"dial tcp {self}: connect"
            raise UpstreamError(f"{how}: {why}") from error
        except (WireError, ValueError, asyncio.IncompleteReadError) as error:
            raise UpstreamError(f"{self}: {error}") from error

    async def _by_datagram(self, message: Message) -> Message:
        udp = await self._socket()
        while message.id in udp.waiting:
            message.id = secrets.randbits(16)
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        udp.waiting[message.id] = (message.question, future)
        try:
            assert udp.transport is not None
            udp.transport.sendto(encode(message))
            return await future
        finally:
            del udp.waiting[message.id]

    async def _socket(self) -> _Udp:
        now, life = time.monotonic(), self._manner.keeping.expire
        for udp in [u for u in self._sockets if now - u.born > life and not u.waiting]:
            self._sockets.remove(udp)
            if udp.transport is not None:
                udp.transport.close()
        if len(self._sockets) >= SOCKETS:
            self._count("udp", kept=True)
            return secrets.choice(self._sockets)
        self._count("udp", kept=False)
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        loop = asyncio.get_running_loop()
        _, udp = await loop.create_datagram_endpoint(
            _Udp, local_addr=self._source, remote_addr=(self.host, self.port), family=family
        )
        self._sockets.append(udp)
        return udp

    async def _by_stream(self, message: Message) -> Message:
        if self.scheme == "https":
            message.id = 0
            answer = parse(await self._over_https().ask(encode(message)))
        else:
            answer = parse(await self._streams.ask(encode(message)))
        if answer.id != message.id or not _fits(message.question, answer):
            raise WireError("answer to another question")
        return answer

    def _over_https(self) -> Https:
        if self._https is None:
            from kubewire.dns.plugins.forward.https import Https

            assert self._manner.https is not None
            self._https = Https(
                self.host, self.port, context=self._manner.https, server_name=self._server_name,
                source=self._source, method=self._manner.doh_method,
                count=partial(self._count, "https"),
            )  # fmt: skip
        return self._https

    def _count(self, proto: str, kept: bool) -> None:
        self.metrics.add(KEPT if kept else OPENED, "forward", str(self), proto)

    def failed(self) -> None:
        """Probe it until it answers."""
        if self._probing is None or self._probing.done():
            self._probing = asyncio.get_running_loop().create_task(
                self._probe(), name=f"probe {self}"
            )

    async def _probe(self) -> None:
        manner = self._manner
        question = Question(manner.domain, codes.NS)
        message = Message(flags=0x0100 if manner.recursive else 0, question=question)
        while True:
            try:
                await self._ask(message, tcp=manner.probe_by_tcp, seconds=PROBE_TIMEOUT)
            except UpstreamError as error:
                self.fails += 1
                self.metrics.add(PROBE_FAILURES, "forward", str(self))
                if self.fails == 1:
                    log.debug("plugin/forward: %s", error)
            else:
                self.fails = 0
                return
            await asyncio.sleep(manner.interval)
