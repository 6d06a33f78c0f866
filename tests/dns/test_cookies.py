"""Server cookies: the RFC's own figures, then both ways of serving UDP."""

import asyncio
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kubewire.dns import native
from kubewire.dns.config import Environment, build
from kubewire.dns.cookies import FRESH, OLD, Cookies
from kubewire.dns.corefile import CorefileError
from kubewire.dns.options import put_on, take_off
from kubewire.lang.dns.message import Edns, Message, parse

SECRET = "e5e973e5a6b2a43f48e7dc849e37bfcf"
MINE = bytes.fromhex("2464c4abcf10c957")
MADE = 1559731985
WHOLE = bytes.fromhex("2464c4abcf10c957010000005cf79f111f8130c3eee29480")
CLIENT = "198.51.100.100"
COREFILE = ".:0 {\n cookies\n kubernetes cluster.local\n}"
NAME = "web.default.svc.cluster.local."
OBJECTS: list[dict[str, Any]] = [
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.7"},
    }
]


@pytest.fixture(params=["compiled", "python"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each way of serving UDP."""
    if request.param == "compiled" and native.library() is None:
        pytest.skip("no compiler built the fast path")
    if request.param == "python":
        monkeypatch.setattr(native, "library", lambda: None)
    yield request.param


@pytest.mark.parametrize(
    ("cookie", "after", "changed"),
    [
        (MINE, 0, False),
        (WHOLE, FRESH, False),
        (WHOLE, FRESH + 1, True),
        (WHOLE, OLD + 1, True),
        (WHOLE, -301, True),
        (WHOLE[:-1] + b"!", 1, True),
        (MINE + bytes(8), 1, True),
    ],
)
def test_rfc_9018(cookie: bytes, after: int, changed: bool) -> None:
    cookies = Cookies((bytes.fromhex(SECRET),))
    found = cookies.complete(cookie, CLIENT, MADE + after)
    assert (found != WHOLE) == changed
    assert found[:12] == WHOLE[:12]
    assert cookies.age(found, CLIENT, MADE + after) is not None
    assert cookies.age(found, "198.51.100.101", MADE + after) is None


def test_a_second_secret_is_known() -> None:
    cookies = Cookies((bytes(16), bytes.fromhex(SECRET)))
    assert cookies.complete(WHOLE, CLIENT, MADE) == WHOLE


@pytest.mark.parametrize("words", ["xy", "00", " ".join([SECRET] * 5), "{\n x\n}"])
def test_bad_directives(words: str) -> None:
    with pytest.raises(CorefileError, match="plugin/cookies"):
        build(f". {{\n cookies {words}\n whoami\n}}", "Corefile", Environment(objects=[]))


def test_options_come_off_and_go_on(ask_bytes: Callable[..., bytes]) -> None:
    for options in [((10, MINE),), ((12, bytes(30)), (11, b""), (9, b""))]:
        asked = take_off(ask_bytes(NAME, edns=Edns(1232, options=options)))
        assert asked is not None
        assert asked.options == options
        assert asked.key == ask_bytes(NAME, edns=Edns(1232))[2:]
        whole = put_on(b"id" + asked.key, options)
        assert whole is not None and parse(whole).edns == Edns(1232, options=options)
    for data in [
        ask_bytes(NAME), ask_bytes(NAME, edns=Edns()), b"",
        ask_bytes(NAME, edns=Edns(options=((8, b"\0\1\0\0"),))),
        ask_bytes(NAME, edns=Edns(options=((10, MINE),)))[:-1],
        ask_bytes(NAME, edns=Edns(options=((9, b"1234"),))),
        ask_bytes(NAME, edns=Edns(options=((11, b"\0\7"),))),
    ]:  # fmt: skip
        assert take_off(data) is None
    assert put_on(ask_bytes(NAME, edns=Edns(512)), ((12, bytes(500)),)) is None


def _cookie(message: Message) -> bytes:
    assert message.edns is not None
    [(code, value)] = message.edns.options
    assert code == 10
    return value


async def test_answers_are_signed_asked_once_or_often(serve: Any) -> None:
    async with serve(COREFILE, OBJECTS) as dns:
        seen = set()
        for _ in range(3):
            mine = os.urandom(8)
            found = await dns.ask(NAME, edns=Edns(options=((10, mine),)))
            assert found.answer
            whole = _cookie(found)
            assert (whole[:8], whole[8:12], len(whole)) == (mine, b"\1\0\0\0", 24)
            again = await dns.ask(NAME, edns=Edns(options=((10, whole),)))
            assert _cookie(again) == whole
            forged = whole[:-1] + bytes([whole[-1] ^ 1])
            assert _cookie(await dns.ask(NAME, edns=Edns(options=((10, forged),)))) != forged
            seen.add(whole)
        table = dns.server.configuration.blocks[0].dispatcher.tables["udp"]
        assert len(table.entries) == 1
        assert sum(table.hits().values()) == 8
        [cookies] = [d.cookies for d in dns.server.configuration.dispatchers]
        for whole in seen:
            made = struct.unpack("!I", whole[12:16])[0]
            assert cookies.complete(whole, "127.0.0.1", made) == whole


@pytest.mark.parametrize("length", [0, 7, 9, 15, 41])
async def test_malformed_cookies(serve: Any, length: int) -> None:
    async with serve(COREFILE, OBJECTS) as dns:
        for _ in range(2):
            assert (await dns.ask(NAME, edns=Edns(options=((10, bytes(length)),)))).rcode == 1


async def test_without_the_plugin_options_come_back(serve: Any) -> None:
    """Plain ones from the kept answer, too; others still reach the chain."""
    async with serve(COREFILE.replace("cookies", "errors"), OBJECTS) as dns:
        for options in [((10, bytes(5)), (12, bytes(9))), ((3, b""),), ((65001, b"x"),)] * 2:
            found = await dns.ask(NAME, edns=Edns(1232, options=options))
            kept = tuple(o for o in options if o[0] != 65001)
            assert found.answer
            assert found.edns is not None and found.edns.options == kept
        table = dns.server.configuration.blocks[0].dispatcher.tables["udp"]
        assert sum(table.hits().values()) == 1


async def test_no_answer_outgrows_its_client(serve: Any) -> None:
    async with serve(COREFILE, OBJECTS) as dns:
        for size in (100, 430, 450, 500):
            edns = Edns(512, options=((12, bytes(size)),))
            for found in await asyncio.gather(*(dns.ask(NAME, edns=edns) for _ in range(3))):
                assert found.edns is not None
                assert not found.answer or size < 450
