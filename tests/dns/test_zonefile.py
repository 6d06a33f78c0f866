"""Zone files: what may stand in them, and where they are wrong."""

from pathlib import Path

import pytest

from kubewire.dns.zone import Zone
from kubewire.dns.zonefile import ZoneFileError, load
from kubewire.lang.dns import codes
from kubewire.lang.dns.record import rdata_text

HEAD = """@ 60 IN SOA ns h 1 60 60 60 60
@ 60 IN NS ns
ns 60 IN A 192.0.2.1
"""


def read(folder: Path, text: str | bytes) -> Zone:
    file = folder / "zone"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(str(file), "example.org.")


def rows(zone: Zone) -> list[str]:
    shown = [f"{r.name} {r.ttl} {codes.type_name(r.type)} {rdata_text(r)}" for r in zone.records()]
    return [x for x in dict.fromkeys(shown) if not x.startswith(("example.org.", "ns."))]


GOOD = [
    ("a 60 IN A 192.0.2.2\n   60 IN A 192.0.2.3", ["a.example.org. 60 A 192.0.2.2", "a.example.org. 60 A 192.0.2.3"]),
    ("$TTL 77\na IN A 192.0.2.2", ["a.example.org. 77 A 192.0.2.2"]),
    ("$ORIGIN sub\na 60 IN A 192.0.2.2", ["a.sub.example.org. 60 A 192.0.2.2"]),
    ("a 60 IN TXT (\n \"x;(\" ; (\n \"y\" )\nb 60 IN A 192.0.2.2", ['a.example.org. 60 TXT "x;(" "y"', "b.example.org. 60 A 192.0.2.2"]),
    ("a 60 IN A 192.0.2.2\r\n", ["a.example.org. 60 A 192.0.2.2"]),
    ("$GENERATE 1-2 g$ A 192.0.2.$", ["g1.example.org. 60 A 192.0.2.1", "g2.example.org. 60 A 192.0.2.2"]),
    ("$INCLUDE more sub", ["x.sub.example.org. 60 A 192.0.2.9"]),
    ("a 60 IN A 192.0.2.2\n$INCLUDE more ; here\n 60 IN A 192.0.2.3", ["a.example.org. 60 A 192.0.2.2", "a.example.org. 60 A 192.0.2.3", "x.example.org. 60 A 192.0.2.9"]),
    ("a.other. 60 IN A 192.0.2.2", []),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), GOOD)
def test_what_may_stand_there(tmp_path: Path, text: str, expected: list[str]) -> None:
    (tmp_path / "more").write_text("x 60 IN A 192.0.2.9\n")
    assert sorted(rows(read(tmp_path, HEAD + text))) == sorted(expected)
    assert sorted(rows(read(tmp_path, "\ufeff" + HEAD + text))) == sorted(expected)


BAD = [
    ("a 60 IN A 1.2.3", 4, "Text input is malformed. in 'a 60 IN A 1.2.3'"),
    ("\n; x\na 60 IN FOO x", 6, "unknown rdatatype 'FOO' in 'a 60 IN FOO x'"),
    ("a 60 IN A 192.0.2.2 192.0.2.3\n", 4, "expected EOL or EOF"),
    ("a 60 IN TXT ( \"x\"\nb 60 IN A 192.0.2.2\n", 4, "unbalanced parentheses"),
    ("a 60 IN TXT \"x\nb 60 IN A 192.0.2.2", 4, "newline in quoted string"),
    ("a" * 64 + " 60 IN A 192.0.2.2", 4, "A DNS label is > 63 octets long."),
    (".".join(["a" * 60] * 5) + " 60 IN A 192.0.2.2", 4, "A DNS name is > 255 octets long."),
    ("a 60 IN CNAME b\na 60 IN A 192.0.2.2", 5, "rdataset type is not compatible with a CNAME node"),
    ("\na 60 IN SOA ns h 2 60 60 60 60", 5, "add() has non-origin SOA"),
    ("$FOO x", 4, "zone file directive '$FOO' is not allowed"),
    ("$GENERATE 3-1 g$ A 192.0.2.$", 4, ""),
    ("$INCLUDE nowhere", 4, "failed to open `nowhere': no such file or directory"),
    ("$INCLUDE", 4, "$INCLUDE needs a file"),
    ("$INCLUDE zone", 4, "too deeply nested $INCLUDE"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "why"), BAD)
def test_where_it_is_wrong(tmp_path: Path, text: str, line: int, why: str) -> None:
    with pytest.raises(ZoneFileError) as caught:
        read(tmp_path, HEAD + text)
    file = str(tmp_path / "zone")
    head = f'failed to parse file "{file}" for origin example.org. with error '
    assert str(caught.value).startswith(f"{head}{file}:{line}: ")
    assert why in str(caught.value)


def test_an_included_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "more").write_text("\nx 60 IN A 1\n")
    with pytest.raises(ZoneFileError, match=rf"{tmp_path}/more:2: "):
        read(tmp_path, HEAD + "$INCLUDE more\n")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", 'has no SOA record for origin example.org.'),
        (b"; nothing\n", 'has no SOA record for origin example.org.'),
        (HEAD.encode() + b"a 60 IN TXT \xff\n", "zone:4: not UTF-8"),
    ],
)  # fmt: skip
def test_no_zone_at_all(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(ZoneFileError, match=why):
        read(tmp_path, data)
