"""Where upstreams are: addresses, files like /etc/resolv.conf, names that are looked up at the start."""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
import socket
from pathlib import Path
from typing import NamedTuple

from kubewire.dns import resolv
from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugin import Setup
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import RD, Message, Question, WireError, encode, parse
from kubewire.lang.dns.name import BadNameError, normalize, to_wire
from kubewire.lang.dns.record import rdata_text

SCHEMES = {"dns": 53, "tls": 853, "https": 443}
_OTHERS = {"grpc": 443, "quic": 853, "https3": 443, "unix": 0}
LOOK_UP = 2.0
"""Seconds that a resolver is waited for."""


class Target(NamedTuple):
    """Where one upstream is."""

    scheme: str
    host: str
    port: int
    server_name: str = ""


def read(setup: Setup, text: str, resolvers: list[str]) -> list[Target]:
    """All upstreams that one TO means."""
    scheme, sep, rest = text.partition("://")
    if not sep or scheme not in SCHEMES | _OTHERS:
        scheme, rest = "dns", text
    if not rest:
        raise CorefileError(f'invalid address: "{text}"')
    bare, server_name = rest, ""
    if "%" in rest:
        bare, _, server_name = rest.rpartition("%")
        server_name, colon, port = server_name.partition(":")
        bare = bare + "]" * bare.startswith("[") + colon + port
        server_name = server_name.removesuffix("]") if scheme == "tls" else ""
    default = (SCHEMES | _OTHERS)[scheme]
    if (found := _address(bare, default)) is not None:
        return [Target(scheme, *found, server_name)]
    path = setup.path(rest)
    if Path(path).is_file():
        servers = resolv.read(path).nameservers
        return [Target(scheme, s.partition("%")[0], default) for s in servers]
    host, number = _split(bare, default)
    if scheme not in SCHEMES or not _is_name(host):
        raise CorefileError(f'not an IP address, file, or valid domain: "{text}"')
    ips = [] if setup.env.offline else _look_up(host, resolvers)
    return [Target(scheme, ip, number, server_name) for ip in ips]


def check_resolvers(words: list[str]) -> None:
    """Complain about what is no address."""
    for word in words:
        if _address(word, 53) is None:
            raise CorefileError(f'resolver must be an IP address or IP:port: "{word}"')


def _address(text: str, default: int) -> tuple[str, int] | None:
    host, port = _split(text, default)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return None
    return host, port


def _split(text: str, default: int) -> tuple[str, int]:
    host, tail = text, ""
    if text.startswith("["):
        host, _, tail = text[1:].partition("]")
        tail = tail[1:]
    elif text.count(":") == 1:
        host, _, tail = text.partition(":")
    return host, int(tail) if tail.isdecimal() else default


def _is_name(text: str) -> bool:
    if not text:
        return False
    try:
        to_wire(text)
    except (BadNameError, UnicodeError):
        return False
    return True


def _look_up(host: str, resolvers: list[str]) -> list[str]:
    try:
        if resolvers:
            return _ask(host, resolvers)
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except OSError as error:
        why = f"lookup {host}: no such host" if isinstance(error, socket.gaierror) else error
        raise CorefileError(f'failed to resolve "{host}": {why}') from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _ask(host: str, resolvers: list[str]) -> list[str]:
    """The first resolver that knows an address decides."""
    failed: OSError = OSError(f'no addresses found for "{host}"')
    for resolver in resolvers:
        found: list[str] = []
        for kind in (codes.A, codes.AAAA):
            try:
                found += _exchange(
                    _address(resolver, 53) or ("", 0), Question(normalize(host), kind)
                )
            except OSError as error:
                failed = error
        if found:
            return found
    raise failed


def _exchange(resolver: tuple[str, int], question: Question) -> list[str]:
    asked = Message(secrets.randbits(16), RD, question)
    family = socket.AF_INET6 if ":" in resolver[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(LOOK_UP)
        sock.connect(resolver)
        sock.send(encode(asked))
        while True:
            with contextlib.suppress(WireError):
                answer = parse(sock.recv(65535))
                if answer.id == asked.id:
                    return [rdata_text(r) for r in answer.answer if r.type == question.type]
