"""Egress masquerade: pods leave the node with the node's address, which others know the way to.

One small nftables table for each network that asks for it (``ipMasq``), and one for the whole
cluster if the node's agent knows its ranges: what pods send to one another, to multicast groups and
to the exceptions keeps its source address, everything else is masqueraded. The rules follow from
the configuration alone, so there is no state for a single pod, and they stay when pods go.
"""

import hashlib
from collections.abc import Iterable
from ipaddress import collapse_addresses, ip_network

from kubewire.cni.config import Config
from kubewire.cni.ipam import Network
from kubewire.cni.spec import Result
from kubewire.kernel.nfnetlink import Nfnetlink
from kubewire.lang.nftables import model
from kubewire.lang.nftables.expressions import (
    Masquerade,
)
from kubewire.lang.nftables.families import ADDRESS, DADDR, FAMILY, SADDR
from kubewire.lang.nftables.lookups import Lookup
from kubewire.lang.nftables.model import PRIORITIES, Chain, Data, Rule, Set, Table

NODE = "kubewire-masquerade"
"""Name of the table of the node's agent."""

_MULTICAST = {4: ip_network("224.0.0.0/4"), 6: ip_network("ff00::/8")}


def table(name: str, pods: Iterable[Network], exceptions: Iterable[Network]) -> Table:
    """The table of a network whose pods have addresses of ``pods``."""
    pods, exceptions = tuple(pods), tuple(exceptions)
    sets: dict[str, Set] = {}
    rules: list[Rule] = []
    for version in (4, 6):
        own = [n for n in pods if n.version == version]
        if not own:
            continue
        kept = [*own, _MULTICAST[version], *(n for n in exceptions if n.version == version)]
        key, family = (ADDRESS[version],), FAMILY[version]
        inside, outside = f"pods{version}", f"kept{version}"
        sets[inside] = Set(inside, key, elements=_ranges(own), interval=True)
        sets[outside] = Set(outside, key, elements=_ranges(kept), interval=True)
        source = Lookup((SADDR[version],), inside)
        elsewhere = Lookup((DADDR[version],), outside, inverted=True)
        rules.append(Rule((family, source, elsewhere, Masquerade()), "pods leave the cluster"))
    chain = Chain(
        "postrouting",
        tuple(rules),
        type="nat",
        hook="postrouting",
        priority=PRIORITIES["srcnat"] - 3,
    )
    return Table(name, sets=sets, chains={chain.name: chain})


def cover(pods: Iterable[Network], exceptions: Iterable[Network] = ()) -> None:
    """Put the rules for all pods of a cluster in the place of what this node had."""
    with Nfnetlink() as netlink:
        netlink.commit(model.replace(table(NODE, pods, exceptions)))


def _ranges(networks: Iterable[Network]) -> dict[bytes, Data]:
    merged = collapse_addresses(networks)  # type: ignore[type-var]
    return {n.network_address.packed: n.broadcast_address.packed for n in merged}


def table_name(config: Config) -> str:
    """Name of a network's table."""
    where = f"{config.data_dir}/{config.name}"
    return f"{NODE}-{hashlib.sha256(where.encode()).hexdigest()[:8]}"


class Masquerades:
    """The rules of the networks of a node."""

    def __init__(self) -> None:
        self._applied: dict[str, str] = {}

    def present(self, config: Config) -> bool:
        """Tell whether a network's rules are in the kernel: somebody may have flushed all of them."""
        with Nfnetlink() as netlink:
            return table_name(config) in netlink.hooked()

    def ensure(self, config: Config, assigned: Result) -> None:
        """Put the rules of a network into the kernel, unless they are there."""
        subnets = {r.subnet for ranges in config.ipam.supply.sets for r in ranges}
        pods = subnets or {ip.address.network for ip in assigned.ips}
        wanted = table(table_name(config), pods, config.not_masqueraded)
        text = model.render(wanted)
        if self._applied.get(wanted.name) != text or not self.present(config):
            with Nfnetlink() as netlink:
                netlink.commit(model.replace(wanted))
            self._applied[wanted.name] = text
