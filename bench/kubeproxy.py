"""The real kube-proxy beside ours: same API server, same objects, same network namespace.

``KUBE_PROXY=path`` names the program; ``KUBE_PROXY_SERVICES`` how many Services (10 endpoints each),
``KUBE_PROXY_CHANGES`` of how many one endpoint changes, to and fro.
It can be built from the Go module ``k8s.io/kubernetes`` of a release: take that module's ``go.mod``
and ``go.sum``, point each ``k8s.io/* => ./staging/...`` replacement at the published module of the
same release (v1.36.3 -> v0.36.3), and ``go build k8s.io/kubernetes/cmd/kube-proxy``.

Both run as programs with their defaults in mode nftables, one after the other, each from an empty
kernel. Cold is from their start to their first sync as ``/metrics`` shows it, ``sync s`` their own
figure of it; a change is from the request to the API server to the new generation of the kernel's
rules. Memory is the peak of the process itself; the ``nft`` that kube-proxy starts comes on top.
"""

import asyncio
import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import aiohttp

from bench.services import ENDPOINTS, PEER_SERVICES, _raw, _service, _slice
from kubewire.apiserver import pki, server
from kubewire.kernel.nfnetlink import Nfnetlink

T = TypeVar("T")
COUNT = int(os.environ.get("KUBE_PROXY_SERVICES", PEER_SERVICES))
FIRST = 256
"""The first addresses of the range belong to the cluster's own Services."""
CHANGES, REST = int(os.environ.get("KUBE_PROXY_CHANGES", "3")), 2.5
"""Seconds between changes: kube-proxy saves changes up for one, and clears up after that."""
PATIENCE = 180.0
METRICS = "http://127.0.0.1:10249/metrics"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/d/endpointslices"
SYNC = "kubeproxy_sync_full_proxy_rules_duration_seconds_sum"
SPARED = [f"--conntrack-{n}=0" for n in ("max-per-core", "min", "tcp-timeout-established", "tcp-timeout-close-wait")]  # fmt: skip
"""Settings of the whole machine, which a sandbox may not touch."""
OURS = "from kubewire.cli.main import main; main()"


def compared() -> list[dict[str, Any]]:
    """In a sandbox of its own."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            server.run(server.Options(pki_dir=home / "pki", port=0, ready_fd=writer))
            os._exit(0)
        os.close(writer)
        url = os.read(reader, 200).decode().strip()
        try:
            return list(_compare(url, pki.Pki(home / "pki"), home))
        finally:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)


def _compare(url: str, keys: pki.Pki, home: Path) -> Iterator[dict[str, Any]]:
    config = home / "kubeconfig"
    config.write_text(keys.kubeconfig(url, "bench"))
    flags = ["--kubeconfig", str(config), "--hostname-override", "n0", "--proxy-mode", "nftables", "--cluster-cidr", "10.128.0.0/9"]  # fmt: skip
    context = ssl.create_default_context(cafile=str(keys.ca))
    context.load_cert_chain(*keys.admin)
    asyncio.run(_asked(url, context, _fill))
    for name, argv in (
        ("kubewire proxy", [sys.executable, "-c", OURS, "proxy", *flags]),
        ("kube-proxy", [os.environ["KUBE_PROXY"], *flags, *SPARED]),
    ):
        with (home / "log").open("w") as log:
            process = subprocess.Popen(argv, stdout=log, stderr=log)
        found: dict[str, Any] = {"figure": f"{name}, {COUNT} x {ENDPOINTS}"}
        try:
            found |= asyncio.run(_asked(url, context, _figures))
            found["peak MiB"] = _peak(process.pid)
        except TimeoutError:
            why = (home / "log").read_text().splitlines()[-1:]
            found["why"] = f"nothing happened in {PATIENCE:.0f} s: {why}"
        finally:
            process.kill()
            process.wait()
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        yield found


def _peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(peak) >> 10


async def _asked(
    url: str, context: ssl.SSLContext, ask: Callable[[aiohttp.ClientSession], Awaitable[T]]
) -> T:
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(url, connector=connector) as session:
        return await ask(session)


async def _fill(session: aiohttp.ClientSession) -> None:
    status = {"addresses": [{"type": "InternalIP", "address": "172.30.0.10"}]}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n0"}}
    await _send(session, "POST", "/api/v1/namespaces", {"metadata": {"name": "d"}})
    await _send(session, "POST", "/api/v1/nodes", node)
    await _send(session, "PUT", "/api/v1/nodes/n0/status", {**node, "status": status})
    numbers = iter(range(FIRST, FIRST + COUNT))

    async def worker() -> None:
        for index in numbers:
            service = _raw(_service(index), "v1", "Service")
            await _send(session, "POST", "/api/v1/namespaces/d/services", service)
            await _send(session, "POST", SLICES, _sliced(index))

    await asyncio.gather(*(worker() for _ in range(8)))


def _sliced(index: int, moved: bool = False) -> dict[str, Any]:
    """A Service's slice; ``moved``: one endpoint is another."""
    raw: dict[str, Any] = _raw(_slice(index), "discovery.k8s.io/v1", "EndpointSlice")
    raw["addressType"] = "IPv4"
    if moved:
        raw["endpoints"][0]["addresses"] = ["10.255.0.1"]
    return raw


async def _send(session: aiohttp.ClientSession, method: str, path: str, obj: Any) -> None:
    headers = {"Content-Type": "application/json"}
    async with session.request(method, path, data=json.dumps(obj), headers=headers) as answer:
        assert answer.status < 300, await answer.text()
        await answer.read()


async def _figures(session: aiohttp.ClientSession) -> dict[str, Any]:
    start = time.perf_counter()
    sync = await _synced(start + PATIENCE)
    cold = time.perf_counter() - start
    spent = []
    for index in range(FIRST, FIRST + CHANGES):
        for moved in (True, False):
            await asyncio.sleep(REST)
            spent.append(await _change(session, index, moved=moved))
    return {
        "cold s": round(cold, 2),
        "sync s": round(sync, 2),
        "change p50 ms": round(1000 * median(spent), 1),
        "change max ms": round(1000 * max(spent), 1),
    }


async def _synced(until: float) -> float:
    """What it says of its full syncs once they were done."""
    while time.perf_counter() < until:
        await asyncio.sleep(0.05)
        try:
            text = (await asyncio.to_thread(urllib.request.urlopen, METRICS)).read().decode()
        except OSError:
            continue
        # One for each IP family: kube-proxy's without Services is quick, ours is the same sync.
        spent = [float(x.split()[1]) for x in text.splitlines() if x.startswith(SYNC)]
        if spent and all(spent):
            return max(spent)
    raise TimeoutError


async def _change(session: aiohttp.ClientSession, index: int, *, moved: bool) -> float:
    with Nfnetlink() as netlink:
        before, start = netlink.generation(), time.perf_counter()
        await _send(session, "PUT", f"{SLICES}/s{index}", _sliced(index, moved))
        while netlink.generation() == before:
            if time.perf_counter() > start + PATIENCE:
                raise TimeoutError
            await asyncio.sleep(0.0002)
        return time.perf_counter() - start


def figures() -> Iterator[dict[str, Any]]:
    if not os.environ.get("KUBE_PROXY"):
        yield {"figure": "the real kube-proxy", "why": "KUBE_PROXY names no program"}
        return
    from kubewire.kernel import sandbox

    yield from sandbox.run(compared)  # type: ignore[misc]
