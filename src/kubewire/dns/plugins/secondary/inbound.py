"""Questions to a primary: its serial, and its whole zone."""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kubewire.lang.dns import codes
from kubewire.lang.dns.message import Message, Question, WireError, encode, parse
from kubewire.lang.dns.record import RR, soa_numbers


class _Stream:
    """A question over TCP, and the messages that come back."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: Message
    ) -> None:
        self._reader, self._id = reader, asked.id
        data = encode(asked)
        writer.write(struct.pack("!H", len(data)) + data)

    async def message(self) -> Message:
        """The next message; WireError if it refuses or belongs to another question."""
        (length,) = struct.unpack("!H", await self._reader.readexactly(2))
        answer = parse(await self._reader.readexactly(length))
        if answer.id != self._id:
            raise WireError("answer to another question")
        if answer.rcode or not answer.answer:
            raise WireError(f"refused with {codes.rcode_name(answer.rcode)}")
        return answer


@asynccontextmanager
async def _asking(origin: str, kind: int, host: str, port: int) -> AsyncIterator[_Stream]:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield _Stream(reader, writer, Message(secrets.randbits(16), 0, Question(origin, kind)))
    finally:
        writer.close()


async def serial(origin: str, host: str, port: int = 53) -> int:
    """The zone's serial at a primary. Raises OSError or WireError."""
    async with _asking(origin, codes.SOA, host, port) as stream:
        answer = await stream.message()
    for record in answer.answer:
        if record.type == codes.SOA:
            return soa_numbers(record)[0]
    raise WireError(f"no SOA of {origin}")


async def axfr(origin: str, host: str, port: int = 53) -> list[RR]:
    """Transfer a zone. Raises OSError or WireError."""
    records: list[RR] = []
    async with _asking(origin, codes.AXFR, host, port) as stream:
        while sum(r.type == codes.SOA for r in records) < 2:
            records += (await stream.message()).answer
    if records[0].type != codes.SOA:
        raise WireError(f"the transfer of {origin} does not begin with its SOA")
    return records
