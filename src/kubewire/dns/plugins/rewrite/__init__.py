"""rewrite: change questions on their way in, and undo it on the way out."""

from __future__ import annotations

from kubewire.dns.config import Block
from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugin import Plugin, Request, Response, Setup
from kubewire.dns.plugins.rewrite.rules import (
    MATCHES,
    ClassRule,
    EdnsRule,
    Matcher,
    NameRule,
    RcodeRule,
    Rule,
    TtlRule,
    TypeRule,
)
from kubewire.lang.dns import codes
from kubewire.lang.dns.name import normalize
from kubewire.lang.dns.record import cname


class CnameRule(Rule):
    """Another target of CNAME records; its addresses are looked up."""

    def __init__(self, args: list[str]) -> None:
        if len(args) not in (2, 3):
            raise CorefileError(f"too few ({len(args)}) arguments for a cname rule")
        kind = args[0].lower() if len(args) == 3 else "exact"
        if kind not in MATCHES:
            raise CorefileError(f"unknown cname rewrite type: {kind}")
        source, target = (a.lower() for a in args[-2:])
        if kind == "exact":
            source, target = normalize(source), normalize(target)
        self.match = Matcher(kind, source, target)


RULES: dict[str, type[Rule]] = {
    "name": NameRule,
    "type": TypeRule,
    "class": ClassRule,
    "ttl": TtlRule,
    "rcode": RcodeRule,
    "edns0": EdnsRule,
    "cname": CnameRule,
}


class Rewrite(Plugin):
    """Rules in the order of the file; the first that applies ends the list unless ``continue``."""

    name = "rewrite"
    replayable = False

    def __init__(self, rules: list[Rule], block: Block) -> None:
        self._rules = rules
        self._block = block

    @classmethod
    def setup(cls, setup: Setup) -> Rewrite:
        """Read the directive."""
        rules = []
        for args in setup.stanzas():
            words = list(args)
            for word, values in setup.properties():
                words += [word, *values]
            rules.append(parse_rule(words))
        return cls(rules, setup.block)

    async def serve(self, request: Request) -> Response:
        """Change, ask, undo in reverse order."""
        undo, current = [], request
        aliases: list[CnameRule] = []
        for rule in self._rules:
            if isinstance(rule, CnameRule):
                aliases.append(rule)
                continue
            changed = rule.apply(current)
            if changed is None:
                continue
            undo.append(changed.undo)
            current = changed.request
            if rule.stop:
                break
        response = await self.next.serve(current)
        for rule in aliases:
            await self._alias(rule, request, response)
        for steps in reversed(undo):
            for step in steps:
                step(response)
        if current is not request:
            response.replay = None
        if current.name != request.name:
            response.reason = f"rewritten to {current.name}: {response.reason}"
        return response

    async def _alias(self, rule: CnameRule, request: Request, response: Response) -> None:
        for index, record in enumerate(response.answer):
            target = rule.match(record.target.lower()) if record.type == codes.CNAME else None
            if target is None:
                continue
            response.answer[index:] = [cname(record.name, record.ttl, target)]
            if request.qtype != codes.CNAME:
                found = await self._block.lookup(request, target, request.qtype)
                response.answer += found.answer
            return


def parse_rule(words: list[str]) -> Rule:
    """One rule from its words."""
    if not words:
        raise CorefileError("no rule type specified for rewrite")
    mode = "stop"
    if words[0].lower() in ("continue", "stop"):
        mode, words = words[0].lower(), words[1:]
        if not words:
            raise CorefileError(f"{mode} rule must begin with a rule type")
    kind = words[0].lower()
    if kind == "answer":
        raise CorefileError("response rewrites must begin with a name rule")
    if kind not in RULES and len(words) != 2:
        raise CorefileError(f'invalid rule type "{words[0]}"')
    rule = RULES[kind](words[1:]) if kind in RULES else NameRule(words)  # type: ignore[call-arg]
    rule.stop = mode == "stop"
    return rule


PLUGIN = Rewrite
