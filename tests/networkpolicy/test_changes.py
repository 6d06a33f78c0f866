"""The matrix of real connections follows what happens in the API."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from kubewire.api.resources import NETWORK_POLICIES, PODS
from kubewire.networkpolicy.backends import enforcer
from kubewire.networkpolicy.controller import PolicyAgent
from kubewire.testing.fakeapi import FakeApi
from networkpolicy.fixture import ALL, F, fixture, labels, netpol, pod
from networkpolicy.fixture import P as Pod
from networkpolicy.lab import NODES, Lab

pytestmark = pytest.mark.kernel

XA = Pod("x", "a")
ONLY_Y = netpol(
    "only-y",
    "x",
    {
        "podSelector": labels(pod="a"),
        "ingress": [{"from": [{"namespaceSelector": labels(ns="y"), "podSelector": labels(pod="b")}]}],
    },
)  # fmt: skip
FLOWS = [F(p, XA, 80, "UDP") for p in ALL if p != XA]
BACKENDS = [
    "nftables",
    pytest.param("iptables", marks=pytest.mark.tool("iptables", "ip6tables", "ipset")),
]


@contextlib.asynccontextmanager
async def running(api: FakeApi, lab: Lab, backend: str) -> AsyncIterator[None]:
    """An agent on every node."""
    with ExitStack() as stack:
        agents = [
            PolicyAgent(
                api.client(), node, stack.enter_context(enforcer(backend, lab.node_paths[node]))
            )
            for node in NODES
        ]
        tasks = [asyncio.create_task(agent.run()) for agent in agents]
        try:
            while not all(agent.name in api.agents for agent in agents):
                api.sync()
                await asyncio.sleep(0)
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def namespace(name: str, **marks: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": marks}}


def relabelled(p: Pod, **marks: str) -> dict[str, Any]:
    found = pod(p)
    found["metadata"]["labels"] = marks
    return found


@pytest.mark.parametrize("backend", BACKENDS)
async def test_the_matrix_follows(backend: str, tmp_path: Path) -> None:
    api = FakeApi(*fixture(), ONLY_Y)
    everybody = {f.src for f in FLOWS}
    y_b, y_c, z_b = Pod("y", "b"), Pod("y", "c"), Pod("z", "b")
    steps: list[tuple[str, Any, set[Pod]]] = [
        ("nothing", lambda: None, {y_b}),
        ("a pod is relabelled", lambda: api.put(relabelled(y_c, pod="b")), {y_b, y_c}),
        ("and back", lambda: api.put(pod(y_c)), {y_b}),
        ("a namespace is relabelled", lambda: api.put(namespace("z", ns="y")), {y_b, z_b}),
        ("and another", lambda: api.put(namespace("y", ns="other")), {z_b}),
        ("a pod is deleted", lambda: api.remove(PODS, "b", "z"), set()),
        ("and created", lambda: api.put(pod(z_b)), {z_b}),
        ("the target is relabelled", lambda: api.put(relabelled(XA, pod="free")), everybody),
        ("and back", lambda: api.put(pod(XA)), {z_b}),
        ("the policy goes", lambda: api.remove(NETWORK_POLICIES, "only-y", "x"), everybody),
    ]
    with ExitStack() as stack:
        lab = stack.enter_context(closing(Lab(tmp_path)))
        async with running(api, lab, backend):
            for what, change, allowed in steps:
                change()
                await api.converge()
                # A deleted pod's namespace is still there in the lab, and its node guards it.
                flows = [f for f in FLOWS if "deleted" not in what or f.src != z_b]
                expected = {f for f in flows if f.src in allowed}
                assert lab.reach(flows, expected) == expected, what
