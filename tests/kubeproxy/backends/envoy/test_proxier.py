"""Real connections through a real Envoy: who answers, and whom it sees."""

import asyncio
import contextlib
import os
import signal
import socket
import struct
from pathlib import Path

import pytest

from kubewire.kernel import links, netns, sysctl
from kubewire.kernel.nfnetlink import Nfnetlink
from kubewire.kernel.rtnetlink import RtNetlink
from kubewire.kubeproxy import backends
from kubewire.kubeproxy.backends.envoy import loop
from kubewire.kubeproxy.backends.envoy.proxier import ENDED, EnvoyProxier
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.plan import plan
from kubewire.kubeproxy.table import Change
from kubewire.lang.nftables.expressions import IP_DADDR, IP_SADDR, Reject
from kubewire.lang.nftables.lookups import Lookup
from kubewire.lang.nftables.model import Chain, Rule, Set, Table, Transaction, replace
from kubewire.lang.nftables.types import IPV4, ip_bytes
from tests.kubeproxy.backends.envoy.world import OUTSIDE, VIEW, world
from tests.kubeproxy.rows import BALANCER, NODE_IP, NODE_PORT, POD, VIP, service, slice_

pytestmark = pytest.mark.kernel

ONE, TWO = "10.244.0.1", "10.244.0.2"
A, B = f"{ONE}@node-a", f"{TWO}@node-a"
HTTP = [{"name": "http", "port": 80}]
HTTP_SLICE = [{"name": "http", "port": 8080, "protocol": "TCP"}]


async def test_who_answers_and_whom_it_sees(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        await node.serve(ONE)
        services = [service(**BALANCER), service("h", "10.96.0.11", ports=HTTP)]
        node.show(services, [slice_(A), slice_(A, of="h", ports=HTTP_SLICE)])
        rows = [
            # A pod is seen as itself; itself is the node; a NodePort is masqueraded.
            (POD, VIP, 80, POD),
            (ONE, VIP, 80, NODE_IP),
            ("", VIP, 80, NODE_IP),
            (OUTSIDE, VIP, 80, NODE_IP),
            (OUTSIDE, NODE_IP, 30080, NODE_IP),
            (POD, NODE_IP, 30080, NODE_IP),
            ("", "127.0.0.1", 30080, NODE_IP),
            (OUTSIDE, "198.51.100.1", 80, NODE_IP),
        ]
        for source, target, port, peer in rows:
            assert await node.line(source, target, port) == [ONE, peer], (source, target)
        for source, peer in ((POD, POD), (ONE, NODE_IP), ("", NODE_IP)):
            assert await node.get(source, "10.96.0.11") == (200, [ONE, peer, "/"]), source


async def test_ipv6(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        await node.serve("fd00::1")
        six = service(ip="fd00:96::10")
        node.show([six], [slice_("fd00::1@node-a", family="IPv6")])
        assert await node.line("fd00::9", "fd00:96::10") == ["fd00::1", "fd00::9"]


async def test_what_is_not_tcp_stays_in_the_kernel(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        ports = [{"name": "p", "port": 53, "protocol": "UDP"}]
        node.show([service(ports=ports)], [slice_(A, ports=ports)])
        with netns.socket_in(node.pod(ONE), kind=socket.SOCK_DGRAM) as server:
            server.bind((ONE, 53))
            server.setblocking(False)
            with netns.socket_in(node.pod(POD), kind=socket.SOCK_DGRAM) as client:
                client.connect((VIP, 53))
                answer = asyncio.create_task(asyncio.get_running_loop().sock_recvfrom(server, 10))
                while not answer.done():
                    # A datagram may be lost while a new cable comes up.
                    client.send(b"?")
                    await asyncio.wait([answer], timeout=0.1)
                assert answer.result()[1][0] == POD
        assert not any("envoy cluster" in line for line in node.proxier.dump().actual)


async def test_without_endpoints_a_connection_is_refused(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        node.show([service(), service("h", "10.96.0.11", ports=HTTP)], [])
        for target, port in ((VIP, 80), (VIP, 81), ("10.96.0.11", 80)):
            with pytest.raises(ConnectionRefusedError):
                await node.dial(POD, target, port)


async def test_connections_outlive_their_endpoint_and_their_service(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        for ip in (ONE, TWO):
            await node.serve(ip)
        services = [service(), service("h", "10.96.0.11", ports=HTTP)]

        def show(*ends: str) -> None:
            node.show(services, [slice_(*ends), slice_(*ends, of="h", ports=HTTP_SLICE)])

        show(A)
        line = await node.dial(POD, VIP)
        assert (await line.line())[0] == ONE
        slow = await node.dial(POD, "10.96.0.11")
        slow.writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await slow.reader.readuntil(b"\r\n\r\n")
        show(B)
        for _ in range(5):
            assert (await node.line(POD, VIP))[0] == TWO
            assert (await node.get(POD, "10.96.0.11"))[1][0] == TWO
        assert (await line.line())[0] == ONE
        show()
        with pytest.raises(ConnectionRefusedError):
            await node.dial(POD, VIP)
        assert (await line.line())[0] == ONE
        services.clear()
        show()
        assert (await line.line())[0] == ONE


async def test_an_endpoint_that_fails_is_left_out(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        for ip in (ONE, TWO):
            await node.serve(ip)
        node.broken.add(ONE)
        node.show([service(ports=HTTP)], [slice_(A, B, ports=HTTP_SLICE)])
        ejected = (
            'envoy_cluster_outlier_detection_ejections_active{envoy_cluster_name="ns/s/http"} 1'
        )
        while ejected not in await node.metrics():
            await node.get(POD, VIP)
        for _ in range(10):
            assert await node.get(POD, VIP) == (200, [TWO, POD, "/"])


async def test_a_dead_endpoint_is_tried_again_elsewhere(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        node.pod(ONE)
        await node.serve(TWO)
        services = [service(), service("h", "10.96.0.11", ports=HTTP)]
        node.show(services, [slice_(A, B), slice_(A, B, of="h", ports=HTTP_SLICE)])
        for _ in range(10):
            assert (await node.get(POD, "10.96.0.11"))[1][0] == TWO
        ejected = 'envoy_cluster_outlier_detection_ejections_active{envoy_cluster_name="ns/s/p"} 1'
        while ejected not in await node.metrics():
            with contextlib.suppress(OSError):
                await node.line(POD, VIP)
        for _ in range(10):
            assert (await node.line(POD, VIP))[0] == TWO


async def test_a_reset_comes_through(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        await node.serve(ONE)
        node.show([service()], [slice_(A)])
        connection = await node.dial(POD, VIP)
        await connection.line()
        for stream in node.streams:
            if stream.get_extra_info("sockname")[0] == ONE:
                stream.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                stream.transport.abort()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(connection.reader.read(1), 10)


async def test_metrics_name_the_service(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        await node.serve(ONE)
        node.show([service(**NODE_PORT)], [slice_(A)])
        for target, port in ((VIP, 80), (NODE_IP, 30080)):
            await node.line(POD, target, port)
        text = await node.metrics()
        assert 'envoy_cluster_upstream_cx_total{envoy_cluster_name="ns/s/p"} 2' in text


async def test_a_client_stays_with_its_endpoint(tmp_path: Path) -> None:
    ips = [f"10.244.0.{i}" for i in range(1, 5)]
    clients = [f"10.244.0.{i}" for i in range(50, 58)]
    async with world(tmp_path) as node:
        for ip in ips:
            await node.serve(ip)
        sticky = service(sessionAffinity="ClientIP")
        node.show([sticky], [slice_(*(f"{ip}@node-a" for ip in ips))])
        chosen = {c: (await node.line(c, VIP))[0] for c in clients}
        assert len(set(chosen.values())) > 1
        gone = chosen[clients[0]]
        rest = [ip for ip in ips if ip != gone]
        node.show([sticky], [slice_(*(f"{ip}@node-a" for ip in rest))])
        for client in clients * 2:
            answered = (await node.line(client, VIP))[0]
            assert answered in rest
            assert chosen[client] in (gone, answered)


async def test_envoy_asks_for_what_it_uses(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        await node.serve(ONE)
        services = [service(), service("h", "10.96.0.11", ports=HTTP)]
        node.show(services, [slice_(A), slice_(A, of="h", ports=HTTP_SLICE)])
        for _ in range(2):
            assert await node.line(POD, VIP) == [ONE, POD]
        (line,) = (x for x in node.proxier.dump().actual if x.startswith("envoy cluster"))
        assert line == f"envoy cluster {VIP}:80: {ONE}:8080"


async def test_an_endpoint_in_the_nodes_own_namespace(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        await node.serve("")
        node.show([service()], [slice_(f"{NODE_IP}@node-a")])
        for source, peer in ((POD, POD), ("", NODE_IP)):
            assert await node.line(source, VIP) == ["node", peer]


async def test_a_policy_sees_client_and_endpoint(tmp_path: Path) -> None:
    pair = Lookup((IP_SADDR, IP_DADDR), "denied")
    denied = Set("denied", (IPV4, IPV4), elements={ip_bytes(POD) + ip_bytes(ONE): None})
    chain = Chain("forward", (Rule((pair, Reject(tcp_reset=True))),), "filter", "forward")
    async with world(tmp_path) as node:
        await node.serve(ONE)
        node.show([service()], [slice_(A)])
        with Nfnetlink() as netlink:
            netlink.commit(replace(Table("policy", "inet", {"denied": denied}, {"forward": chain})))
        assert await node.line("10.244.0.98", VIP) == [ONE, "10.244.0.98"]
        assert await node.line("", VIP) == [ONE, NODE_IP]
        with pytest.raises(OSError):
            assert await node.line(POD, VIP) == []
            raise ConnectionResetError


async def test_envoy_is_started_again(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        await node.serve(ONE)
        node.show([service()], [slice_(A)])
        pid_file = tmp_path / "envoy" / "envoy.pid"
        before = pid_file.read_text()
        os.kill(int(before), signal.SIGKILL)
        while True:
            with contextlib.suppress(OSError):
                assert (await node.line(POD, VIP))[0] == ONE
                break
            await asyncio.sleep(0.01)
        assert pid_file.read_text() != before


async def test_the_next_one_takes_over_what_runs(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        await node.serve(ONE)
        node.show([service()], [slice_(A)])
        line = await node.dial(POD, VIP)
        assert (await line.line())[0] == ONE
        node.proxier.close()
        node.proxier = EnvoyProxier(node.config, ["10.96.0.0/16"])
        node.frontends = {}
        node.show([service()], [slice_(A)])
        assert (await line.line())[0] == ONE
        assert (await node.line(POD, VIP))[0] == ONE


def restarting(config: Config, states: list[list[Change]], go: int) -> None:
    """Starts again and again with more Services or fewer, until it is killed."""
    while True:
        for state in states:
            proxier = EnvoyProxier(config, ["10.96.0.0/16"])
            proxier.sync(state, {})
            proxier.close()
            os.write(go, b".")


def killed(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


async def test_killed_in_the_middle(tmp_path: Path) -> None:
    names = {f"s{i}": f"10.96.1.{i}" for i in range(60)}
    async with world(tmp_path) as node:
        await node.serve(ONE)
        services, slices = [service()], [slice_(A)]
        more = [service(name, ip) for name, ip in names.items()]
        node.show(services, slices)
        line = await node.dial(POD, VIP)
        assert (await line.line())[0] == ONE
        node.proxier.close()
        found = plan(
            [*services, *more], [*slices, *(slice_(A, of=n) for n in names)], VIEW, node.config
        )
        many = [Change(key, None, f) for key, f in found.frontends.items()]
        few = [change for change in many if change.key.address == VIP]
        for kills in range(3):
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                asyncio.events._set_running_loop(None)
                restarting(node.config, [many, few], writing)
            os.close(writing)
            os.read(reading, 1 + kills)
            # Each time at another point: after so many connections.
            for _ in range(3 + 5 * kills):
                assert (await line.line())[0] == ONE
                assert (await node.line(POD, VIP))[0] == ONE
            killed(child)
            os.close(reading)
            assert (await line.line())[0] == ONE
            assert (await node.line(POD, VIP))[0] == ONE
        node.proxier = EnvoyProxier(node.config, ["10.96.0.0/16"])
        node.frontends = {}
        node.show(services, slices)
        assert (await line.line())[0] == ONE
        dump = node.proxier.dump()
        assert dump.actual == dump.desired, "nothing of the others is left"
        assert (await node.line(POD, VIP))[0] == ONE


async def test_what_others_remove_is_put_back(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        await node.serve(ONE)
        node.show([service()], [slice_(A)])
        assert not node.proxier.heal()
        with RtNetlink() as netlink:
            netlink.transact([links.delete_link(loop.ENTRY)])
        assert node.proxier.heal()
        assert await node.line(POD, VIP) == [ONE, POD]
        with Nfnetlink() as nft:
            gone = Transaction("inet")
            gone.delete_table(loop.NAME)
            nft.commit(gone)
        assert node.proxier.heal()
        assert await node.line(POD, VIP) == [ONE, POD]


async def test_a_port_that_envoy_uses_in_a_clients_name_is_still_the_clients(
    tmp_path: Path,
) -> None:
    sticky = service("k", "10.96.0.11", sessionAffinity="ClientIP")
    async with world(tmp_path) as node:
        await node.serve(ONE)
        node.show([service(), sticky], [slice_(A), slice_(A, of="k")])
        through = await node.dial(POD, VIP)
        assert (await through.line())[:2] == [ONE, POD]
        (port,) = {
            writer.get_extra_info("peername")[1]
            for writer in node.streams
            if writer.get_extra_info("sockname")[0] == ONE
        }
        # The kernel carries this one; its answers come to a port that a socket of Envoy has.
        with netns.socket_in(node.pod(POD)) as client:
            client.setblocking(False)
            client.bind((POD, port))
            events = asyncio.get_running_loop()
            await asyncio.wait_for(events.sock_connect(client, ("10.96.0.11", 80)), 10)
            await events.sock_sendall(client, b"hello\n")
            answer = await asyncio.wait_for(events.sock_recv(client, 99), 10)
            assert answer.startswith(ONE.encode())
        assert (await through.line())[:2] == [ONE, POD]


async def test_clear_leaves_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        before = sysctl.read(loop.EARLY_DEMUX)
        node.show([service()], [slice_(A)])
        assert sysctl.read(loop.EARLY_DEMUX) == "0"
        node.proxier.clear()
        assert sysctl.read(loop.EARLY_DEMUX) == before
        with Nfnetlink() as nft, RtNetlink() as netlink:
            assert nft.tables() == set()
            assert loop.ENTRY not in {link.name for link in netlink.links()}
            assert not {r.table for r in netlink.routes()} & {loop.OUT, loop.BACK}
        assert not (tmp_path / "envoy").exists()


async def test_who_is_left_keeps_its_connections(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        await node.serve(ONE)
        services, slices = [service()], [slice_(A)]
        node.show(services, slices)
        line = await node.dial(POD, VIP)
        assert await line.line() == [ONE, POD, "hello"]
        node.proxier.close()
        rules = Config("nftables", node.config.cluster_cidrs, run_dir=node.config.run_dir)
        next_one = backends.proxier(rules)
        found = plan(services, slices, VIEW, rules)
        next_one.sync([Change(k, None, f) for k, f in found.frontends.items()], {})
        for _ in range(2):
            assert not backends.clear_others("nftables", rules, patient=True)
            assert await line.line() == [ONE, POD, "hello"]
        before = await node.metrics()
        assert await node.line(POD, VIP) == [ONE, POD]
        name = 'envoy_cluster_upstream_cx_total{envoy_cluster_name="ns/s/p"}'
        assert f"{name} 1" in before
        assert f"{name} 1" in await node.metrics()
        line.close()
        ended = tmp_path / "envoy" / ENDED
        while not ended.exists():
            assert not backends.clear_others("nftables", rules, patient=True)
            await asyncio.sleep(0.01)
        with Nfnetlink() as nft, RtNetlink() as netlink:
            assert loop.NAME not in nft.tables()
            assert loop.ENTRY not in {link.name for link in netlink.links()}
        assert not (tmp_path / "envoy" / "envoy.pid").exists()
        # Sockets in the state TIME_WAIT are the last that is left of it.
        assert not backends.clear_others("nftables", rules, patient=True)
        assert sysctl.read(loop.EARLY_DEMUX) == "0"
        os.utime(ended, (0, 0))
        assert backends.clear_others("nftables", rules, patient=True)
        assert sysctl.read(loop.EARLY_DEMUX) == "1"
        assert not (tmp_path / "envoy").exists()
        next_one.clear()
        next_one.close()
        node.proxier = EnvoyProxier(node.config)
