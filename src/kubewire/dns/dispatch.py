"""What happens to a message at one listen address: check, choose a server block, answer, encode.

No sockets here: octets come in, octets go out. ``receive`` answers at once if the chain does not
have to wait for anything, which is the rule; else it gives an awaitable.
"""

from __future__ import annotations

import logging
import math
import struct
import time
from collections.abc import Awaitable, Coroutine, Generator, Hashable, Iterable
from types import coroutine
from typing import Any

import msgspec

from kubewire.dns.config import Block, Listener
from kubewire.dns.options import PLAIN, Option, put_on, take_off
from kubewire.dns.plugin import Replay, Request, Response, opt_reply
from kubewire.dns.shortcut import Kept, Shortcuts, labels_of
from kubewire.dns.table import Entry, Table
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import (
    AA,
    AD,
    CD,
    MAX_MESSAGE,
    QR,
    RA,
    RD,
    TC,
    Edns,
    Message,
    WireError,
    encode,
    parse,
    read_name,
)
from kubewire.lang.dns.name import BadNameError, parent
from kubewire.lang.dns.record import RR

log = logging.getLogger(__name__)

Peer = tuple[str, int]
Answer = bytes | list[bytes] | None
MAX_TURNS = 8
"""How many orders of the addresses of one answer are kept."""

_HEADER = struct.Struct("!6H")
_USUAL = frozenset({b"\0\1\0\0\0\0\0\0", b"\0\1\0\0\0\0\0\1"})
"""Counts of a header: one question, without and with an OPT record."""


class Dispatcher:
    """Everything that listens at one address."""

    def __init__(self, listener: Listener, blocks: list[Block], udp: Table | None = None) -> None:
        self.listener = listener
        self.blocks = blocks
        self.tables = {"udp": udp if udp is not None else Table(), "tcp": Table()}
        self._zones: dict[str, list[Block]] = {}
        self.label = str(listener)
        if blocks and blocks[0].configuration is not None:
            blocks[0].configuration.dispatchers.append(self)
        for block in blocks:
            block.dispatcher = self
            for address in block.addresses:
                if (address.scheme, address.port) == (listener.scheme, listener.port):
                    self._zones.setdefault(address.zone, []).append(block)
        self.cookies = next((b.cookies for b in blocks if b.cookies is not None), None)
        self.tables["udp"].set_cookies(self.cookies.secrets if self.cookies else ())
        self._only = self._one_for_all()
        self.shortcuts = Shortcuts(self._zones, self.label)
        self._any_class = any(p.any_class for b in blocks for p in b.plugins.values())
        self._replay = {
            zone: len(found) == 1 and found[0].replayable and not found[0].views
            for zone, found in self._zones.items()
        }

    def _one_for_all(self) -> tuple[str, Block] | None:
        """The block that takes every question, if there is nothing to choose."""
        [*blocks] = self._zones.get(".", ())
        if len(self._zones) != 1 or len(blocks) != 1 or blocks[0].views or blocks[0].metadata:
            return None
        return ".", blocks[0]

    def drop(self, deps: Iterable[Hashable]) -> None:
        """Something changed: forget the answers that were made of it."""
        wanted = tuple(deps)
        for table in self.tables.values():
            table.drop(wanted)
        for block in self.blocks:
            for plugin in block.plugins.values():
                plugin.forget(wanted)

    def receive(
        self, data: bytes, client: Peer, local: Peer, proto: str
    ) -> Answer | Awaitable[Answer]:
        """Answer a message; None means silence."""
        if len(data) < 12 or data[2] & 0x80:
            return None
        if data[2] & 0x78 or data[4:12] not in _USUAL:
            refused = _not_acceptable(data)
            if refused is not None:
                return refused
        try:
            message = parse(data)
        except WireError:
            return _malformed(data)
        if message.question is None:
            return _header_only(data, codes.FORMERR)
        if self.cookies and message.edns and message.edns.options:
            options = self._signed(message.edns.options, client)
            if options is None:
                return _header_only(data, codes.FORMERR)
            message.edns = msgspec.structs.replace(message.edns, options=options)
        request = Request(message, client=client, local=local, proto=proto, size=len(data))
        request.wire = data
        request.server = self.label
        return _begin(self._respond(request))

    def replay(self, data: bytes, client: Peer) -> bytes | None:
        """The answer that is kept for the same question without its EDNS options, with them."""
        if (asked := take_off(data)) is None:
            return None
        entry = self.tables["udp"].entries.get(asked.key)
        if entry is None or not entry.answers or entry.until <= monotonic():
            return None
        options = self._signed(asked.options, client)
        answer = entry.answers[(entry.hits + 1) % len(entry.answers)]
        found = None if options is None else put_on(data[:2] + answer[2:], options)
        entry.hits += found is not None
        return found

    def keep(self, key: bytes, kept: Kept) -> bytes:
        """Keep an answer of ``shortcuts``, and count it: nobody else did."""
        entry = Entry((kept.answer,), math.inf, kept.deps, kept.labels, 1)
        self.tables["udp"].put(key, entry)
        return kept.answer

    def _signed(self, options: tuple[Option, ...], client: Peer) -> tuple[Option, ...] | None:
        """Options as they go back; None: a cookie is malformed."""
        return self.cookies.sign(options, client[0], int(time.time())) if self.cookies else options

    async def _respond(self, request: Request) -> Answer:
        response = await self.checked(request)
        if response.drop:
            return None
        if response.raw is not None:
            return [request.wire[:2] + raw[2:] for raw in response.raw]
        try:
            answer = finish(request, response)
        except (BadNameError, UnicodeError, struct.error) as error:
            log.error("answer to %s cannot be written: %s", request.name, error)
            response = Response.failure(codes.SERVFAIL)
            answer = finish(request, response)
        if response.replay is not None and response.seal is None:
            self._keep(request, response, response.replay, answer)
        return answer

    async def checked(self, request: Request) -> Response:
        """Apply the server's own rules, then the chain."""
        if request.qclass != codes.IN and not self._any_class:
            return Response.failure(codes.REFUSED, reason="class is not IN")
        if request.message.edns and request.message.edns.version:
            return Response(codes.BADVERS, reason="EDNS version is not 0")
        try:
            return await self.serve(request)
        except Exception:
            # One question that a plugin cannot cope with must not take the server down.
            log.exception("question %s %s", request.name, codes.type_name(request.qtype))
            return Response.failure(codes.SERVFAIL)

    async def serve(self, request: Request) -> Response:
        """Run the chain of the block that the name, type and client belong to."""
        zone, block = self._choose(request)
        if block is None or block.chain is None:
            why = f"server block {zone} has no plugins" if block else "no server block for the name"
            return Response.failure(codes.REFUSED, reason=why)
        request.block = block
        response = await block.chain.serve(request)
        if not self._replay[zone]:
            response.replay = None
        return response

    def _choose(self, request: Request) -> tuple[str, Block | None]:
        if self._only is not None:
            return self._only
        name, found = request.name, None
        zones = self._zones
        while True:
            if name in zones:
                for block in zones[name]:
                    if block.metadata:
                        _collect(block, request)
                    if block.chain is None or all(view(request) for view in block.views):
                        if request.qtype != codes.DS:
                            return name, block
                        found = (name, block)
                        break
            if name == ".":
                return found or ("", None)
            name = name.partition(".")[2] or "." if "\\" not in name else parent(name)

    def _keep(self, request: Request, response: Response, replay: Replay, answer: bytes) -> None:
        key = request.wire[2:]
        edns = request.message.edns
        if edns and edns.options:
            asked = take_off(request.wire)
            if asked is None or response.options or {c for c, _ in edns.options} - PLAIN:
                return
            key = asked.key
            request.message.edns = msgspec.structs.replace(edns, options=())
            answer = finish(request, response)
        table = self.tables["udp" if request.proto == "udp" else "tcp"]
        answers = [answer]
        if response.rotate and len(response.answer) > 1:
            for order in _turns(response.answer):
                response.answer = order
                answers.append(finish(request, response))
        block = request.block
        labels = labels_of(
            block.zones[0] if block else "dropped", block.view_name if block else "",
            request.network, request.family, request.qtype, response.rcode, response.plugin,
            len(key) + 2, len(answer), request.do, response.counted,
        )  # fmt: skip
        table.put(key, Entry(tuple(answers), replay.until, replay.deps, labels))


def finish(request: Request, response: Response) -> bytes:
    """Encode a response for its client, cut to what the client takes."""
    asked = request.message
    flags = QR | (asked.flags & 0x7800) | (response.rcode & 15)
    copied = 0 if flags & 0x7800 else asked.flags
    flags |= copied & RD if response.rd is None else RD * response.rd
    flags |= copied & CD if response.cd is None else CD * response.cd
    flags |= AA * response.aa | TC * response.tc | RA * response.ra | AD * response.ad
    message = Message(
        asked.id,
        flags,
        asked.question,
        response.answer,
        response.authority,
        response.additional,
        opt_reply(asked, response),
    )
    limit = request.bufsize if request.proto == "udp" else MAX_MESSAGE
    if response.seal is None:
        return encode(message, limit)
    return response.seal(encode(message, limit - 200 if limit > 712 else limit))


def _turns(records: list[RR]) -> list[list[RR]]:
    """The other orders in which addresses are handed out: rotations, names first."""
    fixed = [r for r in records if r.type not in (codes.A, codes.AAAA, codes.MX)]
    moving = [r for r in records if r.type in (codes.A, codes.AAAA, codes.MX)]
    return [fixed + moving[i:] + moving[:i] for i in range(1, min(len(moving), MAX_TURNS))]


def _collect(block: Block, request: Request) -> None:
    for plugin in block.plugins.values():
        request.metadata.update(plugin.metadata(request))


def _not_acceptable(data: bytes) -> bytes | None:
    _, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(data)
    opcode = (flags >> 11) & 15
    if opcode not in (codes.QUERY, codes.NOTIFY):
        return _header_only(data, codes.NOTIMP)
    if questions != 1 or answers > 1 or authorities > 1 or additionals > 2:
        return _header_only(data, codes.FORMERR)
    return None


def _malformed(data: bytes) -> bytes:
    """FORMERR, with the question if that can be read."""
    reply = _header_only(data, codes.FORMERR)
    try:
        _, end = read_name(data, 12)
    except WireError:
        return reply
    question = data[12 : end + 4]
    if len(question) < end - 8 or b"\xc0" in data[12:end]:
        return reply
    return reply[:4] + b"\0\1" + reply[6:] + question


def _header_only(data: bytes, rcode: int) -> bytes:
    """A bare rcode; other flags than AA come back, the opcode only if it is what is wrong."""
    kept = TC | RD | RA | AD | CD | (0x7800 if rcode == codes.NOTIMP else 0)
    flags = QR | (int.from_bytes(data[2:4], "big") & kept) | rcode
    return data[:2] + flags.to_bytes(2, "big") + bytes(8)


def _begin(running: Coroutine[Any, Any, Answer]) -> Answer | Awaitable[Answer]:
    """Run a coroutine up to its first wait, without the cost of a task if there is none."""
    try:
        first = running.send(None)
    except StopIteration as done:
        answer: Answer = done.value
        return answer
    return _go_on(running, first)


@coroutine
def _go_on(running: Coroutine[Any, Any, Answer], first: Any) -> Generator[Any, Any, Answer]:
    """Continue a coroutine that was begun outside of a task inside of one."""
    waited = first
    while True:
        try:
            try:
                value = yield waited
            except BaseException as error:
                waited = running.throw(error)
            else:
                waited = running.send(value)
        except StopIteration as done:
            answer: Answer = done.value
            return answer


def monotonic() -> float:
    """The clock of ``Replay.until``."""
    return time.monotonic()


__all__ = ["Answer", "Dispatcher", "Edns", "Peer", "finish", "monotonic"]
