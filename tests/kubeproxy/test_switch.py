"""From every mode to every other while connections are open: none ends, and nothing of the old is left."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kubewire.api.meta import Key
from kubewire.kernel import ipset, sysctl
from kubewire.kernel.iptables import VARIANTS, Iptables
from kubewire.kernel.nfnetlink import Nfnetlink
from kubewire.kernel.rtnetlink import RtNetlink
from kubewire.kubeproxy.backends.envoy import loop
from kubewire.kubeproxy.backends.envoy.proxier import ENDED, NAME
from kubewire.kubeproxy.controller import KubeProxy
from kubewire.testing.fakeapi import FakeApi
from tests.kubeproxy.network import NODE_IP
from tests.kubeproxy.talk import A, B, C, World, asked
from tests.kubeproxy.test_controller import CONFIG, configured, node, piece, service

pytestmark = pytest.mark.kernel

PLAIN, STICKY = "10.96.0.10", "10.96.0.11"
EVERY_PAIR = ["nftables", "iptables", "nftables", "envoy", "nftables", "envoy", "iptables", "envoy"]
WITH_IPVS = ["nftables", "ipvs", "iptables", "ipvs"]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.serve()
    yield made
    made.close()


def rules() -> Iterator[str]:
    """Modes that new connections would meet."""
    with Nfnetlink() as netlink:
        tables = netlink.tables()
    yield from ["nftables"] * ("kubewire-proxy" in tables) + ["envoy"] * (NAME in tables)
    saved = "".join(line for v in VARIANTS for line in Iptables(4, v).save())
    yield from ["iptables"] * ("KUBE-SVC-" in saved) + ["ipvs"] * ("KUBE-CLUSTER-IP" in saved)


def remains(folder: Path) -> dict[str, Any]:
    """What a mode could leave that no connection needs any more."""
    with RtNetlink() as netlink:
        devices = {link.name for link in netlink.links()} & {"kube-ipvs0", loop.ENTRY, loop.EXIT}
        routes = {r.table for r in netlink.routes()} & {loop.OUT, loop.BACK}
        listed = subprocess.run(
            ["nft", "list", "tables"], capture_output=True, text=True, check=True
        )
    servers = Path("/proc/net/ip_vs")
    return {
        "devices": devices,
        "routes": routes,
        "tables": listed.stdout.splitlines(),
        "sets": {x for x in ipset.save() if "KUBE" in x} if ipset.available() else set(),
        "virtual servers": servers.read_text().splitlines()[3:] if servers.exists() else [],
        "files": [*folder.iterdir()] if folder.exists() else [],
        "envoys": [p for p in Path("/proc").glob("[0-9]*/comm") if p.read_text() == "envoy\n"],
        "early demux": sysctl.read(loop.EARLY_DEMUX),
    }


NOTHING = {
    "devices": set(), "routes": set(), "tables": ["table inet kubewire-proxy"], "sets": set(),
    "virtual servers": [], "files": [], "envoys": [], "early demux": "1",
}  # fmt: skip


@pytest.mark.tool("iptables-nft", "iptables-legacy", "ipset", "nft")
@pytest.mark.parametrize(
    "modes",
    [
        EVERY_PAIR,
        pytest.param(WITH_IPVS, marks=[pytest.mark.ipvs, pytest.mark.e2e]),
        pytest.param(["envoy", "ipvs", "envoy"], marks=[pytest.mark.ipvs, pytest.mark.e2e]),
    ],
    ids=["pairs", "ipvs", "ipvs-envoy"],
)
async def test_connections_of_every_mode_go_on_in_every_other(
    modes: list[str], world: World, tmp_path: Path
) -> None:
    folder = tmp_path / "proxy"
    api = FakeApi(node(), configured(modes[0]))
    api.put(service("plain", PLAIN))
    api.put(service("sticky", STICKY, sessionAffinity="ClientIP"))
    for name in ("plain", "sticky"):
        api.put(piece(A, B, C, of=name))
    config = replace(CONFIG, run_dir=str(folder))
    key = Key("kube-system", "kube-proxy")
    proxy = KubeProxy(api.client(), "n", (NODE_IP,), config, alone=True, config_map=key)
    task = asyncio.create_task(proxy.run())
    await asyncio.wait_for(proxy.loop.wait_applied(), 30)
    home: set[str] = set()
    for mode in modes:
        api.put(configured(mode))
        await api.converge(60)
        assert [*rules()] == [mode]
        await world.keep(PLAIN)
        for reader, writer, who in world.open:
            assert await asked(reader, writer) == who, mode
        assert await world.fresh(PLAIN, 40) == {A, B, C}
        before, home = home, await world.fresh(STICKY, 10)
        # A client keeps its endpoint, but nobody can tell IPVS which it is.
        assert len(home) == 1 and (home == before or not before or mode == "ipvs"), mode
    api.put(configured("nftables"))
    await api.converge(60)
    for reader, writer, who in world.open:
        assert await asked(reader, writer) == who
    await world.hang_up()
    while remains(folder) != NOTHING:
        # What goes on its own after some time, and what only the next look sees.
        if (folder / ENDED).exists():
            os.utime(folder / ENDED, (0, 0))
        proxy._leave_others()
        await asyncio.sleep(0.05)
    assert [*rules()] == ["nftables"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
