"""What leaves the cluster goes with the node's address: nobody outside knows the way to a pod.

Packets of pods to pods keep their source, and so do packets to the exceptions. It is the node's
agent that sees to it, for every network of the node; a network by itself has ``ipMasq``.
"""

import hashlib
from collections.abc import Iterable, Sequence
from ipaddress import collapse_addresses, ip_network

from kubewire.cni.config import Config
from kubewire.cni.ipam import Network
from kubewire.cni.spec import Result
from kubewire.kernel.nfnetlink import Nfnetlink
from kubewire.lang.nftables import model
from kubewire.lang.nftables.expressions import (
    ACCEPT,
    IP6_DADDR,
    IP6_SADDR,
    IP_DADDR,
    IP_SADDR,
    NFPROTO,
    Lookup,
    Masquerade,
    Match,
)
from kubewire.lang.nftables.model import PRIORITIES, Chain, Data, Rule, Set, Table
from kubewire.lang.nftables.types import IPV4, IPV6

NAME = "kubewire-masquerade"

_MULTICAST = (ip_network("224.0.0.0/4"), ip_network("ff00::/8"))
_ADDRESS = {4: IPV4, 6: IPV6}
_SADDR = {4: IP_SADDR, 6: IP6_SADDR}
_DADDR = {4: IP_DADDR, 6: IP6_DADDR}
_FAMILY = {4: Match(NFPROTO, b"\2"), 6: Match(NFPROTO, b"\12")}


def table(pods: Sequence[Network], exceptions: Sequence[Network] = (), name: str = NAME) -> Table:
    """The table: packets from ``pods`` to neither ``pods`` nor ``exceptions`` are masqueraded."""
    sets: dict[str, Set] = {}
    rules: list[Rule] = []
    for version in sorted({network.version for network in pods}):
        kept, sources = f"kept{version}", f"pods{version}"
        sets[sources] = _set(sources, version, pods)
        sets[kept] = _set(kept, version, (*pods, *exceptions, *_MULTICAST))
        family = _FAMILY[version]
        to_kept = Lookup((_DADDR[version],), kept)
        rules.append(
            Rule((family, to_kept, ACCEPT), "stays inside the cluster, or is an exception")
        )
        from_pods = Lookup((_SADDR[version],), sources)
        rules.append(Rule((family, from_pods, Masquerade()), "a pod to the outside"))
    chain = Chain(
        "postrouting", tuple(rules), type="nat", hook="postrouting", priority=PRIORITIES["srcnat"]
    )
    return Table(name, sets=sets, chains={chain.name: chain})


def _set(name: str, version: int, networks: Iterable[Network]) -> Set:
    chosen = [network for network in networks if network.version == version]
    elements: dict[bytes, Data] = {
        n.network_address.packed: n.broadcast_address.packed
        for n in collapse_addresses(chosen)  # type: ignore[type-var]
    }
    return Set(name, (_ADDRESS[version],), elements=elements, interval=True)


def apply(pods: Sequence[Network], exceptions: Sequence[Network] = ()) -> None:
    """Put the table in place of what is there, in the current network namespace."""
    with Nfnetlink() as kernel:
        kernel.commit(model.replace(table(pods, exceptions)))


class Masquerades:
    """``ipMasq``: a table for each network that asks for it, which stays when its pods go."""

    def __init__(self) -> None:
        self._applied: dict[str, str] = {}

    def ensure(self, config: Config, assigned: Result) -> None:
        """Put the table of a network into the kernel; an agent does it once.

        The pods of a network are those of its ranges, or of the subnet that another IPAM tells.
        """
        ranges = {r.subnet for found in config.ipam.supply.sets for r in found}
        pods = tuple(ranges or {ip.address.network for ip in assigned.ips})
        wanted = table(pods, config.not_masqueraded, _name(config))
        text = model.render(wanted)
        if self._applied.get(wanted.name) != text:
            with Nfnetlink() as kernel:
                kernel.commit(model.replace(wanted))
            self._applied[wanted.name] = text


def _name(config: Config) -> str:
    where = f"{config.data_dir}/{config.name}"
    return f"{NAME}-{hashlib.sha256(where.encode()).hexdigest()[:8]}"
