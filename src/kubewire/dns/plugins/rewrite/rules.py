"""Rules of rewrite: each may change a question and says how to undo that in the answer."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from kubewire.dns import re2
from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugin import Request, Response
from kubewire.lang.dns import codes
from kubewire.lang.dns.message import Edns, Message, Question
from kubewire.lang.dns.name import normalize
from kubewire.lang.dns.record import RR

MATCHES = ("exact", "prefix", "suffix", "substring", "regex")
MAX_REGEX = 10000
Undo = Callable[[Response], None]
Text = Callable[[str], str]


@dataclass
class Changed:
    """A rule that applied: the new question and how to undo it."""

    request: Request
    undo: list[Undo] = field(default_factory=list)


class Rule:
    """One rule; ``stop`` ends the list if it applied."""

    stop = True

    def apply(self, request: Request) -> Changed | None:
        """The changed question, or None."""
        raise AssertionError(request)


def _pattern(text: str, replacement: str = "") -> re.Pattern[str]:
    if len(text) > MAX_REGEX:
        raise CorefileError(f"regex pattern too long: {len(text)} > {MAX_REGEX}")
    try:
        found = re2.pattern(text)
    except re.error as error:
        raise CorefileError(f"invalid regex matching pattern: {text}") from error
    used = {int(n) for n in re.findall(r"\{(\d{1,3})\}", replacement)}
    if len(used) > found.groups:
        raise CorefileError(
            f"the rewrite regex pattern ({replacement}) uses more subexpressions than its "
            f"corresponding matching regex pattern ({text})"
        )
    return found


def _filled(template: str, match: re.Match[str]) -> str:
    for number, group in enumerate((match[0], *match.groups())):
        template = template.replace(f"{{{number}}}", group or "")
    return template


class Matcher:
    """exact, prefix, suffix, substring or regex: does a name match, and what does it become?"""

    def __init__(self, kind: str, source: str, target: str = "") -> None:
        self.kind, self.source, self.target = kind, source, target
        self.regex = _pattern(source, target) if kind == "regex" else None

    def __call__(self, name: str) -> str | None:
        """The new name, or None."""
        source, target = self.source, self.target
        match self.kind:
            case "exact" if name == source:
                return target
            case "prefix" if name.startswith(source):
                return target + name[len(source) :]
            case "suffix" if name.endswith(source):
                return name[: len(name) - len(source)] + target
            case "substring" if source in name:
                return name.replace(source, target)
            case "regex" if self.regex and (found := self.regex.search(name)):
                return _filled(target, found)
        return None


def _owners(change: Text) -> Undo:
    def undo(response: Response) -> None:
        for section in ("answer", "authority", "additional"):
            records: list[RR] = getattr(response, section)
            setattr(response, section, [r.renamed(change(r.name)) for r in records])

    return undo


def _values(change: Text) -> Undo:
    def one(record: RR) -> RR:
        if not any(isinstance(p, str) for p in record.rdata):
            return record
        # Only the first name is a target: the second one of an SOA is a mailbox.
        parts, done = [], False
        for part in record.rdata:
            if isinstance(part, str) and not done:
                parts.append(change(part))
                done = True
            else:
                parts.append(part)  # type: ignore[arg-type]
        return RR(record.name, record.type, record.ttl, tuple(parts), record.rclass)

    def undo(response: Response) -> None:
        for section in ("answer", "authority", "additional"):
            setattr(response, section, [one(r) for r in getattr(response, section)])

    return undo


def _remap(source: str, target: str) -> Text:
    low = source.lower()

    def change(name: str) -> str:
        if name.lower() == low:
            return target
        if name.lower().endswith("." + low):
            return name[: len(name) - len(low)] + target
        return name

    return change


def _suffix(source: str, target: str) -> Text:
    def change(name: str) -> str:
        return name[: len(name) - len(source)] + target if name.lower().endswith(source) else name

    return change


class NameRule(Rule):
    """Another name."""

    def __init__(self, args: list[str]) -> None:
        if len(args) < 2:
            raise CorefileError("too few arguments for a name rule")
        kind = args[0].lower() if len(args) > 2 else "exact"
        if kind not in MATCHES:
            raise CorefileError(
                "name rule supports only exact, prefix, suffix, substring, and regex name "
                f"matching, received: {kind}"
            )
        source, target = args[:2] if len(args) == 2 else args[1:3]
        if kind != "regex":
            source = normalize(source)
        self.match = Matcher(kind, source, normalize(target))
        self.auto, self.answers = kind == "exact", list[Undo]()
        if len(args) > 3:
            auto, self.answers = _answer_rules(kind, args[3:])
            self.auto = self.auto or auto

    def apply(self, request: Request) -> Changed | None:
        """Ask for the other name."""
        name = self.match(request.name)
        if name is None:
            return None
        undo: list[Undo] = []
        if self.auto:
            change = _remap(name, request.qname)
            if self.match.kind == "suffix":
                change = _suffix(self.match.target, self.match.source)
            undo += [_owners(change), _values(change)]
        # What was said last is undone first.
        return Changed(request.asking(name, request.qtype), [*reversed(self.answers), *undo])


def _answer_rules(kind: str, args: list[str]) -> tuple[bool, list[Undo]]:
    auto, rules, names, at, last = False, list[Undo](), 0, 0, ""
    if len(args) < 2:
        raise CorefileError(f"invalid arguments for {kind} rule")
    while at < len(args):
        if not last and args[at] != "answer":
            raise CorefileError(
                f"exceeded the number of arguments for a non-answer rule argument for {kind} rule"
            )
        if args[at] == "answer":
            at += 1
        if at == len(args):
            raise CorefileError(f"type missing for answer rule for {kind} rule")
        last = args[at]
        at += 1
        if last == "auto":
            auto = True
            continue
        if last not in ("name", "value"):
            raise CorefileError(f'invalid type "{last}" for answer rule for {kind} rule')
        if len(args) - at < 2:
            raise CorefileError(f"{last} answer rule for {kind} rule: 2 arguments required")
        match = Matcher("regex", args[at], normalize(args[at + 1]))
        change = _or_same(match)
        rules.append(_owners(change) if last == "name" else _values(change))
        names += last == "name"
        at += 2
    if auto and names:
        raise CorefileError(
            "auto name answer rule cannot be combined with explicit name anwer rules"
        )
    return auto, rules


def _or_same(match: Matcher) -> Text:
    def change(name: str) -> str:
        found = match(name)
        return name if found is None else found

    return change


class TypeRule(Rule):
    """Another type."""

    def __init__(self, args: list[str]) -> None:
        if len(args) != 2:
            raise CorefileError("type rules must have exactly two arguments")
        found = [codes.type_number(a) for a in args]
        if None in found:
            raise CorefileError(
                f"invalid type {args[found.index(None)].upper()!r}".replace("'", '"')
            )
        self.source, self.target = found[0] or 0, found[1] or 0

    def apply(self, request: Request) -> Changed | None:
        """Ask for the other type."""
        if request.qtype != self.source:
            return None
        return Changed(request.asking(request.qname, self.target))


class ClassRule(Rule):
    """Another class."""

    def __init__(self, args: list[str]) -> None:
        if len(args) != 2:
            raise CorefileError("class rules must have exactly two arguments")
        for arg in args:
            if arg.upper() not in codes.CLASSES:
                raise CorefileError(f'invalid class "{arg.upper()}"')
        self.source, self.target = (codes.CLASSES[a.upper()] for a in args)

    def apply(self, request: Request) -> Changed | None:
        """Ask in the other class."""
        if request.qclass != self.source:
            return None
        other = request.asking(request.qname, request.qtype)
        other.message.question = Question(request.qname, request.qtype, self.target)
        return Changed(other)


class MatchedRule(Rule):
    """Base of the rules that change the answers for some names."""

    def __init__(self, what: str, args: list[str], values: int) -> None:
        kind = args[0].lower() if len(args) == values + 2 else "exact"
        if len(args) not in (values + 1, values + 2):
            raise CorefileError(f"too few arguments for a {what} rule")
        if kind not in MATCHES:
            raise CorefileError(
                f"{what} rule supports only exact, prefix, suffix, substring, and regex name "
                f"matching, received: {kind}"
            )
        rest = args[1:] if len(args) == values + 2 else args
        self.match = Matcher(kind, rest[0] if kind == "regex" else normalize(rest[0]))
        self.values = rest[1:]


class TtlRule(MatchedRule):
    """Another TTL, or one within bounds."""

    def __init__(self, args: list[str]) -> None:
        super().__init__("ttl", args, 1)
        low, dash, high = self.values[0].partition("-")
        try:
            self.low = int(low or 0)
            self.high = int(high) if high else (2**31 - 1 if dash else self.low)
        except ValueError as error:
            raise CorefileError(f"invalid TTL '{self.values[0]}' for a ttl rule") from error
        if not 0 <= self.low <= self.high:
            raise CorefileError(f"invalid TTL '{self.values[0]}' for a ttl rule")

    def apply(self, request: Request) -> Changed | None:
        """Change nothing now, the TTLs later."""
        if self.match(request.name) is None:
            return None

        def undo(response: Response) -> None:
            for section in ("answer", "authority", "additional"):
                records = getattr(response, section)
                aged = [r.aged(min(max(r.ttl, self.low), self.high)) for r in records]
                setattr(response, section, aged)

        return Changed(request.asking(request.qname, request.qtype), [undo])


class RcodeRule(MatchedRule):
    """Another rcode."""

    def __init__(self, args: list[str]) -> None:
        super().__init__("rcode", args, 2)
        numbers = [_rcode(v) for v in self.values]
        self.old, self.new = numbers

    def apply(self, request: Request) -> Changed | None:
        """Change nothing now, the rcode later."""
        if self.match(request.name) is None:
            return None

        def undo(response: Response) -> None:
            if response.rcode == self.old:
                response.rcode = self.new

        return Changed(request.asking(request.qname, request.qtype), [undo])


def _rcode(text: str) -> int:
    if text.upper() in codes.RCODES:
        return codes.RCODES[text.upper()]
    if text.isdecimal() and int(text) < 24:
        return int(text)
    raise CorefileError(f"invalid rcode '{text}' for a rcode rule")


class EdnsRule(Rule):
    """An EDNS option: set, append, replace or unset."""

    def __init__(self, args: list[str]) -> None:
        if len(args) < 2:
            raise CorefileError("too few arguments for an EDNS0 rule")
        self.kind, self.action = args[0].lower(), args[1].lower()
        self.revert = args[-1].lower() == "revert"
        rest = args[2:-1] if self.revert else args[2:]
        if self.action not in ("set", "append", "replace", "unset"):
            raise CorefileError(f"invalid action: '{self.action}'")
        self.option = self._option(rest)

    def _option(self, rest: list[str]) -> Callable[[Request], tuple[int, bytes] | None]:
        match self.kind, rest:
            case "nsid", []:
                return lambda _: (3, b"")
            case "local", [code, *data]:
                return _local(code, data[0] if data else "")
            case "subnet", [v4, v6]:
                return _subnet(int(v4), int(v6))
            case "subnet", [] if self.action == "unset":
                return lambda _: (8, b"")
            case (("nsid" | "local" | "subnet"), _):
                raise CorefileError(f"EDNS0 {self.kind} rules have another number of arguments")
        raise CorefileError(f"invalid rule type '{self.kind}'")

    def apply(self, request: Request) -> Changed | None:
        """Change the options."""
        option = self.option(request)
        if option is None:
            return None
        edns = request.message.edns or Edns(4096, options=())
        there = any(code == option[0] for code, _ in edns.options)
        others = tuple(o for o in edns.options if o[0] != option[0])
        options = edns.options
        if self.action == "unset":
            options = others
        elif (self.action == "set") or (self.action == "replace" and there):
            options = (*others, option)
        elif self.action == "append" and not there:
            options = (*edns.options, option)
        if options == edns.options:
            return None
        other = request.asking(request.qname, request.qtype)
        message = other.message
        other.message = Message(
            message.id, message.flags, message.question,
            edns=Edns(edns.size, edns.do, edns.version, edns.rcode, options),
        )  # fmt: skip
        return Changed(other)


def _local(code: str, data: str) -> Callable[[Request], tuple[int, bytes] | None]:
    try:
        number = int(code, 0)
    except ValueError as error:
        raise CorefileError(f"invalid EDNS0 code: {code}") from error
    if data.startswith("{") and data.endswith("}"):
        return lambda request: _variable(request, number, data[1:-1])
    raw = bytes.fromhex(data[2:]) if data.startswith("0x") else data.encode()
    return lambda _: (number, raw)


def _variable(request: Request, code: int, name: str) -> tuple[int, bytes] | None:
    def packed(ip: str) -> bytes:
        return ipaddress.ip_address(ip).packed

    match name:
        case "qname":
            return code, request.qname.encode()
        case "qtype":
            return code, request.qtype.to_bytes(2, "big")
        case "client_ip":
            return code, packed(request.client[0])
        case "client_port":
            return code, request.client[1].to_bytes(2, "big")
        case "protocol":
            return code, request.network.encode()
        case "server_ip":
            return code, packed(request.local[0])
        case "server_port":
            return code, request.local[1].to_bytes(2, "big")
    found = request.metadata.get(name)
    return (code, found().encode()) if found else None


def _subnet(v4: int, v6: int) -> Callable[[Request], tuple[int, bytes] | None]:
    if not 0 <= v4 <= 32 or not 0 <= v6 <= 128:
        raise CorefileError("invalid IPv4 or IPv6 bit mask length")

    def option(request: Request) -> tuple[int, bytes]:
        ip = ipaddress.ip_address(request.client[0])
        bits = v4 if ip.version == 4 else v6
        network = ipaddress.ip_network((ip, bits), strict=False)
        body = network.network_address.packed[: (bits + 7) // 8]
        family = 1 if ip.version == 4 else 2
        return 8, family.to_bytes(2, "big") + bytes((bits, 0)) + body

    return option
