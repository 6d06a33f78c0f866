"""Shots through hand-written rules: what comes out is what the rules say."""

import pytest

from kubewire.kernel.iptables import Iptables
from kubewire.kernel.probe import MASQUERADED, PODS, Probe, Seen, Shot, crc32c

pytestmark = [pytest.mark.kernel, pytest.mark.tool("iptables-nft")]

NODE = ("192.0.2.1", "2001:db8::1")
VIP = {4: "10.96.0.1", 6: "fd00:96::1"}
POD = {4: "10.244.0.9", 6: "fd00:244::9"}
CLIENT = {4: "203.0.113.9", 6: "2001:db8:9::9"}
END = {4: "10.244.0.1", 6: "fd00:244::1"}


def rules(version: int) -> list[str]:
    vip, end = VIP[version], END[version]
    to = f"{end}:8080" if version == 4 else f"[{end}]:8080"
    lines = ["*nat"]
    for chain in ("PREROUTING", "OUTPUT"):
        for protocol in ("tcp", "udp", "sctp"):
            lines.append(
                f"-A {chain} -d {vip} -p {protocol} --dport 80 -j DNAT --to-destination {to}"
            )
    lines += [f"-A POSTROUTING -d {end} ! -s {POD[version]} -j MASQUERADE", "COMMIT", "*filter"]
    for chain in ("FORWARD", "OUTPUT"):
        lines += [
            *(f"-A {chain} -d {vip} -p {p} --dport 81 -j REJECT" for p in ("tcp", "udp", "sctp")),
            f"-A {chain} -d {vip} -p tcp --dport 82 -j DROP",
        ]
    return [*lines, "COMMIT"]


@pytest.mark.parametrize("version", [4, 6])
def test_every_verdict(version: int) -> None:
    Iptables(version, "nft").restore(rules(version))
    vip, end, node = VIP[version], END[version], NODE[version == 6]
    masqueraded = Seen("sent", MASQUERADED[version], end, 8080)
    wanted = []
    for protocol in ("TCP", "UDP", "SCTP"):
        wanted += [
            (Shot(POD[version], vip, 80, protocol, PODS), Seen("sent", POD[version], end, 8080)),
            (Shot(CLIENT[version], vip, 80, protocol), masqueraded),
            (Shot(node, vip, 80, protocol, ""), masqueraded),
            (Shot(CLIENT[version], vip, 81, protocol), Seen("refused")),
            (Shot(node, vip, 81, protocol, ""), Seen("refused")),
            (Shot(CLIENT[version], vip, 83, protocol), Seen("sent", CLIENT[version], vip, 83)),
        ]
    for way_in, source in ((PODS, POD[version]), ("outside", CLIENT[version]), ("", node)):
        wanted.append((Shot(source, vip, 82, "TCP", way_in), Seen()))
        wanted.append((Shot(source, node, 84, "TCP", way_in), Seen("local", "", node, 84)))
        wanted.append((Shot(source, node, 85, "UDP", way_in), Seen("local", "", node, 85)))
    with Probe(NODE) as probe:
        seen = probe.fire([shot for shot, _ in wanted] * 20)
    for (shot, expected), found in zip(wanted * 20, seen, strict=True):
        if shot.source == node and shot.target == node:
            assert found.verdict in ("local", "sent"), (shot, found)
        else:
            assert found == expected, (shot, found)


def test_the_checksum_of_sctp() -> None:
    assert crc32c(b"123456789") == 0xE3069283
