"""IP pools of a whole cluster, and how nodes share one: by blocks.

The ConfigMap ``kube-system/kubewire-ip-pools`` has a key for each pool. A node claims a block of a
pool when a pod of its own needs it, by an annotation of its Node; the others read there which node
a block's pods are on, and lead to it as they do to a podCIDR. A block that has been empty for a
while is given back, but each node keeps one of each pool and family; a Node that is deleted takes
its claims with it.

Two nodes may claim the same block at the same moment. So a node uses a block only if it sees nobody
else's claim to it *after* its own is written: of two claims that were written, each is seen by
whoever reads last, and both step back in the worst case.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network

import msgspec

from kubewire.api.core import Node
from kubewire.api.selectors import LabelSelector
from kubewire.cni.ipam import Address, IpamError, Network, Range
from kubewire.cni.pools import Pool
from kubewire.cni.spec import CniError
from kubewire.cni.wiring import next_hop
from kubewire.cni.written import convert

NAMESPACE, NAME = "kube-system", "kubewire-ip-pools"
ANNOTATION = "kubewire.dev/ip-blocks"
"""Of a Node: its blocks, as JSON, by the name of their pool."""

Claims = Mapping[str, tuple[Network, ...]]
"""Blocks by the name of their pool."""


class _Wire(msgspec.Struct, frozen=True, rename="camel"):
    cidrs: list[str]
    block_size: int = 26
    block_size_v6: int = msgspec.field(name="blockSizeV6", default=122)
    namespaces: list[str] = []
    namespace_selector: LabelSelector | None = None


@dataclass(frozen=True, slots=True)
class ClusterPool:
    """A pool as the ConfigMap has it."""

    name: str
    cidrs: tuple[Network, ...]
    block_sizes: Mapping[int, int]
    """Prefix length of a block, by IP version."""
    namespaces: frozenset[str] = frozenset()
    selector: LabelSelector | None = None

    @property
    def versions(self) -> list[int]:
        """IP versions, IPv4 first."""
        return sorted({cidr.version for cidr in self.cidrs})

    def blocks(self, version: int, wanted: Address | None = None) -> Iterator[Network]:
        """Every block of a family, or only the one with a certain address."""
        for cidr in self.cidrs:
            size = max(self.block_sizes[version], cidr.prefixlen)
            if cidr.version == version and wanted is None:
                yield from cidr.subnets(new_prefix=size)
            elif wanted is not None and wanted in cidr:
                yield ip_network((wanted, size), strict=False)

    def free_block(
        self, version: int, taken: Iterable[Network], wanted: Address | None = None
    ) -> Network | None:
        """The first block that nobody has, or the one with a certain address if nobody has that."""
        others = [network for network in taken if network.version == version]
        for block in self.blocks(version, wanted):
            if not any(block.overlaps(other) for other in others):
                return block
        return None

    def pool(self, own: Iterable[Network]) -> Pool:
        """The part of the pool that a node with these blocks may give."""
        blocks = [(version, [b for b in own if b.version == version]) for version in self.versions]
        sets = tuple(tuple(map(_whole, found)) for _, found in blocks if found)
        return Pool(self.name, sets, self.namespaces, self.selector)


def _whole(block: Network) -> Range:
    """Every address of a block: nobody on the pods' side of a cable needs one of them."""
    return Range(block, block.network_address, block.broadcast_address, next_hop(block.version))


def parse_pool(name: str, wire: object) -> ClusterPool:
    """Read one key of the ConfigMap; IpamError names what is wrong."""
    where = f"ConfigMap {NAMESPACE}/{NAME}: data[{name}]"
    if not isinstance(wire, dict):
        raise IpamError(f"{where}: is not an object")
    try:
        found = convert(wire, _Wire, where)
        cidrs = tuple(ip_network(text) for text in found.cidrs)
    except CniError as error:
        raise IpamError(error.message) from None
    except ValueError as error:
        raise IpamError(f"{where}.cidrs: {error}") from None
    sizes = {4: found.block_size, 6: found.block_size_v6}
    if not cidrs or not 0 < sizes[4] <= 32 or not 0 < sizes[6] <= 128:
        raise IpamError(f"{where}: needs cidrs, and block sizes up to 32 and 128")
    return ClusterPool(name, cidrs, sizes, frozenset(found.namespaces), found.namespace_selector)


def claims(node: Node) -> Claims:
    """The blocks of a node; what cannot be read counts for nothing."""
    try:
        found = msgspec.json.decode(
            node.annotations.get(ANNOTATION) or "{}", type=dict[str, list[str]]
        )
        return {name: tuple(map(ip_network, texts)) for name, texts in found.items()}
    except (msgspec.DecodeError, ValueError):
        return {}


def needed(own: Claims, used: Iterable[Address]) -> Claims:
    """What a node keeps of its blocks: those in use, else one of each pool and family."""
    given = tuple(used)
    kept: dict[str, tuple[Network, ...]] = {}
    for name, found in own.items():
        busy = {block for block in found if any(address in block for address in given)}
        for version in {block.version for block in found} - {block.version for block in busy}:
            busy.add(next(block for block in found if block.version == version))
        kept[name] = tuple(block for block in found if block in busy)
    return kept


def written(found: Claims) -> str:
    """The value of the annotation."""
    return msgspec.json.encode(
        {n: [str(b) for b in blocks] for n, blocks in found.items()}
    ).decode()


def taken(nodes: Iterable[Node]) -> Iterator[Network]:
    """What is in use already: blocks, and podCIDRs, which a pool may be laid beside."""
    for node in nodes:
        yield from (ip_network(text, strict=False) for text in node.pod_cidrs)
        yield from (block for blocks in claims(node).values() for block in blocks)
