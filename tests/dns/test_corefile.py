"""The grammar of the Corefile, and what CoreDNS says about mistakes."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubewire.dns.config import Environment, build, load
from kubewire.dns.corefile import CorefileError, parse, substitute, tokenize
from kubewire.dns.registry import order


def blocks(text: str, **env: str) -> list[tuple[list[str], dict[str, list[str]]]]:
    found = parse(text, "Corefile", order(), env=env)
    return [(b.keys, {d: [t.text for t in ts] for d, ts in b.tokens.items()}) for b in found]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b\n c", ["a", "b", "c"]),
        ('a "b c" d', ["a", "b c", "d"]),
        ('"a \\" b"', ['a " b']),
        ('"a \\n b"', ["a \\n b"]),
        ("a#b c\nd", ["a", "d"]),
        ("a # b\nc", ["a", "c"]),
        ('"a # b"', ["a # b"]),
        ("\ufeffa\r\nb", ["a", "b"]),
        ('a"b c"', ['a"b', 'c"']),
        ('"two\nlines" x', ["two\nlines", "x"]),
        ('""', [""]),
    ],
)
def test_tokens(text: str, words: list[str]) -> None:
    assert [t.text for t in tokenize(text, "f")] == words


def test_lines_are_counted() -> None:
    found = tokenize('a\n\n"b\nc"\nd', "f")
    assert [(t.text, t.line) for t in found] == [("a", 1), ("b\nc", 3), ("d", 5)]


@given(st.text(max_size=200))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(CorefileError):
        build(text.replace("import", "x"), "Corefile", Environment(objects=[]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (".:53 {\n whoami\n}", [([".:53"], {"whoami": ["whoami"]})]),
        (".\nwhoami", [(["."], {"whoami": ["whoami"]})]),
        ("a.b, c.d {\n whoami\n}", [(["a.b", "c.d"], {"whoami": ["whoami"]})]),
        ("a.b,\nc.d {\n whoami\n}", [(["a.b", "c.d"], {"whoami": ["whoami"]})]),
        ("a b {\n}\nc {\n}", [(["a", "b"], {}), (["c"], {})]),
        (". {\n log\n log a\n}", [(["."], {"log": ["log", "log", "a"]})]),
        (
            ". {\n hosts {\n 1.2.3.4 x\n }\n}",
            [(["."], {"hosts": ["hosts", "{", "1.2.3.4", "x", "}"]})],
        ),
        (
            "(s) {\n log\n}\n. {\n import s\n whoami\n}",
            [(["."], {"log": ["log"], "whoami": ["whoami"]})],
        ),
        (". {\n}\n}", [(["."], {}), (["}"], {})]),
        ("", []),
        ("# nothing", []),
    ],
)
def test_blocks(text: str, expected: object) -> None:
    assert blocks(text) == expected


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("{$A}", "1"), ("{%A%}", "1"), ("x{$A}y{$B}", "x1y2"), ("{$NONE}", ""), ("{$}", "{$}"),
        ("{$A", "{$A"), ("{{$A}}", "{1}"), ("{{ $A }}", "{{ $A }}"),
    ],
)  # fmt: skip
def test_variables(text: str, result: str) -> None:
    assert substitute(text, {"A": "1", "B": "2"}) == result


def test_variables_in_keys_and_arguments() -> None:
    assert blocks(".:{$P} {\n bufsize {$S}\n}", P="54", S="600") == [
        ([".:54"], {"bufsize": ["bufsize", "600"]})
    ]


P = "Corefile:{} - Error during parsing: {}"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (".:53 {\n  frob\n}", P.format(2, "Unknown directive 'frob'")),
        (".:53 {\n whoami\n", "Corefile:2 - Syntax error: Unexpected token 'whoami', expecting '}'"),
        (".:53 {\n hosts {\n 1.2.3.4 x\n", P.format(3, "Unexpected EOF")),
        (".:53 {\n whoami }\n}", P.format(2, "Unexpected '}' because no matching opening brace")),
        ("a, {\n}", P.format(1, "Expected another address but had '{' - check for extra comma")),
        ("a,", P.format(1, "Unexpected EOF")),
        (". {\n import\n}", P.format(2, "Wrong argument count or unexpected line ending after 'import'")),
        (". {\n import a b\n}", P.format(2, "Import takes only one argument (glob pattern or file)")),
        (". {\n import nofile\n}", P.format(2, "File to import not found: nofile")),
        ("(a) {\n}\n(a) {\n}", P.format(3, "redeclaration of previously declared snippet a")),
        ("(a) {\n import a\n}\n. {\n import a\n}", P.format(3, "maximum snippet import depth (10000) exceeded")),
        (". {\n errors {\n  x\n }\n}", "plugin/errors: " + P.format(3, "unknown property 'x'")),
        (". {\n cache 0\n}", "plugin/cache: cache TTL can not be zero or negative: 0"),
        (". {\n forward . a..b\n}", 'plugin/forward: not an IP address, file, or valid domain: "a..b"'),
        (". {\n forward .\n}", "plugin/forward: " + P.format(2, "Wrong argument count or unexpected line ending after '.'")),
        (". {\n reload 1s\n}", "plugin/reload: interval value must be greater or equal to 2s"),
        (". {\n bufsize 5000\n}", "plugin/bufsize: Buffer size should be 512 to 4096: 5000"),
        (". {\n loadbalance frob\n}", "plugin/loadbalance: unknown policy: frob"),
        (". {\n}\n. {\n}", "cannot serve dns://.:53 - it is already defined"),
        (". {\n}\n. {\n bind 127.0.0.1\n}", "cannot serve dns://.:53 on 127.0.0.1 - zone overlap listener capacity with dns://.:53"),
        ("a.b: {\n}", 'error inspecting server blocks: expecting data after last colon: "a.b:"'),
        ("a..b {\n}", "error inspecting server blocks: zone is not a valid domain name: a..b"),
        (". {\n health {\n  lameduck x\n }\n}", "plugin/health: unable to parse lameduck duration value: 'x' : time: invalid duration \"x\""),
    ],
)  # fmt: skip
def test_errors(text: str, error: str) -> None:
    with pytest.raises(CorefileError) as caught:
        build(text, "Corefile", Environment(objects=[]))
    assert str(caught.value) == error


def test_a_view_lifts_the_ban_on_doubles() -> None:
    view = ". {\n view v {\n expr type() == 'A'\n }\n whoami\n}\n"
    assert len(build(view + ". {\n whoami\n}", "Corefile", Environment(objects=[])).blocks) == 2


def test_imports_are_relative_to_the_importing_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "Corefile").write_text("import sub/*.server\n")
    (tmp_path / "sub" / "a.server").write_text("a.example {\n import ../common\n}\n")
    (tmp_path / "common").write_text("whoami\n")
    found = load(tmp_path / "Corefile", Environment(objects=[]))
    assert [(b.zones, list(b.plugins)) for b in found.blocks] == [(["a.example."], ["whoami"])]
    (tmp_path / "common").write_text("frob\n")
    with pytest.raises(CorefileError) as caught:
        load(tmp_path / "Corefile", Environment(objects=[]))
    assert str(
        caught.value
    ) == f"{tmp_path}/common:1 - Error during parsing: Unknown directive 'frob'".replace(
        str(tmp_path / "common"), str(tmp_path / "sub" / ".." / "common")
    )


def test_an_empty_glob_only_warns(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "Corefile").write_text("import *.server\n. {\n whoami\n}\n")
    load(tmp_path / "Corefile", Environment(objects=[], warn=said.append))
    assert said == ["No files matching import glob pattern: *.server"]


@pytest.mark.parametrize(
    ("key", "listeners", "zones"),
    [
        ("example.org", ["dns://:53"], ["example.org."]),
        ("dns://EXAMPLE.org:1053", ["dns://:1053"], ["example.org."]),
        ("tls://example.org", ["tls://:853"], ["example.org."]),
        ("https://.", ["https://:443"], ["."]),
        ("quic://.", ["quic://:853"], ["."]),
        ("grpc://.", ["grpc://:443"], ["."]),
        ("10.0.0.0/23", ["dns://:53"], ["0.0.10.in-addr.arpa.", "1.0.10.in-addr.arpa."]),
        ("10.0.0.0/8:54", ["dns://:54"], ["10.in-addr.arpa."]),
        ("fd00::/8", ["dns://:53"], ["d.f.ip6.arpa."]),
    ],
)
def test_keys(key: str, listeners: list[str], zones: list[str]) -> None:
    found = build(f"{key} {{\n whoami\n}}", "Corefile", Environment(objects=[]))
    assert [str(x) for x in found.listeners()] == listeners
    assert found.blocks[0].zones == zones


def test_the_default_port_is_the_one_of_dns_only() -> None:
    env = Environment(objects=[], default_port=1053)
    found = build(". {\n whoami\n}\ntls://. {\n whoami\n}", "Corefile", env)
    assert [str(x) for x in found.listeners()] == ["dns://:1053", "tls://:853"]


def test_plugins_run_in_the_order_of_the_table() -> None:
    text = ". {\n whoami\n cache\n errors\n log\n}"
    [block] = build(text, "Corefile", Environment(objects=[])).blocks
    assert list(block.plugins) == ["errors", "log", "cache", "whoami"]


def test_comments_do_not_count() -> None:
    env = Environment(objects=[])
    one, two = (build(t, "Corefile", env) for t in (". {\n whoami\n}", "# x\n. {\n  whoami # y\n}"))
    assert one.digest == two.digest
    assert one.digest != build(". {\n whoami\n log\n}", "Corefile", env).digest
