"""acl: who may ask what."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from kubewire.dns.metrics import Metric
from kubewire.dns.plugin import Plugin, Request, Response, Setup, extended_error
from kubewire.lang.dns import codes
from kubewire.lang.dns.name import longest_zone

ACTIONS = ("allow", "block", "filter", "drop")
_OF = ("server", "zone", "view")
ALLOWED = Metric(
    "coredns_acl_allowed_requests_total", "Counter of DNS requests being allowed.",
    ("server", "view"),
)  # fmt: skip
REFUSED = {
    "block": Metric(
        "coredns_acl_blocked_requests_total", "Counter of DNS requests being blocked.", _OF
    ),
    "filter": Metric(
        "coredns_acl_filtered_requests_total", "Counter of DNS requests being filtered.", _OF
    ),
    "drop": Metric(
        "coredns_acl_dropped_requests_total", "Counter of DNS requests being dropped.", _OF
    ),
}
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass
class Policy:
    """One line: what happens to whom for which types."""

    action: str
    types: set[int] = field(default_factory=set)
    networks: list[Network] = field(default_factory=list)

    def fits(self, qtype: int, client: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        """Tell whether the line is about this question."""
        if self.types and qtype not in self.types:
            return False
        return not self.networks or any(
            n.version == client.version and client in n for n in self.networks
        )


class Acl(Plugin):
    """The first line that fits decides, stanza by stanza."""

    name = "acl"
    replayable = False

    def __init__(self, rules: list[tuple[list[str], list[Policy]]]) -> None:
        self._rules = rules

    @classmethod
    def setup(cls, setup: Setup) -> Acl:
        """Read the directive."""
        rules = []
        for args in setup.stanzas():
            policies = []
            for word, values in setup.properties():
                if word.lower() not in ACTIONS:
                    raise setup.err(
                        f"unexpected token \"{word}\"; expect 'allow', 'block', 'filter' or 'drop'"
                    )
                policies.append(_policy(setup, word.lower(), values))
            rules.append((setup.zones(args), policies))
        return cls(rules)

    async def serve(self, request: Request) -> Response:
        """Decide, then go on."""
        for zones, policies in self._rules:
            if not (zone := longest_zone(request.name, zones)):
                continue
            client = ipaddress.ip_address(request.client[0].partition("%")[0])
            policy = next((p for p in policies if p.fits(request.qtype, client)), None)
            if policy is not None and policy.action != "allow":
                self.metrics.add(REFUSED[policy.action], request.server, zone, request.view)
                return self._refuse(policy, request)
            if policy is not None:
                break
        self.metrics.add(ALLOWED, request.server, request.view)
        return await self.next.serve(request)

    def _refuse(self, policy: Policy, request: Request) -> Response:
        why = f"{policy.action} for {request.client[0]}"
        if policy.action == "drop":
            response = self.reply(reason=why)
            response.drop = True
            return response
        if policy.action == "block":
            response = self.reply(codes.REFUSED, aa=False, reason=why)
            response.options = (extended_error(15),)
            return response
        response = self.reply(aa=False, reason=why)
        response.options = (extended_error(17),)
        return response


def _policy(setup: Setup, action: str, words: list[str]) -> Policy:
    policy = Policy(action)
    section, empty = "", False
    for word in words:
        if word.lower() in ("type", "net"):
            if empty:
                raise setup.err(f'no token specified in "{section}" section')
            section, empty = word.lower(), True
            continue
        empty = False
        if not section:
            raise setup.err(f"unexpected token \"{word}\"; expect 'type | net'")
        if section == "type":
            number = codes.type_number(word)
            if word == "*":
                policy.types.clear()
            elif number is None:
                raise setup.err(f'unexpected token "{word}"; expect legal QTYPE')
            else:
                policy.types.add(number)
        else:
            if word == "*":
                continue
            try:
                policy.networks.append(ipaddress.ip_network(word, strict=False))
            except ValueError as error:
                whole = word if "/" in word or ":" not in word else f"{word}/128"
                raise setup.err(f'illegal CIDR notation "{whole}"') from error
    if empty:
        raise setup.err(f'no token specified in "{section}" section')
    return policy


PLUGIN = Acl
