"""forward: ask other servers."""

from __future__ import annotations

import asyncio
import ipaddress
import random
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from kubewire.dns import resolv
from kubewire.dns.config import split_host_port
from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugin import Plugin, Request, Response, Setup, duration
from kubewire.dns.plugins.forward.upstream import READ_TIMEOUT, Upstream, UpstreamError
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import AA, AD, CD, RA, RD, TC, Message
from kubewire.lang.dns.name import BadNameError, longest_zone, normalize, to_wire, within

MAX_UPSTREAMS = 15
DEADLINE = 5.0
POLICIES = ("random", "round_robin", "sequential")


@dataclass
class Stanza:
    """One ``forward`` line."""

    zones: list[str]
    upstreams: list[Upstream] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    policy: str = "random"
    max_fails: int = 2
    read_timeout: float = READ_TIMEOUT
    source: str = ""
    force_tcp: bool = False
    prefer_udp: bool = False
    max_concurrent: int = 0
    fail_fast: bool = False
    next_on: frozenset[int] = frozenset()
    next_on_nodata: bool = False
    failover: frozenset[int] = frozenset()
    busy: int = 0
    turn: int = 0

    def takes(self, name: str) -> bool:
        """Tell whether a name is ours."""
        return longest_zone(name, self.zones) != "" and not any(
            within(name, zone) for zone in self.ignored
        )

    def order(self) -> list[Upstream]:
        """Upstreams in the order of the policy."""
        found = list(self.upstreams)
        if self.policy == "random":
            random.shuffle(found)
        elif self.policy == "round_robin" and found:
            self.turn = (self.turn + 1) % len(found)
            found = found[self.turn :] + found[: self.turn]
        return found


class Forward(Plugin):
    """Tries upstreams by policy and health; several stanzas in the order of the file."""

    name = "forward"
    any_class = True

    def __init__(self, stanzas: list[Stanza], *, offline: bool) -> None:
        self.stanzas = stanzas
        self._offline = offline

    @classmethod
    def setup(cls, setup: Setup) -> Forward:
        """Read the directive."""
        stanzas = [_stanza(setup, args) for args in setup.stanzas()]
        return cls(stanzas, offline=setup.env.offline)

    async def stop(self, *, final: bool) -> None:
        """Close the sockets."""
        for stanza in self.stanzas:
            for upstream in stanza.upstreams:
                upstream.close()

    async def serve(self, request: Request) -> Response:
        """Ask the first stanza that takes the name; the next one if it says so."""
        response: Response | None = None
        for stanza in self.stanzas:
            if not stanza.takes(request.name):
                continue
            response = await self._ask(stanza, request)
            nodata = stanza.next_on_nodata and not response.rcode and not response.answer
            if response.rcode not in stanza.next_on and not nodata:
                return response
        return response if response is not None else await self.next.serve(request)

    async def _ask(self, stanza: Stanza, request: Request) -> Response:
        names = ", ".join(map(str, stanza.upstreams)) or "no upstream"
        if self._offline:
            return self.fail(codes.SERVFAIL, f"forwarded to {names}, which is not asked offline")
        if stanza.max_concurrent and stanza.busy >= stanza.max_concurrent:
            return self.fail(codes.REFUSED, f"more than {stanza.max_concurrent} questions wait")
        stanza.busy += 1
        try:
            # A task of its own: timeouts need one, and the caller may not have one yet.
            return await asyncio.get_running_loop().create_task(
                self._exchange(stanza, request), name="forward"
            )
        finally:
            stanza.busy -= 1

    async def _exchange(self, stanza: Stanza, request: Request) -> Response:
        loop = asyncio.get_running_loop()
        end = loop.time() + DEADLINE
        tcp = stanza.force_tcp or (request.proto != "udp" and not stanza.prefer_udp)
        order = stanza.order()
        healthy = [u for u in order if not u.down(stanza.max_fails)]
        if not healthy and stanza.fail_fast:
            return self.fail(codes.SERVFAIL, "no healthy proxies")
        why = "no upstream"
        last: Response | None = None
        for upstream in (healthy or order[:1]) * 2:
            left = end - loop.time()
            if left <= 0:
                break
            try:
                answer = await upstream.ask(
                    request.message, tcp=tcp, seconds=min(stanza.read_timeout, left)
                )
                if answer.flags & TC and stanza.prefer_udp and request.proto != "udp":
                    answer = await upstream.ask(
                        request.message, tcp=True, seconds=min(stanza.read_timeout, left)
                    )
            except UpstreamError as error:
                why = str(error)
                upstream.fails = max(upstream.fails, 1)
                upstream.failed()
                continue
            last = _response(answer, upstream)
            if answer.rcode not in stanza.failover:
                return last
        return last or self.fail(codes.SERVFAIL, why)


def _response(answer: Message, upstream: Upstream) -> Response:
    flags = answer.flags
    response = Response(
        answer.rcode,
        answer=answer.answer,
        authority=answer.authority,
        additional=answer.additional,
        aa=bool(flags & AA),
        plugin="forward",
        reason=f"upstream {upstream}",
    )
    response.tc, response.ra, response.ad = bool(flags & TC), bool(flags & RA), bool(flags & AD)
    response.rd, response.cd = bool(flags & RD), bool(flags & CD)
    return response


def _stanza(setup: Setup, args: list[str]) -> Stanza:
    if not args:
        raise setup.arg_err()
    zones = [normalize(z) for z in split_host_port(args[0])[0]]
    stanza = Stanza(zones)
    if len(args) == 1:
        raise setup.arg_err()
    targets = args[1:]
    options: dict[str, list[str]] = {}
    for word, values in setup.properties():
        _option(setup, stanza, options, word, values)
    hosts = [h for t in targets for h in _hosts(setup, t)]
    if len(hosts) > MAX_UPSTREAMS:
        raise CorefileError(f"more than {MAX_UPSTREAMS} TOs configured: {len(hosts)}")
    context = _tls(options.get("tls", [])) if any(h.scheme == "tls" for h in hosts) else None
    name = options.get("tls_servername", [""])[0]
    for target in hosts:
        if name and target.server_name and name != target.server_name:
            raise CorefileError(
                f"both forward ('{name}') and proxy level ('{target.server_name}') TLS servernames "
                f"are set for upstream proxy '{target.scheme}://{target.host}:{target.port}'"
            )
        upstream = Upstream(
            target.host, target.port, context=context if target.scheme == "tls" else None,
            server_name=name or target.server_name, source=stanza.source,
        )  # fmt: skip
        _health(upstream, options.get("health_check", []))
        stanza.upstreams.append(upstream)
    return stanza


class _Target(NamedTuple):
    """Where one upstream is."""

    scheme: str
    host: str
    port: int
    server_name: str = ""


def _hosts(setup: Setup, target: str) -> list[_Target]:
    scheme, sep, rest = target.partition("://")
    if not sep:
        scheme, rest = "dns", target
    if scheme not in ("dns", "tls"):
        raise CorefileError(f"unsupported transport: {scheme}")
    default = 853 if scheme == "tls" else 53
    bare, server_name = rest, ""
    if scheme == "tls" and "%" in rest:
        bare, _, server_name = rest.partition("%")
        server_name, colon, port = server_name.partition(":")
        bare += colon + port
    found = _address(bare, default)
    if found is not None:
        return [_Target(scheme, *found, server_name)]
    if not rest:
        raise CorefileError(f'invalid address: "{target}"')
    path = setup.path(rest)
    if not Path(path).is_file():
        if setup.env.offline and rest.startswith("/"):
            return []
        raise CorefileError(f'not an IP address or file: "{rest}"')
    return [_Target(scheme, s.partition("%")[0], default) for s in resolv.read(path).nameservers]


def _address(text: str, default: int) -> tuple[str, int] | None:
    host, port = text, default
    if text.startswith("["):
        host, _, tail = text[1:].partition("]")
        port = int(tail[1:]) if tail[1:].isdecimal() else default
    elif text.count(":") == 1:
        host, _, tail = text.partition(":")
        if not tail.isdecimal():
            return None
        port = int(tail)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return None
    return host, port


def _option(
    setup: Setup, stanza: Stanza, options: dict[str, list[str]], word: str, args: list[str]
) -> None:
    match word, args:
        case "except", [_, *_]:
            stanza.ignored += [normalize(z) for a in args for z in split_host_port(a)[0]]
        case "max_fails", [number]:
            stanza.max_fails = _number(number, "max_fails")
        case "max_concurrent", [number]:
            stanza.max_concurrent = _number(number, "max_concurrent")
        case ("force_tcp", []):
            stanza.force_tcp = True
        case ("prefer_udp", []):
            stanza.prefer_udp = True
        case "policy", [policy]:
            if policy not in POLICIES:
                raise setup.err(f"unknown policy '{policy}'")
            stanza.policy = policy
        case ("failfast_all_unhealthy_upstreams", []):
            stanza.fail_fast = True
        case ("next_on_nodata", []):
            stanza.next_on_nodata = True
        case (("next" | "failover"), [_, *_]):
            rcodes = frozenset(_rcode(word, a) for a in args)
            if word == "next":
                stanza.next_on |= rcodes
            else:
                stanza.failover |= rcodes
        case (("expire" | "max_age" | "read_timeout"), [value]):
            _timing(stanza, options, word, value)
        case "source_address", [value]:
            try:
                stanza.source = str(ipaddress.ip_address(value))
            except ValueError as error:
                raise setup.err(f"invalid IP address: {value}") from error
        case (("max_idle_conns" | "max_connect_attempts"), [number]):
            _number(number, word)
        case "tls", _ if len(args) <= 3:
            options[word] = args or [""]
        case "tls_servername", [_]:
            options[word] = args
        case "health_check", [value, *_]:
            if duration(value) < 0:
                raise CorefileError(f"health_check can't be negative: {value}")
            _check_health(setup, args[1:])
            options[word] = args
        case "doh_method", [_]:
            raise setup.err("unsupported transport: https")
        case _ if word in _KNOWN:
            raise setup.arg_err()
        case _:
            raise setup.err(f"unknown property '{word}'")


def _timing(stanza: Stanza, options: dict[str, list[str]], word: str, value: str) -> None:
    seconds = duration(value)
    if word == "read_timeout":
        if seconds <= 0:
            raise CorefileError(f"read_timeout must be positive: {value}")
        stanza.read_timeout = seconds
        return
    if seconds < 0:
        raise CorefileError(f"{word} can't be negative: {value}")
    options[word] = [value]
    life, longest = (options.get(w, ["0"])[0] for w in ("expire", "max_age"))
    if 0 < duration(longest) < duration(life):
        raise CorefileError(f"max_age ({longest}) must not be less than expire ({life})")


_KNOWN = frozenset({
    "except", "max_fails", "max_concurrent", "force_tcp", "prefer_udp", "policy", "next",
    "failover", "expire", "max_age", "tls", "tls_servername", "health_check", "next_on_nodata",
    "failfast_all_unhealthy_upstreams", "max_idle_conns", "max_connect_attempts", "read_timeout",
    "source_address",
})  # fmt: skip


def _number(text: str, what: str) -> int:
    try:
        value = int(text)
    except ValueError as error:
        parser = "Atoi" if what in ("max_concurrent", "max_idle_conns") else "ParseUint"
        raise CorefileError(f'strconv.{parser}: parsing "{text}": invalid syntax') from error
    if value < 0:
        raise CorefileError(f"{what} can't be negative: {value}")
    return value


def _rcode(word: str, text: str) -> int:
    if text.upper() not in codes.RCODES:
        raise CorefileError(f"{text} is not a valid rcode")
    number = codes.RCODES[text.upper()]
    if word == "failover" and number == 0:
        raise CorefileError("NoError cannot be used in failover")
    return number


def _check_health(setup: Setup, options: list[str]) -> None:
    words = iter(options)
    for word in words:
        if word == "domain":
            name = next(words, None)
            if name is None:
                raise setup.arg_err()
            try:
                to_wire(name)
            except (BadNameError, UnicodeError) as error:
                raise CorefileError(f"health_check: invalid domain name {name}") from error
        elif word != "no_rec":
            raise CorefileError(f"health_check: unknown option {word}")


def _health(upstream: Upstream, args: list[str]) -> None:
    if not args:
        return
    upstream.interval = duration(args[0]) or 0.5
    upstream.recursive = "no_rec" not in args
    if "domain" in args[1:-1]:
        upstream.domain = normalize(args[args.index("domain") + 1])


def _tls(args: list[str]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    match [a for a in args if a]:
        case [authority]:
            context.load_verify_locations(authority)
        case [certificate, key]:
            context.load_cert_chain(certificate, key)
        case [certificate, key, authority]:
            context.load_cert_chain(certificate, key)
            context.load_verify_locations(authority)
    return context


PLUGIN = Forward
