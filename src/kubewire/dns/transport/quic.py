"""DNS over QUIC (RFC 9250) and DNS over HTTP/3: aioquic speaks the protocols.

DoQ has one question per stream, with the id 0; whoever departs from that loses the connection with
DOQ_PROTOCOL_ERROR. Tickets are kept, so a client that comes back may ask in its first flight.
"""

from __future__ import annotations

import abc
import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import QuicServer
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import NetworkAddress, QuicConnection
from aioquic.quic.events import (
    ConnectionTerminated,
    HandshakeCompleted,
    QuicEvent,
    StreamDataReceived,
    StreamReset,
)
from aioquic.tls import SessionTicket

from kubewire.dns.dispatch import Peer
from kubewire.dns.plugin import extended_error
from kubewire.dns.transport import doh
from kubewire.dns.transport.asking import NOWHERE, ask, peer
from kubewire.dns.transport.http2 import MOST, HttpRequest
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import QR, Edns, Message, WireError, encode, parse

if TYPE_CHECKING:
    from kubewire.dns.transport.endpoint import Endpoint

INTERNAL, PROTOCOL = 1, 2
"""DOQ_INTERNAL_ERROR, DOQ_PROTOCOL_ERROR."""
KEEPALIVE = 11
TOO_EARLY = 26
"""An extended DNS error."""
STREAMS, CONNECTIONS, WORKERS = 256, 200, 512
TICKETS = 1024
IDLE = 10.0


class QuicListener(QuicServer):
    """One socket with all its connections."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.http = endpoint.listener.scheme == "https3"
        self.busy = 0
        """Questions that are being answered, over all connections."""
        self._tickets: OrderedDict[bytes, SessionTicket] = OrderedDict()
        super().__init__(
            configuration=self._configure(),
            create_protocol=self._create,
            session_ticket_fetcher=self._fetch,
            session_ticket_handler=self._keep,
        )

    @property
    def port(self) -> int:
        """The real port."""
        assert self._transport is not None
        return int(self._transport.get_extra_info("sockname")[1])

    def reconfigure(self) -> None:
        """Take the certificate of a new configuration for new connections."""
        self._configuration = self._configure()

    def limit(self, name: str, default: int) -> int:
        """A limit of the quic or https3 plugin."""
        plugin = "https3" if self.http else "quic"
        return self.endpoint.block.limits.get(f"{plugin}.{name}", default)

    def _configure(self) -> QuicConfiguration:
        block = self.endpoint.block
        configuration = QuicConfiguration(
            is_client=False,
            alpn_protocols=H3_ALPN if self.http else ["doq"],
            idle_timeout=block.timeouts.get("idle", IDLE),
        )
        assert block.tls is not None
        configuration.load_cert_chain(block.tls.certificate, block.tls.key)
        return configuration

    def _create(self, connection: QuicConnection, **_: object) -> QuicConnectionProtocol:
        streams = self.limit("max_streams", STREAMS)
        if streams:
            # aioquic has no option for it.
            connection._local_max_streams_bidi.value = streams
        most = self.limit("max_connections", CONNECTIONS)
        if most and len(self.endpoint.connections) >= most:
            return Refused(connection)
        return (DohQuic if self.http else DoqConnection)(connection, self)

    def _fetch(self, ticket: bytes) -> SessionTicket | None:
        return self._tickets.pop(ticket, None)

    def _keep(self, ticket: SessionTicket) -> None:
        self._tickets[ticket.ticket] = ticket
        if len(self._tickets) > TICKETS:
            self._tickets.popitem(last=False)


class Refused(QuicConnectionProtocol):
    """One connection too many."""

    def quic_event_received(self, event: QuicEvent) -> None:
        """Close as soon as it stands."""
        if isinstance(event, HandshakeCompleted):
            self.close()


class _Asking(QuicConnectionProtocol, abc.ABC):
    """A connection that asks the dispatcher."""

    def __init__(self, connection: QuicConnection, listener: QuicListener) -> None:
        super().__init__(connection)
        self._listener = listener
        self._endpoint = listener.endpoint
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._client = NOWHERE
        self._early = True
        """The handshake is not over: what comes may be a replay."""
        self._endpoint.connections.add(self)

    def datagram_received(self, data: bytes | str, addr: NetworkAddress) -> None:
        """Take a datagram; a client may move, so its address is that of the last one."""
        self._client = peer(addr)
        super().datagram_received(data, addr)

    def quic_event_received(self, event: QuicEvent) -> None:
        """Take what came."""
        match event:
            case StreamDataReceived(stream_id=stream) if stream % 4 == 0 or self._listener.http:
                self._came(event)
            case HandshakeCompleted():
                self._early = False
            case StreamReset(stream_id=stream):
                self._forget(stream)
            case ConnectionTerminated():
                self._endpoint.connections.discard(self)
                for task in self._tasks.values():
                    task.cancel()

    @abc.abstractmethod
    def _came(self, event: StreamDataReceived) -> None: ...

    def _forget(self, stream: int) -> None:
        if task := self._tasks.get(stream):
            task.cancel()

    @property
    def _local(self) -> Peer:
        assert self._transport is not None
        return peer(self._transport.get_extra_info("sockname"))


class DoqConnection(_Asking):
    """DNS over QUIC."""

    def __init__(self, connection: QuicConnection, listener: QuicListener) -> None:
        super().__init__(connection, listener)
        self._buffers: dict[int, bytearray] = {}

    def _came(self, event: StreamDataReceived) -> None:
        buffer = self._buffers.setdefault(event.stream_id, bytearray())
        buffer += event.data
        length = int.from_bytes(buffer[:2], "big")
        if len(buffer) > 2 + length > 2 or (event.end_stream and len(buffer) != 2 + length):
            self._bad()
            return
        if not event.end_stream:
            return
        data = bytes(self._buffers.pop(event.stream_id)[2:])
        if not acceptable(data):
            self._bad()
            return
        if self._early and not replayable(data):
            self._send(event.stream_id, too_early(data))
            return
        if self._listener.busy >= self._listener.limit("worker_pool_size", WORKERS):
            self._quic.reset_stream(event.stream_id, INTERNAL)
            self.transmit()
            return
        self._listener.busy += 1
        task = asyncio.get_running_loop().create_task(
            self._serve(event.stream_id, data), name="doq"
        )
        self._tasks[event.stream_id] = task
        task.add_done_callback(lambda _: self._done(event.stream_id))

    def _done(self, stream: int) -> None:
        self._tasks.pop(stream, None)
        self._listener.busy -= 1

    async def _serve(self, stream: int, data: bytes) -> None:
        found = await ask(self._endpoint, data, self._client, self._local, "quic")
        if found is None:
            self._quic.reset_stream(stream, INTERNAL)
        else:
            self._send(stream, found)
            return
        self.transmit()

    def _send(self, stream: int, data: bytes) -> None:
        self._quic.send_stream_data(stream, len(data).to_bytes(2, "big") + data, end_stream=True)
        self.transmit()

    def _forget(self, stream: int) -> None:
        self._buffers.pop(stream, None)
        super()._forget(stream)

    def _bad(self) -> None:
        self._buffers.clear()
        self.close(error_code=PROTOCOL)


def acceptable(data: bytes) -> bool:
    """A question that RFC 9250 lets pass: id 0, no keep-alive option."""
    try:
        message = parse(data)
    except WireError:
        return False
    options = message.edns.options if message.edns else ()
    return message.id == 0 and not message.flags & 0x8000 and KEEPALIVE not in dict(options)


def replayable(data: bytes) -> bool:
    """Questions and NOTIFY may be in the first flight; what changes anything may not."""
    return (data[2] >> 3) & 15 in (codes.QUERY, codes.NOTIFY)


def too_early(data: bytes) -> bytes:
    """REFUSED, with the extended error that lets the client try again after the handshake."""
    asked = parse(data)
    edns = asked.edns and Edns(asked.edns.size, options=(extended_error(TOO_EARLY),))
    flags = QR | asked.flags & 0x7900 | codes.REFUSED
    return encode(Message(asked.id, flags, asked.question, edns=edns))


class DohQuic(_Asking):
    """DNS over HTTP/3."""

    def __init__(self, connection: QuicConnection, listener: QuicListener) -> None:
        super().__init__(connection, listener)
        self._http = H3Connection(self._quic)
        self._requests: dict[int, HttpRequest] = {}

    def _came(self, event: StreamDataReceived) -> None:
        for found in self._http.handle_event(event):
            self._happened(found)

    def _happened(self, event: H3Event) -> None:
        match event:
            case HeadersReceived(stream_id=stream, headers=headers, stream_ended=ended):
                named = {k.decode("latin-1"): v.decode("latin-1") for k, v in headers}
                self._requests[stream] = HttpRequest(
                    named.get(":method", ""), named.get(":path", ""), self._client, self._local
                )
            case DataReceived(stream_id=stream, data=data, stream_ended=ended):
                if stream in self._requests:
                    self._requests[stream].body += data
                    if len(self._requests[stream].body) > MOST:
                        del self._requests[stream]
            case _:
                return
        if ended and (request := self._requests.pop(stream, None)):
            task = asyncio.get_running_loop().create_task(
                self._serve(stream, request), name="http3"
            )
            self._tasks[stream] = task
            task.add_done_callback(lambda _: self._tasks.pop(stream, None))

    async def _serve(self, stream: int, request: HttpRequest) -> None:
        answer = await doh.answer(self._endpoint, request, "https3")
        fields = [(":status", str(answer.status)), *answer.headers]
        self._http.send_headers(stream, [(k.encode(), v.encode()) for k, v in fields])
        self._http.send_data(stream, answer.body, end_stream=True)
        self.transmit()

    def _forget(self, stream: int) -> None:
        self._requests.pop(stream, None)
        super()._forget(stream)
