"""etcd, asked through Debian's etcd: each row was compared with CoreDNS 1.14.7."""

import base64
import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kubewire.dns.plugins.etcd.store import Item, grouped
from kubewire.lang.dns import codes
from kubewire.lang.dns.record import rdata_text

CLIENTS, PEERS = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
ZONE = "/skydns/test/sky"
KEYS: dict[str, Any] = {
    f"{ZONE}/x1": {"host": "1.1.1.1", "ttl": 60},
    f"{ZONE}/x2": {"host": "1.1.1.2", "port": 8080, "weight": 50},
    f"{ZONE}/six": {"host": "2001:db8::3"},
    f"{ZONE}/multi/a": {"host": "10.0.0.1", "port": 80, "weight": 50},
    f"{ZONE}/multi/b": {"host": "10.0.0.2", "port": 80, "weight": 150},
    f"{ZONE}/cn": {"host": "x1.sky.test"},
    f"{ZONE}/loop1": {"host": "loop2.sky.test"},
    f"{ZONE}/loop2": {"host": "loop1.sky.test"},
    f"{ZONE}/mx": {"host": "x2.sky.test", "priority": 50, "mail": True},
    f"{ZONE}/txt": {"text": "hello", "ttl": 33},
    f"{ZONE}/dns/ns/ns1": {"host": "192.0.2.53"},
    f"{ZONE}/dns/apex": {"host": "192.0.2.99"},
    f"{ZONE}/strip/d1": {"host": "1.1.1.7", "port": 80, "targetstrip": 1},
    f"{ZONE}/bad": "{",
    "/skydns/arpa/in-addr/10/0/0/127": {"host": "rev.sky.test"},
}
COREFILE = """.:0 {
    etcd sky.test in-addr.arpa {
        endpoint http://127.0.0.1:2379
    }
}
"""
ROWS = [
    ("x1.sky.test. A", "NOERROR 60 A 1.1.1.1"),
    ("x1.sky.test. AAAA", "NOERROR"),
    ("six.sky.test. AAAA", "NOERROR 300 AAAA 2001:db8::3"),
    ("multi.sky.test. A", "NOERROR 300 A 10.0.0.1; 300 A 10.0.0.2"),
    ("multi.sky.test. SRV", "NOERROR 300 SRV 10 25 80 a.multi.sky.test.; 300 SRV 10 75 80 b.multi.sky.test. + a.multi.sky.test. 10.0.0.1; b.multi.sky.test. 10.0.0.2"),
    ("x2.sky.test. SRV", "NOERROR 300 SRV 10 100 8080 x2.sky.test. + x2.sky.test. 1.1.1.2"),
    ("cn.sky.test. A", "NOERROR 300 CNAME x1.sky.test.; 60 A 1.1.1.1"),
    ("cn.sky.test. CNAME", "NOERROR 300 CNAME x1.sky.test."),
    ("loop1.sky.test. A", "NOERROR"),
    ("mx.sky.test. MX", "NOERROR 300 MX 50 x2.sky.test. + x2.sky.test. 1.1.1.2"),
    ("txt.sky.test. TXT", 'NOERROR 33 TXT "hello"'),
    ("sky.test. NS", "NOERROR 300 NS ns1.ns.dns.sky.test. + ns1.ns.dns.sky.test. 192.0.2.53"),
    ("sky.test. A", "NOERROR 300 A 192.0.2.99"),
    ("strip.sky.test. SRV", "NOERROR 300 SRV 10 100 80 strip.sky.test. + strip.sky.test. 1.1.1.7"),
    ("bad.sky.test. A", "SERVFAIL"),
    ("nx.sky.test. A", "NXDOMAIN"),
    ("any.multi.sky.test. A", "NOERROR 300 A 10.0.0.1; 300 A 10.0.0.2"),
    ("127.0.0.10.in-addr.arpa. PTR", "NOERROR 300 PTR rev.sky.test."),
    ("10.in-addr.arpa. PTR", "NOERROR"),
]  # fmt: skip


@contextmanager
def etcd(folder: Path) -> Iterator[None]:
    command = ["etcd", "--data-dir", str(folder), "--listen-client-urls", CLIENTS]
    command += ["--advertise-client-urls", CLIENTS, "--listen-peer-urls", PEERS]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    try:
        assert any("ready to serve client requests" in line for line in process.stderr)
        yield
    finally:
        process.kill()
        process.communicate()


def put(key: str, value: Any) -> None:
    text = value if isinstance(value, str) else json.dumps(value)
    pair = {"key": key, "value": text}
    body = {k: base64.b64encode(v.encode()).decode() for k, v in pair.items()}
    with urllib.request.urlopen(f"{CLIENTS}/v3/kv/put", json.dumps(body).encode(), timeout=10):
        pass


@pytest.mark.kernel
@pytest.mark.tool("etcd")
async def test_answers(serve: Any, tmp_path: Path) -> None:
    with etcd(tmp_path):
        for key, value in KEYS.items():
            put(key, value)
        async with serve(COREFILE) as dns:
            for question, expected in ROWS:
                found = await dns.ask(*question.split())
                rows = [f"{r.ttl} {codes.type_name(r.type)} {rdata_text(r)}" for r in found.answer]
                more = [f"{r.name} {rdata_text(r)}" for r in found.additional]
                text = f"{codes.rcode_name(found.rcode)} {'; '.join(rows)}".strip()
                text += f" + {'; '.join(more)}" if more else ""
                assert text == expected, question
                assert bool(found.authority) == (not found.answer)


@pytest.mark.parametrize(
    ("keys", "kept"),
    [
        ({"/s/a": "", "/s/b": ""}, ["/s/a", "/s/b"]),
        ({"/s/a": "g", "/s/b/c": "g", "/s/d/e": "h"}, ["/s/a", "/s/b/c"]),
        ({"/s/a": "g", "/s/b": "h"}, ["/s/a", "/s/b"]),
        ({"/s/a/b": "g", "/s/c": ""}, ["/s/a/b", "/s/c"]),
        ({}, []),
    ],
)
def test_groups(keys: dict[str, str], kept: list[str]) -> None:
    items = [Item(key, host="1.1.1.1", group=group) for key, group in keys.items()]
    assert [i.key for i in grouped(items)] == kept
