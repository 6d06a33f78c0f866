"""What a plugin is: a class with a name, a set-up from the Corefile, and ``serve``.

Plugins of a server block form a chain; each answers, or hands on to ``self.next``, or changes what
came back. Third parties add theirs by the entry point group ``kubewire.dns_plugins`` (name of the
directive -> class), with the class attribute ``before`` naming the directive it runs ahead of.

An answer that would come out the same for the same octets of a question may say so (``Replay``):
the server then keeps its octets and does not walk the chain again until one of ``deps`` changes or
``until`` has passed. A plugin that must see every query takes that away (``replayable = False``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from kubewire.dns.corefile import CorefileError, Cursor
from kubewire.dns.metrics import Book, Metric
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import Edns, Message, Question
from kubewire.lang.dns.name import longest_zone, normalize
from kubewire.lang.dns.record import RR

if TYPE_CHECKING:
    from kubewire.dns.config import Block, Environment


Counted = tuple[Metric, tuple[str, ...]]
"""A counter and the values of its labels."""


class Replay(NamedTuple):
    """How long an answer stays the same: until one of these changes, or until then."""

    deps: tuple[Hashable, ...] = ()
    until: float = math.inf


class Plain(NamedTuple):
    """An answer of one record or none, as octets behind the question."""

    rcode: int
    answers: int
    authorities: int
    """How many records there are of either kind."""
    body: bytes
    deps: tuple[Hashable, ...]
    """What it was made of, as in ``Replay``."""
    cut: int = 0
    """So many labels below the zone make it true: all names below them get the same answer."""


class Shortcut(NamedTuple):
    """How a chain answers its usual questions for whoever asks, without a Request."""

    zones: tuple[str, ...]
    """Nothing else is asked."""
    answer: Callable[[list[bytes], bytes, int], Plain | None]
    """From the lower-case labels below the zone, a pointer to the zone in the question and the type.

    None: the chain has to see the Request."""
    plugin: str
    """In whose name."""
    counted: tuple[Counted, ...] = ()
    """As in ``Response``."""


class Request:
    """A question and who asks it."""

    __slots__ = (
        "block", "client", "depth", "local", "message", "metadata", "name", "proto", "qname",
        "qtype", "server", "size", "tsig", "wire",
    )  # fmt: skip

    def __init__(
        self,
        message: Message,
        *,
        client: tuple[str, int] = ("", 0),
        local: tuple[str, int] = ("", 0),
        proto: str = "udp",
        size: int = 0,
    ) -> None:
        question = message.question
        assert question is not None
        self.message = message
        self.qname = question.name
        self.name = question.name.lower()
        self.qtype = question.type
        self.client = client
        self.local = local
        self.proto = proto
        self.size = size
        self.metadata: dict[str, Callable[[], str]] = {}
        self.block: Block | None = None
        self.depth = 0
        self.server = ""
        """Where it came in, as metrics name it."""
        self.wire = b""
        """The octets that came in, for signatures."""
        self.tsig: object | None = None
        """Set by the tsig plugin on a verified request."""

    @property
    def qclass(self) -> int:
        """Class of the question."""
        assert self.message.question is not None
        return self.message.question.rclass

    @property
    def do(self) -> bool:
        """The client asks for DNSSEC records."""
        return self.message.edns is not None and self.message.edns.do

    @property
    def bufsize(self) -> int:
        """Octets that the client takes."""
        if self.proto != "udp":
            return 65535
        return max(512, self.message.edns.size) if self.message.edns else 512

    @property
    def network(self) -> str:
        """``udp`` or ``tcp``: what carries the protocol, as CoreDNS labels it."""
        return "udp" if self.proto in ("udp", "quic", "https3") else "tcp"

    @property
    def family(self) -> int:
        """1 for IPv4, 2 for IPv6, as CoreDNS labels it."""
        return 2 if ":" in self.client[0] else 1

    @property
    def view(self) -> str:
        """Name of the view that the question fell into."""
        return self.block.view_name if self.block else ""

    def asking(self, name: str, qtype: int) -> Request:
        """The same client with another question."""
        message = Message(
            id=self.message.id,
            flags=self.message.flags,
            question=Question(name, qtype, self.qclass),
            edns=self.message.edns,
        )
        other = Request(
            message, client=self.client, local=self.local, proto=self.proto, size=self.size
        )
        other.metadata = self.metadata
        other.block = self.block
        other.depth = self.depth
        other.server = self.server
        return other


class Response:
    """What goes back, and why."""

    __slots__ = (
        "aa", "ad", "additional", "answer", "authority", "cd", "counted", "drop", "options", "plugin", "ra",
        "raw", "rcode", "rd", "reason", "replay", "rotate", "seal", "tc", "written",
    )  # fmt: skip

    def __init__(
        self,
        rcode: int = 0,
        *,
        answer: list[RR] | None = None,
        authority: list[RR] | None = None,
        additional: list[RR] | None = None,
        aa: bool = False,
        plugin: str = "",
        reason: str = "",
        replay: Replay | None = None,
        written: bool = True,
    ) -> None:
        self.rcode = rcode
        self.answer = answer if answer is not None else []
        self.authority = authority if authority is not None else []
        self.additional = additional if additional is not None else []
        self.aa = aa
        self.tc = self.ra = self.ad = False
        self.rd: bool | None = None
        """None: as in the question."""
        self.cd: bool | None = None
        self.options: tuple[tuple[int, bytes], ...] = ()
        """EDNS options that a plugin adds, instead of the client's of the same code."""
        self.plugin = plugin
        self.reason = reason
        self.replay = replay
        self.counted: tuple[Counted, ...] = ()
        """What plugins count each time that it is replayed."""
        self.written = written
        """False: a bare rcode that nobody composed (caches and filters leave it alone)."""
        self.rotate = False
        """Addresses may be shuffled from one answer to the next."""
        self.drop = False
        """Do not answer at all."""
        self.seal: Callable[[bytes], bytes] | None = None
        """Signs the finished message."""
        self.raw: list[bytes] | None = None
        """Ready messages (zone transfers); the id is filled in."""

    @classmethod
    def failure(cls, rcode: int, plugin: str = "", reason: str = "") -> Response:
        """A bare rcode."""
        return cls(rcode, plugin=plugin, reason=reason, written=False)

    def copy(self) -> Response:
        """Another response with the same content and lists of its own."""
        other = Response.__new__(Response)
        for slot in Response.__slots__:
            setattr(other, slot, getattr(self, slot))
        other.answer = list(self.answer)
        other.authority = list(self.authority)
        other.additional = list(self.additional)
        return other


class Handler:
    """Something that answers a request."""

    async def serve(self, request: Request) -> Response:
        """Answer."""
        raise AssertionError(request)


class End(Handler):
    """The end of a chain: nobody took the name."""

    def __init__(self, rcode: int = codes.SERVFAIL) -> None:
        self._rcode = rcode

    async def serve(self, request: Request) -> Response:
        """A bare SERVFAIL, or REFUSED behind file, auto and secondary."""
        return Response.failure(
            self._rcode, reason=f"no plugin of the server block takes {request.name}"
        )


class Plugin(Handler):
    """Base of every plugin; override ``setup`` and what the plugin takes part in."""

    name: ClassVar[str] = ""
    before: ClassVar[str] = ""
    """Third-party plugins: the directive they run ahead of; "" is the end of the chain."""
    handles: ClassVar[bool] = True
    """Takes part in the chain; others only configure or observe the server."""
    replayable: bool = True
    """False: must see every query, so answers behind it are never replayed."""
    end_rcode: ClassVar[int] = codes.SERVFAIL
    """What the chain says if this is its last plugin and nobody took the name."""
    any_class: ClassVar[bool] = False
    """Opens the server to classes other than IN."""

    next: Handler = End()
    metrics: Book
    """Where it counts; set when it is set up."""

    @classmethod
    def setup(cls, setup: Setup) -> Plugin | None:
        """Read the directive; None: nothing is added. Raises CorefileError."""
        raise AssertionError(cls)

    async def serve(self, request: Request) -> Response:
        """Answer or hand on."""
        return await self.next.serve(request)

    async def start(self) -> None:
        """Before the listeners open; the event loop runs."""

    async def started(self) -> None:
        """After the listeners are open."""

    async def stop(self, *, final: bool) -> None:
        """Give everything back; ``final`` is False on a reload."""

    def shortcut(self, behind: Shortcut | None, server: str, view: str) -> Shortcut | None:
        """What the chain from here on says without a Request, given what it says behind here.

        None: this plugin must see every Request that reaches it.
        """
        return None

    def forget(self, deps: Iterable[Hashable]) -> None:
        """Something that answers were made of changed: let go of those that were kept."""

    @property
    def ready(self) -> bool:
        """For the ready plugin."""
        return True

    def metadata(self, request: Request) -> Mapping[str, Callable[[], str]]:
        """Labels of a request, for the metadata plugin; computed when asked for."""
        return {}

    def measure(self, book: Book) -> None:
        """Enter what is true now to the page of the prometheus plugin."""

    def reply(
        self,
        rcode: int = 0,
        *,
        answer: list[RR] | None = None,
        authority: list[RR] | None = None,
        additional: list[RR] | None = None,
        aa: bool = True,
        reason: str = "",
        replay: Replay | None = None,
    ) -> Response:
        """A response in this plugin's name."""
        return Response(
            rcode,
            answer=answer,
            authority=authority,
            additional=additional,
            aa=aa,
            plugin=self.name,
            reason=reason,
            replay=replay,
        )

    def fail(self, rcode: int, reason: str = "") -> Response:
        """A bare rcode in this plugin's name."""
        return Response.failure(rcode, self.name, reason)


class Fallthrough:
    """The ``fallthrough [ZONES]`` option: for which names the next plugin is asked."""

    def __init__(self, zones: Iterable[str] | None = None) -> None:
        self.zones = tuple(normalize(z) for z in zones) if zones is not None else ()

    @classmethod
    def from_args(cls, args: list[str]) -> Fallthrough:
        """No arguments mean every name."""
        return cls(args or ["."])

    def through(self, name: str) -> bool:
        """Tell whether a lower-case name falls through."""
        return bool(self.zones) and longest_zone(name, self.zones) != ""


class Setup(Cursor):
    """What a plugin reads when it is set up: its tokens, its server block, the surroundings."""

    def __init__(self, cursor_tokens: list[Any], file: str, block: Block, env: Environment) -> None:
        super().__init__(cursor_tokens, file)
        self.block = block
        self.env = env

    def zones(self, args: list[str]) -> list[str]:
        """Zones from arguments, else those of the server block."""
        from kubewire.dns.config import zones_of

        return zones_of(args) if args else list(self.block.zones)

    def once(self) -> list[str]:
        """Arguments of a directive that may stand only once per server block."""
        self.next()
        return self.args()

    def no_more(self) -> None:
        """Complain about a second occurrence."""
        if self.next():
            raise CorefileError("this plugin can only be used once per Server Block")

    def path(self, name: str) -> str:
        """A file name below the block's root."""
        return name if name.startswith("/") or not self.block.root else f"{self.block.root}/{name}"


_DURATION = re.compile(r"([0-9]*\.?[0-9]+|[0-9]+\.)(ns|us|µs|μs|ms|s|m|h)")
_UNITS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}


def duration(text: str) -> float:
    """Seconds of a Go duration (``1h30m``, ``250ms``). ValueError has Go's text."""
    sign, rest = (-1.0, text[1:]) if text[:1] == "-" else (1.0, text.removeprefix("+"))
    if rest == "0":
        return 0.0
    total, at = 0.0, 0
    while match := _DURATION.match(rest, at):
        total += float(match[1]) * _UNITS[match[2]]
        at = match.end()
    if not rest or at != len(rest):
        if re.fullmatch(r"[0-9.]+", rest[at:]) and rest[at:] != ".":
            raise ValueError(f'time: missing unit in duration "{text}"')
        if unit := re.match(r"[0-9][0-9.]*([^0-9.]+)", rest[at:]):
            raise ValueError(f'time: unknown unit "{unit[1]}" in duration "{text}"')
        raise ValueError(f'time: invalid duration "{text}"')
    return sign * total


def opt_reply(message: Message, response: Response) -> Edns | None:
    """The OPT record of an answer: the client's size and DO, some options as they came."""
    edns = message.edns
    if edns is None:
        return None
    own = {code for code, _ in response.options}
    kept = tuple(o for o in edns.options if o[0] in ECHOED and o[0] not in own)
    return Edns(edns.size, edns.do, 0, response.rcode >> 4, (*kept, *response.options))


ECHOED = frozenset({3, 9, 10, 11, 12})
"""NSID, EXPIRE, COOKIE, KEEPALIVE and PADDING come back as sent."""
EDE = 15
"""Extended DNS error (RFC 8914)."""


def extended_error(code: int, text: str = "") -> tuple[int, bytes]:
    """An EDE option."""
    return EDE, code.to_bytes(2, "big") + text.encode()
