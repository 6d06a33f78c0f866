"""What Prometheus reads of a node's addresses."""

import asyncio
import json
import urllib.request
from contextlib import suppress

import pytest

from kubewire.cni import metrics
from kubewire.cni.plugin import Plugin
from kubewire.kernel import namespaces

pytestmark = pytest.mark.kernel

CONFIG = {
    "cniVersion": "1.0.0",
    "name": "net",
    "ipam": {"type": "kubewire-ipam", "subnet": "10.1.0.0/30"},
}


async def test_addresses_and_exhaustion() -> None:
    namespaces.mount_tmpfs("/var/lib")
    plugin = Plugin()
    serving = asyncio.create_task(metrics.serve(plugin, 9990))
    await asyncio.sleep(0)
    for container in ("a", "b"):
        env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": container, "CNI_NETNS": "/n", "CNI_IFNAME": "e"}  # fmt: skip
        await plugin.run("kubewire-ipam", env, json.dumps(CONFIG).encode())

    def scrape() -> list[str]:
        with urllib.request.urlopen("http://127.0.0.1:9990/metrics", timeout=5) as answer:
            return [line for line in answer.read().decode().splitlines() if line[0] != "#"]

    labels = 'network="net",pool="",ranges="10.1.0.1-10.1.0.2"'
    assert await asyncio.to_thread(scrape) == [
        f"kubewire_cni_ipam_addresses{{{labels}}} 1.0",
        f"kubewire_cni_ipam_addresses_used{{{labels}}} 1.0",
        'kubewire_cni_ipam_exhausted_total{network="net"} 1.0',
    ]
    serving.cancel()
    with suppress(asyncio.CancelledError):
        await serving
    await plugin.close()
