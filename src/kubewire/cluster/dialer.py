"""Real connections from inside pods, all at once: one process, one epoll, a socket per flow.

A socket belongs to the network namespace that it was made in, so a process that visits each source
pod once can dial from all of them together; a thousand denied flows take one timeout, not a
thousand.
"""

import contextlib
import errno
import json
import os
import resource
import select
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby

from kubewire.kernel import netns

WHOAMI = b"kubewire-whoami"
DNS_QUERY = bytes.fromhex("0001100000010000000000000000020001")
"""STATUS of ".": a DNS server answers it (NOTIMP) without asking others; a stand-in echoes it."""
MAX_ANSWER = 65536
SPARE_DESCRIPTORS = 64
TLS_PORTS = (443, 6443, 8443)
NOT_REACHED = (b"upstream connect error", b"no healthy upstream")
"""What Envoy answers in HTTP when it gets to no endpoint."""


@dataclass(frozen=True, slots=True)
class Dial:
    """One flow to try."""

    netns: str
    ip: str
    port: int
    protocol: str
    proxied: bool = False
    """A proxy stands in between that accepts by itself: only an answer counts."""


@dataclass(slots=True)
class Result:
    """How it ended."""

    ok: bool = False
    error: str | None = None
    milliseconds: float = 0.0
    """Until the connection stood, or the datagram was answered."""
    answered_by: str | None = None


@dataclass(slots=True)
class _Flow:
    dial: Dial
    made: socket.socket
    started: float
    result: Result = field(default_factory=Result)
    answer: bytearray = field(default_factory=bytearray)
    is_connected: bool = False


def dial_all(dials: Sequence[Dial], limit: float) -> list[Result]:
    """Try every flow for at most ``limit`` seconds each; results in the same order."""
    size = _descriptors()
    results: list[Result] = []
    for start in range(0, len(dials), size):
        results += _Round(limit).run(dials[start : start + size])
    return results


def _sent(made: socket.socket, data: bytes) -> int:
    """Send; gives the error's number: the sender's own node may refuse a packet at once."""
    try:
        made.send(data)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _descriptors() -> int:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(min(hard - SPARE_DESCRIPTORS, 16384), 1)


class _Round:
    """As many flows as there are descriptors."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._poll = select.epoll()
        self._open: dict[int, _Flow] = {}

    def run(self, dials: Sequence[Dial]) -> list[Result]:
        results: dict[int, Result] = {}
        order = sorted(range(len(dials)), key=lambda i: dials[i].netns)
        for path, indexes in groupby(order, key=lambda i: dials[i].netns):
            numbers = list(indexes)
            made = _sockets(path, [dials[i] for i in numbers])
            for index, one in zip(numbers, made, strict=True):
                results[index] = self._start(dials[index], one)
        # From when the last one is under way: a busy machine takes its time to get there.
        begun = time.monotonic()
        self._follow(begun + self._limit / 2)
        self._ask_again()
        self._follow(begun + self._limit)
        self._expire()
        self._poll.close()
        return [results[i] for i in range(len(dials))]

    def _follow(self, until: float) -> None:
        """Take what happens until then; what had happened by then counts, however late it is read."""
        while self._open:
            wait = until - time.monotonic()
            happened = self._poll.poll(max(wait, 0.0), len(self._open))
            if not happened and wait <= 0:
                return
            for fd, events in happened:
                self._advance(self._open[fd], events)

    def _ask_again(self) -> None:
        """Send unanswered datagrams once more, as the kernel does for TCP: one may be lost."""
        for flow in self._open.values():
            if flow.dial.protocol == "UDP":
                # What went wrong, the next turn of the poll tells.
                _sent(flow.made, _question(flow.dial))

    def _start(self, dial: Dial, made: socket.socket | OSError) -> Result:
        if isinstance(made, OSError):
            return Result(error=_text(made.errno or 0))
        flow = _Flow(dial, made, time.monotonic())
        code = made.connect_ex((dial.ip, dial.port))
        if code == 0 and dial.protocol == "UDP":
            code = _sent(made, _question(dial))
        if code not in (0, errno.EINPROGRESS):
            flow.result.error = _text(code)
            made.close()
            return flow.result
        events = select.EPOLLIN if dial.protocol == "UDP" else select.EPOLLOUT
        self._poll.register(made, events)
        self._open[made.fileno()] = flow
        return flow.result

    def _advance(self, flow: _Flow, events: int) -> None:
        try:
            if flow.dial.protocol == "UDP":
                self._datagram(flow)
            elif not flow.is_connected:
                self._connected(flow)
            else:
                self._read(flow)
        except BlockingIOError:
            return
        except OSError as error:
            if not flow.is_connected:
                flow.result.error = _text(error.errno or 0)
            self._close(flow)

    def _datagram(self, flow: _Flow) -> None:
        flow.answer += flow.made.recv(MAX_ANSWER)
        self._succeed(flow)
        self._close(flow)

    def _connected(self, flow: _Flow) -> None:
        code = flow.made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, "")
        flow.is_connected = True
        if not flow.dial.proxied:
            self._succeed(flow)
        flow.made.send(_greeting(flow.dial))
        self._poll.modify(flow.made, select.EPOLLIN)

    def _read(self, flow: _Flow) -> None:
        data = flow.made.recv(MAX_ANSWER)
        flow.answer += data
        if data and not flow.result.ok:
            self._succeed(flow)
        if not data or len(flow.answer) >= MAX_ANSWER:
            self._close(flow)

    def _succeed(self, flow: _Flow) -> None:
        flow.result.ok = True
        flow.result.milliseconds = (time.monotonic() - flow.started) * 1000

    def _close(self, flow: _Flow) -> None:
        del self._open[flow.made.fileno()]
        self._poll.unregister(flow.made)
        flow.made.close()
        flow.result.answered_by = answered_by(bytes(flow.answer))
        if flow.dial.proxied:
            _judge(flow)

    def _expire(self) -> None:
        for flow in list(self._open.values()):
            if not flow.result.ok:
                flow.result.error = "timed out"
            self._close(flow)


def _question(dial: Dial) -> bytes:
    return DNS_QUERY if dial.port == 53 else WHOAMI


def _greeting(dial: Dial) -> bytes:
    """What makes most servers say something; behind a proxy that is the only proof."""
    if dial.proxied and dial.port == 53:
        return len(DNS_QUERY).to_bytes(2, "big") + DNS_QUERY
    if dial.proxied and dial.port in TLS_PORTS:
        return _hello()
    host = f"[{dial.ip}]" if ":" in dial.ip else dial.ip
    return (
        f"GET / HTTP/1.1\r\nHost: {host}:{dial.port}\r\n"
        "User-Agent: kubewire-reach\r\nConnection: close\r\n\r\n"
    ).encode()


@lru_cache(maxsize=1)
def _hello() -> bytes:
    """The first words of TLS."""
    import ssl

    outgoing = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


def _judge(flow: _Flow) -> None:
    """A proxy's own words are no answer of an endpoint."""
    result = flow.result
    if any(text in flow.answer for text in NOT_REACHED):
        result.ok, result.error = False, "the proxy reached no endpoint"
    elif not result.ok and result.error is None:
        result.error = "closed without an answer"


def answered_by(answer: bytes) -> str | None:
    """Namespace and name of the pod that says so itself, in an HTTP body or a datagram."""
    body = answer.partition(b"\r\n\r\n")[2] if answer.startswith(b"HTTP/") else answer
    try:
        said = json.loads(body)
        return f"{said['namespace']}/{said['pod']}"
    except (ValueError, KeyError, TypeError):
        return None


def _sockets(path: str, dials: Iterable[Dial]) -> list[socket.socket | OSError]:
    """One socket per flow of one source, in its namespace."""
    wanted = list(dials)
    try:
        with netns.entered(path):
            return [_socket(dial) for dial in wanted]
    except OSError as error:
        return [error for _ in wanted]


def _socket(dial: Dial) -> socket.socket | OSError:
    family = socket.AF_INET6 if ":" in dial.ip else socket.AF_INET
    try:
        if dial.protocol == "SCTP":
            made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
        else:
            kind = socket.SOCK_DGRAM if dial.protocol == "UDP" else socket.SOCK_STREAM
            made = socket.socket(family, kind)
    except OSError as error:
        return error
    made.setblocking(False)
    return made


def _text(code: int) -> str:
    return os.strerror(code).lower()
