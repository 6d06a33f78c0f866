"""tsig, as dnspython signs and verifies."""

import base64
import time
from pathlib import Path
from typing import Any

import dns.asyncquery
import dns.message
import dns.opcode
import dns.rcode
import dns.tsig
import dns.tsigkeyring
import dns.xfr
import dns.zone
import pytest

pytestmark = pytest.mark.kernel

SECRET = base64.b64encode(b"0123456789abcdef").decode()
OTHER = base64.b64encode(b"fedcba9876543210").decode()
COREFILE = f""".:0 {{
    tsig {{
        secret key.test. {SECRET}
        require TXT
        require_opcode NOTIFY
    }}
    whoami
}}
"""


def question(key: str = "key.test.", secret: str = SECRET, kind: str = "A", **how: Any) -> Any:
    asked = dns.message.make_query("a.test.", kind)
    asked.use_tsig(dns.tsigkeyring.from_text({key: secret}), key, **how)
    return asked, asked.to_wire()


ALGORITHMS = [dns.tsig.HMAC_SHA1, dns.tsig.HMAC_SHA256, dns.tsig.HMAC_SHA512]


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)
async def test_signed_questions_get_signed_answers(serve: Any, algorithm: Any) -> None:
    async with serve(COREFILE) as server:
        asked, wire = question(algorithm=algorithm)
        answer = dns.message.from_wire(
            await server.raw(wire), keyring=asked.keyring, request_mac=asked.mac
        )
        assert answer.had_tsig
        assert answer.rcode() == dns.rcode.NOERROR


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ({"key": "unknown.test."}, dns.tsig.PeerBadKey),
        ({"secret": OTHER}, dns.tsig.PeerBadSignature),
    ],
)
async def test_what_does_not_hold(serve: Any, how: dict[str, str], error: type[Exception]) -> None:
    async with serve(COREFILE) as server:
        asked, wire = question(**how)
        data = await server.raw(wire)
        assert data[3] & 15 == dns.rcode.NOTAUTH
        with pytest.raises(error):
            dns.message.from_wire(data, keyring=asked.keyring, request_mac=asked.mac)


async def test_clocks_that_differ(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(COREFILE) as server:
        real = time.time
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: real() - 1000)
            asked, wire = question()
        data = await server.raw(wire)
        with pytest.raises(dns.tsig.PeerBadTime):
            dns.message.from_wire(data, keyring=asked.keyring, request_mac=asked.mac)


@pytest.mark.parametrize(
    ("kind", "opcode", "rcode"),
    [("A", 0, "NOERROR"), ("TXT", 0, "REFUSED"), ("SOA", 4, "REFUSED")],
)
async def test_what_must_be_signed(serve: Any, kind: str, opcode: int, rcode: str) -> None:
    async with serve(COREFILE) as server:
        asked = dns.message.make_query("a.test.", kind)
        asked.set_opcode(dns.opcode.Opcode(opcode))
        answer = dns.message.from_wire(await server.raw(asked.to_wire()))
        assert dns.rcode.to_text(answer.rcode()) == rcode


@pytest.mark.parametrize("count", [20, 1200])
async def test_signed_transfers_are_whole(serve: Any, tmp_path: Path, count: int) -> None:
    rows = "\n".join(f"h{i} 60 IN A 192.0.2.{i % 256}" for i in range(count))
    (tmp_path / "zone").write_text(
        f"@ 60 IN SOA a.test. b.test. 1 2 3 4 5\n@ 60 IN NS a.test.\n{rows}\n"
    )
    text = f""".:0 {{
        tsig {{
            secret key.test. {SECRET}
            require all
        }}
        transfer {{
            to *
        }}
        file {tmp_path}/zone zone.test
    }}"""
    async with serve(text) as server:
        ring = dns.tsigkeyring.from_text({"key.test.": SECRET})
        query, _ = dns.xfr.make_query(dns.zone.Zone("zone.test."), keyring=ring)
        zone = dns.zone.Zone("zone.test.")
        await dns.asyncquery.inbound_xfr("127.0.0.1", zone, query, port=server.port, lifetime=10)
        assert len(zone.nodes) == count + 1
