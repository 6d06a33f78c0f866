"""Node IPAM: every node gets a range of pod addresses per family out of the cluster's.

A range that a node brought along is its own as long as it is within the cluster's; one outside is
told as an event, and the nodes' agents make no route to it.
"""

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network

from kubewire.api.meta import JSON
from kubewire.api.resources import NODES
from kubewire.client.loop import Changes, Loop
from kubewire.controllermanager import objects
from kubewire.controllermanager.actions import Action, Event, Patch, Plan
from kubewire.controllermanager.context import Context

Network = IPv4Network | IPv6Network
MASKS = {4: 24, 6: 64}


def plan(nodes: Iterable[JSON], cidrs: Iterable[str], masks: dict[int, int]) -> Plan:
    """Give ranges to nodes that have none, the oldest first; what others have stays theirs."""
    ordered = sorted(nodes, key=lambda n: (objects.created(n), n["metadata"]["name"]))
    taken = {c for n in ordered for c in _held(n)}
    networks = [ip_network(c) for c in cidrs]
    pools = [_free(network, masks[network.version], taken) for network in networks]
    actions: list[Action] = []
    for node in ordered:
        if _held(node) or objects.deleted(node):
            actions += [Event(node, "Warning", "CIDRNotAvailable", t) for t in _foreign(node, networks)]  # fmt: skip
            continue
        ranges = [next(pool, None) for pool in pools]
        if None in ranges:
            full = ", ".join(str(n) for n, r in zip(networks, ranges, strict=True) if r is None)
            text = (
                f"Node {node['metadata']['name']} status is now: CIDRNotAvailable ({full} is full)"
            )
            actions.append(Event(node, "Warning", "CIDRNotAvailable", text))
            continue
        chosen = [str(r) for r in ranges]
        patch = {"spec": {"podCIDR": chosen[0], "podCIDRs": chosen}}
        actions.append(Patch(NODES, objects.key(node), patch, node["metadata"]["uid"]))
    return Plan(actions)


def _held(node: JSON) -> list[Network]:
    """What a node has; the API takes ranges with host bits, too."""
    spec = objects.spec(node)
    texts = spec.get("podCIDRs") or filter(None, [spec.get("podCIDR")])
    return [ip_network(text, strict=False) for text in texts]


def _foreign(node: JSON, networks: Sequence[Network]) -> Iterator[str]:
    for index, cidr in enumerate(_held(node)):
        if not any(_within(cidr, network) for network in networks):
            ranges = ",".join(map(str, networks))
            yield f"spec.podCIDRs[{index}]: {cidr} is outside the cluster CIDR {ranges}"


def _within(cidr: Network, network: Network) -> bool:
    return cidr.version == network.version and cidr.subnet_of(network)  # type: ignore[arg-type]


def _free(network: Network, mask: int, taken: Iterable[Network]) -> Iterator[Network]:
    others = [n for n in taken if n.version == network.version]
    for candidate in network.subnets(new_prefix=max(mask, network.prefixlen)):
        if not any(candidate.overlaps(o) for o in others):
            yield candidate


def loop(context: Context, cidrs: tuple[str, ...], masks: dict[int, int]) -> Loop:
    """The control loop of node IPAM."""
    nodes = context.informer(NODES)

    async def reconcile(changes: Changes) -> None:
        await context.apply(plan(nodes.store.values(), cidrs, masks))

    name = "controller-manager/node-ipam"
    return Loop(name, [nodes], reconcile, reporter=context.reporter)
