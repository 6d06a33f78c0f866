"""Named pools of addresses, and which pods take from which.

A pod takes from the pool that it names by annotation, else from the one that its namespace names,
else from the first that selects the namespace by name or by labels, else from the default ranges.
A pool stands in for the default ranges of its families only: a pod of a dual-stack network with an
IPv4 pool has its IPv6 address from the default. What a pool holds is given to nobody else, even if
the pool is a piece of the default ranges (a podCIDR).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from kubewire.api.selectors import LabelSelector
from kubewire.cni import ipam
from kubewire.cni.ipam import Address, ExhaustedError, IpamError, RangeSet

ANNOTATION = "kubewire.dev/ip-pool"
"""Of a pod or a namespace: name of the pool to take addresses from."""


@dataclass(frozen=True, slots=True)
class Pod:
    """What is known of the pod that an attachment is for; nothing, for other containers."""

    namespace: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    namespace_annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pool:
    """Range sets with a name, and the namespaces that use them without asking."""

    name: str
    sets: tuple[RangeSet, ...]
    namespaces: frozenset[str] = frozenset()
    selector: LabelSelector | None = None

    def selects(self, pod: Pod) -> bool:
        """The pod's namespace uses this pool."""
        if not pod.namespace:
            return False
        if pod.namespace in self.namespaces:
            return True
        labels = {"kubernetes.io/metadata.name": pod.namespace} | dict(pod.namespace_labels)
        return self.selector is not None and self.selector.matches(labels)

    def holds(self, address: Address) -> bool:
        """The pool may give this address."""
        return any(ipam.holds(ranges, address) for ranges in self.sets)


class PoolSource(Protocol):
    """Pools that do not come with a network's configuration: those of a cluster."""

    def pools(self) -> Sequence[Pool]:
        """What this node may give of them now."""

    async def complete(self, pod: Pod) -> Pod:
        """Tell of the pod's namespace what the pools need to know."""

    async def grow(self, full: Pool) -> bool:
        """Get more addresses of a pool than ``full`` has; False if there are none."""

    async def reach(self, address: Address) -> bool:
        """Get the part of a pool that an address is in; False if it is in no pool, or another's."""

    def freed(self) -> None:
        """Addresses were freed: parts of a pool may not be needed any more."""


@dataclass(frozen=True, slots=True)
class Supply:
    """Everything that a network may give."""

    default: tuple[RangeSet, ...] = ()
    pools: tuple[Pool, ...] = ()

    @classmethod
    def of(cls, default: Sequence[RangeSet], pools: Iterable[Pool]) -> "Supply":
        """Take what belongs to pools out of the default ranges."""
        found = tuple(pools)
        taken = [n for p in found for ranges in p.sets for one in ranges for n in one.networks]
        rest = tuple(tuple(one.without(taken) for one in ranges) for ranges in default)
        return cls(rest if taken else tuple(default), found)

    @property
    def sets(self) -> tuple[RangeSet, ...]:
        """Every set of every pool; the default's first."""
        return (*self.default, *(ranges for pool in self.pools for ranges in pool.sets))

    def check(self) -> None:
        """IpamError if there is nothing to give, or two pools or sets could give the same."""
        names = [pool.name for pool in self.pools]
        for name in names:
            if not name or names.count(name) > 1:
                raise IpamError(f"pools: name {name!r} is missing or there twice")
        if self.default or not self.pools:
            ipam.check(self.default)
        sets = [ranges for pool in self.pools for ranges in pool.sets]
        fields = [f"pools[{p.name}].ranges[{n}]" for p in self.pools for n in range(len(p.sets))]
        if sets:
            ipam.check(sets, fields)

    def sets_for(self, pod: Pod, wanted: Iterable[Address] = ()) -> tuple[RangeSet, ...]:
        """The sets that a pod takes from, one for each of its families.

        A requested address comes from whichever pool holds it.
        """
        pool = self.pool_for(pod)
        if pool and not pool.sets:
            raise ExhaustedError(f"no address of pool {pool.name} is this node's")
        chosen = _instead(self.default, pool.sets) if pool else self.default
        for address in wanted:
            if not any(ipam.holds(ranges, address) for ranges in chosen):
                chosen = _instead(chosen, [r for r in self.sets if ipam.holds(r, address)])
        return chosen

    def pool_for(self, pod: Pod) -> Pool | None:
        """The pool that a pod takes from; None for the default ranges."""
        return self._named(pod) or next((p for p in self.pools if p.selects(pod)), None)

    def holds(self, address: Address) -> bool:
        """Some set may give this address."""
        return any(ipam.holds(ranges, address) for ranges in self.sets)

    def withdrawn(self, address: Address, now: Iterable[Pool]) -> bool:
        """An address was of a pool of the cluster, but this node's part of it has gone since."""
        current = {pool.name: pool for pool in now}
        return any(
            pool.holds(address) and pool.name in current and not current[pool.name].holds(address)
            for pool in self.pools
        )

    def _named(self, pod: Pod) -> Pool | None:
        for whose, annotations in (
            ("pod", pod.annotations),
            (f"namespace {pod.namespace}", pod.namespace_annotations),
        ):
            name = annotations.get(ANNOTATION)
            if name:
                for pool in self.pools:
                    if pool.name == name:
                        return pool
                raise IpamError(f"{whose}: metadata.annotations[{ANNOTATION}]: there is no pool {name!r}")  # fmt: skip
        return None

    def named_sets(self) -> Iterable[tuple[str, RangeSet]]:
        """Every set with the name of its pool ("" for the default)."""
        yield from (("", ranges) for ranges in self.default)
        yield from ((pool.name, ranges) for pool in self.pools for ranges in pool.sets)


def _instead(sets: Sequence[RangeSet], others: Sequence[RangeSet]) -> tuple[RangeSet, ...]:
    """``others``, and those of ``sets`` whose family they lack; IPv4 before IPv6 as before."""
    versions = {ranges[0].subnet.version for ranges in others}
    kept = [ranges for ranges in sets if ranges[0].subnet.version not in versions]
    order = [ranges[0].subnet.version for ranges in sets]
    merged = [*others, *kept]
    return tuple(sorted(merged, key=lambda r: _position(order, r[0].subnet.version)))


def _position(order: Sequence[int], version: int) -> int:
    return order.index(version) if version in order else len(order)
