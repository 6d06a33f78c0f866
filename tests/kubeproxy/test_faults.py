"""What others do wrong, in every mode: it is told where it can be, and the rest goes on."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kubewire.api.resources import ENDPOINT_SLICES, EVENTS, SERVICES
from kubewire.kubeproxy.controller import KubeProxy
from kubewire.testing.fakeapi import FakeApi
from tests.kubeproxy.network import NODE_IP
from tests.kubeproxy.talk import A, B, World
from tests.kubeproxy.test_controller import CONFIG, node, piece, service

pytestmark = pytest.mark.kernel

JSON = dict[str, Any]
VIP = "10.96.0.10"
SYNC_PERIOD = 180.0
"""Seconds. An emulated machine takes long to look at its rules, and so does it seldom."""
MODES = [
    "nftables",
    pytest.param("iptables", marks=pytest.mark.tool("iptables-nft")),
    "envoy",
    pytest.param(
        "ipvs",
        marks=[pytest.mark.ipvs, pytest.mark.e2e, pytest.mark.tool("iptables", "ipset", "ipvsadm")],
    ),
]
NODE_PORT = {"type": "NodePort", "ports": [{"name": "p", "port": 80, "nodePort": 30080}]}
INVALID = "EndpointSlice d/s-{}: endpoints[0].addresses[0]: Invalid value: "
TOLD: list[tuple[list[JSON], str, str]] = [
    ([piece("fd00::1", name="six")], "FailedToUseEndpoint", INVALID.format("six") + '"fd00::1": must be an IPv4 address'),
    ([piece("127.0.0.1", name="loop")], "FailedToUseEndpoint", INVALID.format("loop") + '"127.0.0.1": may not be in the loopback range'),
    ([piece("169.254.1.1", name="link")], "FailedToUseEndpoint", INVALID.format("link") + '"169.254.1.1": may not be in the link-local range'),
    ([service(n, f"10.96.0.{i}", **NODE_PORT) for i, n in ((11, "t"), (12, "u"))], "FrontendConflict", f"NodePort {NODE_IP}:30080/TCP belongs to Service d/t"),
    ([service("v", VIP)], "FrontendConflict", f"ClusterIP {VIP}:80/TCP belongs to Service d/s"),
]  # fmt: skip
"""Objects -> reason and beginning of the Event's message."""


def no_ports(obj: JSON) -> JSON:
    return obj | {"ports": []}


UNTOLD = [
    piece(B, of="nobody"),
    service("w", "10.96.0.13"),
    no_ports(piece(B, of="w")),
    service("many", "10.96.0.14"),
    piece(*(f"10.244.{i >> 8}.{i & 255}" for i in range(300, 1300)), of="many"),
]
"""A slice of a Service that is not there; a targetPort that no pod has; a thousand endpoints."""


class Proxied:
    """A proxy of a mode that is in step, its server, and a world to try it."""

    def __init__(self, mode: str, folder: Path) -> None:
        self.mode = mode
        self.api = FakeApi(node())
        self.api.put(service())
        self.api.put(piece(A))
        config = replace(CONFIG, mode=mode, run_dir=str(folder), sync_period=SYNC_PERIOD)
        self.proxy = KubeProxy(self.api.client(), "n", (NODE_IP,), config, alone=True)
        self.world = World()

    async def reached(self) -> set[str]:
        return await self.world.fresh(VIP, 3)


@pytest.fixture(params=MODES)
async def proxied(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Proxied]:
    made = Proxied(request.param, tmp_path / "proxy")
    await made.world.serve()
    task = asyncio.create_task(made.proxy.run())
    await asyncio.wait_for(made.proxy.loop.wait_applied(), 60)
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    made.world.close()


async def test_bad_input_is_told_and_the_rest_works(proxied: Proxied) -> None:
    for objects, reason, text in TOLD:
        for obj in objects:
            proxied.api.put(obj)
        await proxied.api.converge(60)
        event = await proxied.api.until(
            lambda t=text: next(
                (e for e in proxied.api.all(EVENTS) if e["message"].startswith(t)), None
            )
        )
        assert (event["type"], event["reason"]) == ("Warning", reason)
        assert event["involvedObject"]["kind"] == "Service"
    for obj in UNTOLD:
        proxied.api.put(obj)
    await proxied.api.converge(60)
    assert await proxied.reached() == {A}
    about = {event["involvedObject"]["name"] for event in proxied.api.all(EVENTS)}
    assert about == {"s", "u", "v"}, "and nothing of what is no fault"
    with pytest.raises(ConnectionRefusedError):
        await proxied.world.connect("10.96.0.13")
    proxied.api.remove(SERVICES, "s", "d")
    proxied.api.remove(ENDPOINT_SLICES, "s-x", "d")
    await proxied.api.converge(60)
    dump = proxied.proxy._proxier.dump()
    assert dump.actual == dump.desired


async def test_a_server_that_vanishes_and_forgets(proxied: Proxied) -> None:
    seen = asyncio.Event()
    proxied.proxy.slices.listen(lambda _: seen.set())
    proxied.api.disconnect()
    proxied.api.put(piece(B))
    proxied.api.compact()
    await asyncio.wait_for(seen.wait(), 30)
    await proxied.api.converge(60)
    assert await proxied.reached() == {B}


@pytest.mark.tool("nft")
async def test_somebody_takes_all_of_it_away(
    proxied: Proxied, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    heal = proxied.proxy._proxier.heal

    def healed() -> bool:
        mended = heal()
        if mended and not found.done():
            found.set_result(None)
        return mended

    monkeypatch.setattr(proxied.proxy._proxier, "heal", healed)
    for program in (["nft", "flush", "ruleset"], ["ipvsadm", "-C"])[: 1 + (proxied.mode == "ipvs")]:
        subprocess.run(program, check=True)
    await asyncio.wait_for(found, SYNC_PERIOD / 2)
    assert await proxied.reached() == {A}
    dump = proxied.proxy._proxier.dump()
    assert dump.actual == dump.desired
