from dataclasses import replace

import pytest

from kubewire.lang.iptables import matches as m
from kubewire.lang.iptables.ipset import bitmap_port
from kubewire.lang.iptables.matches import UnanswerableError, World
from kubewire.lang.iptables.model import Rule, evaluate, reachable, walk
from kubewire.lang.iptables.parse import parse, parse_rule
from kubewire.lang.packet import Packet

PACKET = Packet("10.0.0.1", "10.0.0.2", "tcp", 40000, 80, "veth1", "eth0", 0x4000)
V6 = Packet("fd00::1", "fd00::2", "udp", 1, 53)


@pytest.mark.parametrize(
    ("rule", "packet", "holds"),
    [
        ("-s 10.0.0.0/8", PACKET, True),
        ("! -s 10.0.0.0/8", PACKET, False),
        ("-d 10.0.0.2/32", PACKET, True),
        ("! -d 10.0.0.2/32", PACKET, False),
        ("-d 10.0.0.0/31", PACKET, False),
        ("-s fd00::/8", V6, True),
        ("-i veth+ -o eth0", PACKET, True),
        ("-i veth", PACKET, False),
        ("! -i veth+", PACKET, False),
        ("-p udp", PACKET, False),
        ("! -p udp", PACKET, True),
        ("-p ipv6-icmp -m icmp6 --icmpv6-type 135", replace(V6, protocol="icmpv6", sport=135), True),
        ("-p ipv6-icmp -m icmp6 --icmpv6-type 136", replace(V6, protocol="icmpv6", sport=135), False),
        ("-p tcp -m tcp --dport 80", PACKET, True),
        ("-p tcp -m tcp ! --dport 80", PACKET, False),
        ("-p tcp -m tcp --sport 1024:", PACKET, True),
        ("-p tcp -m tcp --dport 81:90", PACKET, False),
        ("-m udp --dport 80", PACKET, False),
        ("-p tcp -m multiport --dports 1,79:81", PACKET, True),
        ("-p tcp -m multiport --sports 80", PACKET, False),
        ("-p tcp -m multiport --ports 80", PACKET, True),
        ("-m addrtype --dst-type LOCAL", PACKET, False),
        ("-m addrtype --dst-type LOCAL", replace(PACKET, daddr_local=True), True),
        ("-m addrtype ! --src-type LOCAL", replace(PACKET, saddr_local=True), False),
        ("-m addrtype --src-type UNICAST", PACKET, True),
        ("-m conntrack --ctstate NEW", PACKET, True),
        ("-m conntrack --ctstate INVALID", replace(PACKET, ct_state="invalid"), True),
        ("-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT", replace(PACKET, ct_status=frozenset({"dnat"})), False),
        ("-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT", PACKET, True),
        ("-m mark --mark 0x4000/0x4000", PACKET, True),
        ("-m mark ! --mark 0x4000/0x4000", PACKET, False),
        ("-m mark --mark 0x4000", replace(PACKET, mark=0x4001), False),
        ("-m recent --rcheck --name L", PACKET, True),
        ("-m recent --rcheck --name M", PACKET, False),
        ("-m recent --set --name M", PACKET, True),
        ("-m set --match-set ports dst", PACKET, True),
        ("-m set ! --match-set ports src", PACKET, True),
        ("-m comment --comment x -m limit --limit 1/sec", PACKET, True),
    ],
)  # fmt: skip
def test_matches(rule: str, packet: Packet, holds: bool) -> None:
    world = World({"ports": bitmap_port("ports", [80])}, frozenset({"L"}))
    assert (parse_rule(rule, packet.version).chance(packet, world) == 1) is holds


def test_what_nobody_can_know_is_an_error_that_names_it() -> None:
    with pytest.raises(UnanswerableError, match="--uid-owner 0"):
        parse_rule("-m owner --uid-owner 0").chance(PACKET, World())
    with pytest.raises(UnanswerableError, match="the set x"):
        parse_rule("-m set --match-set x src").chance(PACKET, World())


TEXT = """\
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:SVC - [0:0]
:A - [0:0]
:B - [0:0]
:C - [0:0]
:MARK-IT - [0:0]
-A PREROUTING -d 10.96.0.1/32 -m comment --comment "to the service" -j SVC
-A POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A POSTROUTING -j MARK --xor-mark 0x4000
-A POSTROUTING -j MASQUERADE
-A SVC -m recent --rcheck --name B -j B
-A SVC -m statistic --mode random --probability 0.25 -j A
-A SVC -m statistic --mode random --probability 0.5 -g B
-A SVC -j C
-A A -s 10.0.0.1/32 -j MARK-IT
-A A -p tcp -j DNAT --to-destination 10.0.0.1:8080
-A B -m recent --set --name B -p tcp -j DNAT --to-destination 10.0.0.2:8080
-A C -p tcp -j DNAT --to-destination 10.0.0.3
-A MARK-IT -j MARK --or-mark 0x4000
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:EMPTY - [0:0]
:BACK - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -p tcp -m tcp --dport 22 -j REJECT --reject-with tcp-reset
-A INPUT -p tcp -m tcp --dport 80 -g EMPTY
-A INPUT -p tcp -m tcp --dport 81 -j BACK
-A INPUT -p tcp -m tcp --dport 81:82 -j ACCEPT
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A BACK -j RETURN
-A BACK -j DROP
COMMIT
"""
TABLES = parse(TEXT)


def test_every_throw_of_the_dice_is_followed() -> None:
    ways = walk(TABLES, "PREROUTING", replace(PACKET, daddr="10.96.0.1", mark=0))
    seen = {w.target: (round(w.chance, 9), w.packet.mark) for w in ways}
    assert seen == {
        ("10.0.0.1", 8080): (0.25, 0x4000),
        ("10.0.0.2", 8080): (0.375, 0),
        ("10.0.0.3", 0): (0.375, 0),
    }
    assert {w.packet.dport for w in ways} == {8080, 80}


def test_a_remembered_source_stays() -> None:
    found = evaluate(
        TABLES, "PREROUTING", replace(PACKET, daddr="10.96.0.1"), World({}, frozenset({"B"}))
    )
    assert found.targets == (("10.0.0.2", 8080),)
    assert found.reasons == ("to the service",)


def test_established_connections_do_not_see_the_nat_table() -> None:
    packet = replace(PACKET, daddr="10.96.0.1", ct_state="established")
    assert evaluate(TABLES, "PREROUTING", packet).targets == ()


def test_postrouting_masquerades_and_clears_its_own_bit() -> None:
    found = evaluate(TABLES, "POSTROUTING", replace(PACKET, mark=0x4001))
    assert (found.masquerade, found.mark) == (True, 1)
    assert not evaluate(TABLES, "POSTROUTING", replace(PACKET, mark=1)).masquerade


@pytest.mark.parametrize(
    ("port", "verdict"),
    [(22, "reject"), (80, "drop"), (81, "accept"), (82, "accept"), (83, "drop")],
)
def test_input(port: int, verdict: str) -> None:
    packet = replace(PACKET, dport=port)
    assert evaluate({"filter": TABLES["filter"]}, "INPUT", packet).verdict == verdict


def test_reachable_chains() -> None:
    assert reachable(TABLES["nat"], ["SVC"]) == {"SVC", "A", "B", "C", "MARK-IT"}


@pytest.mark.parametrize("count", [1, 2, 3, 7, 1000])
def test_shares_of_a_statistic_chain_are_equal(count: int) -> None:
    lines = ["*nat", ":PREROUTING ACCEPT [0:0]"]
    for index in range(count):
        dice = Rule((m.Random.one_in(count - index),)).render() if index < count - 1 else ""
        lines.append(
            f"-A PREROUTING {dice} -j DNAT --to-destination 10.0.{index >> 8}.{index & 255}"
        )
    ways = walk(parse("\n".join([*lines, "COMMIT"])), "PREROUTING", PACKET)
    assert len(ways) == count
    assert all(abs(w.chance * count - 1) < 1e-5 for w in ways)
