"""Accounts over time, and what a client sees of them."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kubewire.dns.config import Environment, build
from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugins.rrl import Accounts
from kubewire.lang.dns.message import TC, parse

Serve = Any
Bytes = Callable[..., bytes]

HOSTS = "hosts {\n 10.0.0.7 web.example.org\n 10.0.0.8 api.example.org\n }"


def corefile(*options: str) -> str:
    lines = "\n".join(options)
    return f"example.org:0 {{\n rrl {{\n {lines}\n }}\n {HOSTS}\n}}"


def test_an_account_is_charged_credited_and_bounded() -> None:
    accounts = Accounts(10, window=2.0)
    assert [accounts.charge("a", 2, now=0.0) >= 0 for _ in range(4)] == [True, True, False, False]
    assert accounts.charge("b", 2, now=0.0) >= 0
    for _ in range(100):
        accounts.charge("a", 2, now=0.0)
    assert accounts.charge("a", 2, now=2.0) < 0
    assert accounts.charge("a", 2, now=4.0) >= 0


def test_the_longest_rested_account_makes_room() -> None:
    accounts = Accounts(2, window=9.0)
    for key in ("a", "a", "b", "c"):
        accounts.charge(key, 1, now=0.0)
    assert accounts.charge("a", 1, now=0.0) == 0


async def test_too_many_answers_are_dropped(serve: Serve, ask_bytes: Bytes) -> None:
    async with serve(corefile("responses-per-second 2"), []) as dns:
        for _ in range(2):
            assert (await dns.ask("web.example.org.")).answer
        silent = asyncio.ensure_future(dns.raw(ask_bytes("web.example.org.")))
        # Another name has an account of its own, and TCP has none at all.
        assert (await dns.ask("api.example.org.")).answer
        assert not silent.done()
        silent.cancel()
        [found] = await dns.tcp(ask_bytes("web.example.org."))
        assert found.answer


async def test_slip(serve: Serve, ask_bytes: Bytes) -> None:
    async with serve(corefile("responses-per-second 1", "slip-ratio 1"), []) as dns:
        found = [parse(await dns.raw(ask_bytes("web.example.org."))) for _ in range(3)]
        assert [bool(m.flags & TC) for m in found] == [False, True, True]
        assert not found[1].answer


async def test_report_only(serve: Serve) -> None:
    async with serve(corefile("responses-per-second 1", "report-only"), []) as dns:
        for _ in range(5):
            assert (await dns.ask("web.example.org.")).answer


async def test_requests_are_limited_whatever_they_ask(serve: Serve, ask_bytes: Bytes) -> None:
    async with serve(corefile("requests-per-second 1"), []) as dns:
        assert (await dns.ask("web.example.org.")).answer
        silent = asyncio.ensure_future(dns.raw(ask_bytes("api.example.org.")))
        [found] = await dns.tcp(ask_bytes("api.example.org."))
        assert found.answer
        assert not silent.done()
        silent.cancel()


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("speed 1", "unknown property 'speed'"),
        ("window x", "window invalid value"),
        ("ipv4-prefix-length 33", "must be between 0 and 32"),
        ("responses-per-second -1", "cannot be negative"),
        ("slip-ratio 11", "must be between 0 and 10"),
        ("report-only 1", "Wrong argument count"),
    ],
)
def test_what_is_refused(option: str, why: str) -> None:
    with pytest.raises(CorefileError, match=why):
        build(corefile(option), "Corefile", Environment(objects=[]))
