"""What is there without any Service: the chains that all share, and the ways into them.

Also what their rules depend on besides Services (``Setting``), and where nodePorts answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from kubewire.kubeproxy.backends.iptables import names
from kubewire.kubeproxy.config import Config, parse_network
from kubewire.kubeproxy.plan import Frontend
from kubewire.lang.iptables.matches import (
    AddrType,
    Comment,
    CtState,
    Destination,
    InInterface,
    Mark,
    Match,
    Source,
)
from kubewire.lang.iptables.model import HOOKS, Rule
from kubewire.lang.iptables.targets import ACCEPT, DROP, RETURN, Jump, Masquerade, SetMark

VERSIONS = (4, 6)
_LENGTH = {4: 32, 6: 128}
_LOOPBACK = {4: "127.0.0.0/8", 6: "::1/128"}
TO_MASQ = Jump(names.MARK_MASQ)
"""Whoever comes by here is masqueraded."""
_TO_NODEPORTS = Jump(names.NODEPORTS)
_LOCAL_TARGET = AddrType()

Place = tuple[str, str]
"""(table, chain)."""
SERVICES: Place = ("nat", names.SERVICES)
NODEPORTS: Place = ("nat", names.NODEPORTS)
REFUSED: Place = ("filter", names.SERVICES)
EXTERNAL: Place = ("filter", names.EXTERNAL)
FIREWALL: Place = ("filter", names.FIREWALL)
SHARED = (NODEPORTS, SERVICES, REFUSED, EXTERNAL, FIREWALL)
"""Chains in which Service ports have entries; callees before callers."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What the rules of all Services depend on."""

    config: Config
    comments: bool = True
    """On the rules of endpoints."""
    liberal: bool = False
    """``nf_conntrack_tcp_be_liberal``: packets out of window are not to be dropped."""

    def pods(self, version: int) -> tuple[Match, ...]:
        """Matches of which one holds for packets from this node's pods; empty: they are unknown."""
        return _pods(self.config, version)


@lru_cache(maxsize=64)
def _pods(config: Config, version: int) -> tuple[Match, ...]:
    if config.detect_local == "BridgeInterface" and config.bridge_interface:
        return (InInterface(config.bridge_interface),)
    if config.detect_local == "InterfaceNamePrefix" and config.interface_name_prefix:
        return (InInterface(f"{config.interface_name_prefix}+"),)
    networks = map(parse_network, config.cluster_cidrs)
    return tuple(Source(str(n)) for n in networks if n is not None and n.version == version)


def host(address: str, version: int) -> str:
    """An address as iptables lists it."""
    return f"{address}/{_LENGTH[version]}"


def answering(
    version: int, config: Config, addresses: Iterable[str]
) -> Iterator[tuple[tuple[Match, ...], tuple[Match, ...]]]:
    """What matches the addresses on which nodePorts answer: before a comment, and after it."""
    if "all" not in config.node_ports_on:
        yield from (((Destination(host(a, version)),), ()) for a in sorted(addresses))
        return
    # IPv6 never works on the loopback; IPv4 does if the kernel is told to route it.
    spared = version == 6 or not config.localhost_node_ports
    yield ((Destination(_LOOPBACK[version], invert=True),) if spared else (), (_LOCAL_TARGET,))


@dataclass(frozen=True, slots=True)
class Base:
    """Chains that all Services share, and the rules in built-in chains that lead there."""

    chains: Mapping[Place, tuple[Rule, ...]]
    """The fixed rules; those of `SHARED` chains come after the entries."""
    jumps: tuple[tuple[Place, Rule], ...]
    """In the order in which a packet shall meet them."""


def base(version: int, setting: Setting, node_port_addresses: Iterable[str] = ()) -> Base:
    """Everything of one family that does not belong to a Service.

    ``node_port_addresses``: where nodePorts answer, if not on every address.
    """
    config = setting.config
    mark = config.mark
    chains: dict[Place, tuple[Rule, ...]] = {
        SERVICES: tuple(_node_port_jumps(version, config, node_port_addresses)),
        NODEPORTS: (),
        ("nat", names.POSTROUTING): (
            Rule((Mark(mark, mark, invert=True),), RETURN),
            Rule((), SetMark.xor(mark)),
            Rule(
                (Comment("kubernetes service traffic requiring SNAT"),),
                Masquerade(random_fully=True),
            ),
        ),
        ("nat", names.MARK_MASQ): (Rule((), SetMark.or_(mark)),),
        REFUSED: (),
        EXTERNAL: (),
        ("filter", names.FORWARD): tuple(_forward(mark, setting)),
        ("filter", names.NODEPORTS): (),
        FIREWALL: (),
        **{(table, names.CANARY): () for table in ("mangle", "nat", "filter")},
    }
    pods = setting.pods(version)
    if len(pods) > 1:
        spared = (Rule((p,), RETURN) for p in pods)
        chains["nat", names.NOT_POD] = (*spared, Rule((), TO_MASQ))
    guarded = version == 4 and config.localhost_node_ports
    if guarded:
        chains["filter", names.KUBELET_FIREWALL] = (_localnet_guard(),)
    return Base(chains, tuple(_jumps(guarded=guarded)))


def _node_port_jumps(version: int, config: Config, addresses: Iterable[str]) -> Iterator[Rule]:
    note = "kubernetes service nodeports; NOTE: this must be the last rule in this chain"
    for head, more in answering(version, config, addresses):
        yield Rule((*head, Comment(note), *more), _TO_NODEPORTS)


def _forward(mark: int, setting: Setting) -> Iterator[Rule]:
    if not setting.liberal:
        # A packet that conntrack cannot place would reach the client untranslated, who resets.
        yield Rule((CtState(("INVALID",)),), DROP)
    yield Rule((Comment("kubernetes forwarding rules"), Mark(mark, mark)), ACCEPT)
    established = CtState(("RELATED", "ESTABLISHED"))
    yield Rule((Comment("kubernetes forwarding conntrack rule"), established), ACCEPT)


def _localnet_guard() -> Rule:
    """CVE-2020-8558: with route_localnet, neighbours could reach what listens on loopback only."""
    local = _LOOPBACK[4]
    return Rule(
        (
            Source(local, invert=True),
            Destination(local),
            Comment("block incoming localnet connections"),
            CtState(("RELATED", "ESTABLISHED", "DNAT"), invert=True),
        ),
        DROP,
    )


def _jumps(*, guarded: bool) -> Iterator[tuple[Place, Rule]]:
    new = CtState(("NEW",))

    def jump(table: str, hook: str, chain: str, comment: str, *head: Match) -> tuple[Place, Rule]:
        shown = (Comment(comment),) if comment else ()
        return (table, hook), Rule((*head, *shown), Jump(chain))

    portals = "kubernetes service portals"
    for hook in ("PREROUTING", "OUTPUT"):
        yield jump("nat", hook, names.SERVICES, portals)
    yield jump("nat", "POSTROUTING", names.POSTROUTING, "kubernetes postrouting rules")
    if guarded:
        for hook in ("INPUT", "OUTPUT"):
            yield jump("filter", hook, names.KUBELET_FIREWALL, "")
    visible = "kubernetes externally-visible service portals"
    for hook in HOOKS["filter"]:
        yield jump("filter", hook, names.EXTERNAL, visible, new)
    for hook in HOOKS["filter"]:
        yield jump("filter", hook, names.FIREWALL, "kubernetes load balancer firewall", new)
    yield jump("filter", "INPUT", names.NODEPORTS, "kubernetes health check service ports")
    yield jump("filter", "FORWARD", names.FORWARD, "kubernetes forwarding rules")
    for hook in ("FORWARD", "OUTPUT"):
        yield jump("filter", hook, names.SERVICES, portals, new)


def node_port_addresses(frontends: Iterable[Frontend]) -> set[str]:
    """Where nodePorts answer."""
    return {f.key.address for f in frontends if f.kind == "NodePort"}
