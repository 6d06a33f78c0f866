"""Which addresses a cluster has: IP families, ranges of pods and Services, the nodes' network.

Everything that could collide is checked here, before the first process starts: ranges of a wrong
family, ranges that overlap one another or the nodes' network, and pod ranges that are too small for
the nodes. The order of ``--pod-cidr`` and ``--service-cidr`` says which family comes first, as it
does for kube-apiserver and kube-controller-manager.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_network,
)
from itertools import combinations

from kubewire.api.errors import InputError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

VERSIONS = {"ipv4": (4,), "ipv6": (6,), "dual": (4, 6)}
UNDERLAY: Mapping[int, Network] = {
    4: IPv4Network("172.30.0.0/16"),
    6: IPv6Network("fd00:172:30::/64"),
}
"""The nodes' own network."""
PODS = {4: "10.244.0.0/16", 6: "fd00:10:244::/56"}
SERVICES = {4: "10.96.0.0/16", 6: "fd00:10:96::/112"}
MASKS = {4: 24, 6: 64}

DNS_OFFSET = 10
"""The cluster DNS has the tenth address of the Service range, as kubeadm does it."""
MOST_BITS = 16
"""A pod range is divided into 2^16 node ranges at most, as kube-controller-manager has it."""
SMALLEST = 4
"""Addresses of a range that pods can be given from."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """The ranges of a cluster, one per family, the first family first."""

    pods: tuple[Network, ...]
    services: tuple[Network, ...]
    masks: Mapping[int, int]
    """Prefix length of a node's pod range, by IP version."""

    @property
    def versions(self) -> tuple[int, ...]:
        """IP versions; the first is that of Services which ask for none."""
        return tuple(network.version for network in self.services)

    @property
    def families(self) -> tuple[str, ...]:
        """``IPv4``, ``IPv6``: as a Service's ipFamilies have it."""
        return tuple(f"IPv{version}" for version in self.versions)

    @property
    def cluster_cidrs(self) -> tuple[str, ...]:
        """Where the pods are."""
        return tuple(map(str, self.pods))

    @property
    def service_cidrs(self) -> tuple[str, ...]:
        """Where the ClusterIPs are."""
        return tuple(map(str, self.services))

    @property
    def gateways(self) -> tuple[Address, ...]:
        """Addresses of the sandbox itself on the nodes' network; the API server has the first."""
        return tuple(UNDERLAY[version][1] for version in self.versions)

    @property
    def dns(self) -> tuple[Address, ...]:
        """ClusterIPs of the DNS Service."""
        return tuple(network[DNS_OFFSET] for network in self.services)

    def node(self, index: int) -> tuple[Address, ...]:
        """Addresses of a node on the nodes' network; ``index`` counts from 0."""
        return tuple(UNDERLAY[version][10 + index] for version in self.versions)


def addresses(
    family: str, pods: str, services: str, masks: Mapping[int, int], nodes: int
) -> Addresses:
    """Read and check what ``up`` was told; "" is the default. Raises InputError."""
    versions = VERSIONS[family]
    found = Addresses(
        _ranges("--pod-cidr", pods or _default(PODS, versions, services), family),
        _ranges("--service-cidr", services or _default(SERVICES, versions, pods), family),
        dict(masks),
    )
    if [n.version for n in found.pods] != [n.version for n in found.services]:
        raise InputError(
            f"--service-cidr {services}: names the families in another order than --pod-cidr {pods}"
        )
    _check_apart(found)
    for network in found.services:
        if network.num_addresses <= DNS_OFFSET + 1:
            raise InputError(f"--service-cidr {network}: is too small, it needs 16 addresses")
    for network in found.pods:
        flag = f"--node-cidr-mask-size-ipv{network.version} {masks[network.version]}"
        room = node_ranges(flag, f"--pod-cidr {network}", network, masks[network.version])
        if room < nodes:
            raise InputError(
                f"{flag}: --pod-cidr {network} has room for {room} nodes, --nodes is {nodes}"
            )
    return found


def networks(flag: str, text: str) -> tuple[Network, ...]:
    """Read a list of ranges with commas; InputError names the flag."""
    try:
        return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise InputError(f"{flag} {text}: {error}") from error


def _default(ranges: Mapping[int, str], versions: Iterable[int], other: str) -> str:
    """One range per family, in the order of the other flag where that says one."""
    backwards = ":" in other.partition(",")[0]
    return ",".join(ranges[version] for version in sorted(versions, reverse=backwards))


def _ranges(flag: str, text: str, family: str) -> tuple[Network, ...]:
    found = networks(flag, text)
    if sorted(network.version for network in found) != sorted(VERSIONS[family]):
        wanted = " and ".join(f"one IPv{version} range" for version in VERSIONS[family])
        raise InputError(f"{flag} {text}: --ip-family {family} needs {wanted}")
    return found


def _check_apart(found: Addresses) -> None:
    named = [("--pod-cidr", n) for n in found.pods]
    named += [("--service-cidr", n) for n in found.services]
    named += [("the nodes' network", UNDERLAY[version]) for version in found.versions]
    for (flag, one), (other, two) in combinations(named, 2):
        if one.version == two.version and one.overlaps(two):
            raise InputError(f"{flag} {one}: overlaps {other} {two}")


def node_ranges(flag: str, whole: str, network: Network, mask: int) -> int:
    """How many nodes get a range of their own; InputError if that cannot be, by the two flags' names."""
    bits = mask - network.prefixlen
    if bits < 0:
        raise InputError(f"{flag}: is larger than {whole}")
    if bits > MOST_BITS:
        raise InputError(f"{flag}: more than 2^{MOST_BITS} node ranges in {whole}")
    if mask > network.max_prefixlen or 1 << (network.max_prefixlen - mask) < SMALLEST:
        raise InputError(f"{flag}: a node would have no address for a pod")
    return 1 << bits
