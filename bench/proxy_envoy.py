"""How the Envoy back end grows: cold sync, one endpoint, one Service, memory; a peer is the plan itself.

And what Envoy costs a connection, beside one that goes from pod to pod directly.

python bench/proxy_envoy.py [SERVICES] [ENDPOINTS]
"""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from bench.traffic import load, prepared, through_a_proxy
from kubewire.api.service import EndpointSlice, Service
from kubewire.kernel import sandbox
from kubewire.kubeproxy.backends.envoy.proxier import EnvoyProxier
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.controller import uncollected
from kubewire.kubeproxy.plan import plan
from kubewire.kubeproxy.table import Change
from kubewire.kubeproxy.topology import NodeView

VIEW = NodeView("node-1", ("192.0.2.1",))


def service(i: int) -> Service:
    ip = f"10.{96 + (i >> 16)}.{i >> 8 & 255}.{i & 255}"
    port = {"name": "http" if i % 2 else "p", "port": 80}
    spec = {"clusterIP": ip, "clusterIPs": [ip], "ports": [port]}
    return msgspec.convert(
        {"metadata": {"name": f"s{i}", "namespace": "ns"}, "spec": spec}, Service
    )


def piece(i: int, endpoints: int) -> EndpointSlice:
    obj = {
        "metadata": {
            "name": f"s{i}",
            "namespace": "ns",
            "labels": {"kubernetes.io/service-name": f"s{i}"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [f"10.244.{i & 255}.{j + 1}"]} for j in range(endpoints)],
        "ports": [{"name": "http" if i % 2 else "p", "port": 8080, "protocol": "TCP"}],
    }
    return msgspec.convert(obj, EndpointSlice)


def measure(services: int, endpoints: int) -> dict[str, Any]:
    found: dict[str, Any] = {"services": services, "endpoints": endpoints}
    with tempfile.TemporaryDirectory() as folder:
        config = Config(mode="envoy", cluster_cidrs=("10.244.0.0/16",), run_dir=f"{folder}/envoy")
        start = time.perf_counter()
        table = plan(
            map(service, range(services)),
            (piece(i, endpoints) for i in range(services)),
            VIEW,
            config,
        )
        found["planSeconds"] = round(time.perf_counter() - start, 2)
        proxier = EnvoyProxier(config)
        start = time.perf_counter()
        with uncollected():
            proxier.sync([Change(k, None, f) for k, f in table.frontends.items()], {})
        found["coldSyncSeconds"] = round(time.perf_counter() - start, 2)
        pid = Path(f"{folder}/envoy/envoy.pid").read_text().strip()
        status = Path(f"/proc/{pid}/status").read_text()
        found["envoyMiB"] = int(status.split("VmRSS:")[1].split()[0]) // 1024
        found["endpointMilliseconds"] = _median(proxier, config, [1, 2, 3], endpoints)
        found["serviceMilliseconds"] = _median(
            proxier, config, [services + i for i in range(3)], endpoints
        )
        proxier.clear()
        proxier.close()
    return found


def _median(proxier: EnvoyProxier, config: Config, numbers: list[int], endpoints: int) -> float:
    """Give each Service other endpoints than it has (or make it)."""
    times = []
    for i in numbers:
        before = plan([service(i)], [piece(i, endpoints)], VIEW, config).frontends
        after = plan([service(i)], [piece(i, endpoints + 1)], VIEW, config).frontends
        known = i < numbers[-1] and numbers[0] < 10
        changes = [Change(k, before[k] if known else None, f) for k, f in after.items()]
        start = time.perf_counter()
        proxier.apply(changes, {})
        times.append((time.perf_counter() - start) * 1000)
    return round(sorted(times)[len(times) // 2], 1)


async def _through(folder: str) -> list[dict[str, Any]]:
    """The event loop is kube-proxy's: Envoy asks it for the cluster of the first connection."""
    network = prepared()
    config = Config(mode="envoy", cluster_cidrs=("10.244.0.0/16",), run_dir=f"{folder}/envoy")
    proxier = load(config)
    try:
        return await asyncio.to_thread(through_a_proxy, network)
    finally:
        proxier.clear()
        proxier.close()


def _path() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_through(folder))


def figures() -> Iterator[dict[str, Any]]:
    for services in (100, 1_000, 10_000):
        yield sandbox.run(lambda n=services: measure(n, 10))  # type: ignore[misc]
    yield from sandbox.run(_path)  # type: ignore[misc]
