"""Clients of DNS over HTTPS, QUIC and HTTP/3 by hand: they send what no library would."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import (
    ConnectionTerminated,
    HandshakeCompleted,
    QuicEvent,
    StreamDataReceived,
)

Answer = tuple[dict[str, str], bytes, dict[str, str]]


def trusting(folder: Path, *protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


@asynccontextmanager
async def h2_client(port: int, keys: Path) -> AsyncIterator[Callable[..., Any]]:
    """``ask(method, path, body)`` gives headers, body and trailers; many may run at a time."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=trusting(keys, "h2"), server_hostname="dns.example.org"
    )
    connection = h2.connection.H2Connection(
        h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
    )
    connection.initiate_connection()
    waiting: dict[int, asyncio.Future[Answer]] = {}
    parts: dict[int, tuple[dict[str, str], bytearray, dict[str, str]]] = {}

    def flush() -> None:
        writer.write(connection.data_to_send())

    async def receive() -> None:
        while data := await reader.read(65536):
            for event in connection.receive_data(data):
                stream = getattr(event, "stream_id", None) or 0
                headers, body, trailers = parts.setdefault(stream, ({}, bytearray(), {}))
                if isinstance(event, h2.events.ResponseReceived):
                    headers.update(event.headers or ())  # type: ignore[arg-type]
                elif isinstance(event, h2.events.TrailersReceived):
                    trailers.update(event.headers or ())  # type: ignore[arg-type]
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data or b""
                    connection.acknowledge_received_data(event.flow_controlled_length or 0, stream)
                elif isinstance(event, h2.events.StreamEnded):
                    waiting.pop(stream).set_result((headers, bytes(body), trailers))
            flush()
        for future in waiting.values():
            future.set_exception(EOFError())

    async def ask(method: str, path: str, body: bytes) -> Answer:
        stream = connection.get_next_available_stream_id()
        waiting[stream] = asyncio.get_running_loop().create_future()
        headers = [(":method", method), (":path", path), (":scheme", "https"), (":authority", "x")]
        connection.send_headers(stream, headers, end_stream=not body)
        if body:
            connection.send_data(stream, body, end_stream=True)
        flush()
        if task.done():
            raise EOFError
        return await asyncio.wait_for(waiting[stream], 10)

    task = asyncio.create_task(receive())
    try:
        flush()
        yield ask
    finally:
        task.cancel()
        writer.close()


class DoqClient(QuicConnectionProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.completed: asyncio.Future[HandshakeCompleted] = (
            asyncio.get_running_loop().create_future()
        )
        self._parts: dict[int, bytearray] = {}
        self._waiting: dict[int, asyncio.Future[bytes]] = {}

    def send(self, data: bytes) -> int:
        stream = self._quic.get_next_available_stream_id()
        self._quic.send_stream_data(stream, data, end_stream=True)
        self.transmit()
        return stream

    async def ask(self, data: bytes) -> bytes:
        stream = self.send(len(data).to_bytes(2, "big") + data)
        self._waiting[stream] = asyncio.get_running_loop().create_future()
        return await asyncio.wait_for(self._waiting[stream], 10)

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived):
            self._parts.setdefault(event.stream_id, bytearray()).extend(event.data)
            if event.end_stream:
                self._waiting[event.stream_id].set_result(bytes(self._parts[event.stream_id][2:]))
        elif isinstance(event, HandshakeCompleted):
            self.completed.set_result(event)
        elif isinstance(event, ConnectionTerminated) and not self.ended.done():
            self.ended.set_result(event.error_code)


class H3Client(QuicConnectionProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._http = H3Connection(self._quic)
        self._found: dict[int, tuple[bytes, bytearray]] = {}
        self._waiting: dict[int, asyncio.Future[tuple[bytes, bytes]]] = {}

    async def ask(self, method: str, path: str, body: bytes) -> tuple[bytes, bytes]:
        stream = self._quic.get_next_available_stream_id()
        self._waiting[stream] = asyncio.get_running_loop().create_future()
        fields = [
            (b":method", method.encode()), (b":path", path.encode()), (b":scheme", b"https"),
            (b":authority", b"x"),
        ]  # fmt: skip
        self._http.send_headers(stream, fields)
        self._http.send_data(stream, body, end_stream=True)
        self.transmit()
        return await asyncio.wait_for(self._waiting[stream], 10)

    def quic_event_received(self, event: QuicEvent) -> None:
        for found in self._http.handle_event(event):
            if isinstance(found, HeadersReceived):
                self._found[found.stream_id] = (dict(found.headers)[b":status"], bytearray())
            elif isinstance(found, DataReceived):
                status, body = self._found[found.stream_id]
                body += found.data
                if found.stream_ended:
                    self._waiting[found.stream_id].set_result((status, bytes(body)))


def _quic(keys: Path, alpn: list[str]) -> QuicConfiguration:
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=alpn, server_name="dns.example.org"
    )
    configuration.load_verify_locations(str(keys / "cert.pem"))
    return configuration


@asynccontextmanager
async def doq_client(
    port: int, keys: Path, *, ticket: Any = None, tickets: asyncio.Queue[Any] | None = None
) -> AsyncIterator[DoqClient]:
    configuration = _quic(keys, ["doq"])
    configuration.session_ticket = ticket
    async with connect(
        "127.0.0.1", port, configuration=configuration, create_protocol=DoqClient,
        session_ticket_handler=tickets.put_nowait if tickets else None,
        wait_connected=ticket is None,
    ) as client:  # fmt: skip
        assert isinstance(client, DoqClient)
        yield client


@asynccontextmanager
async def h3_client(port: int, keys: Path) -> AsyncIterator[H3Client]:
    async with connect(
        "127.0.0.1", port, configuration=_quic(keys, H3_ALPN), create_protocol=H3Client
    ) as client:
        assert isinstance(client, H3Client)
        yield client
