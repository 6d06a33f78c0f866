"""One probe, for real: httpGet, tcpSocket and grpc from the node to the pod, exec in the pod.

Each attempt makes a new connection, from the node's namespace, with the kubelet's headers, limits
and messages. An attempt that the prober itself cannot make (a port name that nobody declares) is
tried 3 times and then an ERROR, which the worker discards.
"""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from kubewire.api.release import MAJOR, MINOR
from kubewire.kernel import netns
from kubewire.kubelet.environment import probe_command
from kubewire.kubelet.pod import GRPC, Container, HTTPGet, HTTPHeader, Probe, TCPSocket
from kubewire.kubelet.probes import Outcome
from kubewire.kubelet.standin import grpc

USER_AGENT = f"kube-probe/{MAJOR}.{MINOR}"
MAX_BODY = 10 * 1024
MAX_HEAD = 64 * 1024
MAX_REDIRECTS = 10
ATTEMPTS = 3

Verdict = tuple[Outcome, str]
"""An outcome and what the event or the log says of it."""

Runner = Callable[[tuple[str, ...], float], Awaitable[tuple[int, str]]]
"""Runs a command in the container within seconds; exit code and output, or TimeoutError."""


class ProbeError(Exception):
    """The probe could not be made; nothing is known of the container."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is probed: a container of a pod."""

    container: Container
    ip: str
    run: Runner


@dataclass(slots=True)
class Prober:
    """Makes probes from one node."""

    node_netns: Path | None = None
    """None: the process lives in the node's namespace."""
    _tls: ssl.SSLContext | None = field(default=None, init=False)

    async def probe(self, spec: Probe, target: Target) -> Verdict:
        """Make one probe; never raises."""
        message = ""
        for _ in range(ATTEMPTS):
            try:
                return await self._once(spec, target)
            except (ProbeError, LookupError) as error:
                message = str(error.args[0] if error.args else error)
        return Outcome.ERROR, message

    async def _once(self, spec: Probe, target: Target) -> Verdict:
        if spec.exec_ is not None:
            command = probe_command(target.container, spec.exec_.command)
            return await self._exec(command, spec.timeout, target)
        if spec.http_get is not None:
            return await self._http(spec.http_get, spec.timeout, target)
        if spec.tcp_socket is not None:
            return await self._tcp(spec.tcp_socket, spec.timeout, target)
        if spec.grpc is not None:
            return await self._grpc(spec.grpc, spec.timeout, target)
        raise ProbeError(f"missing probe handler for container {target.container.name}")

    async def _exec(self, command: tuple[str, ...], limit: float, target: Target) -> Verdict:
        try:
            code, output = await target.run(command, limit)
        except TimeoutError:
            text = f'command timed out: "{" ".join(command)}" timed out after {seconds(limit)}'
            return Outcome.FAILURE, text
        except OSError as error:
            return Outcome.FAILURE, str(error)
        return (Outcome.SUCCESS if code == 0 else Outcome.FAILURE), output[:MAX_BODY]

    async def _tcp(self, action: TCPSocket, limit: float, target: Target) -> Verdict:
        host = action.host or target.ip
        port = target.container.port(action.port)
        try:
            async with asyncio.timeout(limit):
                (await self._connect(host, port)).close()
        except TimeoutError:
            return Outcome.FAILURE, f"dial tcp {join(host, port)}: i/o timeout"
        except OSError as error:
            return Outcome.FAILURE, dial_error(host, port, error)
        return Outcome.SUCCESS, ""

    async def _grpc(self, action: GRPC, limit: float, target: Target) -> Verdict:
        where = join(target.ip, action.port)
        call = grpc.HealthCall(where, action.service or "", USER_AGENT)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(limit):
                with await self._connect(target.ip, action.port) as made:
                    await loop.sock_sendall(made, call.request)
                    while not call.is_over:
                        data = await loop.sock_recv(made, 65536)
                        if not data:
                            return Outcome.FAILURE, "error: the connection was closed"
                        answer = call.feed(data)
                        if answer and not call.is_over:
                            await loop.sock_sendall(made, answer)
        except TimeoutError:
            text = f'timeout: failed to connect service "{where}" within {seconds(limit)}'
            return Outcome.FAILURE, f"{text}: context deadline exceeded"
        except OSError as error:
            text = dial_error(target.ip, action.port, error)
            return Outcome.FAILURE, f'error: failed to connect service "{where}": {text}'
        except grpc.ProtocolError as error:
            return Outcome.FAILURE, f"error: {error}"
        if call.status == "SERVING":
            return Outcome.SUCCESS, ""
        why = call.error or f'service unhealthy (responded with "{call.status}")'
        return Outcome.FAILURE, why

    async def _http(self, action: HTTPGet, limit: float, target: Target) -> Verdict:
        url = first_url(action, target)
        try:
            async with asyncio.timeout(limit):
                return await self._follow(url, action.http_headers or [])
        except TimeoutError:
            return Outcome.FAILURE, (
                f'Get "{url}": context deadline exceeded '
                "(Client.Timeout exceeded while awaiting headers)"
            )
        except OSError as error:
            parts = urlsplit(url)
            text = dial_error(parts.hostname or "", port_of(url), error)
            return Outcome.FAILURE, f'Get "{url}": {text}'
        except ValueError as error:
            return Outcome.FAILURE, f'Get "{url}": {error}'

    async def _follow(self, url: str, headers: list[HTTPHeader]) -> Verdict:
        host = urlsplit(url).hostname
        for _ in range(MAX_REDIRECTS + 1):
            status, location = await self._get(url, headers)
            if not (location and status in (301, 302, 303, 307, 308)):
                break
            following = urljoin(url, location)
            if urlsplit(following).hostname != host:
                return Outcome.WARNING, f"Probe terminated redirects, to {following}"
            url = following
        else:
            return Outcome.FAILURE, f'Get "{url}": stopped after {MAX_REDIRECTS} redirects'
        if 200 <= status < 400:
            return Outcome.SUCCESS, ""
        return Outcome.FAILURE, f"HTTP probe failed with statuscode: {status}"

    async def _get(self, url: str, headers: list[HTTPHeader]) -> tuple[int, str]:
        parts = urlsplit(url)
        made = await self._connect(parts.hostname or "", port_of(url))
        if parts.scheme.lower() == "https":
            return await self._get_tls(made, url, headers)
        loop = asyncio.get_running_loop()
        with made:
            await loop.sock_sendall(made, http_request(url, headers))
            answer = Answer()
            while not answer.is_whole:
                data = await loop.sock_recv(made, 65536)
                answer.feed(data)
            return answer.status, answer.location

    async def _get_tls(
        self, made: socket.socket, url: str, headers: list[HTTPHeader]
    ) -> tuple[int, str]:
        if self._tls is None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._tls.check_hostname = False
            self._tls.verify_mode = ssl.CERT_NONE
        try:
            reader, writer = await asyncio.open_connection(
                sock=made, ssl=self._tls, server_hostname=""
            )
        except BaseException:
            made.close()
            raise
        try:
            writer.write(http_request(url, headers))
            answer = Answer()
            while not answer.is_whole:
                answer.feed(await reader.read(65536))
            return answer.status, answer.location
        finally:
            writer.transport.abort()

    async def _connect(self, host: str, port: int) -> socket.socket:
        loop = asyncio.get_running_loop()
        if not host.replace(".", "").isdigit() and ":" not in host:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            host = str(found[0][4][0])
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        if self.node_netns is None:
            made = socket.socket(family, socket.SOCK_STREAM)
        else:
            made = netns.socket_in(self.node_netns, family, socket.SOCK_STREAM)
        made.setblocking(False)
        try:
            await loop.sock_connect(made, (host, port))
        except BaseException:
            made.close()
            raise
        return made


class Answer:
    """A response, as far as a probe reads it: status, Location, and up to 10 KiB of body."""

    def __init__(self) -> None:
        self.status = 0
        self.location = ""
        self.is_whole = False
        self._buffer = bytearray()
        self._missing = MAX_BODY

    def feed(self, data: bytes) -> None:
        """Take bytes; b"" is the end. Raises ValueError for what is not HTTP."""
        if self.status:
            self._missing -= len(data)
            self.is_whole = self._missing <= 0 or not data
            return
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if not data:
                raise ValueError("EOF")
            if len(self._buffer) > MAX_HEAD:
                raise ValueError("malformed HTTP response: no end of the header")
            if not self._buffer.startswith(b"HTTP/"[: len(self._buffer)]):
                raise ValueError(f'malformed HTTP response "{_quoted(self._buffer)}"')
            return
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        rest = bytes(self._buffer[end + 4 :])
        self._buffer.clear()
        self._read_head(lines)
        self.is_whole = bool(self.status) and self._missing <= 0
        if rest and not self.is_whole:
            self.feed(rest)

    def _read_head(self, lines: list[str]) -> None:
        fields = lines[0].split(" ")
        if not fields[0].startswith("HTTP/") or len(fields) < 2 or not fields[1].isdigit():
            raise ValueError(f'malformed HTTP response "{lines[0][:80]}"')
        status = int(fields[1])
        if 100 <= status < 200:
            return  # Interim: the real one follows.
        self.status = status
        for line in lines[1:]:
            name, _, value = line.partition(":")
            if name.lower() == "location":
                self.location = value.strip()
            elif name.lower() == "content-length" and value.strip().isdigit():
                self._missing = min(MAX_BODY, int(value))
        if status in (204, 304):
            self._missing = 0


def _quoted(data: bytearray) -> str:
    return bytes(data[:40]).decode("ascii", "backslashreplace")


def first_url(action: HTTPGet, target: Target) -> str:
    """URL of a httpGet action. Raises LookupError for an unknown port name."""
    port = target.container.port(action.port)
    path = action.path if action.path.startswith("/") else f"/{action.path}"
    host = action.host or target.ip
    return f"{action.scheme.lower()}://{join(host, port)}{path}"


def port_of(url: str) -> int:
    """Port of a URL, by its scheme if it names none. Raises ValueError."""
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme.lower() == "https" else 80)


def http_request(url: str, headers: list[HTTPHeader]) -> bytes:
    """The bytes of a probe's GET: a Host, User-Agent or Accept given by the probe replaces ours."""
    parts = urlsplit(url)
    given = {h.name.lower() for h in headers}
    defaults = {"Host": parts.netloc, "User-Agent": USER_AGENT, "Accept": "*/*"}
    lines = [f"{name}: {value}" for name, value in defaults.items() if name.lower() not in given]
    # An empty value takes the default header away, as the kubelet does for these two.
    droppable = ("user-agent", "accept")
    lines += [f"{h.name}: {h.value}" for h in headers if h.value or h.name.lower() not in droppable]
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    text = "\r\n".join([f"GET {target} HTTP/1.1", *lines, "Connection: close", "", ""])
    return text.encode("utf-8", "replace")


def join(host: str, port: int) -> str:
    """HOST:PORT, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def dial_error(host: str, port: int, error: OSError) -> str:
    """An error of a connection as Go's net package writes it."""
    if error.errno in (errno.ECONNRESET, errno.EPIPE):
        return f"read tcp {join(host, port)}: read: connection reset by peer"
    if not error.errno or isinstance(error, socket.gaierror | ssl.SSLError):
        return str(error.strerror or error)
    return f"dial tcp {join(host, port)}: connect: {os.strerror(error.errno).lower()}"


def seconds(value: float) -> str:
    """A duration as Go prints it, for the sizes that timeouts have."""
    return f"{value * 1000:g}ms" if value < 1 else f"{value:g}s"
