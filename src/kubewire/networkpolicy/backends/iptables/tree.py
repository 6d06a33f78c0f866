"""From an address to its chain, where rules have no map: a tree over the bits of addresses.

A leaf has the addresses of 16 in a row, one rule for each pod; branches lead to leaves, a digit of
the address at a time. A packet meets some twenty comparisons whatever the number of pods, each by far
cheaper than a look-up in a set. A pod that gets another profile is one rule put in front of its leaf:
deleting what stands behind it would make the program wait for the kernel, so that is done now and then.
"""

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import groupby

from kubewire.lang.iptables import matches as m
from kubewire.lang.iptables.model import Chain, Rule
from kubewire.lang.iptables.targets import Jump
from kubewire.networkpolicy.backends.iptables.names import chain_name
from kubewire.networkpolicy.model import Direction

FEW = 8
"""So many are asked for one by one."""
DIGIT = 4
MOST = 3 << DIGIT
"""Rules of a leaf, with those that stand behind others."""
Network = IPv4Network | IPv6Network


class Tree:
    """The chains that lead the pods' addresses of one direction and family to their profiles."""

    def __init__(self, way: Direction, family: int) -> None:
        self.way = way
        self.leaves: dict[bytes, Chain] = {}
        """First address of a row -> its chain."""
        self.overgrown: set[bytes] = set()
        """Leaves that have rules behind others."""
        self.roots: tuple[Rule, ...] = ()
        """Where a search begins; what is found nowhere comes back."""
        self._branches: tuple[Chain, ...] = ()
        self._bits = 32 if family == 4 else 128
        self._side = m.Source if way == "egress" else m.Destination

    def update(
        self, entries: Mapping[bytes, str], changed: Iterable[bytes], *, lost: bool = False
    ) -> None:
        """Bring the leaves of these addresses up to date, and the branches if there are other leaves.

        ``lost``: chains are gone, so no rule that stands behind another may lead to them any more.
        """
        before = self.leaves.keys() - ()
        rows: dict[bytes, list[bytes]] = {}
        for address in changed:
            rows.setdefault(_first(address), []).append(address)
        for first in self.overgrown if lost else ():
            rows.setdefault(first, [])
        for first, found in rows.items():
            rules = self._rules(found, entries)
            old = self.leaves.pop(first, None)
            self.overgrown.discard(first)
            room = old and len(old.rules) + len(rules) <= MOST and entries.keys() >= set(found)
            if old and room and not lost:
                rules += old.rules
                self.overgrown.add(first)
            elif old:
                rules = self._rules(_row(first), entries)
            if rules:
                self.leaves[first] = Chain(self._name(self._network(first, DIGIT)), rules)
        if self.leaves.keys() != before:
            branches: list[Chain] = []
            networks = [self._network(f, DIGIT) for f in sorted(self.leaves)]
            self.roots = tuple(self._grow(networks, branches))
            self._branches = tuple(branches)

    def chains(self) -> dict[str, Chain]:
        """Every chain by name, after those that it leads to."""
        return {c.name: c for c in (*self.leaves.values(), *self._branches)}

    def _rules(self, addresses: Iterable[bytes], entries: Mapping[bytes, str]) -> tuple[Rule, ...]:
        return tuple(
            Rule((self._side(str(self._network(a, 0))),), Jump(chain_name(entries[a]), goto=True))
            for a in addresses
            if a in entries
        )

    def _grow(self, rows: list[Network], branches: list[Chain]) -> Iterator[Rule]:
        """Rules that lead to these rows; branches between are added, callees first."""
        if len(rows) <= FEW:
            yield from map(self._to, rows)
            return
        apart = int(rows[0].network_address) ^ int(rows[-1].network_address)
        depth = (self._bits - apart.bit_length()) // DIGIT * DIGIT + DIGIT
        for above, found in groupby(rows, lambda row: row.supernet(new_prefix=depth)):
            below = list(found)
            if len(below) > 1:
                rules = tuple(self._grow(below, branches))
                branches.append(Chain(self._name(above), rules))
            yield self._to(above if len(below) > 1 else below[0])

    def _to(self, network: Network) -> Rule:
        return Rule((self._side(str(network)),), Jump(self._name(network)))

    def _name(self, network: Network) -> str:
        return chain_name(f"{self.way} of {network}")

    def _network(self, address: bytes, free: int) -> Network:
        return ip_network((address, self._bits - free))


def _first(address: bytes) -> bytes:
    return address[:-1] + bytes((address[-1] & -1 << DIGIT & 0xFF,))


def _row(first: bytes) -> Iterator[bytes]:
    return (first[:-1] + bytes((first[-1] + n,)) for n in range(1 << DIGIT))
