"""tsig: signed questions and answers (RFC 8945)."""

from __future__ import annotations

import base64
import re
import struct
import time
from pathlib import Path
from typing import Any

from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugin import Plugin, Request, Response, Setup
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import read_name
from kubewire.lang.dns.name import longest_zone, normalize, to_wire
from kubewire.lang.dns.record import RR

_SECRET = re.compile(
    r'key\s+"?(?P<name>[^"\s{]+)"?\s*\{[^}]*?secret\s+"(?P<secret>[^"]+)"[^}]*\}', re.DOTALL
)


OPCODES = {"QUERY": 0, "IQUERY": 1, "STATUS": 2, "NOTIFY": 4, "UPDATE": 5}
BADSIG, BADKEY, BADTIME = 16, 17, 18


class Tsig(Plugin):
    """Verifies signatures, asks for them by type, signs answers to signed questions."""

    name = "tsig"

    def __init__(self, zones: list[str]) -> None:
        self.zones = zones
        self.keys: dict[str, str] = {}
        self.types: set[int] = set()
        self.opcodes: set[int] = set()
        self.all = False

    @classmethod
    def setup(cls, setup: Setup) -> Tsig:
        """Read the directive."""
        plugin = cls([])
        for args in setup.stanzas():
            plugin.zones += setup.zones(args)
            for word, values in setup.properties():
                match word, values:
                    case "secret", [name, secret]:
                        plugin._add(name, secret)
                    case "secrets", [path]:
                        for match in _SECRET.finditer(Path(setup.path(path)).read_text()):
                            plugin._add(match["name"], match["secret"])
                    case "require", ["all"]:
                        plugin.all = True
                    case "require", ["none"]:
                        plugin.types = set()
                    case "require", [_, *_]:
                        plugin.types = {_type(setup, v) for v in values}
                    case "require_opcode", [_, *_]:
                        plugin.opcodes = _opcodes(setup, values)
                    case (("secret" | "secrets" | "require" | "require_opcode"), _):
                        raise setup.arg_err()
                    case _:
                        raise setup.err(f"unknown property '{word}'")
        return plugin

    def _add(self, name: str, secret: str) -> None:
        try:
            base64.b64decode(secret, validate=True)
        except ValueError as error:
            raise CorefileError(f"secret of key {name} is not base64") from error
        if normalize(name) in self.keys:
            raise CorefileError(f'key "{normalize(name)}" redefined')
        self.keys[normalize(name)] = secret

    async def serve(self, request: Request) -> Response:
        """Verify, go on, sign."""
        signature = request.message.tsig
        if not longest_zone(request.name, self.zones):
            return await self.next.serve(request)
        if signature is None:
            opcode = request.message.opcode
            if self.all or request.qtype in self.types or opcode in self.opcodes:
                return self.fail(codes.REFUSED, "a signature is required")
            return await self.next.serve(request)
        ring = self._ring()
        verified, error, why = _verify(request.wire, ring)
        if verified is None:
            response = self.reply(codes.NOTAUTH, aa=False, reason=why)
            if error == BADTIME:
                response.seal = lambda data: _with_time(data, ring, signature)
            else:
                response.seal = lambda data: _refused(data, signature, error)
            return response
        response = await self.next.serve(request)
        response.replay = None
        if response.raw is not None:
            response.raw = _sign_all(response.raw, request.wire[:2], ring, verified)
        else:
            response.seal = lambda data: _sign(data, ring, verified)
        return response

    def _ring(self) -> Any:
        import dns.tsigkeyring

        return dns.tsigkeyring.from_text(dict(self.keys))


def _type(setup: Setup, text: str) -> int:
    number = codes.type_number(text)
    if number is None:
        raise setup.err(f"unknown query type '{text}'")
    return number


def _opcodes(setup: Setup, words: list[str]) -> set[int]:
    if words[0] in ("all", "none"):
        return set(OPCODES.values()) if words[0] == "all" else set()
    for word in words:
        if word not in OPCODES:
            raise setup.err(f"unknown opcode '{word}'")
    return {OPCODES[word] for word in words}


def _verify(wire: bytes, ring: Any) -> tuple[Any, int, str]:
    """The signed message; else the error of RFC 8945 and why."""
    import dns.exception
    import dns.message
    import dns.tsig

    try:
        return dns.message.from_wire(wire, keyring=ring), 0, ""
    except dns.message.UnknownTSIGKey as error:
        return None, BADKEY, str(error)
    except dns.tsig.BadTime as error:
        return None, BADTIME, str(error)
    except (dns.exception.DNSException, ValueError) as error:
        return None, BADSIG, str(error) or type(error).__name__


def _refused(data: bytes, signature: RR, error: int) -> bytes:
    """The answer with a TSIG record that tells the error and signs nothing (RFC 8945, 5.3.2)."""
    rdata = signature.rdata[0]
    assert isinstance(rdata, bytes)
    _, end = read_name(rdata, 0)
    # Algorithm, time and fudge as they came; no MAC, no other data.
    told = rdata[: end + 8] + struct.pack("!HHHH", 0, int.from_bytes(data[:2], "big"), error, 0)
    head = struct.pack("!HHIH", codes.TSIG, codes.CLASS_ANY, 0, len(told))
    count = int.from_bytes(data[10:12], "big") + 1
    return data[:10] + count.to_bytes(2, "big") + data[12:] + to_wire(signature.name) + head + told


def _with_time(data: bytes, ring: Any, signature: RR) -> bytes:
    """The signed answer that tells the server's own time."""
    import dns.message
    import dns.name

    rdata = signature.rdata[0]
    assert isinstance(rdata, bytes)
    algorithm, end = read_name(rdata, 0)
    size = int.from_bytes(rdata[end + 8 : end + 10], "big")
    answer = dns.message.from_wire(data, one_rr_per_rrset=True)
    answer.use_tsig(
        ring, dns.name.from_text(signature.name), algorithm=dns.name.from_text(algorithm),
        tsig_error=BADTIME, other_data=int(time.time()).to_bytes(6, "big"),
    )  # fmt: skip
    answer.request_mac = rdata[end + 10 : end + 10 + size]
    return answer.to_wire(max_size=65535)


def _sign(data: bytes, ring: Any, question: Any) -> bytes:
    import dns.message

    answer = dns.message.from_wire(data, one_rr_per_rrset=True)
    answer.use_tsig(ring, question.keyname, algorithm=question.keyalgorithm)
    answer.request_mac = question.mac
    return answer.to_wire(max_size=65535)


def _sign_all(messages: list[bytes], ident: bytes, ring: Any, question: Any) -> list[bytes]:
    """Every message of a transfer is signed, each over the one before."""
    import dns.message

    context, signed = None, []
    for data in messages:
        answer = dns.message.from_wire(ident + data[2:], one_rr_per_rrset=True)
        answer.use_tsig(ring, question.keyname, algorithm=question.keyalgorithm)
        answer.request_mac = question.mac
        signed.append(answer.to_wire(max_size=65535, multi=True, tsig_ctx=context))
        context = answer.tsig_ctx
    return signed


PLUGIN = Tsig
