"""Connections through changes, foreign hands and the end; endpoints are servers on this machine."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from ipaddress import ip_interface

import pytest

from kubewire.kernel import ipset, links, routes, sysctl
from kubewire.kernel.iptables import Iptables
from kubewire.kernel.ipvs import Ipvs
from kubewire.kernel.rtnetlink import RtNetlink
from kubewire.kubeproxy import backends
from kubewire.kubeproxy.backends.ipvs.addresses import DEVICE
from kubewire.kubeproxy.backends.ipvs.proxier import IpvsProxier
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.ipvsoptions import IpvsOptions
from kubewire.kubeproxy.plan import plan
from kubewire.kubeproxy.table import Change
from kubewire.kubeproxy.topology import NodeView
from kubewire.lang.ipvs.model import DestinationKey, ServerKey, VirtualServer, diff
from tests.kubeproxy.rows import NODE_PORT, UDP, VIP, service, slice_

pytestmark = [pytest.mark.ipvs, pytest.mark.tool("iptables", "ipset")]

A, B = "10.244.0.1", "10.244.0.2"
CONFIG = Config("ipvs", ("10.244.0.0/16",), ipvs=IpvsOptions(tcp_fin_timeout=1))
STRANGER = VirtualServer(ServerKey(4, "10.96.9.9", "TCP", 1))
TCP_KEY = ServerKey(4, VIP, "TCP", 80)
PATIENCE = 30.0


def changes(*ends: str, name: str = "s", ip: str = VIP, **spec: object) -> list[Change]:
    ports = spec.get("ports")
    protocol = "UDP" if ports is UDP else "TCP"
    found = plan(
        [service(name, ip, **spec)],
        [
            slice_(
                *(f"{e}@node-a" for e in ends),
                of=name,
                ports=[{"name": "p", "port": 8080, "protocol": protocol}],
            )
        ],
        NodeView("node-a", ("192.0.2.1",)),
        CONFIG,
    )
    return [Change(key, None, frontend) for key, frontend in found.frontends.items()]


def step(old: list[Change], new: list[Change]) -> list[Change]:
    before = {c.key: c.new for c in old}
    after = {c.key: c.new for c in new}
    return [Change(k, before.get(k), after.get(k)) for k in {**before, **after}]


@pytest.fixture
def proxier() -> Iterator[IpvsProxier]:
    with RtNetlink() as netlink:
        own = netlink.index("lo")
        for ip in (A, B, "192.0.2.1"):
            netlink.transact([routes.add_address(own, ip_interface(f"{ip}/32"))])
    with closing(IpvsProxier(CONFIG)) as made:
        yield made


@contextmanager
def serving(ip: str) -> Iterator[socket.socket]:
    with socket.create_server((ip, 8080)) as server:
        server.settimeout(PATIENCE)
        yield server


def connect(source: str = "") -> socket.socket:
    return socket.create_connection((VIP, 80), PATIENCE, (source, 0) if source else None)


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def weights(proxier: IpvsProxier) -> dict[str, int]:
    with closing(Ipvs()) as ipvs:
        return {end.address: w for end, w in ipvs.servers()[TCP_KEY].destinations.items()}


def test_an_endpoint_that_goes_drains_and_is_removed_when_it_is_idle(proxier: IpvsProxier) -> None:
    both, one = changes(A, B), changes(B)
    proxier.sync(changes(A), {})
    with serving(A) as first, serving(B) as second:
        old = connect()
        held, _ = first.accept()
        proxier.apply(step(changes(A), both), {})
        proxier.apply(step(both, one), {})
        assert weights(proxier) == {A: 0, B: 1}
        assert not proxier.heal()
        for _ in range(5):
            connect().close()
            second.accept()[0].close()
        held.sendall(b"still here")
        assert old.recv(99) == b"still here"
        # Back again: it gets connections as before.
        proxier.apply(step(one, both), {})
        assert weights(proxier) == {A: 1, B: 1}
        proxier.apply(step(both, one), {})
        # Closed by the server's side alone, it is forgotten after the time set for that.
        held.shutdown(socket.SHUT_WR)
        wait_for(lambda: proxier.retire() is None and weights(proxier) == {B: 1})
        old.close()
        held.close()


def test_a_connection_survives_a_restart_of_the_proxy(proxier: IpvsProxier) -> None:
    proxier.sync(changes(A), {})
    with serving(A) as first:
        old = connect()
        held, _ = first.accept()
        with closing(IpvsProxier(CONFIG)) as second:
            second.sync(changes(B), {})
            assert weights(second) == {A: 0, B: 1}
            old.sendall(b"ping")
            assert held.recv(9) == b"ping"
        old.close()
        held.close()


def test_udp_goes_at_once(proxier: IpvsProxier) -> None:
    both, one = changes(A, B, ports=UDP), changes(B, ports=UDP)
    proxier.sync(both, {})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for _ in range(4):
            client.sendto(b"x", (VIP, 53))
        proxier.apply(step(both, one), {})
    with closing(Ipvs()) as ipvs:
        (server,) = ipvs.servers().values()
        assert [end.address for end in server.destinations] == [B]


def test_a_client_stays_until_its_endpoint_drains(proxier: IpvsProxier) -> None:
    sticky = {"sessionAffinity": "ClientIP"}
    both = changes(A, B, **sticky)
    proxier.sync(both, {})
    with serving(A) as first, serving(B) as second:
        first.setblocking(False)
        second.setblocking(False)

        def answered() -> str:
            connect().close()
            for server, name in ((first, A), (second, B)):
                try:
                    server.accept()[0].close()
                except BlockingIOError:
                    continue
                return name
            return ""

        (mine,) = {answered() for _ in range(6)}
        (other,) = {A, B} - {mine}
        proxier.apply(step(both, changes(other, **sticky)), {})
        assert {answered() for _ in range(6)} == {other}


def weakened(servers: Mapping[ServerKey, VirtualServer]) -> dict[ServerKey, VirtualServer]:
    """Without the first destination of each."""
    return {
        k: replace(s, destinations=dict(sorted(s.destinations.items())[1:]))
        for k, s in servers.items()
    }


def delete_device() -> None:
    with RtNetlink() as netlink:
        netlink.transact([links.delete_link(DEVICE)])


HARMS: dict[str, Callable[[Ipvs], None]] = {
    "a destination": lambda ipvs: ipvs.commit(diff(ipvs.servers(), weakened(ipvs.servers()))),
    "servers": lambda ipvs: ipvs.commit(diff(ipvs.servers(), {})),
    "a server more": lambda ipvs: ipvs.commit(diff({}, {STRANGER.key: STRANGER})),
    "a set": lambda ipvs: ipset.restore(["flush KUBE-CLUSTER-IP"]),
    "rules": lambda ipvs: Iptables(4).restore(["*nat", "-F KUBE-IPVS-SERVICES", "COMMIT"]),
    "a hook": lambda ipvs: Iptables(6).restore(["*filter", "-D INPUT -j KUBE-IPVS-FILTER", "COMMIT"]),
    "the device": lambda ipvs: delete_device(),
}  # fmt: skip


def test_foreign_changes_are_mended(proxier: IpvsProxier) -> None:
    proxier.sync(changes(A, B, **NODE_PORT), {})
    assert not proxier.heal()
    with closing(Ipvs()) as ipvs, serving(A), serving(B):
        for name, harm in HARMS.items():
            proxier._look_again = 0.0
            assert proxier.intact(), name
            harm(ipvs)
            proxier._look_again = 0.0
            assert proxier.intact() is (name == "a server more"), name
            assert proxier.heal(), name
            connect().close()
    assert not proxier.heal()


def test_what_is_others_stays_and_what_is_ours_goes(proxier: IpvsProxier) -> None:
    key = ServerKey(4, "10.9.0.1", "TCP", 80)
    foreign = {key: VirtualServer(key, "rr", None, 0, {DestinationKey(A, 80): 1})}
    Iptables(4).restore(["*nat", ":OTHER - [0:0]", "-A PREROUTING -j OTHER", "COMMIT"])
    ipset.restore(["create other hash:ip"])
    with closing(Ipvs()) as ipvs:
        ipvs.commit(diff({}, foreign))
        options = replace(CONFIG.ipvs, exclude_cidrs=("10.9.0.0/16",), strict_arp=True)
        with closing(IpvsProxier(replace(CONFIG, ipvs=options))) as ours:
            ours.sync(changes(A, **NODE_PORT), {})
            assert ipvs.servers().keys() > foreign.keys()
            assert ipvs.timeouts()[1] == 1
            assert sysctl.read("net.ipv4.conf.all.arp_ignore") == "1"
            assert sysctl.read("net.ipv4.vs.expire_nodest_conn") == "1"
            ours.clear()
        assert ipvs.servers() == foreign
    assert ipset.names() == ["other"]
    left = Iptables(4).save() + Iptables(6).save()
    assert "KUBE" not in left
    assert "-A PREROUTING -j OTHER" in left
    with RtNetlink() as netlink:
        assert DEVICE not in {link.name for link in netlink.links()}


def test_an_unknown_scheduler_counts_as_none(proxier: IpvsProxier) -> None:
    found = changes(A)
    assert found[0].new
    proxier.sync([c._replace(new=replace(found[0].new, scheduler="best")) for c in found], {})
    with closing(Ipvs()) as ipvs:
        assert ipvs.servers()[TCP_KEY].scheduler == "rr"
        proxier.sync([c._replace(new=replace(found[0].new, scheduler="wlc")) for c in found], {})
        assert ipvs.servers()[TCP_KEY].scheduler == "wlc"


def test_who_is_left_for_another_mode_keeps_its_connections(proxier: IpvsProxier) -> None:
    proxier.sync(changes(A), {})
    rules = replace(CONFIG, mode="nftables")
    with serving(A) as server, closing(backends.proxier(rules)) as other:
        old = connect()
        held, _ = server.accept()
        other.sync(changes(A), {})
        for _ in range(2):
            assert not backends.clear_others("nftables", rules, patient=True)
            assert "KUBE" not in Iptables(4).save()
            held.sendall(b"still here")
            assert old.recv(99) == b"still here"
        # New ones go the new way.
        connect().close()
        server.accept()[0].close()
        load = proxier.loads()[TCP_KEY][f"{A}:8080"]
        assert (load.active, load.inactive) == (1, 0)
        held.shutdown(socket.SHUT_WR)
        wait_for(lambda: backends.clear_others("nftables", rules, patient=True))
        with RtNetlink() as netlink:
            assert DEVICE not in {link.name for link in netlink.links()}
        old.close()
        held.close()


def test_a_kill_in_mid_sync_breaks_no_connection(proxier: IpvsProxier) -> None:
    proxier.sync(changes(A), {})
    others = [
        c
        for i in range(40)
        for c in changes(A, B, name=f"s{i}", ip=f"10.96.1.{i + 1}", sessionAffinity="ClientIP")
    ]
    with serving(A) as first:
        old = connect()
        held, _ = first.accept()
        pid = os.fork()
        if not pid:
            with contextlib.suppress(BaseException):
                IpvsProxier(CONFIG).sync([*changes(A), *others], {})
            os._exit(1)
        with closing(Ipvs()) as ipvs:
            wait_for(lambda: len(ipvs.servers()) > 1)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        old.sendall(b"ping")
        assert held.recv(9) == b"ping"
        with closing(IpvsProxier(CONFIG)) as second:
            second.sync(changes(A), {})
            assert set(second.loads()) == {TCP_KEY}
            dump = second.dump()
            assert dump.desired == dump.actual
            held.sendall(b"pong")
            assert old.recv(9) == b"pong"
        old.close()
        held.close()
