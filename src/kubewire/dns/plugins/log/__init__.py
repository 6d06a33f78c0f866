"""log: one line per question."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass, field

from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugin import Plugin, Request, Response, Setup
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import CD, RD, TC, parse
from kubewire.lang.dns.name import normalize, to_wire, within
from kubewire.lang.dns.record import rdata_wire

log = logging.getLogger("kubewire.dns.plugin.log")

COMMON = (
    '{remote}:{port} - {>id} "{type} {class} {name} {proto} {size} {>do} {>bufsize}" '
    "{rcode} {>rflags} {rsize} {duration}"
)
COMBINED = COMMON + ' "{>opcode}"'
CLASSES = ("denial", "error", "success", "all")
_FIELD = re.compile(r"\{(/?>?[A-Za-z/_.-]+)\}")


@dataclass
class Rule:
    """Names, format and classes of one ``log`` line."""

    zone: str
    format: str = COMMON
    classes: set[str] = field(default_factory=lambda: {"all"})


class Log(Plugin):
    """Writes to standard output, on the way back."""

    name = "log"
    replayable = False

    def __init__(self, rules: list[Rule], *, silent: bool) -> None:
        self._rules = rules
        self._silent = silent

    @classmethod
    def setup(cls, setup: Setup) -> Log:
        """Read the directive."""
        rules: list[Rule] = []
        for args in setup.stanzas():
            fresh = _rules(args)
            for word, values in setup.properties():
                if word != "class":
                    raise setup.unknown(word)
                if not values:
                    raise setup.arg_err()
                for value in values:
                    if value not in CLASSES:
                        raise CorefileError(f"invalid Class: {value}")
                for rule in fresh:
                    rule.classes = set(values)
            rules += fresh
        return cls(rules, silent=setup.env.offline)

    async def serve(self, request: Request) -> Response:
        """Log what comes back."""
        began = time.perf_counter()
        response = await self.next.serve(request)
        rule = next((r for r in self._rules if within(request.name, r.zone)), None)
        if self._silent or rule is None:
            return response
        if "all" in rule.classes or _class(response) in rule.classes:
            log.info("%s", render(rule.format, request, response, time.perf_counter() - began))
        return response


def _rules(args: list[str]) -> list[Rule]:
    if not args:
        return [Rule(".")]
    text = COMMON
    if len(args) > 1 and "{" in args[-1]:
        text = args.pop().replace("{common}", COMMON).replace("{combined}", COMBINED)
    elif len(args) == 1 and "{" in args[0]:
        return [Rule(".", args[0].replace("{common}", COMMON).replace("{combined}", COMBINED))]
    return [Rule(normalize(a), text) for a in args]


def _class(response: Response) -> str:
    if response.rcode == codes.NXDOMAIN or (response.rcode == 0 and not response.answer):
        return "denial"
    return "success" if response.rcode == 0 else "error"


def render(text: str, request: Request, response: Response, seconds: float) -> str:
    """Fill a format."""
    edns = request.message.edns
    size = _size(request, response)
    silent = response.drop
    remote = f"[{request.client[0]}]" if ":" in request.client[0] else request.client[0]
    values = {
        "type": codes.type_name(request.qtype),
        "name": request.name,
        "class": codes.class_name(request.qclass),
        "proto": request.network,
        "remote": remote,
        "local": request.local[0],
        "port": str(request.client[1]),
        "size": str(request.size),
        "duration": f"{seconds:.9f}".rstrip("0").rstrip(".") + "s",
        "rcode": "-" if silent else codes.rcode_name(response.rcode),
        "rsize": str(size),
        ">rflags": "-" if silent else ",".join(_flags(request, response, size)),
        ">bufsize": str(request.bufsize),
        ">do": "true" if edns and edns.do else "false",
        ">id": str(request.message.id),
        ">opcode": str(request.message.opcode),
    }

    def value(match: re.Match[str]) -> str:
        key = match[1]
        if key.startswith("/"):
            found = request.metadata.get(key[1:])
            return found() if found else "-"
        return values.get(key, match[0])

    return _FIELD.sub(value, text)


def _flags(request: Request, response: Response, size: int) -> list[str]:
    asked = request.message.flags
    set_ = {
        "qr": True,
        "aa": response.aa,
        "tc": _cut(request, response, size),
        "rd": asked & RD if response.rd is None else response.rd,
        "ra": response.ra,
        "ad": response.ad,
        "cd": asked & CD if response.cd is None else response.cd,
    }
    return [name for name, value in set_.items() if value]


def _size(request: Request, response: Response) -> int:
    """Octets of the whole answer, if names were not compressed, nothing cut and no OPT added.

    An OPT record stands in bare refusals already.
    """
    if response.drop or response.raw is not None:
        return 0
    bare = request.message.edns is not None and not response.written
    size = 12 + len(to_wire(request.qname)) + 4 + 11 * bare
    for record in (*response.answer, *response.authority, *response.additional):
        size += len(to_wire(record.name)) + 10 + len(rdata_wire(record))
    return size


def _cut(request: Request, response: Response, size: int) -> bool:
    """Tell whether the client gets less of it."""
    from kubewire.dns.dispatch import finish

    if response.tc or request.proto != "udp" or size + 11 <= request.bufsize:
        return response.tc
    return bool(parse(finish(request, response)).flags & TC)


PLUGIN = Log
