"""The Corefile and the rules of a node's cache."""

import pytest

from kubewire.api.errors import InputError
from kubewire.dns.config import Environment, build
from kubewire.dns.nodelocal.plan import NodeLocal
from kubewire.lang.nftables.evaluate import evaluate
from kubewire.lang.nftables.expressions import DROP, CtState
from kubewire.lang.nftables.model import PRIORITIES, Chain, Rule, Table
from kubewire.lang.packet import Packet

PLAN = NodeLocal(
    ("169.254.20.10", "10.96.0.10"), upstream=("10.96.0.11",), resolv_conf="192.0.2.53"
)


def test_corefile_is_understood() -> None:
    configuration = build(PLAN.corefile(), "Corefile", Environment(objects=[]))
    assert [b.zones for b in configuration.blocks] == [
        ["cluster.local."], ["in-addr.arpa."], ["ip6.arpa."], ["."],
    ]  # fmt: skip
    assert configuration.blocks[0].hosts == ["169.254.20.10", "10.96.0.10"]


def test_placeholders_of_the_add_on() -> None:
    text = "__PILLAR__DNS__DOMAIN__:53 { bind __PILLAR__LOCAL__DNS__ __PILLAR__DNS__SERVER__ "
    text += "\n forward . __PILLAR__CLUSTER__DNS__ __PILLAR__UPSTREAM__SERVERS__ }"
    assert PLAN.filled(text) == (
        "cluster.local:53 { bind 169.254.20.10 10.96.0.10 \n forward . 10.96.0.11 192.0.2.53 }"
    )


@pytest.mark.parametrize(
    ("hook", "packet", "tracked"),
    [
        ("prerouting", Packet("10.244.0.5", "10.96.0.10", "udp", 4000, 53), False),
        ("prerouting", Packet("10.244.0.5", "169.254.20.10", "tcp", 4000, 53), False),
        ("prerouting", Packet("10.244.0.5", "10.96.0.10", "udp", 4000, 54), True),
        ("prerouting", Packet("10.244.0.5", "10.96.0.11", "udp", 4000, 53), True),
        ("output", Packet("10.96.0.10", "10.244.0.5", "udp", 53, 4000), False),
        ("output", Packet("10.0.0.1", "169.254.20.10", "udp", 4000, 53), False),
        ("output", Packet("10.0.0.1", "169.254.20.10", "tcp", 4000, 8080), False),
        ("output", Packet("10.0.0.1", "10.96.0.11", "tcp", 4000, 53), True),
    ],
)
def test_what_bypasses_conntrack(hook: str, packet: Packet, tracked: bool) -> None:
    tracing = Rule((CtState(("new",)), DROP))
    later = Chain("c", (tracing,), "filter", hook, PRIORITIES["filter"])
    outcome = evaluate([PLAN.table(), Table("later", chains={"c": later})], hook, packet)
    assert (outcome.verdict == "drop") is tracked


def test_bad_addresses_are_named() -> None:
    with pytest.raises(InputError, match="--localip: must be a valid IP address, not 'x'"):
        NodeLocal(("x",))
