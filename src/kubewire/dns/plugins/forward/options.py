"""Reads a ``forward`` line; what is wrong with it is told in CoreDNS' words."""

from __future__ import annotations

import ipaddress
import ssl

from kubewire.dns.config import split_host_port
from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugin import Setup, duration
from kubewire.dns.plugins.forward import targets
from kubewire.dns.plugins.forward.stanza import Stanza
from kubewire.dns.plugins.forward.upstream import Manner, Upstream
from kubewire.lang.dns import codes
from kubewire.lang.dns.name import BadNameError, normalize, to_wire

MAX_UPSTREAMS = 15
POLICIES = ("random", "round_robin", "sequential")


def read(setup: Setup, args: list[str]) -> Stanza:
    """Read a line and its block. Raises CorefileError."""
    if not args:
        raise setup.arg_err()
    try:
        zones = [normalize(z) for z in split_host_port(args[0])[0]]
    except CorefileError as error:
        raise CorefileError(f"unable to normalize '{args[0]}'") from error
    if len(zones) > 1:
        setup.env.warn(
            f"plugin/forward: Unsupported CIDR notation: '{args[0]}' expands to multiple zones. "
            f"Using only '{zones[0]}'."
        )
    stanza = Stanza(zones[0])
    if len(args) == 1:
        raise setup.arg_err()
    options: dict[str, list[str]] = {}
    for word, values in setup.properties():
        _option(setup, stanza, options, word, values)
    for target in args[1:]:
        if target.startswith("https://") and "/" in target[8:]:
            raise CorefileError(
                "paths are not allowed in HTTPS upstream addresses "
                f"(the /dns-query path is used by default): {target}"
            )
    hosts = [h for t in args[1:] for h in targets.read(setup, t, stanza.resolvers)]
    hosts = list({(h.host, h.port): h for h in reversed(hosts)}.values())[::-1]
    if not hosts and not setup.env.offline:
        raise CorefileError("no valid upstream addresses found")
    if len(hosts) > MAX_UPSTREAMS:
        raise CorefileError(f"more than {MAX_UPSTREAMS} TOs configured: {len(hosts)}")
    _upstreams(setup, stanza, options, hosts)
    return stanza


def _upstreams(
    setup: Setup, stanza: Stanza, options: dict[str, list[str]], hosts: list[targets.Target]
) -> None:
    manner = stanza.manner
    schemes = {h.scheme for h in hosts} - {"dns"}
    if schemes:
        manner.tls = _tls(setup, options.get("tls", []))
    if "https" in schemes and manner.tls is not None:
        manner.https = _tls(setup, options.get("tls", []))
        manner.https.set_alpn_protocols(["h2", "http/1.1"])
    _health(manner, options.get("health_check", []))
    manner.probe_by_tcp = stanza.force_tcp
    name = options.get("tls_servername", [""])[0]
    for target in hosts:
        if target.scheme not in targets.SCHEMES:
            raise CorefileError(
                f"'{target.scheme}' is not supported as a destination protocol in forward: "
                f"{target.scheme}://{target.host}:{target.port}"
            )
        if name and target.server_name:
            raise CorefileError(
                f"both forward ('{name}') and proxy level ('{target.server_name}') TLS servernames "
                f"are set for upstream proxy '{target.scheme}://{target.host}:{target.port}'"
            )
        upstream = Upstream(
            target.host, target.port, manner, scheme=target.scheme,
            server_name=name or target.server_name,
        )  # fmt: skip
        upstream.metrics = setup.env.metrics
        stanza.upstreams.append(upstream)


def _option(
    setup: Setup, stanza: Stanza, options: dict[str, list[str]], word: str, args: list[str]
) -> None:
    match word, args:
        case _, [] if word in _SWITCHES:
            setattr(stanza, _SWITCHES[word], True)
        case "except", [_, *_]:
            stanza.ignored += [normalize(z) for a in args for z in split_host_port(a)[0]]
        case "max_fails", [number]:
            stanza.max_fails = _number(number, "max_fails")
        case "max_concurrent", [number]:
            stanza.max_concurrent = _number(number, "max_concurrent")
        case "policy", [policy]:
            if policy not in POLICIES:
                raise setup.err(f"unknown policy '{policy}'")
            stanza.policy = policy
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
                stanza.manner.source = str(ipaddress.ip_address(value))
            except ValueError as error:
                raise setup.err(f"invalid IP address: {value}") from error
        case "max_idle_conns", [number]:
            stanza.manner.keeping.max_idle = _number(number, word)
        case "max_connect_attempts", [number]:
            stanza.max_attempts = _number(number, word)
        case "tls", _ if len(args) <= 3:
            options[word] = args or [""]
        case "tls_servername", [_]:
            options[word] = args
        case "health_check", [value, *_]:
            if duration(value) < 0:
                raise CorefileError(f"health_check can't be negative: {value}")
            _check_health(setup, args[1:])
            options[word] = args
        case "doh_method", [method, *_]:
            if method not in ("POST", "GET"):
                raise CorefileError("doh_method must be either POST or GET")
            stanza.manner.doh_method = method
        case "resolver", [_, *_]:
            targets.check_resolvers(args)
            stanza.resolvers = args
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
    keeping = stanza.manner.keeping
    setattr(keeping, word, seconds)
    options[word] = [value]
    if 0 < keeping.max_age < keeping.expire:
        life, longest = options.get("expire", ["10s"])[0], options.get("max_age", ["0s"])[0]
        raise CorefileError(f"max_age ({longest}) must not be less than expire ({life})")


_SWITCHES = {
    "force_tcp": "force_tcp",
    "prefer_udp": "prefer_udp",
    "next_on_nodata": "next_on_nodata",
    "failfast_all_unhealthy_upstreams": "fail_fast",
}
_KNOWN = frozenset({
    "except", "max_fails", "max_concurrent", "force_tcp", "prefer_udp", "policy", "next",
    "failover", "expire", "max_age", "tls", "tls_servername", "health_check", "next_on_nodata",
    "failfast_all_unhealthy_upstreams", "max_idle_conns", "max_connect_attempts", "read_timeout",
    "source_address", "doh_method", "resolver",
})  # fmt: skip


def _number(text: str, what: str) -> int:
    signed = what in ("max_concurrent", "max_idle_conns")
    try:
        value = int(text)
        if value < 0 and not signed:
            raise ValueError(text)
    except ValueError as error:
        parser = "Atoi" if signed else "ParseUint"
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


def _health(manner: Manner, args: list[str]) -> None:
    if not args:
        return
    manner.interval = duration(args[0]) or 0.5
    manner.recursive = "no_rec" not in args
    if "domain" in args[1:-1]:
        manner.domain = normalize(args[args.index("domain") + 1])


def _tls(setup: Setup, args: list[str]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    args = [a and setup.path(a) for a in args]
    match [a for a in args if a]:
        case [authority]:
            context.load_verify_locations(authority)
        case [certificate, key]:
            context.load_cert_chain(certificate, key)
        case [certificate, key, authority]:
            context.load_cert_chain(certificate, key)
            context.load_verify_locations(authority)
    return context
