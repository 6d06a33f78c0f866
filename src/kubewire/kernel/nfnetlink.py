"""nf_tables transactions: sent in one batch, applied whole or not at all."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Collection
from typing import Self

from kubewire.kernel.netlink import Message, NetlinkError, NetlinkSocket, attributes
from kubewire.kernel.netns import Netns, socket_in
from kubewire.lang.nftables import readback, wire
from kubewire.lang.nftables.model import FAMILIES, Data, Transaction
from kubewire.lang.nftables.readback import Actual, KernelRule

_NETLINK_NETFILTER = 12
_NFTABLES = 10
_BEGIN, _END = 0x10, 0x11
_BATCH = 20
_GET_TABLE, _GET_CHAIN, _GET_RULE, _GET_SET, _GET_ELEMENTS, _GET_GENERATION = (
    _NFTABLES << 8 | kind for kind in (1, 4, 7, 10, 13, 16)
)
_INET = struct.pack("=BBH", 1, 0, 0)
_ERROR = 2
_COUNT = 20
"""Attribute of a set: how many elements it has."""
_SO_SNDBUFFORCE = 32
_SOL_NETLINK, _NETLINK_EXT_ACK, _NETLINK_CAP_ACK = 270, 11, 10


class NftablesError(OSError):
    """The kernel refused a transaction; nothing of it was applied."""


class Nfnetlink:
    """A socket to nf_tables of the current network namespace, or of a given one."""

    def __init__(self, netns: Netns | None = None) -> None:
        kind = (socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        self._socket = socket.socket(*kind) if netns is None else socket_in(netns, *kind)
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._buffer = 0
        self._room = 0
        # Closing such a socket waits for the kernel's grace period (10 ms): there is but one.
        self._asking = NetlinkSocket(_NETLINK_NETFILTER, netns)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets; the rules stay."""
        self._socket.close()
        self._asking.close()

    def commit(self, change: Transaction) -> None:
        """Apply a transaction; NftablesError names the first thing that the kernel refused."""
        if not change:
            return
        parts = [_batch(_BEGIN, 0)]
        for sequence, (message, _) in enumerate(change.messages, 1):
            parts.append(message[:8] + struct.pack("=I", sequence) + message[12:])
        parts.append(_batch(_END, len(change.messages) + 1))
        data = b"".join(parts)
        self._make_room(len(data))
        self._socket.send(data)
        self._check(change)

    def fits(self, change: Transaction) -> bool:
        """Whether one batch can hold it: an ordinary user cannot enlarge the buffer at will."""
        size = sum(len(message) for message, _ in change.messages) + 2 * _BATCH
        self._make_room(size)
        return size < self._room

    def commit_in_parts(self, change: Transaction) -> None:
        """Apply a transaction as several; only for a table that no packet meets yet."""
        part = change.empty()
        size = 0
        for message, what in change.messages:
            if part and size + len(message) > self._room - 2 * _BATCH:
                self.commit(part)
                part, size = change.empty(), 0
            part.messages.append((message, what))
            size += len(message)
        self.commit(part)

    def tables(self) -> set[str]:
        """Names of the inet tables."""
        answer = self._asking.dump(_GET_TABLE, _INET, "list tables")
        found = (dict(attributes(body, 4)).get(1, b"") for _, body in answer)
        return {name.rstrip(b"\0").decode() for name in found}

    def hooked(self) -> set[str]:
        """Names of the inet tables that packets meet: those with base chains."""
        answer = self._asking.dump(_GET_CHAIN, _INET, "list chains")
        found = (readback.chain(body) for _, body in answer)
        return {table for table, _, kind in found if kind.hook}

    def generation(self) -> int:
        """A number that every change of any table of this namespace raises."""
        _, body = self._asking.ask(Message(_GET_GENERATION, 0, _INET, "ask for the generation"))
        return int.from_bytes(dict(attributes(body, 4))[1], "big")

    def rules(self, table: str, chain: str = "") -> dict[str, list[KernelRule]]:
        """The rules of a table, or of one of its chains, as the kernel keeps them."""
        body = _INET + wire.string(1, table) + (wire.string(2, chain) if chain else b"")
        answer = self._asking.dump(_GET_RULE, body, f"list rules of {table}")
        found: dict[str, list[KernelRule]] = {}
        for _, data in answer:
            name, rule = readback.rule(data)
            found.setdefault(name, []).append(rule)
        return found

    def counts(self, table: str) -> dict[str, int]:
        """How many elements each set of a table holds; kernels before 6.16 do not say."""
        body = _INET + wire.string(1, table)
        sets = self._asking.dump(_GET_SET, body, f"list sets of {table}")
        found = (dict(attributes(data, 4)) for _, data in sets)
        return {
            one[2].rstrip(b"\0").decode(): int.from_bytes(one[_COUNT], "big")
            for one in found
            if _COUNT in one
        }

    def has_chain(self, family: int, table: str, chain: str) -> bool:
        """Whether a table of any family has a chain."""
        body = struct.pack("=BBH", family, 0, 0) + wire.string(1, table) + wire.string(3, chain)
        try:
            self._asking.ask(Message(_GET_CHAIN, 0, body, f"look for chain {chain}"))
        except NetlinkError:
            return False
        return True

    def drop_unused(self, family: str, table: str) -> bool:
        """Remove a table of base chains that accept and hold nothing; False if it is another."""
        asked = struct.pack("=BBH", FAMILIES[family], 0, 0)
        listed = (readback.chain(d) for _, d in self._asking.dump(_GET_CHAIN, asked, "list chains"))
        chains = {name: kind for owner, name, kind in listed if owner == table}
        if any(not kind.hook or kind.policy != "accept" for kind in chains.values()):
            return False
        change = Transaction(family)
        change.delete_unused(table, chains)
        try:
            self.commit(change)
        except NftablesError as error:
            if error.errno not in (errno.EBUSY, errno.ENOENT):
                raise
            return False
        return True

    def elements(self, table: str, names: Collection[str]) -> dict[str, dict[bytes, Data]]:
        """The elements of those of these plain sets that a table has."""
        named = _INET + wire.string(1, table)
        sets = self._asking.dump(_GET_SET, named, f"list sets of {table}")
        found = {}
        for name in (n for n, _ in (readback.set_(body) for _, body in sets) if n in names):
            body = named + wire.string(2, name)
            listed = self._asking.dump(_GET_ELEMENTS, body, f"list elements of {name}")
            found[name] = readback.elements((data for _, data in listed), interval=False)
        return found

    def read(self, table: str) -> Actual:
        """Everything that is in a table; nothing if there is no such table."""
        actual = Actual()
        if table not in self.tables():
            return actual
        named = _INET + wire.string(1, table)
        for _, body in self._asking.dump(_GET_CHAIN, _INET, "list chains"):
            owner, name, kind = readback.chain(body)
            if owner == table:
                actual.chains[name] = kind
        found = self._asking.dump(_GET_SET, named, f"list sets of {table}")
        actual.sets = dict(readback.set_(body) for _, body in found)
        for name, one in actual.sets.items():
            if one.dynamic:
                continue
            body = named + wire.string(2, name)
            listed = self._asking.dump(_GET_ELEMENTS, body, f"list elements of {name}")
            bodies = (data for _, data in listed)
            actual.elements[name] = readback.elements(bodies, interval=one.interval)
        actual.rules = self.rules(table)
        return actual

    def _make_room(self, size: int) -> None:
        """A batch is one datagram: the send buffer must hold it."""
        if size > self._buffer:
            wanted = size * 2
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, wanted)
            except PermissionError:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, wanted)
            self._buffer = size
            self._room = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - 4096

    def _check(self, change: Transaction) -> None:
        """The kernel has worked through the batch when send returns; what failed is queued."""
        failed: tuple[int, int] | None = None
        while True:
            try:
                answer = self._socket.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    continue
                raise
            for sequence, number in _errors(answer):
                if failed is None and number:
                    failed = sequence, number
        if failed:
            sequence, number = failed
            what = (
                change.messages[sequence - 1][1]
                if 0 < sequence <= len(change.messages)
                else "the batch"
            )
            raise NftablesError(number, f"{what}: {os.strerror(number)}")


def _batch(kind: int, sequence: int) -> bytes:
    return struct.pack("=IHHIIBBH", 20, kind, 1, sequence, 0, 0, 0, socket.htons(_NFTABLES))


def _errors(data: bytes) -> list[tuple[int, int]]:
    """(sequence, errno) of every error message of a datagram."""
    found, offset = [], 0
    while offset + 16 <= len(data):
        length, kind, _, sequence, _ = struct.unpack_from("=IHHII", data, offset)
        if kind == _ERROR:
            found.append((sequence, -struct.unpack_from("=i", data, offset + 16)[0]))
        offset += (length + 3) & ~3
    return found
