"""The proxy of one node against an API server in memory and a real kernel, with real connections."""

import asyncio
import json
import socket
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from kubewire.api.meta import Key
from kubewire.api.resources import (
    BUILTIN,
    EVENTS,
    NODES,
    SERVICE_CIDRS,
    SERVICES,
)
from kubewire.api.service import TRIGGERED
from kubewire.client.loop import Changes
from kubewire.kernel.iptables import VARIANTS, Iptables
from kubewire.kernel.nfnetlink import Nfnetlink
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.controller import KubeProxy
from kubewire.lang.nftables.model import Transaction
from kubewire.testing.fakeapi import FakeApi
from tests.kubeproxy.network import NODE_IP, Network

pytestmark = pytest.mark.kernel

JSON = dict[str, Any]
VIP = "10.96.0.10"
CLIENT, A, B, C = "10.244.0.9", "10.244.0.1", "10.244.0.2", "10.244.0.3"
DYING = {"ready": False, "serving": True, "terminating": True}
GONE = {"ready": False, "serving": False, "terminating": True}
CONFIG = Config(cluster_cidrs=("10.244.0.0/16",))


def service(name: str = "s", ip: str = VIP, protocol: str = "TCP", **spec: Any) -> JSON:
    port = {"name": "p", "port": 80, "protocol": protocol}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "d"},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [port], **spec},
    }


def piece(
    *ends: Any, of: str = "s", protocol: str = "TCP", name: str = "x", node: str = "n"
) -> JSON:
    """Endpoints: an address, or (address, conditions)."""
    given = [e if isinstance(e, tuple) else (e, {"ready": True}) for e in ends]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{of}-{name}",
            "namespace": "d",
            "labels": {"kubernetes.io/service-name": of},
        },
        "addressType": "IPv4",
        "ports": [{"name": "p", "port": 8080, "protocol": protocol}],
        "endpoints": [{"addresses": [a], "nodeName": node, "conditions": c} for a, c in given],
    }


def node(**spec: Any) -> JSON:
    addresses = [{"type": "InternalIP", "address": NODE_IP}]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "n"},
        "spec": spec,
        "status": {"addresses": addresses},
    }


@pytest.fixture
def network() -> Iterator[Network]:
    made = Network()
    for ip in (CLIENT, A, B, C):
        made.pod(ip)
    yield made
    made.close()


@pytest.fixture
def api() -> FakeApi:
    return FakeApi(node(), resources=(*BUILTIN, SERVICE_CIDRS))


@pytest.fixture
async def proxy(api: FakeApi) -> AsyncIterator[KubeProxy]:
    made = KubeProxy(api.client(), "n", (NODE_IP,), CONFIG, alone=True)
    task = asyncio.create_task(made.run())
    await asyncio.wait_for(made.loop.wait_applied(), 10)
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def reached(network: Network, listeners: dict[str, socket.socket], times: int) -> Counter[str]:
    """Where that many new connections to the VIP land."""
    found: Counter[str] = Counter()
    for _ in range(times):
        with network.connection(CLIENT, (VIP, 80)) as client:
            own = client.getsockname()
            for ip, listener in listeners.items():
                listener.setblocking(False)
                try:
                    accepted, peer = listener.accept()
                except BlockingIOError:
                    continue
                accepted.close()
                assert peer == own, "a pod's own address reaches the endpoint"
                found[ip] += 1
    return found


async def test_a_long_transfer_outlives_its_endpoint_and_nothing_new_lands_there(
    api: FakeApi, proxy: KubeProxy, network: Network
) -> None:
    listeners = {ip: network.listener(ip, 8080) for ip in (A, B)}
    api.put(service())
    api.put(piece(A))
    await api.converge()
    transfer = network.connection(CLIENT, (VIP, 80))
    sender, _ = listeners[A].accept()
    with sender:
        for conditions in ([A, B], [(A, DYING), B], [(A, GONE), B], [B]):
            api.put(piece(*conditions))
            await api.converge()
            sender.sendall(b"more")
            assert transfer.recv(4) == b"more"
            if conditions[0] != A:
                assert reached(network, listeners, 20) == {B: 20}


async def test_udp_flows_stay_with_what_serves_and_leave_what_does_not(
    api: FakeApi, proxy: KubeProxy, network: Network
) -> None:
    ends = {ip: network.datagrams(ip, 8080) for ip in (A, B)}
    client = network.datagrams(CLIENT)
    api.put(service(protocol="UDP"))
    await api.converge()
    client.sendto(b"lost: nobody is there yet", (VIP, 80))
    api.put(piece(A, protocol="UDP"))
    await api.converge()

    def lands(ip: str) -> None:
        client.sendto(b"x", (VIP, 80))
        data, peer = ends[ip].recvfrom(9)
        ends[ip].sendto(data, peer)
        assert client.recvfrom(9) == (b"x", (VIP, 80))

    lands(A)
    api.put(piece((A, DYING), B, protocol="UDP"))
    await api.converge()
    lands(A)  # It still serves: the flow stays, though new ones go to B.
    api.put(piece((A, GONE), B, protocol="UDP"))
    await api.converge()
    lands(B)


async def test_affinity_lasts_as_long_as_its_endpoint(
    api: FakeApi, proxy: KubeProxy, network: Network
) -> None:
    listeners = {ip: network.listener(ip, 8080) for ip in (A, B, C)}
    api.put(service(sessionAffinity="ClientIP"))
    api.put(piece(A, B))
    await api.converge()
    (first,) = reached(network, listeners, 15)
    api.put(piece(A, B, C))
    await api.converge()
    assert reached(network, listeners, 15) == {first: 15}
    left = [ip for ip in (A, B, C) if ip != first]
    api.put(piece(*left))
    await api.converge()
    (second,) = reached(network, listeners, 15)
    assert second in left
    api.put(piece(A, B, C))
    await api.converge()
    assert reached(network, listeners, 15) == {second: 15}


async def test_endpoints_get_even_shares(api: FakeApi, proxy: KubeProxy, network: Network) -> None:
    listeners = {ip: network.listener(ip, 8080) for ip in (A, B, C)}
    api.put(service())
    api.put(piece(A, B, C))
    await api.converge()
    found = reached(network, listeners, 600)
    # Binomial with p = 1/3: 200 +- 5 standard deviations of 11.5; wrong once in a million.
    assert all(abs(found[ip] - 200) < 58 for ip in (A, B, C)), found


async def test_it_follows_a_server_that_goes_away_and_forgets(
    api: FakeApi, proxy: KubeProxy, network: Network
) -> None:
    listeners = {ip: network.listener(ip, 8080) for ip in (A, B)}
    api.put(service())
    api.put(piece(A))
    await api.converge()
    seen = asyncio.Event()
    proxy.slices.listen(lambda _: seen.set())
    api.disconnect()
    api.put(piece(B))
    api.compact()  # 410 Gone for whoever comes back with an old resourceVersion.
    await asyncio.wait_for(seen.wait(), 10)
    await api.converge()
    assert reached(network, listeners, 5) == {B: 5}


async def test_it_puts_back_a_table_that_somebody_deleted_long_before_its_sync_period(
    api: FakeApi, proxy: KubeProxy, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    heal = proxy._proxier.heal
    monkeypatch.setattr(proxy._proxier, "heal", lambda: found.set_result(heal()))
    listeners = {A: network.listener(A, 8080)}
    api.put(service())
    api.put(piece(A))
    await api.converge()
    with Nfnetlink() as netlink:
        (name,) = netlink.tables()
        change = Transaction("inet")
        change.delete_table(name)
        netlink.commit(change)
        assert await asyncio.wait_for(found, CONFIG.sync_period / 2)
        assert netlink.tables() == {name}
    assert reached(network, listeners, 3) == {A: 3}


async def test_a_table_that_went_away_does_not_stop_the_next_change(
    api: FakeApi, proxy: KubeProxy, network: Network
) -> None:
    listeners = {ip: network.listener(ip, 8080) for ip in (A, B)}
    api.put(service())
    api.put(piece(A))
    await api.converge()
    with Nfnetlink() as netlink:
        (name,) = netlink.tables()
        change = Transaction("inet")
        change.delete_table(name)
        netlink.commit(change)
    api.put(piece(B))
    await api.converge()
    assert reached(network, listeners, 3) == {B: 3}


def configured(mode: str) -> JSON:
    text = f"apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: {mode}\nclusterCIDR: 10.244.0.0/16\n"
    meta = {"name": "kube-proxy", "namespace": "kube-system"}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": meta,
        "data": {"config.conf": text},
    }


def kept() -> dict[str, bool]:
    """Mode -> whether rules of it are in the kernel."""
    with Nfnetlink() as netlink:
        flat = "kubewire-proxy" in netlink.tables()
    lines = [line for v in VARIANTS for line in Iptables(4, v).save().splitlines()]
    return {"nftables": flat, "iptables": any("KUBE-SVC-" in line for line in lines)}


@pytest.mark.tool("iptables-nft", "iptables-legacy")
async def test_an_edited_config_map_switches_the_mode_and_no_connection_is_lost(
    api: FakeApi, network: Network
) -> None:
    api.put(configured("nftables"))
    api.put(service())
    api.put(piece(A))
    key = Key("kube-system", "kube-proxy")
    proxy = KubeProxy(api.client(), "n", (NODE_IP,), CONFIG, alone=True, config_map=key)
    task = asyncio.create_task(proxy.run())
    await asyncio.wait_for(proxy.loop.wait_applied(), 10)
    listeners = {A: network.listener(A, 8080)}
    long = network.connection(CLIENT, (VIP, 80))
    sender, _ = listeners[A].accept()
    for mode in ("iptables", "nonsense", "nftables", "iptables"):
        before = kept()
        api.put(configured(mode))
        await api.converge()
        wanted = {m: m == mode for m in before} if mode != "nonsense" else before
        assert kept() == wanted
        sender.sendall(b"more")
        assert long.recv(4) == b"more"
        assert reached(network, listeners, 3) == {A: 3}
        assert proxy._proxier.dump().actual == proxy._proxier.dump().desired
    event = await api.until(lambda: next(iter(api.all(EVENTS)), None))
    assert event["reason"] == "InvalidConfiguration"
    assert "nonsense" in event["message"]
    sender.close()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_whoever_loses_a_frontend_to_an_older_service_is_told(
    api: FakeApi, proxy: KubeProxy
) -> None:
    ports = [{"name": "p", "port": 80, "nodePort": 30080}]
    api.put(service("u", "10.96.0.12", type="NodePort", ports=ports))
    await api.converge()
    api.put(service("t", "10.96.0.11", type="NodePort", ports=ports))
    event = await api.until(lambda: next(iter(api.all(EVENTS)), None))
    assert event["involvedObject"]["name"] == "u"


async def test_addresses_of_a_service_cidr_are_dropped_from_when_it_is_there(
    api: FakeApi, proxy: KubeProxy
) -> None:
    def lines() -> list[str]:
        return [x for x in proxy._proxier.dump().actual if "element service-range4" in x]

    await api.converge()
    assert not lines()
    seen = asyncio.Event()
    proxy.cidrs.listen(lambda changes: seen.set() if changes else None)
    api.put(
        {
            "apiVersion": SERVICE_CIDRS.api_version,
            "kind": "ServiceCIDR",
            "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": ["10.96.0.0/16"]},
        }
    )
    await asyncio.wait_for(seen.wait(), 10)
    await proxy._reconcile(Changes())
    assert lines() == ["element service-range4: 10.96.0.0-10.96.255.255"]


async def fetched(port: int, path: str = "/", host: str = "127.0.0.1") -> tuple[int, JSON | str, dict[str, str]]:  # fmt: skip
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    lines = head.split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    json_body = headers["Content-Type"].startswith("application/json")
    return int(lines[0].split()[1]), json.loads(body) if json_body else body, headers


async def test_health(api: FakeApi, proxy: KubeProxy, network: Network) -> None:
    local = {"externalTrafficPolicy": "Local", "type": "LoadBalancer"}
    api.put(service(healthCheckNodePort=30999, **local))
    api.put(piece(A, B, (C, DYING)))
    await api.converge()
    status, body, headers = await fetched(30999, host=NODE_IP)
    assert (status, body) == (200, {"service": {"namespace": "d", "name": "s"}, "localEndpoints": 2, "serviceProxyHealthy": True})  # fmt: skip
    assert headers["X-Load-Balancing-Endpoint-Weight"] == "2"
    api.put(piece((A, DYING)))
    await api.converge()
    status, body, headers = await fetched(30999, host=NODE_IP)
    assert (status, headers["X-Load-Balancing-Endpoint-Weight"]) == (503, "0")
    api.remove(SERVICES, "s", "d")
    await api.converge()
    with pytest.raises(ConnectionRefusedError):
        await fetched(30999, host=NODE_IP)

    assert (await fetched(10256, "/healthz"))[:1] == (200,)
    api.put(node(taints=[{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]))
    await api.converge()
    status, body, _ = await fetched(10256, "/healthz")
    assert status == 503 and isinstance(body, dict) and body["nodeEligible"] is False
    assert body["healthy"] is True and body["status"]["IPv4"]["healthy"] is True
    status, body, _ = await fetched(10256, "/livez")
    assert status == 200 and isinstance(body, dict)
    assert list(body) == ["lastUpdated", "currentTime", "healthy", "status"]
    assert (await fetched(10256, "/nothing"))[0] == 404
    assert (await fetched(10249, "/healthz"))[:2] == (200, "ok")
    assert (await fetched(10249, "/proxyMode"))[:2] == (200, "nftables")
    status, text, _ = await fetched(10249, "/metrics")
    assert 'kubeproxy_proxy_healthz_total{code="503"} 1.0' in str(text)
    counted = 'kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="external"}'
    assert f"{counted} 0.0" in str(text)
    api.put(service(**local, ports=[{"name": "p", "port": 80, "nodePort": 30080}]))
    api.put(piece(A, node="elsewhere"))
    await api.converge()
    assert f"{counted} 1.0" in str((await fetched(10249, "/metrics"))[1])


async def test_a_node_that_has_gone_is_not_for_load_balancers(
    api: FakeApi, proxy: KubeProxy, network: Network
) -> None:
    statuses = []
    for change in (lambda: None, lambda: api.remove(NODES, "n"), lambda: api.put(node())):
        change()
        await api.converge()
        statuses.append([(await fetched(10256, path))[0] for path in ("/healthz", "/livez")])
    assert statuses == [[200, 200], [503, 200], [200, 200]]


async def test_only_changes_since_its_start_have_a_programming_latency(
    api: FakeApi, proxy: KubeProxy, network: Network
) -> None:
    def observed() -> list[float]:
        return [
            s.value
            for metric in proxy.metrics.programming["IPv4"].collect()
            for s in metric.samples
            if s.name.endswith("_count")
        ]

    api.put(service())
    for began, expected in ((datetime(2026, 1, 1, tzinfo=UTC), 0.0), (datetime.now(UTC), 1.0)):
        told = piece(A)
        told["metadata"]["annotations"] = {TRIGGERED: began.isoformat()}
        api.put(told)
        await api.converge()
        assert observed() == [expected]


async def test_a_health_check_port_that_somebody_has_is_told_once_and_opened_later(
    api: FakeApi, proxy: KubeProxy, network: Network
) -> None:
    with socket.create_server((NODE_IP, 30999)):
        for _ in range(2):
            api.put(
                service(
                    healthCheckNodePort=30999, externalTrafficPolicy="Local", type="LoadBalancer"
                )
            )
            api.put(piece(A))
            await api.converge()
        event = await api.until(lambda: next(iter(api.all(EVENTS)), None))
        assert event["reason"] == "FailedToStartServiceHealthcheck"
        assert 'node n failed to start healthcheck "d/s" on port 30999: ' in event["message"]
    api.put(piece(A, B))
    await api.converge()
    assert (await fetched(30999, host=NODE_IP))[0] == 200
    assert len(api.all(EVENTS)) == 1 and api.all(EVENTS)[0]["count"] == 1


async def run_in_mode(api: FakeApi, mode: str) -> None:
    """An agent of that mode starts, has everything in force, and ends."""
    made = KubeProxy(api.client(), "n", (NODE_IP,), replace(CONFIG, mode=mode))
    task = asyncio.create_task(made.run())
    await asyncio.wait_for(made.loop.wait_applied(), 30)
    await api.converge()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.tool("iptables-nft-save", "iptables-legacy-save")
async def test_another_mode_takes_over_without_a_gap_and_leaves_nothing_behind(
    api: FakeApi, network: Network
) -> None:
    listeners = {A: network.listener(A, 8080)}
    api.put(service())
    api.put(piece(A))
    await run_in_mode(api, "nftables")
    transfer = network.connection(CLIENT, (VIP, 80))
    sender, _ = listeners[A].accept()
    with sender, Nfnetlink() as netlink:
        for mode in ("iptables", "nftables", "iptables"):
            await run_in_mode(api, mode)
            assert reached(network, listeners, 3) == {A: 3}
            sender.sendall(b"more")
            assert transfer.recv(4) == b"more"
            ours = any(name.startswith("kubewire-proxy") for name in netlink.tables())
            assert ours is (mode == "nftables")
            saved = "".join(
                subprocess.run([f"{p}-save"], capture_output=True, text=True, check=True).stdout
                for p in ("iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy")
            )
            assert ("KUBE-" in saved) is (mode == "iptables")
