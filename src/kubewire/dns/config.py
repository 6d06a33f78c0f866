"""From server blocks to chains: zones, listen addresses, plugins in plugin.cfg order.

A Configuration is a value until it is started: everything that can be wrong with a Corefile is
found here, so that a reload of a broken one leaves the old one running.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kubewire.dns import registry
from kubewire.dns.corefile import CorefileError, ServerBlock, parse
from kubewire.dns.metrics import Book
from kubewire.dns.plugin import End, Handler, Plugin, Request, Response, Setup
from kubewire.lang.dns import codes
from kubewire.lang.dns.name import BadNameError, normalize, reverse_zones, to_wire

if TYPE_CHECKING:
    from kubewire.client.rest import Client
    from kubewire.dns.cookies import Cookies
    from kubewire.dns.dispatch import Dispatcher
    from kubewire.dns.tls import Tls

DEFAULT_COREFILE = ".:53 {\n    whoami\n    log\n}\n"
SCHEMES = {"dns": 53, "tls": 853, "quic": 853, "grpc": 443, "https": 443, "https3": 443}


class Address(NamedTuple):
    """One key of a server block."""

    scheme: str
    zone: str
    port: int
    host: str = ""

    def __str__(self) -> str:
        text = f"{self.scheme}://{self.zone}:{self.port}"
        return f"{text} on {self.host}" if self.host else text


class Listener(NamedTuple):
    """Where a server listens; an empty host means every address."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


@dataclass
class Environment:
    """The world around a configuration: what plugins may need and tests replace."""

    variables: Mapping[str, str] = field(default_factory=lambda: os.environ)
    default_port: int = 53
    objects: Sequence[Mapping[str, Any]] | None = None
    """Offline: the cluster's objects instead of an API server; no socket is opened."""
    kubeconfig: str = ""
    """Where the API server is unless the Corefile says so."""
    context: str = ""
    client: Callable[[], Client] | None = None
    """How to reach the API server instead of that."""
    agent: str = ""
    """Name under which applied resourceVersions are reported."""
    warn: Callable[[str], None] = lambda _: None
    end: Callable[[int], object] = lambda _: None
    """End the process with a status (the loop plugin)."""
    kept: dict[Hashable, Any] = field(default_factory=dict)
    """What a plugin hands over to its successor on a reload."""
    metrics: Book = field(default_factory=Book)
    """What plugins count, over reloads."""
    reload: Callable[[], Awaitable[None]] | None = None
    """Read the Corefile again and change over to it if it is another one."""

    @property
    def offline(self) -> bool:
        """Nothing may leave the process."""
        return self.objects is not None


View = Callable[[Request], bool]


@dataclass
class Block:
    """One server block: its addresses, what its plugins set, and its chain."""

    addresses: list[Address]
    file: str
    zones: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    root: str = ""
    debug: bool = False
    sockets: int = 1
    tls: Tls | None = None
    tsig_keys: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    view_name: str = ""
    views: list[View] = field(default_factory=list)
    plugins: dict[str, Plugin] = field(default_factory=dict)
    chain: Handler | None = None
    replayable: bool = True
    metadata: bool = False
    timeouts: dict[str, float] = field(default_factory=dict)
    max_tcp_queries: int = 0
    cookies: Cookies | None = None
    """Of the first block: they hold for the whole listener."""
    limits: dict[str, int] = field(default_factory=dict)
    """``plugin.property`` of the plugins that limit encrypted listeners."""
    dispatcher: Dispatcher | None = None
    """Set by the server: what listens at (one of) this block's addresses."""
    configuration: Configuration | None = None

    def plugin(self, name: str) -> Plugin | None:
        """A plugin of this block."""
        return self.plugins.get(name)

    async def lookup(self, request: Request, name: str, qtype: int) -> Response:
        """Ask the whole server for another name, as if the client had."""
        assert self.dispatcher is not None
        asked = request.asking(name, qtype)
        asked.depth += 1
        if asked.depth > 20:
            return Response.failure(codes.SERVFAIL, reason="too many look-ups inside one question")
        return await self.dispatcher.serve(asked)


@dataclass
class Configuration:
    """A whole Corefile, ready to be started."""

    blocks: list[Block]
    digest: bytes
    """Of the parsed tokens: comments and layout do not count."""
    file: str
    dispatchers: list[Dispatcher] = field(default_factory=list)
    """Filled by the server, one for each address that is listened at."""

    def drop(self, deps: Iterable[Hashable]) -> None:
        """Something changed: no listener may replay answers that were made of it.

        A name of one block may be part of another block's answer (a CNAME that was followed).
        """
        wanted = tuple(deps)
        for dispatcher in self.dispatchers:
            dispatcher.drop(wanted)

    @property
    def plugins(self) -> list[Plugin]:
        """Every plugin instance once, in order."""
        return [p for block in self.blocks for p in block.plugins.values()]

    def listeners(self) -> dict[Listener, list[Block]]:
        """Blocks by where they listen."""
        found: dict[Listener, list[Block]] = {}
        for block in self.blocks:
            for address in block.addresses:
                for host in block.hosts or [""]:
                    group = found.setdefault(Listener(address.scheme, host, address.port), [])
                    if block not in group:
                        group.append(block)
        return found


def split_address(text: str, default_port: int) -> tuple[str, list[str], int]:
    """Scheme, zones (several for a CIDR off an octet) and port of a key. Raises CorefileError."""
    scheme, rest = "dns", text
    for name in SCHEMES:
        if text.startswith(name + "://"):
            scheme, rest = name, text[len(name) + 3 :]
    hosts, port = split_host_port(rest)
    return scheme, hosts, port or (default_port if scheme == "dns" else SCHEMES[scheme])


def split_host_port(text: str) -> tuple[list[str], int]:
    """Zones and port (0: none) of ``zone:port`` or ``prefix/length:port``."""
    host, colon, tail = text.rpartition(":")
    if colon and not tail:
        raise CorefileError(f'expecting data after last colon: "{text}"')
    port = 0
    if colon and re.fullmatch("[+-]?[0-9]{1,18}", tail):
        text, port = host, int(tail)
        if not 0 <= port <= 65535:
            raise CorefileError(f"address {port}: invalid port")
    if len(text) > 255:
        raise CorefileError(f"specified zone is too long: {len(text)} > 255")
    try:
        to_wire(text)
    except (BadNameError, UnicodeError) as error:
        if text:
            raise CorefileError(f"zone is not a valid domain name: {text}") from error
    if "/" in text:
        try:
            return reverse_zones(text), port
        except ValueError:
            pass
    return [text], port


def zones_of(args: Sequence[str]) -> list[str]:
    """Normalized zones of a plugin's arguments; what cannot be read is left out."""
    found: list[str] = []
    for arg in args:
        try:
            _, hosts, _ = split_address(arg, 53)
        except CorefileError:
            continue
        found += [normalize(h) for h in hosts]
    return found


def load(path: str | Path, env: Environment) -> Configuration:
    """Read and check a Corefile. Raises CorefileError."""
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CorefileError(f"{path}: cannot be read: {error}") from error
    return build(text, str(path), env)


def build(text: str, file: str, env: Environment) -> Configuration:
    """Check a Corefile's text. Raises CorefileError."""
    order = registry.order()
    parsed = parse(text, file, order, env=env.variables, warn=env.warn)
    configuration = Configuration([], _digest(parsed), file)
    for server_block in parsed:
        block = Block(_addresses(server_block, env), file, configuration=configuration)
        block.zones = list(dict.fromkeys(a.zone for a in block.addresses))
        configuration.blocks.append(block)
    # All blocks get one directive before the next one, as CoreDNS does it: which of several
    # mistakes is reported depends on it.
    for directive in order:
        for server_block, block in zip(parsed, configuration.blocks, strict=True):
            if tokens := server_block.tokens.get(directive):
                _set_up(directive, Setup(tokens, file, block, env))
    _check_overlap(configuration.blocks)
    for block in configuration.blocks:
        _chain(block)
    return configuration


def _digest(blocks: list[ServerBlock]) -> bytes:
    words = [
        (b.keys, {d: [t.text for t in tokens] for d, tokens in b.tokens.items()}) for b in blocks
    ]
    return hashlib.sha512(repr(words).encode()).digest()


def _addresses(block: ServerBlock, env: Environment) -> list[Address]:
    found = []
    for key in block.keys:
        try:
            scheme, hosts, port = split_address(key, env.default_port)
        except CorefileError as error:
            raise CorefileError(f"error inspecting server blocks: {error}") from error
        found += [Address(scheme, normalize(host), port) for host in hosts]
    return found


def _set_up(directive: str, setup: Setup) -> None:
    try:
        plugin = registry.find(directive).setup(setup)
    except CorefileError as error:
        raise CorefileError(f"plugin/{directive}: {error}") from error
    except OSError as error:
        why = f"open {error.filename}: {str(error.strerror).lower()}" if error.filename else error
        raise CorefileError(f"plugin/{directive}: {why}") from error
    except ValueError as error:
        raise CorefileError(f"plugin/{directive}: {error}") from error
    if plugin is not None:
        plugin.metrics = setup.env.metrics
        setup.block.plugins[directive] = plugin


def _chain(block: Block) -> None:
    members = [p for p in block.plugins.values() if p.handles]
    if not members:
        return
    handler: Handler = End(members[-1].end_rcode)
    for plugin in reversed(members):
        plugin.next = handler
        handler = plugin
    block.chain = handler
    block.replayable = all(p.replayable for p in block.plugins.values())


def _check_overlap(blocks: list[Block]) -> None:
    registered: set[Address] = set()
    bound: dict[Address, Address] = {}
    for block in blocks:
        for address in block.addresses:
            for host in block.hosts or [""]:
                key = address._replace(host=host)
                free = address._replace(host="")
                if key in registered and not block.views:
                    raise CorefileError(f"cannot serve {key} - it is already defined")
                overlap = bound.get(free) if not host else (free if free in registered else None)
                if overlap is not None and key not in registered:
                    raise CorefileError(
                        f"cannot serve {key} - zone overlap listener capacity with {overlap}"
                    )
                if not block.views:
                    registered.add(key)
                    if host:
                        bound.setdefault(free, key)


def is_address(text: str) -> bool:
    """An IP address in any family, with or without a zone."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
