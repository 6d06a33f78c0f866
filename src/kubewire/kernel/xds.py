"""An xDS server for the Envoys of this machine: delta xDS over gRPC on a unix socket.

It has no thread and no event loop of its own. Whoever waits for Envoy turns it (``step``); the rest
of the time the agent's event loop does, told by one descriptor.
"""

from __future__ import annotations

import logging
import select
import socket
from pathlib import Path

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import ProtocolError

from kubewire.kernel.unixsocket import short_name
from kubewire.lang.xds import delta
from kubewire.lang.xds.protobuf import frame, unframed

log = logging.getLogger(__name__)

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
_BLOCK = 1 << 18
_UNIMPLEMENTED = "12"


class XdsStreams:
    """Listens on a socket; tells what ``resources`` hold."""

    def __init__(self, path: Path, resources: delta.Resources) -> None:
        self._path = path
        self._resources = resources
        self._poll = select.epoll()
        self._peers: dict[int, _Peer] = {}
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._listener.setblocking(False)
        self._listener.bind(short_name(path))
        path.chmod(0o600)
        self._listener.listen(8)
        self._poll.register(self._listener, select.EPOLLIN)

    def fileno(self) -> int:
        """Readable when ``step`` has something to do."""
        return self._poll.fileno()

    def step(self, seconds: float = 0) -> None:
        """Serve what there is; wait so long for something."""
        for fd, events in self._poll.poll(seconds):
            if fd == self._listener.fileno():
                self._accept()
            elif not self._peers[fd].step(events):
                self._poll.unregister(fd)
                self._peers.pop(fd).close()
        self._register()

    def tell(self) -> None:
        """Send what has changed."""
        for peer in self._peers.values():
            peer.tell()
        for names in self._resources.changed.values():
            names.clear()
        self._register()

    def settled(self) -> bool:
        """An Envoy is there and has everything."""
        return any(peer.settled() for peer in self._peers.values())

    def waiting(self) -> bool:
        """An Envoy has not answered yet."""
        return any(peer.waiting() for peer in self._peers.values())

    def close(self) -> None:
        """Stop serving; Envoy keeps what it has."""
        for peer in self._peers.values():
            peer.close()
        self._listener.close()
        self._poll.close()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.setblocking(False)
        self._peers[connection.fileno()] = _Peer(connection, self._resources)
        self._poll.register(connection, select.EPOLLIN)

    def _register(self) -> None:
        """Be told when a peer that is behind can take more."""
        for fd, peer in self._peers.items():
            self._poll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if peer.outgoing else 0))


class _Peer:
    """One HTTP/2 connection."""

    def __init__(self, connection: socket.socket, resources: delta.Resources) -> None:
        self._socket = connection
        self._resources = resources
        self._http = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._streams: dict[int, delta.Stream] = {}
        self._incoming: dict[int, bytearray] = {}
        self._queued: dict[int, bytearray] = {}
        self.outgoing = bytearray()
        self._http.initiate_connection()
        self._http.increment_flow_control_window(1 << 24)
        self._flush()

    def step(self, events: int) -> bool:
        """Read and write; False when the other side is gone."""
        try:
            if events & (select.EPOLLIN | select.EPOLLHUP):
                data = self._socket.recv(_BLOCK)
                if not data or not self._received(data):
                    return False
            self._flush()
        except BlockingIOError:
            return True
        except (OSError, ProtocolError) as error:
            log.debug("Envoy's xDS connection has ended: %s", error)
            return False
        return True

    def tell(self) -> None:
        """Queue what has changed."""
        for number, stream in self._streams.items():
            self._send(number, stream.news())
        self._flush()

    def settled(self) -> bool:
        """A stream has everything."""
        return any(stream.settled() for stream in self._streams.values())

    def waiting(self) -> bool:
        """A stream has not answered yet."""
        return not all(stream.settled() for stream in self._streams.values())

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _received(self, data: bytes) -> bool:
        for event in self._http.receive_data(data):
            if isinstance(event, ConnectionTerminated):
                return False
            self._happened(event)
        self._pump()
        return True

    def _happened(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self._opened(event.stream_id, dict(event.headers))  # type: ignore[arg-type]
        elif isinstance(event, DataReceived):
            self._http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self._incoming.setdefault(event.stream_id, bytearray()).extend(event.data)
            for message in unframed(self._incoming[event.stream_id]):
                self._asked(event.stream_id, message)
        elif isinstance(event, StreamEnded | StreamReset):
            for table in (self._streams, self._incoming, self._queued):
                table.pop(event.stream_id, None)

    def _opened(self, number: int, headers: dict[str, str]) -> None:
        answer = [(":status", "200"), ("content-type", "application/grpc")]
        if headers.get(":path") != METHOD:
            answer.append(("grpc-status", _UNIMPLEMENTED))
            self._http.send_headers(number, answer, end_stream=True)
            return
        self._streams[number] = delta.Stream(self._resources)
        self._http.send_headers(number, answer)

    def _asked(self, number: int, message: bytes) -> None:
        stream = self._streams.get(number)
        if stream is None:
            return
        try:
            responses, remark = stream.receive(delta.parse(message))
        except ValueError as error:
            log.error("a request that cannot be read: %s", error)
            return
        if remark:
            log.error("%s", remark)
        self._send(number, responses)

    def _send(self, number: int, messages: list[bytes]) -> None:
        for message in messages:
            self._queued.setdefault(number, bytearray()).extend(frame(message))
        self._pump()

    def _pump(self) -> None:
        """Hand over as much as the other side's windows allow."""
        for number, queue in self._queued.items():
            while queue:
                room = min(
                    self._http.local_flow_control_window(number),
                    self._http.max_outbound_frame_size,
                )
                if room <= 0:
                    break
                self._http.send_data(number, bytes(queue[:room]))
                del queue[:room]

    def _flush(self) -> None:
        self.outgoing += self._http.data_to_send()
        while self.outgoing:
            try:
                sent = self._socket.send(self.outgoing[:_BLOCK])
            except BlockingIOError:
                return
            del self.outgoing[:sent]
