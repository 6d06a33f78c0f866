"""tsig, as dnspython signs and verifies."""

import base64
import time
from typing import Any

import dns.message
import dns.opcode
import dns.rcode
import dns.tsig
import dns.tsigkeyring
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
