"""CHECK names what somebody has damaged, and leaves others' alone."""

import subprocess
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from cni.programs import MAIN
from cni.runtime import Runtime
from kubewire.kernel import links, netns, routes
from kubewire.kernel.rtnetlink import RtNetlink

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("machine")]


@pytest.mark.parametrize("damage", ["route", "link", "address", "lease"])
def test_check_names_what_was_removed(served: Runtime, damage: str) -> None:
    result = served.add()
    with RtNetlink(Path("/run/netns/c1")) as pod:
        index = pod.index("eth0")
        if damage == "route":
            pod.transact(
                [
                    routes.delete_route(
                        routes.Route(ip_network("0.0.0.0/0"), index, ip_address("169.254.1.1"))
                    )
                ]
            )
        elif damage == "link":
            pod.transact([links.set_link(index, up=False)])
        elif damage == "address":
            pod.transact([routes.delete_address(index, ip_interface("10.1.0.2/32"))])
        else:
            served.call("DEL", served.config(MAIN["ipam"] | {"ipam": MAIN["ipam"]}, None))
    done = served.call("CHECK", served.config(MAIN, result))
    assert (done.status, done.answer["code"]) == (1, 101)
    expected = {"route": "route 0.0.0.0/0 is missing", "link": "is down", "address": "is missing", "lease": "holds no address"}  # fmt: skip
    assert expected[damage] in done.answer["msg"]


IN_POD = "nsenter --net=/run/netns/c1 "


DAMAGE = {
    IN_POD + "ip route replace 10.99.0.0/16 dev eth0": "route 10.99.0.0/16 does not lead to 169.254.1.1",
    IN_POD + "ip -6 route del default": "eth0: route ::/0 is missing",
    "; ".join(IN_POD + step for step in (
        "ip address del 10.1.0.2/32 dev eth0",
        "ip address add 10.1.0.2/24 dev eth0",
        "ip route add default via 169.254.1.1 dev eth0 onlink",
        "ip route add 10.99.0.0/16 via 169.254.1.1 dev eth0 onlink",
    )): "eth0: address 10.1.0.2/32 is missing",
    IN_POD + "ip neighbour del 169.254.1.1 dev eth0": "eth0: neighbour 169.254.1.1 is missing",
    IN_POD + "tc qdisc del dev eth0 root": "eth0: the limit of egressRate is missing",
    IN_POD + "ip link set eth0 address 0a:00:00:00:00:99": "eth0: mac is 0a:00:00:00:00:99",
    IN_POD + "ip link set eth0 mtu 9000": "eth0: mtu 9000 is larger than 1400 of",
    "tc qdisc del dev $host root": "the limit of ingressRate is missing",
    "ip link set $host mtu 1300": "mtu is 1300, not 1400",
    "ip link set $host address 0a:00:00:00:00:99": "mac is 0a:00:00:00:00:99, not ee:ee:ee:ee:ee:ee",
    "ip link set $host down": "of the node is down",
    "ip neighbour del 10.1.0.2 dev $host": "neighbour 10.1.0.2 of the node",
    "ip -6 route del fd01::2": "route fd01::2 of the node",
    "sysctl -qw net.ipv4.ip_forward=0": "net.ipv4.ip_forward: forwarding is off",
    "sysctl -qw net.ipv6.conf.all.forwarding=0": "net.ipv6.conf.all.forwarding: forwarding is off",
    "nft flush ruleset": "runtimeConfig.portMappings: hostPort 8080/TCP, hostPort 8080/TCP: is missing in nftables",
    "nft delete table inet $(nft list tables | grep -o 'kubewire-masquerade.*')": "ipMasq: the rules are missing",
}  # fmt: skip


@pytest.mark.tool("nft", "ip", "tc")
def test_check_names_every_damage(served: Runtime) -> None:
    served.version = "1.1.0"
    ranges = [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd01::/64"}]]
    routes_of = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "10.99.0.0/16"}]
    addresses = {"type": "kubewire-ipam", "dataDir": "/run/data", "ranges": ranges, "routes": routes_of}  # fmt: skip
    limits = {"ingressRate": 1_000_000, "egressRate": 1_000_000}
    port = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}
    plugin = MAIN | {"mtu": 1400, "ipMasq": True, "ipam": addresses}
    config = served.config(plugin, None) | {"runtimeConfig": {"portMappings": [port], "bandwidth": limits}}  # fmt: skip
    netns.create(Path("/run/netns/c1"))
    for number, (damage, expected) in enumerate(DAMAGE.items(), 2):
        static = {"CNI_ARGS": "IP=10.1.0.2,fd01::2"}
        done = served.call("ADD", config, **static)
        assert done.status == 0, (number, done.answer)
        checked = config | {"prevResult": done.answer}
        assert served.call("CHECK", checked, **static).status == 0
        host = done.answer["interfaces"][0]["name"]
        subprocess.run(f"host={host}; {damage}", shell=True, check=True)
        done = served.call("CHECK", checked, **static)
        assert (done.status, done.answer["code"]) == (1, 101), damage
        assert expected in done.answer["msg"], damage
        assert served.call("DEL", checked).status == 0
    # What the network needs is made again by the next ADD, who ever has cleared it.
    assert served.call("ADD", config).status == 0


def test_check_leaves_other_plugins_routes_to_them(served: Runtime) -> None:
    served.version = "1.1.0"
    other = {"interfaces": [{"name": "x0", "sandbox": "/run/netns/c1"}], "ips": [{"address": "10.9.0.5/24", "interface": 0}], "routes": [{"dst": "10.9.0.0/24"}]}  # fmt: skip
    config = served.config(MAIN, other)
    netns.create(Path("/run/netns/c1"))
    result = served.call("ADD", config).answer
    with RtNetlink(Path("/run/netns/c1")) as pod:
        pod.transact([links.add_veth("x0", "x1"), *links.bring_up("x0")])
        pod.transact([links.set_link("x1", up=True)])
        pod.transact([routes.add_route(routes.Route(ip_network("10.9.0.0/24"), pod.index("x0")))])
    assert served.call("CHECK", served.config(MAIN, result)).status == 0
