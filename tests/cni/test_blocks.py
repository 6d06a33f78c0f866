"""Pools of a cluster, and who has which block of one."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from kubewire.api.core import Node, NodeAddress, NodeSpec, NodeStatus
from kubewire.api.meta import ObjectMeta
from kubewire.cni import blocks, ipam
from kubewire.cni.ipam import IpamError, Leases
from kubewire.cni.pools import Pod
from kubewire.cni.routes import plan

BLUE = blocks.parse_pool("blue", {"cidrs": ["10.50.0.0/28", "fd50::/120"], "blockSize": 30, "namespaces": ["team"]})  # fmt: skip


def node(name: str, blocks_of: str = "", cidr: str = "10.244.0.0/24") -> Node:
    annotations = {blocks.ANNOTATION: blocks_of} if blocks_of else {}
    address = NodeAddress(type="InternalIP", address=f"172.30.0.{name[1:]}")
    return Node(
        metadata=ObjectMeta(name=name, annotations=annotations),
        spec=NodeSpec(pod_cidrs=[cidr]),
        status=NodeStatus(addresses=[address]),
    )


@pytest.mark.parametrize(
    ("taken", "wanted", "block"),
    [
        ([], None, "10.50.0.0/30"),
        (["10.50.0.0/30"], None, "10.50.0.4/30"),
        (["10.50.0.1/32", "10.50.0.4/30"], None, "10.50.0.8/30"),
        (["10.50.0.0/24"], None, None),
        ([], "10.50.0.9", "10.50.0.8/30"),
        (["10.50.0.8/30"], "10.50.0.9", None),
        (["fd50::/122"], None, "10.50.0.0/30"),
    ],
)
def test_the_first_block_that_nobody_has(
    taken: list[str], wanted: str | None, block: str | None
) -> None:
    address = ip_address(wanted) if wanted else None
    found = BLUE.free_block(4, map(ip_network, taken), address)
    assert (str(found) if found else None) == block


def test_every_address_of_a_block_is_given() -> None:
    pool = BLUE.pool([ip_network("10.50.0.0/30"), ip_network("10.50.0.8/30")])
    assert pool.selects(Pod("team"))
    leases, found = Leases(), []
    for number in range(8):
        choice = ipam.choose(pool.sets, leases)
        leases.take(str(number), choice)
        found.append(str(choice.addresses[0]))
    assert found == [f"10.50.0.{n}" for n in (0, 1, 2, 3, 8, 9, 10, 11)]


def test_claims_are_written_and_read_and_lead_to_their_node() -> None:
    text = blocks.written({"blue": (ip_network("10.50.0.0/30"),)})
    assert blocks.claims(node("n1", text)) == {"blue": (ip_network("10.50.0.0/30"),)}
    assert blocks.claims(node("n1", "nonsense")) == {}
    nodes = [node("n0"), node("n1", text, "10.244.1.0/24"), node("n2", text, "10.244.2.0/24")]
    found = plan(nodes, "n0", "host-gw")
    # Of two who claim the same, the first counts.
    assert {(str(way.destination), str(way.via)) for way in found.ways} == {
        ("10.244.1.0/24", "172.30.0.1"),
        ("10.244.2.0/24", "172.30.0.2"),
        ("10.50.0.0/30", "172.30.0.1"),
    }
    assert found.refused == (
        "Node n2 metadata.annotations[kubewire.dev/ip-blocks]: 10.50.0.0/30 is also that of Node n1",
    )


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        (None, "is not an object"),
        ({}, ".cidrs: is missing"),
        ({"cidrs": []}, "needs cidrs"),
        ({"cidrs": ["x"]}, ".cidrs: 'x' does not appear"),
        ({"cidrs": ["10.0.0.0/24"], "blockSize": 33}, "needs cidrs, and block sizes"),
        ({"cidrs": 3}, ".cidrs: expected `array`"),
    ],
)
def test_a_wrong_pool_is_named(wire: Any, text: str) -> None:
    with pytest.raises(IpamError) as caught:
        blocks.parse_pool("blue", wire)
    assert str(caught.value).startswith("ConfigMap kube-system/kubewire-ip-pools: data[blue]")
    assert text in str(caught.value)
