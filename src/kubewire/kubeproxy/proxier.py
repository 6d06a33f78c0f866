"""What every back end of kube-proxy is: one protocol, one list of features.

A back end is a package in ``backends``: ``compile`` (pure: frontends -> values of its language),
``proxier`` (a ``Proxier``: the only I/O) and ``trace`` (its rules asked about a flow). It spells
what ``plan`` decided and decides nothing itself; ``support`` says what it cannot spell, and why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple, Protocol, runtime_checkable

from kubewire.api.meta import Key
from kubewire.kubeproxy.plan import FrontendKey
from kubewire.kubeproxy.table import Change


class Feature(StrEnum):
    """What a Service, or the configuration of kube-proxy, may ask of a back end."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"
    EXTERNAL_IP = "externalIPs"
    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"
    IPV4 = "IPv4"
    IPV6 = "IPv6"
    AFFINITY = "sessionAffinity"
    INTERNAL_LOCAL = "internalTrafficPolicy Local"
    EXTERNAL_LOCAL = "externalTrafficPolicy Local"
    SOURCE_RANGES = "loadBalancerSourceRanges"
    HAIRPIN = "hairpin"
    MASQUERADE_ALL = "masqueradeAll"
    DETECT_CLUSTER_CIDR = "detectLocalMode ClusterCIDR"
    DETECT_NODE_CIDR = "detectLocalMode NodeCIDR"
    DETECT_BRIDGE = "detectLocalMode BridgeInterface"
    DETECT_PREFIX = "detectLocalMode InterfaceNamePrefix"
    LOCALHOST_NODE_PORTS = "localhostNodePorts"
    REFUSE_UNKNOWN_PORT = "a ClusterIP refuses ports that its Service lacks"
    DROP_UNALLOCATED = "addresses of the service CIDR that no Service has are dropped"
    DRAINING = "connection draining"
    WEIGHTS = "weights of endpoints"
    SCHEDULERS = "schedulers other than random"


Support = Mapping[Feature, str]
"""Every feature -> "" if the back end has it, else why not."""


class Dump(NamedTuple):
    """What should be in the kernel and what is, as lines of the back end's own language.

    Both are in one canonical order: they are equal if and only if the kernel needs no change.
    """

    desired: list[str]
    actual: list[str]
    on_demand: tuple[str, ...] = ()
    """``NAME: ...``: what is in ``actual`` once somebody uses it."""


class Proxier(Protocol):
    """Keeps one namespace's kernel equal to the frontends that it is told."""

    def sync(self, changes: Iterable[Change], cluster_ips: dict[Key, tuple[str, ...]]) -> None:
        """Put everything in place, whatever there is; packets see the old rules or the new."""

    def apply(self, changes: Iterable[Change], cluster_ips: dict[Key, tuple[str, ...]]) -> None:
        """Commit what changed; ``cluster_ips`` holds the changed Services (empty: gone).

        After an exception the caller does a ``sync``.
        """

    def heal(self) -> bool:
        """Read the kernel back; mend what somebody else changed. True if there was anything."""

    def intact(self) -> bool:
        """False if a quick look shows that somebody harmed the rules; called every second.

        What only reading all of it back would show may go unseen: ``heal`` comes for that.
        """

    def dump(self) -> Dump:
        """What should be there and what is."""

    def clear(self) -> None:
        """Remove everything of this back end, of earlier runs too; nobody else's."""

    def close(self) -> None:
        """Give up sockets and processes; the rules stay."""


@runtime_checkable
class Lingers(Protocol):
    """A back end through which established connections go: they need it until they end."""

    def leave(self) -> bool:
        """Remove all that no open connection needs; True once that was everything."""


@runtime_checkable
class Remembers(Protocol):
    """A back end whose kernel remembers which endpoint a client had (session affinity)."""

    def forget(self) -> None:
        """Every client chooses anew."""


class Stay(NamedTuple):
    """A client and the endpoint that session affinity leads it to."""

    frontend: FrontendKey
    client: str
    endpoint: tuple[str, int]


@runtime_checkable
class Recalls(Protocol):
    """A back end that can tell what its kernel remembers, for another one to go on with."""

    def stays(self) -> Iterable[Stay]:
        """Every client that is remembered."""


@runtime_checkable
class Keeps(Protocol):
    """A back end whose kernel can be told what to remember."""

    def keep(self, stays: Iterable[Stay]) -> None:
        """Remember them as if each client had come just now, unless it has a newer place."""


class RuleCount(NamedTuple):
    """How many rules a table of one family has."""

    table: str
    version: int
    total: int
    last: int
    """Written by the last sync."""


@runtime_checkable
class CountsRules(Protocol):
    """A back end of rules that upstream counts."""

    def rule_counts(self) -> Iterable[RuleCount]:
        """By table and family; quick, for it is asked by every scrape."""
