"""The process that plays every stand-in of a node.

It is told what to play over a unix socket, one JSON object a line:

    {"op": "add", "id", "pod", "namespace", "node", "container", "hostname", "netns", "folder",
     "listeners": [{"port", "protocol", "tls", "mode"}]}   -> {"id", "error": "" or why not}
    {"op": "remove", "id"}                                 -> {"id", "error": ""}
    {"op": "keep", "ids": [...]}   drop all others (a restarted kubelet) -> {"id": "", "error": ""}
    and unasked: {"exited": ID, "code": N} when somebody called /exit

``add`` is answered when every port listens, and may be repeated. The process outlives its
kubelet: listeners stay while nobody is connected.
"""

import asyncio
import errno
import gc
import json
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kubewire.kernel import netns
from kubewire.kubelet.standin import datagrams
from kubewire.kubelet.standin.connection import Connection, HostnameConnection
from kubewire.kubelet.standin.identity import Identity
from kubewire.kubelet.standin.netexec import Endpoints

BACKLOG = 512
ACCEPTS = 64
LINE_LIMIT = 1 << 20
_KINDS = {"TCP": (socket.SOCK_STREAM, 0), "UDP": (socket.SOCK_DGRAM, 0)}
if hasattr(socket, "IPPROTO_SCTP"):
    _KINDS["SCTP"] = (socket.SOCK_STREAM, socket.IPPROTO_SCTP)


class StandIn:
    """One container that is being played."""

    def __init__(self, identity: Identity, endpoints: Endpoints) -> None:
        self.identity = identity
        self.endpoints = endpoints
        self.sockets: list[socket.socket] = []
        self.transports: set[asyncio.BaseTransport] = set()


class Server:
    """All stand-ins of a node."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        """Where the certificate for HTTPS ports is kept."""
        self._stand_ins: dict[str, StandIn] = {}
        self._controllers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._tls: ssl.SSLContext | None = None
        self._family = socket.AF_INET6

    async def serve(self, path: str) -> None:
        """Serve the control socket for ever."""
        server = await asyncio.start_unix_server(self._control, path, limit=LINE_LIMIT)
        gc.freeze()
        try:
            async with server:
                await server.serve_forever()
        finally:
            for controller in self._controllers:
                controller.close()
            for id_ in tuple(self._stand_ins):
                self.remove(id_)

    async def _control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._controllers.add(writer)
        try:
            while line := await reader.readline():
                answer = await self._command(line)
                writer.write(json.dumps(answer).encode() + b"\n")
        except (ConnectionError, ValueError):
            pass  # The kubelet has gone, or writes lines without an end; it will come back.
        finally:
            self._controllers.discard(writer)
            writer.close()

    async def _command(self, line: bytes) -> dict[str, Any]:
        id_ = ""
        try:
            data = json.loads(line)
            id_ = str(data.get("id", ""))
            if data["op"] == "add":
                await self.add(Identity.from_wire(data))
            elif data["op"] == "remove":
                self.remove(id_)
            elif data["op"] == "keep":
                for other in self._stand_ins.keys() - set(data["ids"]):
                    self.remove(other)
            else:
                return {"id": id_, "error": f"unknown op {data['op']!r}"}
        except OSError as error:
            return {"id": id_, "error": str(error.strerror or error)}
        except (KeyError, TypeError, ValueError) as error:
            return {"id": id_, "error": f"malformed command: {error!r}"}
        return {"id": id_, "error": ""}

    async def add(self, identity: Identity) -> None:
        """Play a container; all its ports listen afterwards, or OSError says which does not."""
        known = self._stand_ins.get(identity.id)
        if known is not None:
            if known.identity == identity:
                return
            self.remove(identity.id)
        if any(tls for _, _, tls, _ in identity.listeners):
            await self._load_certificate()
        stand_in = StandIn(identity, Endpoints(identity, self._exit))
        try:
            if identity.listeners:
                with netns.entered(identity.netns):
                    stand_in.sockets.extend(self._listening(identity))
        except OSError:
            _close(stand_in)
            raise
        self._stand_ins[identity.id] = stand_in
        self._watch(stand_in)

    def remove(self, id_: str) -> None:
        """Stop playing a container: its ports close, its connections end."""
        stand_in = self._stand_ins.pop(id_, None)
        if stand_in is not None:
            loop = asyncio.get_running_loop()
            for made in stand_in.sockets:
                loop.remove_reader(made)
            _close(stand_in)

    def _exit(self, id_: str, code: int) -> None:
        loop = asyncio.get_running_loop()
        # The answer to /exit is sent before its connection goes.
        loop.call_soon(self.remove, id_)
        event = json.dumps({"exited": id_, "code": code & 0xFF}).encode() + b"\n"
        for controller in self._controllers:
            controller.write(event)

    def _listening(self, identity: Identity) -> Iterator[socket.socket]:
        """Every port; those of SCTP only where the kernel has it, as declaring one starts nothing."""
        for port, protocol, _, _ in identity.listeners:
            try:
                yield self._listen(port, protocol)
            except OSError as error:
                if protocol != "SCTP" or error.errno != errno.EPROTONOSUPPORT:
                    raise

    def _listen(self, port: int, protocol: str) -> socket.socket:
        """Open a port of every address, in the namespace that the thread is in."""
        if protocol not in _KINDS:
            raise OSError(errno.EPROTONOSUPPORT, f"unknown protocol {protocol}")
        kind, number = _KINDS[protocol]
        try:
            made = self._socket(kind, number)
            try:
                made.setblocking(False)
                if kind == socket.SOCK_STREAM:
                    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                else:
                    datagrams.prepare(made)
                made.bind(("", port))
                if kind == socket.SOCK_STREAM:
                    made.listen(BACKLOG)
            except OSError:
                made.close()
                raise
        except OSError as error:
            text = os.strerror(error.errno or 0).lower()
            raise OSError(error.errno, f"listen {protocol.lower()} :{port}: {text}") from error
        return made

    def _socket(self, kind: int, protocol: int) -> socket.socket:
        """A socket for both families, or for IPv4 where the kernel has no other."""
        if self._family == socket.AF_INET6:
            try:
                made = socket.socket(socket.AF_INET6, kind, protocol)
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                return made
            except OSError as error:
                if error.errno != errno.EAFNOSUPPORT:
                    raise
                self._family = socket.AF_INET
        return socket.socket(socket.AF_INET, kind, protocol)

    def _watch(self, stand_in: StandIn) -> None:
        loop = asyncio.get_running_loop()
        for made, listener in zip(stand_in.sockets, stand_in.identity.listeners, strict=True):
            port, protocol, tls, mode = listener
            if protocol == "UDP":
                loop.add_reader(made, datagrams.answer_all, made, stand_in.identity, port)
            else:
                loop.add_reader(made, self._accept, made, stand_in, tls, mode)

    def _accept(self, listener: socket.socket, stand_in: StandIn, tls: bool, mode: str) -> None:
        for _ in range(ACCEPTS):
            try:
                made, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:
                return  # Out of descriptors: the kernel keeps the connection for the next turn.
            made.setblocking(False)
            self._start(self._connect(made, stand_in, tls, mode))

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, made: socket.socket, stand_in: StandIn, tls: bool, mode: str) -> None:
        def protocol() -> asyncio.Protocol:
            if mode == "hostname":
                return HostnameConnection(stand_in.identity.hostname)
            return Connection(stand_in.endpoints, self._tasks, stand_in.transports)

        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(protocol, made, ssl=self._tls if tls else None)
        except (OSError, ssl.SSLError):
            made.close()  # The peer left, or does not speak TLS on a TLS port.
            return

    async def _load_certificate(self) -> None:
        """Make a self-signed certificate once; another process does it, to stay small here."""
        if self._tls is not None:
            return
        from kubewire.kubelet.standin.certificate import make

        file = self._folder / "standin.pem"
        if not file.exists():
            await make(file)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        self._tls = context


def _close(stand_in: StandIn) -> None:
    for made in stand_in.sockets:
        made.close()
    for transport in tuple(stand_in.transports):
        transport.close()


def run(path: str, folder: Path) -> None:
    """Serve until killed: ``path`` is the control socket, ``folder`` a place for the certificate."""
    _raise_limit()
    Path(path).unlink(missing_ok=True)
    asyncio.run(Server(folder).serve(path))


def _raise_limit() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
