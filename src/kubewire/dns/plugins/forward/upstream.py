"""One upstream server: sockets, matching of answers, health."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import ssl
import struct
import time
from typing import cast

from kubewire.lang.dns import codes
from kubewire.lang.dns.message import Message, Question, WireError, encode, parse

log = logging.getLogger("kubewire.dns.plugin.forward")

READ_TIMEOUT = 2.0
SOCKETS = 8
SOCKET_LIFE = 10.0
PROBE_TIMEOUT = 1.0


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
                future.set_exception(UpstreamError(str(exc)))


def _fits(question: Question | None, answer: Message) -> bool:
    if question is None or not answer.flags & 0x8000:
        return False
    found = answer.question
    if found is None:
        return answer.rcode in (codes.FORMERR, codes.NOTIMP, codes.SERVFAIL, codes.REFUSED)
    return (found.name.lower(), found.type, found.rclass) == (
        question.name.lower(), question.type, question.rclass,
    )  # fmt: skip


class Upstream:
    """Asks one server; counts failures and probes it until it answers again."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        context: ssl.SSLContext | None = None,
        server_name: str = "",
        source: str = "",
    ) -> None:
        self.host, self.port = host, port
        self.fails = 0
        self.interval = 0.5
        self.recursive = True
        self.domain = "."
        self._context = context
        self._server_name = server_name
        self._source = (source, 0) if source else None
        self._sockets: list[_Udp] = []
        self._probing: asyncio.Task[None] | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def down(self, max_fails: int) -> bool:
        """Too many failures since it last answered."""
        return max_fails > 0 and self.fails >= max_fails

    def close(self) -> None:
        """Close every socket."""
        if self._probing is not None:
            self._probing.cancel()
        for udp in self._sockets:
            if udp.transport is not None:
                udp.transport.close()
        self._sockets.clear()

    async def ask(self, message: Message, *, tcp: bool, seconds: float = READ_TIMEOUT) -> Message:
        """Ask once. Raises UpstreamError."""
        asked = Message(
            secrets.randbits(16), message.flags, message.question, edns=message.edns,
            additional=message.additional,
        )  # fmt: skip
        try:
            async with asyncio.timeout(seconds):
                if tcp or self._context is not None:
                    return await self._by_stream(asked)
                return await self._by_datagram(asked)
        except TimeoutError as error:
            raise UpstreamError(f"read udp {self}: i/o timeout") from error
        except (OSError, WireError, ValueError, asyncio.IncompleteReadError) as error:
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
        now = time.monotonic()
        for udp in [u for u in self._sockets if now - u.born > SOCKET_LIFE and not u.waiting]:
            self._sockets.remove(udp)
            if udp.transport is not None:
                udp.transport.close()
        if len(self._sockets) >= SOCKETS:
            return secrets.choice(self._sockets)
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        loop = asyncio.get_running_loop()
        _, udp = await loop.create_datagram_endpoint(
            _Udp, local_addr=self._source, remote_addr=(self.host, self.port), family=family
        )
        self._sockets.append(udp)
        return udp

    async def _by_stream(self, message: Message) -> Message:
        reader, writer = await asyncio.open_connection(
            self.host, self.port, ssl=self._context, local_addr=self._source,
            server_hostname=(self._server_name or self.host) if self._context else None,
        )  # fmt: skip
        try:
            data = encode(message)
            writer.write(struct.pack("!H", len(data)) + data)
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            answer = parse(await reader.readexactly(length))
        finally:
            writer.close()
        if answer.id != message.id or not _fits(message.question, answer):
            raise WireError("answer to another question")
        return answer

    def failed(self) -> None:
        """Probe it until it answers."""
        if self._probing is None or self._probing.done():
            self._probing = asyncio.get_running_loop().create_task(
                self._probe(), name=f"probe {self}"
            )

    async def _probe(self) -> None:
        question = Question(self.domain, codes.NS)
        message = Message(flags=0x0100 if self.recursive else 0, question=question)
        while True:
            try:
                await self.ask(message, tcp=False, seconds=PROBE_TIMEOUT)
            except UpstreamError as error:
                self.fails += 1
                if self.fails == 1:
                    log.debug("plugin/forward: %s", error)
            else:
                self.fails = 0
                return
            await asyncio.sleep(self.interval)
