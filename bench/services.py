"""Services at scale: syncs and changes of the nftables proxier, and what its rules cost a packet.

10,000 Services x 10 endpoints: cold, again with the rules in place, one change by direct calls and
from watch event to kernel, one Service added; 50,000 x 5. A sync is the agent's own: from the bytes of
the API server's lists to the committed rules. ``Python s`` is the process's time in user mode, from
reading the lists to the packed batch; ``kernel s`` is what the kernel takes to work through it. The peer is the shape of upstream's nftables rules (a chain for each
Service and each endpoint), loaded by ``nft -f`` in the same run; ``nft`` is left out where it is not
installed. Memory is the peak of a process that does nothing else; its typed objects included.
"""

import asyncio
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from bench.traffic import traffic
from kubewire.api.meta import JSON, ObjectMeta
from kubewire.api.resources import BUILTIN, SERVICE_CIDRS
from kubewire.api.service import (
    SERVICE_NAME,
    Endpoint,
    EndpointConditions,
    EndpointPort,
    EndpointSlice,
    Service,
    ServicePort,
    ServiceSpec,
)
from kubewire.client.loop import Changes
from kubewire.kernel import sandbox
from kubewire.kubeproxy.backends.nftables.proxier import NftablesProxier
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.controller import KubeProxy, uncollected
from kubewire.kubeproxy.plan import ServicePlan, plan, plan_service
from kubewire.kubeproxy.table import Change
from kubewire.kubeproxy.topology import NodeView
from kubewire.testing.fakeapi import FakeApi

SERVICES, ENDPOINTS, CHANGES = 10_000, 10, 100
LARGE = (50_000, 5)
PEER_SERVICES = 2_000
"""The peer's time grows faster than the number of its chains."""
CONFIG = Config(cluster_cidrs=("10.128.0.0/9",))
NODE = NodeView("n0", ("172.30.0.10",))


def figures() -> Iterator[dict[str, Any]]:
    for measure in (_proxier, _memory, _large, _watched, traffic):
        yield from sandbox.run(measure, user_namespace=True)  # type: ignore[misc]
    # nft sends its batch at once: too much for the buffers of an ordinary user.
    yield from sandbox.run(_peer)  # type: ignore[misc]


def _service(index: int) -> Service:
    ip = f"10.{96 + (index >> 16)}.{index >> 8 & 255}.{index & 255}"
    spec = ServiceSpec(cluster_ip=ip, ports=[ServicePort(port=80, name="h")])
    return Service(metadata=ObjectMeta(name=f"s{index}", namespace="d"), spec=spec)


def _slice(index: int, shift: int = 0, size: int = ENDPOINTS) -> EndpointSlice:
    first = index * size + shift
    endpoints = [
        Endpoint(
            addresses=(f"10.{128 + (n >> 16)}.{(n >> 8) & 255}.{n & 255}",),
            conditions=EndpointConditions(ready=True),
            node_name=f"n{n % size}",
        )
        for n in range(first, first + size)
    ]
    meta = ObjectMeta(name=f"s{index}", namespace="d", labels={SERVICE_NAME: f"s{index}"})
    ports = [EndpointPort(name="h", port=8080, protocol="TCP")]
    return EndpointSlice(metadata=meta, endpoints=endpoints, ports=ports)


class _Timed:
    """Wall time, and own time in user mode and in the kernel, of what was done."""

    def __init__(self) -> None:
        self._wall, self._own = time.perf_counter(), os.times()

    def figure(self, name: str) -> dict[str, Any]:
        wall, own = time.perf_counter() - self._wall, os.times()
        return {
            "figure": name,
            "s": round(wall, 2),
            "Python s": round(own.user - self._own.user, 2),
            "kernel s": round(own.system - self._own.system, 2),
        }


def _planned(count: int, size: int) -> tuple[ServicePlan, list[Service], list[EndpointSlice]]:
    services = [_service(i) for i in range(count)]
    slices = [_slice(i, size=size) for i in range(count)]
    return plan(services, slices, NODE, CONFIG), services, slices


def _changes(planned: ServicePlan) -> list[Change]:
    return [Change(key, None, frontend) for key, frontend in planned.frontends.items()]


def _proxier() -> list[dict[str, Any]]:
    services = [_service(i) for i in range(SERVICES)]
    slices = [_slice(i) for i in range(SERVICES)]
    lists = _lists(services, slices)
    names = ("cold sync", "restart with the rules in place")
    found = [_synced(f"{name}, {SERVICES} x {ENDPOINTS}", lists) for name in names]
    planned = plan(services, slices, NODE, CONFIG)
    proxier = NftablesProxier(CONFIG)
    proxier.sync(_changes(planned), planned.addresses)

    def one_slice(index: int) -> None:
        frontends, _ = plan_service(services[index], [_slice(index, 500_000)], NODE, CONFIG)
        proxier.apply([Change(f.key, planned.frontends[f.key], f) for f in frontends], {})

    def one_service(index: int) -> None:
        new = _service(SERVICES + index)
        frontends, _ = plan_service(new, [_slice(SERVICES + index)], NODE, CONFIG)
        proxier.apply([Change(f.key, None, f) for f in frontends], {new.key: new.cluster_ips})

    return [*found, _percentiles("one slice", one_slice), _percentiles("one Service added", one_service)]  # fmt: skip


def _percentiles(name: str, change: Callable[[int], None]) -> dict[str, Any]:
    spent = []
    for index in range(CHANGES):
        before = time.perf_counter()
        change(index)
        spent.append((time.perf_counter() - before) * 1000)
    return _shown(name, spent)


def _shown(name: str, spent: list[float]) -> dict[str, Any]:
    spent = sorted(spent)
    return {"figure": name, "p50 ms": round(spent[len(spent) // 2], 2), "p99 ms": round(spent[-2], 2)}  # fmt: skip


def _lists(services: list[Service], slices: list[EndpointSlice]) -> tuple[bytes, bytes]:
    """What the API server answers."""
    whole = (
        {"metadata": {"resourceVersion": "9"}, "items": objects} for objects in (services, slices)
    )
    first, second = map(msgspec.json.encode, whole)
    return first, second


def _synced(name: str, lists: tuple[bytes, bytes]) -> dict[str, Any]:
    """A fresh agent takes the lists and syncs; it is left open, for closing costs time as well."""

    async def sync() -> dict[str, Any]:
        proxy = KubeProxy(FakeApi().client(), "n0", ("172.30.0.10",), CONFIG, alone=True)
        timed = _Timed()
        with uncollected():
            for informer, page in zip((proxy.services, proxy.slices), lists, strict=True):
                informer._publish(informer._reflector.listed(page))  # type: ignore[attr-defined]
        await proxy._reconcile(Changes(full=True))
        return timed.figure(name)

    return asyncio.run(sync())


def _memory() -> list[dict[str, Any]]:
    """The lists are made by another process, as an API server is one."""
    lists = _made_elsewhere(SERVICES, ENDPOINTS)
    _synced("", lists)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return [{"figure": f"peak memory, {SERVICES} x {ENDPOINTS}", "MiB": peak}]


def _made_elsewhere(count: int, size: int) -> tuple[bytes, bytes]:
    def make() -> tuple[bytes, bytes]:
        return _lists(
            [_service(i) for i in range(count)], [_slice(i, size=size) for i in range(count)]
        )

    return sandbox.run(make)  # type: ignore[return-value]


def _large() -> list[dict[str, Any]]:
    count, size = LARGE
    return [_synced(f"cold sync, {count} x {size}", _made_elsewhere(count, size))]


def _watched() -> list[dict[str, Any]]:
    return asyncio.run(_watch())


async def _watch() -> list[dict[str, Any]]:
    """From the event of a watch to the committed transaction, with all Services there."""
    api = FakeApi(_node(), resources=(*BUILTIN, SERVICE_CIDRS))
    for index in range(SERVICES):
        api.put(_raw(_service(index), "v1", "Service"))
        api.put(_raw(_slice(index), "discovery.k8s.io/v1", "EndpointSlice"))
    proxy = KubeProxy(api.client(), "n0", ("172.30.0.10",), CONFIG, alone=True)
    done = asyncio.Event()
    apply = proxy._proxier.apply

    def told(*given: Any) -> None:
        apply(*given)
        done.set()

    proxy._proxier.apply = told  # type: ignore[method-assign]
    task = asyncio.create_task(proxy.run())
    await proxy.loop.wait_applied()
    spent = []
    for index in range(CHANGES):
        done.clear()
        raw = _raw(_slice(index, 500_000), "discovery.k8s.io/v1", "EndpointSlice")
        before = time.perf_counter()
        api.put(raw)
        await done.wait()
        spent.append((time.perf_counter() - before) * 1000)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return [_shown("one slice, from watch event to kernel", spent)]


def _node() -> JSON:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n0"}, "spec": {}, "status": {}}  # fmt: skip


def _raw(obj: Service | EndpointSlice, version: str, kind: str) -> JSON:
    return {"apiVersion": version, "kind": kind, **msgspec.to_builtins(obj)}


def _peer() -> list[dict[str, Any]]:
    """Upstream's shape: a chain for each Service and for each endpoint."""
    name = f"upstream's rule shape by nft -f, {PEER_SERVICES} x {ENDPOINTS}"
    nft = shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if nft is None:
        return [{"figure": name, "why": "nft is not installed"}]
    planned, *_ = _planned(PEER_SERVICES, ENDPOINTS)
    timed = _Timed()
    with uncollected():
        NftablesProxier(CONFIG).sync(_changes(planned), planned.addresses)
    ours = timed.figure(f"ours, compile and load, {PEER_SERVICES} x {ENDPOINTS}")
    with tempfile.NamedTemporaryFile("w", suffix=".nft") as script:
        script.write(_upstream(planned))
        script.flush()
        timed = _Timed()
        answer = subprocess.run(
            [nft, "-f", script.name], capture_output=True, text=True, check=False
        )
        if answer.returncode:
            return [ours, {"figure": name, "why": answer.stderr.strip()[-80:]}]
        return [ours, timed.figure(name)]


def _upstream(planned: ServicePlan) -> str:
    services, chains = [], []
    for number, (key, frontend) in enumerate(planned.frontends.items()):
        name = f"service-{number:08x}/d/s{number}/tcp/h"
        services.append(f"{key.address} . tcp . {key.port} : goto {name}")
        ends = frontend.decisions["pod"].endpoints
        picks = ", ".join(f"{i} : goto endpoint-{name}-{e.ip}" for i, e in enumerate(ends))
        for end in ends:
            chains.append(
                f"chain endpoint-{name}-{end.ip} {{ ip saddr {end.ip} jump mark-for-masquerade; "
                f"meta l4proto tcp dnat to {end.ip}:{end.port}; }}"
            )
        chains.append(
            f"chain {name} {{ ip daddr {key.address} tcp dport {key.port} ip saddr != 10.128.0.0/9 "
            f"jump mark-for-masquerade; numgen random mod {len(ends)} vmap {{ {picks} }}; }}"
        )
    return "\n".join(
        [
            "table ip kube-proxy {",
            "chain mark-for-masquerade { meta mark set mark or 0x4000; }",
            *chains,
            "map service-ips { type ipv4_addr . inet_proto . inet_service : verdict",
            f"elements = {{ {', '.join(services)} }} }}",
            "chain nat { type nat hook prerouting priority -100; ip daddr . meta l4proto . th dport vmap @service-ips; }",
            "}",
        ]
    )
