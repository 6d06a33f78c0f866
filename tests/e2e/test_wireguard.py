"""A whole cluster whose nodes talk through WireGuard, where the kernel has it.

Such kernels are mostly met in the virtual machine (``make test-vm``), which emulates its processor:
nothing here counts seconds, and all waiting is for events.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kubewire.api.resources import NODES
from kubewire.client.rest import Client
from tests.e2e.conftest import POD, Kubewire

pytestmark = pytest.mark.wireguard

CAPTURE = """
import select, socket, struct, sys
from ipaddress import ip_address
packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
packets.bind(("eth0", 0))
print("capturing", flush=True)
seen = set()
while True:
    ready = select.select([packets, sys.stdin], [], [])[0]
    if packets not in ready:
        break
    frame = packets.recv(1 << 16)
    kind, at = struct.unpack("!H", frame[12:14])[0], 14
    if kind == 0x0800:
        ends, protocol, at = (frame[26:30], frame[30:34]), frame[23], at + 4 * (frame[14] & 15)
    elif kind == 0x86DD:
        ends, protocol, at = (frame[22:38], frame[38:54]), frame[20], at + 40
    else:
        continue
    ports = struct.unpack("!HH", frame[at:at + 4]) if protocol in (6, 17) else ()
    seen.add(" ".join(map(str, (*map(ip_address, ends), protocol, *ports))))
print("\\n".join(sorted(seen)))
"""
PEERS = """
from kubewire.cni.routes import WIREGUARD_INTERFACE
from kubewire.kernel.rtnetlink import RtNetlink
from kubewire.kernel.wireguard import WireGuard
with RtNetlink() as netlink, WireGuard() as device:
    for peer in device.get(netlink.index(WIREGUARD_INTERFACE)).peers:
        print(peer.endpoint, *map(str, peer.allowed))
"""
UDP = "17"


@contextmanager
def capture(kubewire: Kubewire, node: str) -> Iterator[list[list[str]]]:
    """Who talked with whom on the nodes' network meanwhile: addresses, protocol, ports."""
    found: list[list[str]] = []
    with kubewire.beside("node-exec", node, "--", sys.executable, "-c", CAPTURE) as process:
        assert process.stdout
        assert process.stdout.readline() == "capturing\n"
        yield found
        output, _ = process.communicate("end\n")
        found += [line.split() for line in output.splitlines()]


def peers(kubewire: Kubewire, node: str) -> list[str]:
    return kubewire("node-exec", node, "--", sys.executable, "-c", PEERS).stdout.splitlines()


async def lose(client: Client, node: str) -> None:
    await client.delete(NODES, node)
    await client.request("POST", "/kubewire/v1/sync", params={"timeoutSeconds": 60})


def test_what_nodes_say_to_each_other_is_encrypted_and_a_lost_one_is_no_peer(
    kubewire: Kubewire,
) -> None:
    kubewire.patience = 900
    flags = ["--pod-network", "wireguard", "--ip-family", "dual", "--wait-timeout", "600"]
    kubewire("up", *flags, "-f", "-", "--detach", text=POD % (1, 1) + POD % (2, 2))
    with capture(kubewire, "node-1") as captured:
        pods = ["--from", "p1", "--from", "p2", "--to", "p1", "--to", "p2", "--pods"]
        report = kubewire("reach", *pods, "--ports", "80", "-o", "json", code=None)
    flows = json.loads(report.stdout)["flows"]
    assert {(f["from"], f["to"], f["ip"]): f["error"] for f in flows if not f["ok"]} == {}
    assert len(flows) == 2 * 2 * 2
    between = [c for c in captured if {c[0], c[1]} == {"172.30.0.10", "172.30.0.11"}]
    assert {tuple(c[2:]) for c in between} == {(UDP, "51820", "51820")}
    assert [c for c in captured if c[0].startswith(("10.244.", "fd00:10:244:"))] == []
    [peer] = peers(kubewire, "node-1")
    cidrs = kubewire.api("/api/v1/nodes/node-2")["spec"]["podCIDRs"]
    assert peer.split() == ["172.30.0.11", *cidrs, "172.30.0.11/32", "fd00:172:30::b/128"]
    kubewire.ask(lambda client: lose(client, "node-2"))
    assert peers(kubewire, "node-1") == []
