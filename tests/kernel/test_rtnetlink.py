"""Devices, addresses, routes, neighbours and queues in the real kernel."""

import errno
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from kubewire.kernel import links, netns, qdiscs, routes, rtnetlink
from kubewire.kernel.links import Gso
from kubewire.kernel.netlink import NetlinkError
from kubewire.kernel.routes import Route, Rule
from kubewire.kernel.rtnetlink import RtNetlink

pytestmark = pytest.mark.kernel


def veth(netlink: RtNetlink, name: str = "v0") -> int:
    netlink.transact([links.add_veth(name, f"{name}p"), links.set_link(name, up=True)])
    netlink.transact([links.set_link(f"{name}p", up=True)])
    return netlink.index(name)


def test_veth_with_its_peer_in_another_namespace() -> None:
    path = Path("/run/netns/pod")
    netns.create(path)
    with netns.opened(path) as fd, RtNetlink() as here, RtNetlink(fd) as there:
        here.transact(
            [
                links.add_veth(
                    "host0", "eth0", peer_netns=fd, mac="ee:ee:ee:ee:ee:ee",
                    peer_mac="0a:58:0a:f4:00:02", mtu=1400, gso=Gso(100_000, 90_000),
                )
            ]
        )  # fmt: skip
        outer, inner = here.link("host0"), there.link("eth0")
        assert (outer.kind, outer.mac, outer.mtu, outer.up) == (
            "veth", "ee:ee:ee:ee:ee:ee", 1400, False,
        )  # fmt: skip
        assert (inner.mac, inner.mtu) == ("0a:58:0a:f4:00:02", 1400)
        # Kernels before 6.3 say nothing of IPv4.
        assert outer.gso == inner.gso in (Gso(100_000, 90_000), Gso(0, 90_000))
        here.transact([links.delete_link("host0")])
        assert [link.name for link in there.links()] == ["lo"]


def test_addresses_of_both_families_are_usable_at_once() -> None:
    with RtNetlink() as netlink:
        index = veth(netlink)
        wanted = [ip_interface("10.1.0.1/24"), ip_interface("fd00::1/64")]
        netlink.transact([routes.add_address(index, one) for one in wanted])
        found = {a.address: a.tentative for a in netlink.addresses() if a.index == index}
        assert found[IPv4Interface("10.1.0.1/24")] is False
        assert found[IPv6Interface("fd00::1/64")] is False
        netlink.transact([routes.delete_address(index, wanted[0])])
        assert wanted[0] not in {a.address for a in netlink.addresses()}


@pytest.mark.parametrize(
    ("destination", "via", "mtu", "table", "kind"),
    [
        ("10.9.0.0/16", None, 0, 254, "unicast"),
        ("10.9.0.0/16", "169.254.1.1", 1400, 254, "unicast"),
        ("10.9.0.0/16", "fe80::1", 0, 254, "unicast"),
        ("0.0.0.0/0", "169.254.1.1", 0, 1000, "unicast"),
        ("10.9.9.9/32", None, 0, 254, "blackhole"),
        ("fd09::/64", "fe80::1", 1300, 254, "unicast"),
        ("fd09::/64", None, 0, 1000, "unicast"),
    ],
)
def test_a_route_reads_back_as_it_was_written(
    destination: str, via: str | None, mtu: int, table: int, kind: str
) -> None:
    with RtNetlink() as netlink:
        index = veth(netlink)
        route = Route(
            ip_network(destination),
            0 if kind == "blackhole" else index,
            ip_address(via) if via else None,
            onlink=via is not None,
            mtu=mtu,
            table=table,
            kind=kind,
        )
        netlink.transact([routes.add_route(route)])
        (found,) = [r for r in netlink.routes() if r.protocol == routes.PROTOCOL_KUBEWIRE]
        assert (found.destination, found.via, found.mtu, found.table, found.kind) == (
            route.destination, route.via, mtu, table, kind,
        )  # fmt: skip
        netlink.transact([routes.put_route(route), routes.delete_route(route)])
        assert not [r for r in netlink.routes() if r.protocol == routes.PROTOCOL_KUBEWIRE]


def test_which_route_leads_to_an_address() -> None:
    with RtNetlink() as netlink:
        index = veth(netlink)
        netlink.transact(
            [
                routes.add_address(index, ip_interface("10.1.0.1/24")),
                routes.add_route(Route(ip_network("fd00::/64"), index)),
            ]
        )
        for address, kind, device, destination in (
            ("10.1.0.1", "local", index, "10.1.0.1/32"),
            ("10.1.0.2", "unicast", index, "10.1.0.0/24"),
            ("fd00::2", "unicast", index, "fd00::/64"),
            ("::1", "local", 1, "::1/128"),
        ):
            found = netlink.route_to(ip_address(address))
            assert found
            assert (found.kind, found.device, str(found.destination)) == (kind, device, destination)
        assert netlink.route_to(ip_address("192.0.2.1")) is None


def test_a_failed_batch_names_every_refused_request() -> None:
    with RtNetlink() as netlink:
        route = Route(ip_network("10.1.0.0/24"), veth(netlink))
        with pytest.raises(NetlinkError) as caught:
            netlink.transact(
                [
                    routes.add_route(route),
                    routes.add_route(route),
                    links.delete_link("nothing").tolerate(errno.ENODEV),
                    links.delete_link("nothing"),
                ]
            )
        assert [failure.errno for failure in caught.value.failures] == [errno.EEXIST, errno.ENODEV]
        assert str(caught.value).startswith(f"route 10.1.0.0/24 dev {route.device}: EEXIST")
        # The socket is still in step.
        assert netlink.index("lo") == 1


def test_a_batch_larger_than_the_receive_buffer() -> None:
    with RtNetlink() as netlink:
        index = veth(netlink)
        wanted = [Route(network, index) for network in ip_network("10.0.0.0/20").subnets(new_prefix=31)]  # fmt: skip
        netlink.transact([routes.add_route(route) for route in wanted])
        with pytest.raises(NetlinkError) as caught:
            netlink.transact([routes.add_route(route) for route in wanted])
        assert len(caught.value.failures) == len(wanted) == 2048


def test_vxlan_the_flannel_way() -> None:
    with RtNetlink() as netlink:
        parent = veth(netlink)
        netlink.transact(
            [
                routes.add_address(parent, ip_interface("172.30.0.10/16")),
                links.add_vxlan(
                    "vx", 7, local=ip_address("172.30.0.10"), device=parent, port=4789,
                    mac="0a:57:00:00:00:01",
                ),
            ]
        )  # fmt: skip
        index = netlink.index("vx")
        netlink.transact(
            [
                links.set_link(index, up=True, no_autoconf=True),
                routes.put_fdb(index, "0a:57:00:00:00:02", ip_address("172.30.0.11")),
                routes.put_neighbour(index, ip_address("10.244.1.0"), "0a:57:00:00:00:02"),
            ]
        )
        found = netlink.link("vx")
        assert (found.vni, str(found.local), found.port) == (7, "172.30.0.10", 4789)
        assert ("0a:57:00:00:00:02", ip_address("172.30.0.11")) in {
            (entry.mac, entry.address) for entry in netlink.fdb()
        }
        assert [(n.address, n.permanent) for n in netlink.neighbours() if n.index == index] == [
            (ip_address("10.244.1.0"), True)
        ]
        netlink.transact(
            [
                routes.delete_fdb(index, "0a:57:00:00:00:02", ip_address("172.30.0.11")),
                routes.delete_neighbour(index, ip_address("10.244.1.0")),
            ]
        )
        assert not [entry for entry in netlink.fdb() if entry.index == index and entry.address]


def test_bridge_port_and_moving_a_device() -> None:
    path = Path("/run/netns/other")
    netns.create(path)
    with netns.opened(path) as fd, RtNetlink() as netlink, RtNetlink(fd) as other:
        veth(netlink)
        netlink.transact([links.add_bridge("br0")])
        bridge = netlink.index("br0")
        netlink.transact([links.set_link("v0", master=bridge), links.set_hairpin("v0")])
        assert netlink.link("v0").master == bridge
        netlink.transact([links.set_link(netlink.index("v0p"), netns=fd, name="eth9")])
        assert other.link("eth9").kind == "veth"


def test_a_group_of_devices_is_deleted_at_once() -> None:
    with RtNetlink() as netlink:
        for name in ("a", "b", "c"):
            veth(netlink, name)
        netlink.transact([links.set_link("a", group=9), links.set_link("b", group=9)])
        netlink.transact([links.delete_group(9)])
        assert {link.name for link in netlink.links()} == {"lo", "c", "cp"}


def test_rules_and_queues_are_accepted_and_removed() -> None:
    with RtNetlink() as netlink:
        index = veth(netlink)
        rule = Rule(100, 50, mark=1, source=ip_network("10.0.0.0/8"), input_device="v0")
        netlink.transact(
            [
                routes.add_rule(rule),
                routes.delete_rule(rule),
                qdiscs.put_tbf(index, bits_per_second=10_000_000),
                qdiscs.put_tbf(index, bits_per_second=40_000_000_000),
                qdiscs.delete_root_qdisc(index),
                qdiscs.put_htb(index, default=1),
                qdiscs.put_htb_class(index, 1, bits_per_second=1_000_000, ceiling=2_000_000),
            ]
        )


def test_a_monitor_is_told_of_a_new_device() -> None:
    with RtNetlink() as netlink, rtnetlink.monitor(rtnetlink.GROUP_LINK) as watcher:
        netlink.transact([links.add_bridge("br7")])
        names = {links.parse_link(body).name for _, body in watcher.receive()}
        assert "br7" in names


def test_device_names_without_a_lock() -> None:
    with RtNetlink() as netlink:
        assert "d0" not in netlink
        netlink.transact([links.add_bridge("d0", mtu=1400)])
        assert "d0" in netlink
        found = netlink.link("d0")
        assert (netlink.index("d0"), netlink.mtu("d0")) == (found.index, found.mtu)
        netlink.transact([links.delete_link("d0")])
        assert "d0" not in netlink
        with pytest.raises(NetlinkError, match="link d0: ENODEV"):
            netlink.index("d0")
