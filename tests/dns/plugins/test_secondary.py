"""secondary: catalogs as a table, and zones that follow their primary."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from kubewire.dns.plugins.secondary.catalog import (
    CatalogError,
    Change,
    Member,
    Owned,
    changes,
    parse,
)
from kubewire.dns.zonefile import parse as zone
from kubewire.lang.dns import codes

HEAD = "@ 60 IN SOA ns h {serial} 60 60 3600 60\n@ 60 IN NS invalid.\n"
VERSION = 'version 60 IN TXT "2"\n'


def members(text: str) -> dict[str, Member]:
    return parse("cat.test.", zone(HEAD.format(serial=1) + text, "cat.test.").records())


def test_members() -> None:
    found = members(
        VERSION
        + "a.zones 60 IN PTR One.test.\n"
        + "b.zones 60 IN PTR two.test.\ncoo.b.zones 60 IN PTR other.test.\n"
        + 'group.a.zones 60 IN TXT "x"\next.a.zones 60 IN PTR elsewhere.test.\n'
    )
    assert found == {
        "one.test.": Member("a", "one.test."),
        "two.test.": Member("b", "two.test.", "other.test."),
    }


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "catalog zone cat.test. must have exactly one version TXT record"),
        ('version 60 IN TXT "1"', 'catalog zone cat.test. has unsupported version "1"'),
        (VERSION + "a.zones 60 IN PTR x.\na.zones 60 IN PTR y.\n", "catalog member a.zones.cat.test. must have exactly one PTR record"),
        (VERSION + "a.zones 60 IN PTR x.\nb.zones 60 IN PTR x.\n", "catalog member zone x. is listed by both a and b"),
        (VERSION + "a.zones 60 IN PTR x.\ncoo.a.zones 60 IN PTR x.\ncoo.a.zones 60 IN PTR y.\n", "catalog member a has more than one coo PTR record"),
    ],
)  # fmt: skip
def test_what_is_no_catalog(text: str, why: str) -> None:
    with pytest.raises(CatalogError) as caught:
        members(text)
    assert str(caught.value) == why


A, B = {"x.": Member("1", "x.")}, {"x.": Member("1", "x.")}
HANDED = {"x.": Member("1", "x.", "b.")}
RENAMED = {"x.": Member("2", "x.")}
ROWS: list[tuple[str, Any, Any, Any, Any]] = [
    # of which catalog, catalogs, owned, allowed -> come, gone, refused
    ("a.", {"a.": A}, {}, [], ([Change("x.", Owned("a.", "1"))], [], [])),
    ("a.", {"a.": A}, {"x.": Owned("a.", "1")}, [], ([], [], [])),
    ("a.", {"a.": {}}, {"x.": Owned("a.", "1")}, [], ([], ["x."], [])),
    ("a.", {"a.": A}, {}, ["y."], ([], [], ["x."])),
    ("a.", {"a.": A}, {"x.": Owned("a.", "1")}, ["y."], ([], ["x."], ["x."])),
    ("a.", {"a.": RENAMED}, {"x.": Owned("a.", "1")}, [], ([Change("x.", Owned("a.", "2"))], [], [])),
    ("b.", {"a.": A, "b.": B}, {"x.": Owned("a.", "1")}, [], ([], [], ["x."])),
    ("b.", {"a.": HANDED, "b.": B}, {"x.": Owned("a.", "1")}, [], ([Change("x.", Owned("b.", "1"), keep=True)], [], [])),
    ("b.", {"a.": HANDED, "b.": RENAMED}, {"x.": Owned("a.", "1")}, [], ([Change("x.", Owned("b.", "2"))], [], [])),
    ("a.", {"a.": {"own.": Member("1", "own.")}}, {}, [], ([], [], ["own."])),
]  # fmt: skip


@pytest.mark.parametrize(("origin", "catalogs", "owned", "allowed", "expected"), ROWS)
def test_what_a_catalog_asks_for(
    origin: str, catalogs: Any, owned: Any, allowed: list[str], expected: Any
) -> None:
    assert changes(origin, catalogs, owned, ["own."], allowed) == expected


PRIMARY = """.:1053 {
    root FOLDER
    file cat.test cat.test
    file one.test one.test
    file two.test two.test
    transfer {
        to * 127.0.0.1:1054
    }
}
"""
SECONDARY = """.:1054 {
    secondary cat.test {
        transfer from 127.0.0.1:1053
        catalog
    }
}
"""


def write(folder: Path, origin: str, serial: int, text: str) -> None:
    (folder / origin).write_text(HEAD.format(serial=serial) + text)


async def until(dns: Any, name: str, expected: str) -> None:
    """Ask until the answer is the expected one; the time limit of the test ends it."""
    found = ""
    while found != expected:
        answer = await dns.ask(name)
        addresses = [".".join(map(str, r.rdata[0])) for r in answer.answer]
        found = " ".join([codes.rcode_name(answer.rcode), *addresses])


@pytest.mark.kernel
async def test_a_catalog_is_followed(serve: Any, tmp_path: Path) -> None:
    one, two = "1.zones 60 IN PTR one.test.\n", "2.zones 60 IN PTR two.test.\n"
    write(tmp_path, "cat.test", 1, VERSION + one)
    write(tmp_path, "one.test", 1, "www 60 IN A 192.0.2.1\n")
    write(tmp_path, "two.test", 1, "www 60 IN A 192.0.2.2\n")
    text = PRIMARY.replace("FOLDER", str(tmp_path))
    async with serve(text) as primary, serve(SECONDARY) as dns:
        await until(dns, "www.one.test.", "NOERROR 192.0.2.1")
        await until(dns, "www.two.test.", "REFUSED")
        write(tmp_path, "cat.test", 2, VERSION + two)
        write(tmp_path, "one.test", 2, "www 60 IN A 192.0.2.9\n")
        # The new configuration tells its secondaries.
        await primary.server.load(await asyncio.to_thread(primary.build, text))
        await until(dns, "www.two.test.", "NOERROR 192.0.2.2")
        await until(dns, "www.one.test.", "REFUSED")
        write(tmp_path, "cat.test", 3, 'version 60 IN TXT "3"\n')
        await primary.server.load(await asyncio.to_thread(primary.build, text))
        await until(dns, "www.two.test.", "NOERROR 192.0.2.2")


@pytest.mark.kernel
async def test_a_changed_file_is_told(serve: Any, tmp_path: Path) -> None:
    for name in ("cat.test", "one.test", "two.test"):
        write(tmp_path, name, 1, VERSION)
    text = PRIMARY.replace("FOLDER", str(tmp_path)).replace(
        "file one.test one.test", "file one.test one.test {\n reload 50ms\n }"
    )
    follow = SECONDARY.replace("cat.test", "one.test").replace("catalog", "")
    async with serve(text), serve(follow) as dns:
        await until(dns, "www.one.test.", "NXDOMAIN")
        write(tmp_path, "one.test", 2, "www 60 IN A 192.0.2.9\n")
        await until(dns, "www.one.test.", "NOERROR 192.0.2.9")
