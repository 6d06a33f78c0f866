"""The compiled table and its thread against a dictionary; both ways of serving UDP against each other."""

import asyncio
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kubewire.dns import native
from kubewire.dns.table import Entry, Labels, Table
from kubewire.lang.dns.message import parse
from kubewire.lang.dns.record import soa_numbers

IP_PKTINFO, UDP_GRO = 8, 104
Serve = Any
Bytes = Callable[..., bytes]

NO_COMPILER = "this machine has no C compiler (cc), so there is no library"
compiled = pytest.mark.skipif(native.library() is None, reason=NO_COMPILER)
OBJECTS: list[dict[str, Any]] = [
    {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"}, "spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80}]}},
    {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "big", "namespace": "default"}, "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}},
    {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "metadata": {"name": "big-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "big"}}, "endpoints": [{"addresses": [f"10.244.0.{i}"]} for i in range(1, 4)], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
]  # fmt: skip
COREFILE = ".:0 {\n prometheus localhost:0\n loadbalance\n kubernetes cluster.local\n}"
NAME = "web.default.svc.cluster.local."
BIG = "big.default.svc.cluster.local."


@pytest.fixture(params=["compiled", "python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each way of serving UDP; the compiled one only where there is one."""
    if request.param == "compiled" and native.library() is None:
        pytest.skip(NO_COMPILER)
    if request.param == "python":
        monkeypatch.setattr(native, "library", lambda: None)
    yield request.param


class Thread:
    """The library's thread on a socket, and a client of it."""

    def __init__(self, table: native.NativeTable, *, anywhere: bool = False) -> None:
        lib = native.library()
        assert lib is not None
        self._lib = lib
        self.server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        if anywhere:
            self.server.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        self.server.bind(("127.0.0.1", 0))
        self.event = os.eventfd(0)
        self._loop = lib.kw_loop_start(
            self.server.fileno(), self.event, table.handle, 16, 28 * anywhere
        )
        self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.client.connect(self.server.getsockname())
        self.client.settimeout(5)

    def ask(self, *messages: bytes) -> list[bytes]:
        for message in messages:
            self.client.send(message)
        return [self.client.recv(4096) for _ in messages]

    def aside(self) -> bytes:
        os.eventfd_read(self.event)
        buffer = bytearray(1 << 18)
        import ctypes

        size = self._lib.kw_loop_take(self._loop, (ctypes.c_char * len(buffer)).from_buffer(buffer))
        return bytes(buffer[:size])

    def close(self) -> None:
        self._lib.kw_loop_stop(self._loop)
        self.server.close()
        self.client.close()
        os.close(self.event)


@pytest.fixture
def table() -> native.NativeTable:
    lib = native.library()
    assert lib is not None
    return native.NativeTable(lib)


def _entry(*answers: bytes, until: float = 1e18, deps: Any = ()) -> Entry:
    return Entry(answers, until, deps, Labels(("zone",), 0, len(answers)))


@compiled
@pytest.mark.parametrize("seed", range(3))
def test_the_table_is_a_dictionary(table: native.NativeTable, seed: int) -> None:
    """Puts, replacements and removals in any order, through several growths, then every key."""
    chance = random.Random(seed)
    keys = [struct.pack("!HI", i % 7, i) + bytes(20 + i % 9) for i in range(4000)]
    known: dict[bytes, bytes] = {}
    for _ in range(12_000):
        key = chance.choice(keys)
        if key in known and chance.random() < 0.6:
            table.drop([key])
            del known[key]
        else:
            known[key] = b"id" + chance.randbytes(30)
            table.put(key, _entry(known[key], deps=(key,)))
    thread = Thread(table)
    try:
        for key, answer in known.items():
            assert thread.ask(b"ab" + key) == [b"ab" + answer[2:]]
        assert sum(table.hits().values()) == len(known)
        absent = [k for k in keys if k not in known]
        thread.client.send(b"cd" + absent[0])
        assert thread.aside().endswith(b"cd" + absent[0])
    finally:
        thread.close()


@compiled
def test_what_is_too_old_or_too_short_is_not_replayed(table: native.NativeTable) -> None:
    key = bytes(20)
    table.put(key, _entry(b"id" + bytes(20), until=0.0))
    thread = Thread(table)
    try:
        thread.client.send(b"x" * 11)
        thread.client.send(b"ab" + key)
        # The short one came first and left no trace.
        assert thread.aside()[4 + 28 + 40 :] == b"ab" + key
    finally:
        thread.close()


@compiled
def test_answers_take_turns(table: native.NativeTable) -> None:
    answers = [b"id" + bytes([i]) * 12 for i in range(3)]
    table.put(b"k" * 12, _entry(*answers))
    thread = Thread(table)
    try:
        found = thread.ask(*[b"zz" + b"k" * 12] * 6)
        assert sorted(f[2:] for f in found) == sorted([a[2:] for a in answers] * 2)
    finally:
        thread.close()


@compiled
@pytest.mark.parametrize("anywhere", [False, True])
def test_answers_of_one_size_leave_together(table: native.NativeTable, anywhere: bool) -> None:
    """A client that takes whole packets (UDP_GRO) sees them before the kernel cuts them up."""
    key, answer = bytes(20), b"id" + bytes(28)
    table.put(key, _entry(answer))
    thread = Thread(table, anywhere=anywhere)
    try:
        thread.client.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        largest = 0
        for _ in range(50):
            for _ in range(8):
                thread.client.send(b"ab" + key)
            size = 0
            while size < 8 * 30:
                size += (got := len(thread.client.recv(4096)))
                largest = max(largest, got)
            if largest > 30:
                break
        assert largest > 30
    finally:
        thread.close()


@compiled
def test_a_lonely_answer_leaves_behind_larger_ones(table: native.NativeTable) -> None:
    """A packet holds pieces of one size and a last one that may be shorter."""
    sizes = (26, 40, 40)
    keys = [struct.pack("!3I", 1, 2, i) for i in range(len(sizes))]
    for i, (key, size) in enumerate(zip(keys, sizes, strict=True)):
        table.put(key, _entry(struct.pack("!HI", 0, i) + bytes(size - 6)))
    thread = Thread(table)
    try:
        thread.client.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        got = b""
        for _ in range(500):
            for key in keys:
                thread.client.send(b"ab" + key)
            left = sum(sizes)
            while left:
                left -= len(got := thread.client.recv(4096))
            if len(got) == sum(sizes):
                break
        assert [got[i : i + 6] for i in (0, 40, 80)] == [
            b"ab" + struct.pack("!I", i) for i in (1, 2, 0)
        ]
    finally:
        thread.close()


@compiled
def test_many_answers_to_a_client_arrive_one_by_one(table: native.NativeTable) -> None:
    """Answers of one size leave together; each is a message of its own when it arrives."""
    sizes = (20, 20, 20, 33, 500, 1200, 1201, 2000)
    for i, size in enumerate(sizes * 25):
        table.put(struct.pack("!3I", 1, 2, i), _entry(struct.pack("!HI", 0, i) + bytes(size - 6)))
    thread = Thread(table)
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    other.connect(thread.server.getsockname())
    other.settimeout(5)
    try:
        asked = [struct.pack("!H3I", i, 1, 2, i) for i in range(len(sizes) * 25)]
        other.send(asked[7])
        # No more at once than the client's own buffer holds.
        found = [f for at in range(0, 200, 50) for f in thread.ask(*asked[at : at + 50])]
        assert other.recv(4096)[:6] == struct.pack("!HI", 7, 7)
        assert sorted(struct.unpack("!HI", f[:6]) for f in found) == [(i, i) for i in range(200)]
        assert sorted(map(len, found)) == sorted(sizes * 25)
    finally:
        other.close()
        thread.close()


def test_a_library_of_another_version_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if native.library() is None:
        pytest.skip(NO_COMPILER)
    monkeypatch.setattr(native, "VERSION", 99)
    native.library.cache_clear()
    try:
        assert native.library() is None
        assert "another version" in caplog.text
    finally:
        native.library.cache_clear()


@pytest.mark.parametrize("how", ["switched off", "not built"])
def test_without_the_library_everything_is_python(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    if how == "switched off":
        monkeypatch.setenv("KUBEWIRE_DNS_NATIVE", "0")
    else:
        monkeypatch.setattr(native, "LIBRARY", tmp_path / "none.so")
    native.library.cache_clear()
    try:
        assert type(native.new_table()) is Table
    finally:
        native.library.cache_clear()


@compiled
async def test_one_entry_answers_for_all_below_what_is_not_there(
    serve: Serve, ask_bytes: Bytes
) -> None:
    async with serve(COREFILE, OBJECTS) as dns:
        table = dns.server.configuration.blocks[0].dispatcher.tables["udp"]
        first = await dns.raw(ask_bytes("www.one.com.default.svc.cluster.local."))
        kept = list(table.entries)
        assert len(kept) == 1
        for name in (
            "abc.two.com.default.svc.cluster.local.",
            "A-1-two.COM.Default.svc.Cluster.LOCAL.",
        ):
            asked = ask_bytes(name, id=7)
            again = await dns.raw(asked)
            assert again == asked[:2] + first[2:12] + asked[12:] + first[len(asked) :]
            assert parse(again).authority[0].name == name[-14:]
        assert list(table.entries) == kept
        assert sum(table.hits().values()) == 3
        # Another length, type or header has an entry of its own; what exists is no part of it.
        for name in ("w.one.com.default.svc.cluster.local.", "one.big.default.svc.cluster.local."):
            assert (await dns.ask(name)).rcode == 3
        assert (await dns.ask("www.one.com.default.svc.cluster.local.", "AAAA")).rcode == 3
        assert len(table.entries) == 4
        assert (await dns.ask(NAME)).answer
        [kubernetes] = [p for p in dns.server.configuration.plugins if p.name == "kubernetes"]
        web = kubernetes.cluster.services["default", "web"]
        new = msgspec.structs.replace(
            web, metadata=msgspec.structs.replace(web.metadata, name="com")
        )
        kubernetes.changed(kubernetes.cluster.apply(None, new, 2.0))
        assert kept[0] not in table.entries
        assert (await dns.ask("com.default.svc.cluster.local.")).answer
        again = parse(await dns.raw(ask_bytes("www.one.com.default.svc.cluster.local.")))
        assert again.rcode == 3
        assert soa_numbers(again.authority[0])[0] == 2


# Both ways


async def test_hits_are_counted(serve: Serve, way: str) -> None:
    async with serve(COREFILE, OBJECTS) as dns:
        for _ in range(5):
            assert (await dns.ask(NAME)).answer
        assert (await dns.ask("no.default.svc.cluster.local.")).rcode == 3
        page = dns.server.configuration.plugins[0]._page()[2].decode()
        asked = [x for x in page.splitlines() if x.startswith("coredns_dns_requests_total")]
        assert sum(int(x.split()[-1]) for x in asked) == 6
        assert 'rcode="NXDOMAIN"' in page


async def test_a_change_drops_its_names_only(serve: Serve, way: str) -> None:
    async with serve(COREFILE, OBJECTS) as dns:
        for name in (NAME, BIG):
            for _ in range(2):
                assert (await dns.ask(name)).answer
        table = dns.server.configuration.blocks[0].dispatcher.tables["udp"]
        before = set(table.entries)
        [kubernetes] = [p for p in dns.server.configuration.plugins if p.name == "kubernetes"]
        old = kubernetes.cluster.services["default", "web"]
        kubernetes.changed(kubernetes.cluster.apply(old, None, 2.0))
        gone = before - set(table.entries)
        assert len(before) == 2
        assert len(gone) == 1
        assert (await dns.ask(NAME)).rcode == 3
        assert (await dns.ask(BIG)).answer


async def test_a_change_reaches_every_listener(serve: Serve, ask_bytes: Bytes, way: str) -> None:
    text = COREFILE.replace("loadbalance", "bind 127.0.0.1 127.0.0.2")
    async with serve(text, OBJECTS) as dns:
        for host in ("127.0.0.1", "127.0.0.2"):
            for _ in range(2):
                assert parse(await dns.raw(ask_bytes(NAME), host)).answer
        [kubernetes] = [p for p in dns.server.configuration.plugins if p.name == "kubernetes"]
        old = kubernetes.cluster.services["default", "web"]
        kubernetes.changed(kubernetes.cluster.apply(old, None, 2.0))
        for host in ("127.0.0.1", "127.0.0.2"):
            assert parse(await dns.raw(ask_bytes(NAME), host)).rcode == 3
        page = dns.server.configuration.plugins[1]._page()[2].decode()
        for host in ("127.0.0.1", "127.0.0.2"):
            assert f'server="dns://{host}:' in page


async def test_addresses_take_turns(serve: Serve, way: str) -> None:
    async with serve(COREFILE, OBJECTS) as dns:
        firsts = {(await dns.ask(BIG)).answer[0].rdata for _ in range(12)}
        assert len(firsts) == 3


async def test_more_at_once_than_a_batch(serve: Serve, ask_bytes: Bytes, way: str) -> None:
    async with serve(COREFILE, OBJECTS) as dns:
        names = [f"x{i}.default.svc.cluster.local." for i in range(300)]
        for _ in range(2):
            found = await asyncio.gather(*(dns.ask(n, id=i) for i, n in enumerate(names)))
            assert [m.id for m in found] == list(range(300))
            assert [m.question.name for m in found] == names


async def test_another_number_of_sockets_after_a_reload(serve: Serve, way: str) -> None:
    async with serve(COREFILE, OBJECTS) as dns:
        for number in (3, 1):
            text = COREFILE.replace("loadbalance", f"multisocket {number}")
            await dns.server.load(dns.build(text))
            [endpoint] = dns.server._endpoints.values()
            assert len(endpoint.udp) == number
            found = await asyncio.gather(*(dns.ask(NAME, id=i) for i in range(40)))
            assert all(m.answer for m in found)
