"""``kubewire netpol`` beside ``kubewire apiserver``: two parts by themselves, and real packets."""

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from kubewire.api.resources import BUILTIN, NETWORK_POLICIES, PODS, Resource
from kubewire.client.rest import Client
from kubewire.kernel.nfnetlink import Nfnetlink
from networkpolicy.fixture import ALL, F, P, fixture, labels, netpol
from networkpolicy.lab import Lab

pytestmark = pytest.mark.kernel

KUBEWIRE = [sys.executable, "-m", "kubewire"]
XA, YC = P("x", "a"), P("y", "c")
NEAR = [F(p, XA, port, "TCP") for p in ALL for port in (80, 81) if p != XA]
"""Flows to a pod of node-0."""
ALLOW = {"ingress": [{"from": [{"namespaceSelector": labels(ns="y")}], "ports": [{"port": 80}]}]}


class Server:
    """An API server that may go away and come back."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        self.kubeconfig = folder / "kubeconfig"
        self._arguments = ["apiserver", "--port", port, "--data-dir", str(folder / "data")]
        self._arguments += ["--kubeconfig-out", str(self.kubeconfig)]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [*KUBEWIRE, *self._arguments], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Agent:
    """A ``kubewire netpol`` and what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def says(self, *texts: str) -> list[str]:
        """The lines until each of these was said."""
        missing, lines = set(texts), []
        assert self.process.stderr is not None
        async with asyncio.timeout(30):
            while missing:
                line = (await self.process.stderr.readline()).decode()
                assert line, lines
                lines.append(line)
                missing = {text for text in missing if text not in line}
        return lines


@contextlib.asynccontextmanager
async def agent(server: Server, node: str, netns: Path, *more: str) -> AsyncIterator[Agent]:
    where = ["--kubeconfig", str(server.kubeconfig), "--node", node, "--netns", str(netns)]
    process = await asyncio.create_subprocess_exec(
        *KUBEWIRE, "netpol", *where, *more, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield Agent(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with closing(Lab(tmp_path)) as made:
        yield made


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.kill()


async def create(client: Client, *manifests: dict[str, Any]) -> None:
    by_kind: dict[str, Resource] = {r.kind: r for r in BUILTIN}
    for manifest in manifests:
        made = await client.create(by_kind[manifest["kind"]], manifest)
        if manifest["kind"] == "Pod":
            await client.update(PODS, {**made, "status": manifest["status"]}, subresource="status")


async def converge(client: Client) -> None:
    await client.request("POST", "/kubewire/v1/sync", params={"timeoutSeconds": "10"})


def reached(lab: Lab, expected: set[P], ports: tuple[int, ...] = (80, 81)) -> bool:
    flows = {f for f in NEAR if f.src in expected and f.port in ports}
    return lab.reach(NEAR, flows) == flows


async def test_by_itself_it_enforces_on_its_node(lab: Lab, server: Server) -> None:
    everybody, from_y = set(ALL), {p for p in ALL if p.ns == "y"}
    node = lab.node_paths["node-0"]
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client.from_kubeconfig(server.kubeconfig))
        await create(client, *fixture())
        running = await stack.enter_async_context(agent(server, "node-0", node))
        await running.says(
            "node node-0: running; no NetworkPolicy and no ClusterNetworkPolicy exists"
        )
        assert reached(lab, everybody)

        await create(client, netpol("np", "x", {"podSelector": {}}))
        await converge(client)
        assert reached(lab, set())
        await running.says("node node-0: enforcing 1 NetworkPolicy on 2 of its 5 pods")

        policy = await client.get(NETWORK_POLICIES, "np", "x")
        policy["spec"] |= ALLOW
        await client.update(NETWORK_POLICIES, policy)
        await converge(client)
        assert reached(lab, from_y, (80,))

        running.process.kill()
        await running.process.wait()
        assert reached(lab, from_y, (80,))
        again = await stack.enter_async_context(agent(server, "node-0", node))
        while not await says_now(again, "enforcing 1 NetworkPolicy"):
            assert reached(lab, from_y, (80,))
        await converge(client)
        assert reached(lab, from_y, (80,))

        server.kill()
        await again.says("node node-0: the API server cannot be followed; the rules stay")
        assert reached(lab, from_y, (80,))
        server.start()
        await again.says("node node-0: the API server is back")
        await client.delete(NETWORK_POLICIES, "np", "x")
        await converge(client)
        assert reached(lab, everybody)


async def says_now(running: Agent, text: str) -> bool:
    """Whether a line with this text is the next one that it says within a moment."""
    try:
        async with asyncio.timeout(0.05):
            return bool(await running.says(text))
    except TimeoutError:
        return False


async def test_a_node_that_does_not_exist_is_named(tmp_path: Path, server: Server) -> None:
    async with Client.from_kubeconfig(server.kubeconfig) as client:
        await create(client, *fixture())
        async with agent(server, "nobody", Path("/proc/self/ns/net")) as running:
            await running.says("node nobody: no Node has this name (there: node-0, node-1)")
            node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "nobody"}}
            await create(client, netpol("np", "x", {"podSelector": {}}), node)
            await running.says(
                "node nobody: it exists now", "enforcing 1 NetworkPolicy on 0 of its 0"
            )


async def test_without_an_api_server_the_rules_of_before_stay(lab: Lab, server: Server) -> None:
    node = lab.node_paths["node-0"]
    async with Client.from_kubeconfig(server.kubeconfig) as client:
        await create(client, *fixture(), netpol("np", "x", {"podSelector": {}}))
    async with agent(server, "node-0", node) as running:
        await running.says("enforcing 1 NetworkPolicy")
    server.kill()
    async with agent(server, "node-0", node) as running:
        await running.says("the API server cannot be followed")
        assert reached(lab, set())
    with Nfnetlink(node) as kernel:
        assert kernel.hooked() == {"kubewire-policy-0"}
