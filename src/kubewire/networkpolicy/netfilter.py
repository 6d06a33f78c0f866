"""The nftables back end: programs in the kernel of the namespace that it was made in.

A whole program is loaded into a table of its own, which has no hook yet, in as many transactions as
the socket's buffer asks for (an ordinary user cannot enlarge it); the last one adds the hook and
deletes the table of before, so packets meet the old rules or the new ones. Changes are one
transaction.
"""

import asyncio
import contextlib
import logging
import socket
import struct
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

from kubewire.kernel.conntrack import Conntrack, Entry
from kubewire.kernel.netlink import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    NetlinkError,
    NetlinkSocket,
    attributes,
    text,
)
from kubewire.kernel.netns import Netns
from kubewire.kernel.nfnetlink import Nfnetlink, NftablesError
from kubewire.lang.nftables import wire
from kubewire.lang.nftables.model import (
    COMMENT_BYTES,
    NEWRULE,
    Chain,
    Data,
    Set,
    Table,
    Transaction,
    difference,
)
from kubewire.networkpolicy.droplog import Drop, DropLog
from kubewire.networkpolicy.model import Address
from kubewire.networkpolicy.nftables import BASE, PROTOCOLS, Compiler
from kubewire.networkpolicy.program import Program

PREFIX = "kubewire-policy"
log = logging.getLogger(__name__)
_NETFILTER = 12
_SUBSYSTEM = 10 << 8
_GET_TABLE, _GET_RULE = 1, 7
_INET = struct.pack(">BBH", 1, 0, 0)
_SO_SNDBUFFORCE = 32
_ROOM = 8 << 20
_NAMES = {number: name for name, number in PROTOCOLS.items() if not name.startswith("ICMP")}

Requests = list[tuple[bytes, str]]
"""(message without a sequence number, what it is about)."""


class Netfilter(NetlinkSocket):
    """An Enforcer that speaks nf_tables."""

    def __init__(self, netns: Netns | None = None) -> None:
        super().__init__(_NETFILTER, netns)
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _ROOM)
        except PermissionError:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)
        self._room = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - 4096
        self._netns = netns
        self._kernel = Nfnetlink(netns)
        self._compiler: Compiler | None = None
        self._table: Table | None = None

    def close(self) -> None:
        """Close the sockets; the rules stay."""
        self._kernel.close()
        super().close()

    async def apply(self, old: Program | None, new: Program) -> None:
        """One transaction from ``old`` to ``new``; None: whatever there is, is replaced."""
        if old is None:
            await asyncio.to_thread(self.replace, new)
        else:
            self.change(new)

    async def clear(self) -> None:
        """Remove every table of ours."""
        try:
            tables = self.tables()
        except NetlinkError:
            # A kernel without nf_tables holds none, and none is needed before the first policy.
            tables = []
        self.send(_deletions(tables))
        self._table = self._compiler = None

    async def cut(self, denied: Callable[[Address, Address, str, int], bool]) -> int:
        """Forget established flows that are denied: their next packet is judged as a new one."""

        def unwanted(entry: Entry) -> bool:
            target, port = entry.translated_to
            protocol = _NAMES.get(entry.original.protocol)
            return protocol is not None and denied(entry.original.source, target, protocol, port)

        with Conntrack(self._netns) as table:
            return table.delete_where(unwanted)

    async def drops(self) -> AsyncGenerator[Drop, None]:
        """Packets that rules have denied, from now on."""
        try:
            source = DropLog(self._netns)
        except OSError as error:
            # A kernel without NFLOG enforces all the same; EBUSY: another agent reads the group.
            log.warning("denied packets are not logged: %s", error)
            return
        with source:
            async for drop in source.drops():
                yield drop

    def change(self, program: Program) -> None:
        """Send the difference to what was loaded; too much for one transaction is a whole load."""
        if self._compiler is None or self._table is None:
            self.replace(program)
            return
        table = self._compiler.table(program)
        messages = difference(*_apart(self._table, table)).messages
        if sum(len(m) for m, _ in messages) > self._room:
            self.replace(program)
        else:
            self.send(messages)
            self._table = table

    def replace(self, program: Program) -> None:
        """Load a program beside what there is, then switch."""
        before = self.tables()
        names = (f"{PREFIX}-{n}" for n in range(len(before) + 1))
        compiler = Compiler(next(n for n in names if n not in before))
        table = compiler.table(program)
        try:
            for part in self._parts(_load(table)):
                self.send(part)
            self.send([*_hook(table), *_deletions(before)])
        except NftablesError:
            with contextlib.suppress(NftablesError):
                self.send(_deletions([table.name]))
            raise
        self._compiler, self._table = compiler, table

    def tables(self) -> list[str]:
        """Names of our tables."""
        found = []
        for _, body in self.dump(_SUBSYSTEM | _GET_TABLE, _INET, "list tables"):
            name = dict(attributes(body, 4)).get(1, b"").rstrip(b"\0").decode()
            if name.startswith(PREFIX):
                found.append(name)
        return found

    def counters(self) -> Counter[str]:
        """Packets that the rules decided, by the text of their label."""
        found: Counter[str] = Counter()
        for table in self.tables():
            for _, body in self.dump(_SUBSYSTEM | _GET_RULE, _INET + text(1, table), "list rules"):
                fields = dict(attributes(body, 4))
                packets = _packets(fields.get(4, b""))
                if packets is not None and (label := _comment(fields.get(7, b""))):
                    found[label] += packets
        return found

    def _parts(self, messages: Requests) -> Iterator[Requests]:
        part: Requests = []
        size = 0
        for message, what in messages:
            if part and size + len(message) > self._room:
                yield part
                part, size = [], 0
            part.append((message, what))
            size += len(message)
        if part:
            yield part

    def send(self, requests: Requests) -> None:
        """One transaction."""
        change = Transaction("inet")
        change.messages += requests
        self._kernel.commit(change)


def _apart(old: Table, new: Table) -> tuple[Table, Table]:
    """Both tables without what is the same in both: nearly everything."""
    before, after = dict(old.sets), dict(new.sets)
    for name, found in new.sets.items():
        known = old.sets.get(name)
        if known is found:
            del before[name], after[name]
        elif known is not None:
            before[name], after[name] = _elements_apart(known, found)
    chains = ({}, {}) if old.chains is new.chains else (old.chains, new.chains)
    return Table(old.name, "inet", before, chains[0]), Table(new.name, "inet", after, chains[1])


def _elements_apart(old: Set, new: Set) -> tuple[Set, Set]:
    """Both sets without the elements that both have; verdicts are the same if identical."""
    gone: dict[bytes, Data] = dict(_missing(old, new))
    come: dict[bytes, Data] = dict(_missing(new, old))
    return replace(old, elements=gone), replace(new, elements=come)


def _missing(here: Set, there: Set) -> Iterator[tuple[bytes, Data]]:
    other = there.elements
    if here.verdicts:
        return ((k, v) for k, v in here.elements.items() if other.get(k) is not v)
    return ((k, here.elements[k]) for k in here.elements.keys() - other.keys())


def _load(table: Table) -> Requests:
    """Everything but the hook: nothing of it acts yet."""
    change = Transaction("inet")
    change.add_table(table.name)
    chains = [c for c in table.chains.values() if not c.hook]
    for chain in chains:
        change.add_chain(table.name, chain)
    for one in table.sets.values():
        change.add_set(table.name, one)
        change.add_elements(table.name, one, one.elements)
    for chain in chains:
        _add_rules(change, table.name, chain)
    return change.messages


def _add_rules(change: Transaction, table: str, chain: Chain) -> None:
    """What ``Transaction.add_rules`` does, with each distinct expression encoded once."""
    head = wire.string(1, table) + wire.string(2, chain.name)
    for rule in chain.rules:
        expressions = b"".join(map(_encoded, rule.expressions))
        comment = rule.reason.encode()[:COMMENT_BYTES] + b"\0"
        body = head + wire.nest(4, expressions) + wire.attr(7, bytes((0, len(comment))) + comment)
        change.add(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, body, f"rule of chain {chain.name}")


@lru_cache(maxsize=65536)
def _encoded(expression: Any) -> bytes:
    encoded: bytes = expression.encode()
    return encoded


def _hook(table: Table) -> Requests:
    """The base chains: from here on the program decides."""
    return difference(_without_hook(table), table).messages


def _without_hook(table: Table) -> Table:
    chains = {n: c for n, c in table.chains.items() if n not in BASE}
    return Table(table.name, table.family, table.sets, chains)


def _deletions(names: list[str]) -> Requests:
    change = Transaction("inet")
    for name in names:
        change.delete_table(name)
    return change.messages


def _comment(data: bytes) -> str:
    if len(data) > 2 and data[0] == 0:
        return data[2 : 2 + data[1]].rstrip(b"\0").decode(errors="replace")
    return ""


def _packets(expressions: bytes) -> int | None:
    for _, expression in attributes(expressions):
        fields = dict(attributes(expression))
        if fields.get(1, b"").rstrip(b"\0") == b"counter":
            values = dict(attributes(fields.get(2, b"")))
            return int(struct.unpack(">Q", values[2])[0])
    return None
