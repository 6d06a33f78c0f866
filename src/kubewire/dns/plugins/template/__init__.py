"""template: answers by regular expression and text template."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from kubewire.dns import re2
from kubewire.dns.metrics import Metric
from kubewire.dns.plugin import Fallthrough, Plugin, Request, Response, Setup, extended_error
from kubewire.dns.plugins.template.functions import TemplateError
from kubewire.dns.plugins.template.text import Template
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import AD, CD, RD
from kubewire.lang.dns.name import longest_zone
from kubewire.lang.dns.record import RR, from_text

_SPACE = re.compile(r"(?<=\{\{) +| +(?=\}\})")
_RECORD = re.compile(
    r"^(?P<name>\S+)\s+(?:(?P<ttl>[0-9]+)\s+)?(?:(?P<class>IN|CH|HS|ANY)\s+)?"
    r"(?:(?P<ttl2>[0-9]+)\s+)?(?P<type>[A-Za-z0-9]+)\s+(?P<rdata>.*)$",
    re.DOTALL,
)

_OF = ("server", "zone", "view", "class", "type")
MATCHES = Metric("coredns_template_matches_total", "Counter of template regex matches.", _OF)
FAILURES = Metric(
    "coredns_template_template_failures_total", "Counter of go template failures.",
    (*_OF, "section", "template"),
)  # fmt: skip
BAD_RECORDS = Metric(
    "coredns_template_rr_failures_total", "Counter of mis-templated RRs.",
    (*_OF, "section", "template"),
)  # fmt: skip


@dataclass
class Rule:
    """One ``template`` block."""

    qclass: int
    qtype: int
    zones: list[str]
    regexes: list[re.Pattern[str]] = field(default_factory=list)
    answer: list[Template] = field(default_factory=list)
    authority: list[Template] = field(default_factory=list)
    additional: list[Template] = field(default_factory=list)
    rcode: int = 0
    ederror: tuple[int, str] | None = None
    fall: Fallthrough = field(default_factory=Fallthrough)

    def concerns(self, request: Request) -> bool:
        """Tell whether the rule is about this zone, class and type."""
        if codes.CLASS_ANY not in (self.qclass, request.qclass) and self.qclass != request.qclass:
            return False
        if codes.ANY not in (self.qtype, request.qtype) and self.qtype != request.qtype:
            return False
        return longest_zone(request.name, self.zones) != ""

    def match(self, request: Request) -> re.Match[str] | None:
        """The first expression that matches the name."""
        found = (regex.search(request.name) for regex in self.regexes)
        return next((m for m in found if m), None)


class TemplatePlugin(Plugin):
    """Rules in the order of the file; the first that matches answers."""

    name = "template"
    replayable = False

    def __init__(self, rules: list[Rule]) -> None:
        self._rules = rules

    @classmethod
    def setup(cls, setup: Setup) -> TemplatePlugin:
        """Read the directive."""
        return cls([_rule(setup, args) for args in setup.stanzas()])

    async def serve(self, request: Request) -> Response:
        """Answer by the first rule that matches."""
        for rule in self._rules:
            if not rule.concerns(request):
                continue
            if found := rule.match(request):
                zone = longest_zone(request.name, rule.zones)
                self.metrics.add(MATCHES, *_labels(request, zone))
                return await self._answer(rule, request, zone, found)
            if not rule.fall.through(request.name):
                return self.fail(codes.SERVFAIL, f"{request.name} matches no expression")
        return await self.next.serve(request)

    async def _answer(
        self, rule: Rule, request: Request, zone: str, match: re.Match[str]
    ) -> Response:
        if rule.rcode == codes.SERVFAIL:
            return self.fail(codes.SERVFAIL, f"matches {match.re.pattern}")
        data = _data(request, zone, rule.qtype, match)
        response = self.reply(rule.rcode, reason=f"matches {match.re.pattern}")
        for section in ("answer", "authority", "additional"):
            for template in getattr(rule, section):
                labels = (*_labels(request, zone), section, _SPACE.sub("", template.text))
                try:
                    getattr(response, section).append(_record(template.render(data)))
                except TemplateError as error:
                    self.metrics.add(FAILURES, *labels)
                    return self.fail(codes.SERVFAIL, str(error))
                except ValueError as error:
                    self.metrics.add(BAD_RECORDS, *labels)
                    return self.fail(codes.SERVFAIL, str(error))
        if rule.ederror:
            response.options = (extended_error(*rule.ederror),)
        await self._follow(request, response)
        return response

    async def _follow(self, request: Request, response: Response) -> None:
        """Resolve a CNAME for an address question; one that leads back to us is left alone."""
        if request.block is None or not response.answer:
            return
        last = response.answer[-1]
        wants = request.qtype in (codes.A, codes.AAAA)
        if wants and last.type == codes.CNAME and last.target.lower() != request.name:
            found = await request.block.lookup(request, last.target, request.qtype)
            if found.rcode == codes.NOERROR:
                response.answer += found.answer


def _rule(setup: Setup, args: list[str]) -> Rule:
    if len(args) < 2:
        raise setup.arg_err()
    qclass = codes.CLASSES.get(args[0].upper())
    if qclass is None:
        raise setup.err(f"invalid query class {args[0]}")
    qtype = codes.type_number(args[1])
    if qtype is None:
        raise setup.err(f"invalid RR class {args[1]}")
    rule = Rule(qclass, qtype, setup.zones(args[2:]))
    for word, values in setup.properties():
        _option(setup, rule, word, values)
    rule.regexes = rule.regexes or [re2.pattern(".*")]
    return rule


def _option(setup: Setup, rule: Rule, word: str, args: list[str]) -> None:
    match word:
        case "match":
            if not args:
                raise setup.arg_err()
            try:
                rule.regexes += [re2.pattern(a) for a in args]
            except re.error as error:
                raise setup.err(f"could not parse regex: {error}") from error
        case "answer" | "additional" | "authority":
            if not args:
                raise setup.arg_err()
            try:
                getattr(rule, word).extend(Template(a) for a in args)
            except TemplateError as error:
                raise setup.err(f"could not compile template: {error}") from error
        case "rcode":
            if len(args) != 1:
                raise setup.arg_err()
            if args[0].upper() not in codes.RCODES:
                raise setup.err(f"unknown rcode {args[0]}")
            rule.rcode = codes.RCODES[args[0].upper()]
        case "ederror":
            if len(args) not in (1, 2) or not args[0].isdecimal():
                raise setup.arg_err()
            rule.ederror = int(args[0]), args[1] if len(args) == 2 else ""
        case "fallthrough":
            rule.fall = Fallthrough.from_args(args)
        case "upstream":
            return
        case _:
            raise setup.err(f"Wrong argument count or unexpected line ending after '{word}'")


def _labels(request: Request, zone: str) -> tuple[str, ...]:
    kinds = (codes.class_name(request.qclass), codes.type_name(request.qtype))
    return (request.server, zone, request.view, *kinds)


def _data(request: Request, zone: str, qtype: int, match: re.Match[str]) -> dict[str, Any]:
    groups = {str(i): g or "" for i, g in enumerate((match[0], *match.groups()))}
    named = {k: v or "" for k, v in match.groupdict().items()}

    def meta(key: str) -> str:
        found = request.metadata.get(key)
        return found() if found else ""

    question = {"Name": request.qname, "Qtype": request.qtype, "Qclass": request.qclass}
    return {
        "Zone": zone,
        "Name": request.name,
        "Class": codes.class_name(request.qclass),
        "Type": codes.type_name(qtype if request.qtype == codes.ANY else request.qtype),
        "Match": [match[0], *(g or "" for g in match.groups())],
        "Group": {**groups, **named},
        "Message": {
            "Id": request.message.id,
            "Opcode": request.message.opcode,
            "RecursionDesired": bool(request.message.flags & RD),
            "CheckingDisabled": bool(request.message.flags & CD),
            "AuthenticatedData": bool(request.message.flags & AD),
            "Question": [question],
        },
        "Question": question,
        "Remote": request.client[0],
        "Meta": meta,
    }


def _record(text: str) -> RR:
    match = _RECORD.match(text.strip())
    if not match:
        raise ValueError(f"not a record: {text}")
    rtype = codes.type_number(match["type"])
    if rtype is None:
        raise ValueError(f"unknown type in record: {text}")
    ttl = int(match["ttl"] or match["ttl2"] or 3600)
    name = match["name"] if match["name"].endswith(".") else match["name"] + "."
    rclass = codes.CLASSES.get(match["class"] or "IN", codes.IN)
    return from_text(name, ttl, rtype, match["rdata"], rclass=rclass)


PLUGIN = TemplatePlugin
