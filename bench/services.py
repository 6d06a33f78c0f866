"""10,000 Services x 10 endpoints into the kernel: cold, again over itself, and one slice changed.

The typed objects are made beforehand; the time of a change is from objects to the committed
transaction. Memory is the peak of the whole process, the bench's own objects included.
"""

import resource
import time
from collections.abc import Iterator
from typing import Any

from kubewire.api.meta import ObjectMeta
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
from kubewire.kernel import sandbox
from kubewire.kubeproxy.backends.nftables.proxier import NftablesProxier
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.plan import plan, plan_service
from kubewire.kubeproxy.table import Change
from kubewire.kubeproxy.topology import NodeView

SERVICES, ENDPOINTS, CHANGES = 10_000, 10, 100
CONFIG = Config(cluster_cidrs=("10.128.0.0/9",))
NODE = NodeView("n0", ("172.30.0.10",))


def figures() -> Iterator[dict[str, Any]]:
    yield from sandbox.run(_measure, user_namespace=True)  # type: ignore[misc]


def _service(index: int) -> Service:
    spec = ServiceSpec(
        cluster_ip=f"10.96.{index >> 8}.{index & 255}", ports=[ServicePort(port=80, name="h")]
    )
    return Service(metadata=ObjectMeta(name=f"s{index}", namespace="d"), spec=spec)


def _slice(index: int, shift: int = 0) -> EndpointSlice:
    first = index * ENDPOINTS + shift
    endpoints = [
        Endpoint(
            addresses=(f"10.{128 + (n >> 16)}.{(n >> 8) & 255}.{n & 255}",),
            conditions=EndpointConditions(ready=True),
            node_name=f"n{n % ENDPOINTS}",
        )
        for n in range(first, first + ENDPOINTS)
    ]
    meta = ObjectMeta(name=f"s{index}", namespace="d", labels={SERVICE_NAME: f"s{index}"})
    ports = [EndpointPort(name="h", port=8080, protocol="TCP")]
    return EndpointSlice(metadata=meta, endpoints=endpoints, ports=ports)


def _measure() -> list[dict[str, Any]]:
    services = [_service(i) for i in range(SERVICES)]
    slices = [_slice(i) for i in range(SERVICES)]
    start = time.perf_counter()
    planned = plan(services, slices, NODE, CONFIG)
    ready = time.perf_counter()
    changes = [Change(key, None, f) for key, f in planned.frontends.items()]
    addresses = {s.key: s.cluster_ips for s in services}
    NftablesProxier(CONFIG).sync(changes, addresses)
    cold = time.perf_counter()
    proxier = NftablesProxier(CONFIG)
    proxier.sync(changes, addresses)
    again = time.perf_counter()
    spent = []
    for index in range(CHANGES):
        before = time.perf_counter()
        frontends, _ = plan_service(services[index], [_slice(index, 500_000)], NODE, CONFIG)
        proxier.apply([Change(f.key, planned.frontends[f.key], f) for f in frontends], {})
        spent.append((time.perf_counter() - before) * 1000)
    spent.sort()
    return [
        {"figure": "plan", "s": round(ready - start, 2)},
        {"figure": "compile and load, cold", "s": round(cold - ready, 2)},
        {"figure": "compile and load over itself", "s": round(again - cold, 2)},
        {"figure": "one slice, p50", "ms": round(spent[len(spent) // 2], 2)},
        {"figure": "one slice, p99", "ms": round(spent[-2], 2)},
        {"figure": "peak memory", "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10},
    ]
