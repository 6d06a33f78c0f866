"""log: one line per question."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass, field

from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugin import Plugin, Request, Response, Setup
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import CD, parse
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
    flags = ["qr"] + [n for n in ("aa", "tc") if getattr(response, n)]
    if request.message.flags & 0x0100:
        flags.append("rd")
    flags += [n for n in ("ra", "ad") if getattr(response, n)]
    if request.message.flags & CD if response.cd is None else response.cd:
        flags.append("cd")
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
        "rcode": codes.rcode_name(response.rcode),
        "rsize": str(_size(request, response)),
        ">rflags": ",".join(flags),
        ">bufsize": str(request.bufsize),
        ">do": "true" if edns and edns.do else "false",
        ">id": str(request.message.id),
        ">opcode": str(request.message.opcode),
    }

    def value(match: re.Match[str]) -> str:
        key = match[1]
        if key.startswith("/"):
            found = request.metadata.get(key[1:])
            return (found() if found else "") or "-"
        return values.get(key, match[0])

    return _FIELD.sub(value, text)


def _size(request: Request, response: Response) -> int:
    """Octets of the answer as it is sent, if names were not compressed."""
    from kubewire.dns.dispatch import finish

    if response.drop or response.raw is not None:
        return 0
    message = parse(finish(request, response))
    size = 12 + len(to_wire(request.qname)) + 4
    for record in (*message.answer, *message.authority, *message.additional):
        size += len(to_wire(record.name)) + 10 + len(rdata_wire(record))
    if message.edns:
        size += 11 + sum(4 + len(data) for _, data in message.edns.options)
    return size


PLUGIN = Log
