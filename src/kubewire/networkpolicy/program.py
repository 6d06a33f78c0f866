"""The program of one node, before it is spelled in a kernel's language.

A packet that a pod sends or gets is looked up by address: ``egress`` by its source, ``ingress`` by
its destination, each leads to a chain. A chain is a list of steps; a step matches a peer set (the
destination on egress, the source on ingress), a family and ports, and has a verdict:

    next    allowed in this direction: go on with ingress, or accept
    pass    leave this chain
    drop    count under the step's label, report, drop
    count   count, report and leave this chain (a policy in audit mode would have dropped it)
    call    run another chain, come back if it did not decide
    goto    run another chain instead of the rest of this one
    exempt  accept in both directions what the node itself sends, and what a pod sends to itself

Such packets are told apart only where a step would deny or count them: a new connection that a rule
allows pays nothing for it.

Back ends (nftables, iptables + ipset) only render it.
"""

from collections.abc import Mapping
from itertools import compress
from operator import ne
from typing import Literal, NamedTuple

import msgspec

from kubewire.networkpolicy.model import Direction, NamedPort

Family = Literal[0, 4, 6]
Does = Literal["next", "pass", "drop", "count", "call", "goto", "exempt"]

Packed = bytes
"""An address as packets carry it: 4 or 16 bytes."""
NamedPortElement = tuple[Packed, str, int]
"""(address, protocol, port)."""
Range = tuple[Packed, Packed]
"""First and last address."""


class Label(NamedTuple):
    """Who decides here: a policy and its rule ("" for the isolation itself)."""

    policy: str
    rule: str
    direction: Direction


class Step(msgspec.Struct, frozen=True):
    """One match and its verdict; ``ports`` () is any port of the protocol, protocol "" is any.

    Without a label nothing is counted.
    """

    does: Does
    label: Label | None = None
    family: Family = 0
    peers: str = ""
    protocol: str = ""
    ports: tuple[tuple[int, int], ...] = ()
    named: str = ""
    target: str = ""


class Chain(msgspec.Struct, frozen=True):
    """Steps in order; at its end the caller goes on."""

    name: str
    direction: Direction
    steps: tuple[Step, ...]


class AddressSet(msgspec.Struct, frozen=True):
    """Addresses of one family."""

    name: str
    family: Family
    elements: frozenset[Packed]
    about: str = ""


class RangeSet(msgspec.Struct, frozen=True):
    """Disjoint ranges of addresses of one family, in order."""

    name: str
    family: Family
    elements: tuple[Range, ...]


class PortSet(msgspec.Struct, frozen=True):
    """Destinations that give a name to a port."""

    name: str
    family: Family
    elements: frozenset[NamedPortElement]
    port: NamedPort


AnySet = AddressSet | RangeSet | PortSet


class Program(msgspec.Struct, frozen=True):
    """Everything that one node enforces."""

    sets: dict[str, AnySet]
    chains: dict[str, Chain]
    egress: dict[Packed, str]
    ingress: dict[Packed, str]
    known: frozenset[Packed]
    """Addresses of this node's pods whose policies are in force."""
    guarded: tuple[str, ...]
    """Blocks of this node's pods: an address in them that is not known is dropped."""
    asking: frozenset[Packed] = frozenset()
    """Addresses of pods whose policies name domains: the DNS answers that they get are read."""
    strict: bool = False
    """A TCP connection that is not tracked may not go on: it was cut."""
    families: tuple[Literal[4, 6], ...] = (4, 6)
    """What this node's pods speak."""
    ways: tuple[Direction, ...] = ("egress", "ingress")
    """Directions that some policy affects, one at least: the others need no look at any packet."""

    @property
    def empty(self) -> bool:
        """Nothing is enforced: no table is needed."""
        return not (self.egress or self.ingress)


def dns_set(family: int) -> str:
    """Name of the set of the pods whose DNS answers are believed."""
    return f"dns{family}"


def family_of(address: Packed) -> Literal[4, 6]:
    """4 or 6."""
    return 4 if len(address) == 4 else 6


def differing(new: Mapping[Packed, str], old: Mapping[Packed, str]) -> list[Packed]:
    """Addresses that one of them lacks or leads elsewhere; nearly all are equal, so C looks at them."""
    other = map(ne, map(old.get, new), new.values())
    return [*compress(new, other), *(old.keys() - new.keys())]
