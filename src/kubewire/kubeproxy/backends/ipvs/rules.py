"""The rules around IPVS, one small set of them however many Services there are, and their sets.

Hooks, and why there: IPVS takes packets in the input hook (and in output, before its filter table),
so what must be dropped is dropped in mangle, before it; masquerading is decided in nat prerouting
and output by a mark, and done in postrouting; ports of a Service's address that no virtual server
has would be answered by the node's own programs, so the filter table refuses them.

Sets have upstream's names. Chains are called KUBE-IPVS-*, so that these and those of the iptables
back end (KUBE-SERVICES ...) can stand side by side while the mode is switched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kubewire.kubeproxy.config import Config, parse_network
from kubewire.lang.iptables.change import Change, difference
from kubewire.lang.iptables.ipset import PLAIN, IpSet
from kubewire.lang.iptables.matches import (
    AddrType,
    CtState,
    InInterface,
    InSet,
    Mark,
    Match,
    Proto,
    Source,
)
from kubewire.lang.iptables.model import Chain, Rule, Table
from kubewire.lang.iptables.targets import DROP, REJECT, RETURN, Jump, Masquerade, SetMark, Verdict

VERSIONS = (4, 6)
INSIDE = "KUBE-IPVS-INSIDE"
MARK_MASQ = "KUBE-IPVS-MARK-MASQ"
NOT_POD = "KUBE-IPVS-NOT-POD"
_PORT, _BOTH = "hash:ip,port", ("dst", "dst")
_TYPES = {
    "CLUSTER-IP": _PORT,
    "EXTERNAL-IP": _PORT,
    "EXTERNAL-IP-LOCAL": _PORT,
    "LOAD-BALANCER": _PORT,
    "LOAD-BALANCER-LOCAL": _PORT,
    "LOAD-BALANCER-FW": _PORT,
    "LOAD-BALANCER-SOURCE-CIDR": "hash:ip,port,net",
    "NODE-PORT-TCP": _PORT,
    "NODE-PORT-UDP": _PORT,
    "NODE-PORT-SCTP-HASH": _PORT,
    "NODE-PORT-LOCAL-TCP": _PORT,
    "NODE-PORT-LOCAL-UDP": _PORT,
    "NODE-PORT-LOCAL-SCTP-HASH": _PORT,
    "LOOP-BACK": "hash:ip,port,ip",
    "IPVS-IPS": "hash:ip",
    "DROP": _PORT,
    "DROP-OUTSIDE": _PORT,
}
_CALLEES = (
    "KUBE-IPVS-SOURCE-RANGES",
    "KUBE-IPVS-DROP-OUTSIDE",
    INSIDE,
    "KUBE-IPVS-LOAD-BALANCER",
    "KUBE-IPVS-NODE-PORT",
    NOT_POD,
    MARK_MASQ,
)
"""Chains that others of ours lead to, callers first."""
_LONGEST_NAME = 31
_MAX_ELEMENTS = 1 << 20


def set_name(short: str, version: int) -> str:
    """A set's name in the kernel, which has no room for more than 31 characters."""
    return f"KUBE-{'6-' if version == 6 else ''}{short}"[:_LONGEST_NAME]


def sets(elements: Mapping[str, Iterable[str]]) -> dict[str, IpSet]:
    """Every set of both families, with its elements (by full name)."""
    found = {}
    for version in VERSIONS:
        for short, kind in _TYPES.items():
            name = set_name(short, version)
            own = dict.fromkeys(elements.get(name, ()), PLAIN)
            found[name] = IpSet(name, kind, own, version, _MAX_ELEMENTS)
    return found


PREFIX = "KUBE-IPVS-"
SET_NAMES = frozenset(set_name(short, version) for version in VERSIONS for short in _TYPES)


def pod_matches(config: Config, version: int) -> list[Match]:
    """What tells a pod's packets; any of them is enough, none: they cannot be told."""
    if config.detect_local == "BridgeInterface":
        return [InInterface(config.bridge_interface)]
    if config.detect_local == "InterfaceNamePrefix":
        return [InInterface(f"{config.interface_name_prefix}+")]
    networks = map(parse_network, config.cluster_cidrs)
    return [Source(str(n)) for n in networks if n is not None and n.version == version]


def tables(config: Config, version: int, inside: Iterable[Rule] = ()) -> dict[str, Table]:
    """The rules of one family; in built-in chains these stand beside those of others."""
    parts = {
        "mangle": _mangle(config, version),
        "nat": _nat(config, version, tuple(inside)),
        "filter": _filter(config, version),
    }
    # Callees first: a rule may only lead to a chain that is there.
    return {
        name: Table(name, {c.name: c for c in reversed(list(chains))})
        for name, chains in parts.items()
    }


def _in(short: str, version: int, directions: tuple[str, ...] = _BOTH) -> InSet:
    return InSet(set_name(short, version), directions)


def _mangle(config: Config, version: int) -> Iterable[Chain]:
    """Who is dropped: before IPVS, and only new connections."""
    hook = (Rule((CtState(("NEW",)),), Jump("KUBE-IPVS-FIREWALL")),)
    yield Chain("PREROUTING", hook)
    yield Chain("OUTPUT", hook)
    yield Chain(
        "KUBE-IPVS-FIREWALL",
        (
            Rule((_in("LOAD-BALANCER-FW", version),), Jump("KUBE-IPVS-SOURCE-RANGES")),
            Rule((_in("DROP", version),), DROP),
            Rule((_in("DROP-OUTSIDE", version),), Jump("KUBE-IPVS-DROP-OUTSIDE")),
        ),
    )
    allowed = _in("LOAD-BALANCER-SOURCE-CIDR", version, ("dst", "dst", "src"))
    yield Chain("KUBE-IPVS-SOURCE-RANGES", (Rule((allowed,), RETURN), Rule((), DROP)))
    inside = [Rule((match,), RETURN) for match in pod_matches(config, version)]
    node = Rule((AddrType("LOCAL", "src"),), RETURN)
    yield Chain("KUBE-IPVS-DROP-OUTSIDE", (*inside, node, Rule((), DROP)))


def _nat(config: Config, version: int, inside: tuple[Rule, ...]) -> Iterable[Chain]:
    hook = (Rule((), Jump("KUBE-IPVS-SERVICES")),)
    masquerade, node = Jump(MARK_MASQ), AddrType("LOCAL", "src")
    yield Chain("PREROUTING", hook)
    yield Chain("OUTPUT", hook)
    yield Chain("POSTROUTING", (Rule((), Jump("KUBE-IPVS-POSTROUTING")),))
    cluster_ip = masquerade if config.masquerade_all else Jump(NOT_POD)
    yield Chain(
        "KUBE-IPVS-SERVICES",
        (
            Rule((), Jump(INSIDE)),
            Rule((_in("LOAD-BALANCER", version),), Jump("KUBE-IPVS-LOAD-BALANCER")),
            Rule((_in("CLUSTER-IP", version),), cluster_ip),
            Rule((_in("EXTERNAL-IP", version),), masquerade),
            Rule((_in("EXTERNAL-IP-LOCAL", version), node), masquerade),
            Rule((AddrType("LOCAL", "dst"),), Jump("KUBE-IPVS-NODE-PORT")),
        ),
    )
    yield Chain(INSIDE, inside)
    local = _in("LOAD-BALANCER-LOCAL", version)
    yield Chain(
        "KUBE-IPVS-LOAD-BALANCER",
        (Rule((local, node), masquerade), Rule((local,), RETURN), Rule((), masquerade)),
    )
    yield Chain("KUBE-IPVS-NODE-PORT", tuple(_node_ports(version)))
    yield Chain(NOT_POD, tuple(_unless_pod(config, version)))
    yield Chain(MARK_MASQ, (Rule((), SetMark.or_(config.mark)),))
    yield Chain(
        "KUBE-IPVS-POSTROUTING",
        (
            Rule((_in("LOOP-BACK", version, ("dst", "dst", "src")),), Masquerade()),
            Rule((Mark(config.mark, config.mark, invert=True),), RETURN),
            Rule((), SetMark.xor(config.mark)),
            Rule((), Masquerade(random_fully=True)),
        ),
    )


def _unless_pod(config: Config, version: int) -> Iterable[Rule]:
    """Everybody but pods; nobody where pods cannot be told from others."""
    matches = pod_matches(config, version)
    yield from (Rule((match,), RETURN) for match in matches)
    if matches:
        yield Rule((), Jump(MARK_MASQ))


def _node_ports(version: int) -> Iterable[Rule]:
    node = AddrType("LOCAL", "src")
    for protocol, suffix in (("tcp", "TCP"), ("udp", "UDP"), ("sctp", "SCTP-HASH")):
        local = _in(f"NODE-PORT-LOCAL-{suffix}", version)
        yield Rule((Proto(protocol), local, node), Jump(MARK_MASQ))
        yield Rule((Proto(protocol), local), RETURN)
        yield Rule((Proto(protocol), _in(f"NODE-PORT-{suffix}", version)), Jump(MARK_MASQ))


def _filter(config: Config, version: int) -> Iterable[Chain]:
    yield Chain("INPUT", (Rule((), Jump("KUBE-IPVS-FILTER")),))
    yield Chain("OUTPUT", (Rule((), Jump("KUBE-IPVS-OUT-FILTER")),))
    yield Chain("FORWARD", (Rule((), Jump("KUBE-IPVS-FORWARD")),))
    icmp = "icmp" if version == 4 else "ipv6-icmp"
    refuse = (
        Rule((Proto(icmp),), RETURN),
        *(
            Rule((_in(short, version),), RETURN)
            for short in ("LOAD-BALANCER", "CLUSTER-IP", "EXTERNAL-IP", "EXTERNAL-IP-LOCAL")
        ),
        Rule((CtState(("NEW",)), _in("IPVS-IPS", version, ("dst",))), REJECT[version]),
    )
    yield Chain("KUBE-IPVS-FILTER", refuse)
    yield Chain("KUBE-IPVS-OUT-FILTER", refuse)
    accept = Verdict("ACCEPT")
    yield Chain(
        "KUBE-IPVS-FORWARD",
        (
            Rule((Mark(config.mark, config.mark),), accept),
            Rule((CtState(("RELATED", "ESTABLISHED")),), accept),
        ),
    )


def ours(table: Table) -> Table:
    """Of a table that is there: our chains, and the rules elsewhere that lead to them."""
    chains = {}
    for name, chain in table.chains.items():
        if name.startswith(PREFIX):
            chains[name] = Chain(name, chain.rules)
        elif rules := tuple(r for r in chain.rules if _leads_here(r)):
            chains[name] = Chain(name, rules)
    return Table(table.name, chains)


def removal(present: Iterable[Table]) -> list[Change]:
    """What takes our rules and chains away."""
    changes = [difference(ours(table), Table(table.name)) for table in present]
    for change in changes:
        change.removed.sort(key=_last)
    return changes


def _last(chain: str) -> int:
    """Callers before callees."""
    return _CALLEES.index(chain) + 1 if chain in _CALLEES else 0


def _leads_here(rule: Rule) -> bool:
    return isinstance(rule.target, Jump) and rule.target.chain.startswith(PREFIX)
