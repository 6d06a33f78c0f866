"""log: the lines, as CoreDNS 1.14.7 writes them for the same questions (times and ports aside)."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from kubewire.lang.dns.message import Edns
from kubewire.testing.fakeapi import FakeApi

ZONE = """@ 300 IN SOA ns1 admin 1 7200 3600 1209600 3600
@ 300 IN NS ns1
@ 300 IN NS ns2.elsewhere.net.
ns1 300 IN A 192.0.2.2
web 300 IN A 192.0.2.4
web 300 IN A 192.0.2.5
big 300 IN TXT "%s" "%s" "%s"
""" % (("x" * 210,) * 3)
WEB, NO = ("web.example.org.", "A"), ("nx.example.org.", "A")
ALL = "{type} {name} {class} {proto} {size} {rcode} {rsize} {>rflags} {>bufsize} {>do} {>id} {>opcode} {unknown} {/meta/data}"
ROWS: list[tuple[str, tuple[str, str], dict[str, Any], list[str]]] = [
    ("log", WEB, {}, ['- 1234 "A IN web.example.org. udp 33 false 512" NOERROR qr,aa,rd 177 TIME']),
    ("log", NO, {}, ['- 1234 "A IN nx.example.org. udp 32 false 512" NXDOMAIN qr,aa,rd 111 TIME']),
    ("log", ("x.test.", "A"), {"edns": Edns(1232, do=True)}, ['- 1234 "A IN x.test. udp 35 true 1232" REFUSED qr,rd 35 TIME']),
    ("log", WEB, {"edns": Edns(1232)}, ['- 1234 "A IN web.example.org. udp 44 false 1232" NOERROR qr,aa,rd 177 TIME']),
    ("log", ("big.example.org.", "TXT"), {}, ['- 1234 "TXT IN big.example.org. udp 33 false 512" NOERROR qr,aa,tc,rd 775 TIME']),
    ("log . {combined}", WEB, {}, ['- 1234 "A IN web.example.org. udp 33 false 512" NOERROR qr,aa,rd 177 TIME "0"']),
    (f'log . "{ALL}"', WEB, {}, ["A web.example.org. IN udp 33 NOERROR 177 qr,aa,rd 512 false 1234 0 {unknown} -"]),
    ("log . {\nclass denial\n}", WEB, {}, []),
    ("log . {\nclass denial\n}", ("web.example.org.", "MX"), {}, ['- 1234 "MX IN web.example.org. udp 33 false 512" NOERROR qr,aa,rd 112 TIME']),
    ("log . {\nclass success\n}", NO, {}, []),
    ("log . {\nclass error\n}", ("x.test.", "A"), {}, ['- 1234 "A IN x.test. udp 24 false 512" REFUSED qr,rd 24 TIME']),
    ("log example.org", ("x.test.", "A"), {}, []),
    ('log example.org "{name}"', WEB, {}, ["web.example.org."]),
]  # fmt: skip


@pytest.mark.parametrize(("directive", "question", "how", "expected"), ROWS)
async def test_lines(
    serve: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    directive: str, question: tuple[str, str], how: dict[str, Any], expected: list[str],
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO, "kubewire.dns.plugin.log")
    (tmp_path / "zone").write_text(ZONE)
    text = f".:0 {{\n{directive}\nmetadata\nfile {tmp_path}/zone example.org\n}}"
    async with serve(text) as dns:
        await dns.ask(*question, **how)
    lines = [r.getMessage() for r in caplog.records if r.name == "kubewire.dns.plugin.log"]
    lines = [re.sub(r"^127\.0\.0\.1:\d+ ", "", re.sub(r"[0-9.]+s\b", "TIME", x)) for x in lines]
    assert lines == expected


async def test_an_empty_label_is_empty_and_an_unknown_one_a_dash(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kubewire.dns.plugin.log")
    form = '"{/kubernetes/kind} {/kubernetes/port-name} {/no/label} {name}"'
    text = f".:0 {{\nmetadata\nlog . {form}\nkubernetes cluster.local\n}}"
    async with serve(text, client=FakeApi().client, agent="dns/test") as dns:
        await dns.ask("web.default.svc.cluster.local.", "A")
    lines = [r.getMessage() for r in caplog.records if r.name == "kubewire.dns.plugin.log"]
    assert lines == ["svc  - web.default.svc.cluster.local."]
