import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from ipaddress import ip_address
from typing import Any

import msgspec
import pytest

from kubewire.api.meta import Key
from kubewire.api.resources import (
    BUILTIN,
    CLUSTER_NETWORK_POLICIES,
    EVENTS,
    NETWORK_POLICIES,
    PODS,
)
from kubewire.networkpolicy import controller
from kubewire.networkpolicy.controller import PolicyAgent
from kubewire.networkpolicy.droplog import Drop
from kubewire.networkpolicy.program import Program
from kubewire.testing.fakeapi import FakeApi
from networkpolicy.fixture import P as Pod
from networkpolicy.fixture import cluster, fixture, labels, netpol, pod
from networkpolicy.interpreter import passes

XA, YB = Pod("x", "a"), Pod("y", "b")
DENY = netpol("deny", "x", {"podSelector": {}})
ALLOW_Y = netpol(
    "allow",
    "x",
    {"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": labels(ns="y")}]}]},
)


class Memory:
    """An enforcer that keeps the program; fails as often as told."""

    def __init__(self, failures: int = 0) -> None:
        self.program: Program | None = None
        self.replaced = 0
        self.cleared = 0
        self.failures = failures
        self.cuts: list[tuple[str, str]] = []
        self.dropped: asyncio.Queue[Drop] = asyncio.Queue()
        self.held = asyncio.Event()
        self.held.set()

    async def apply(self, old: Program | None, new: Program) -> None:
        await self.held.wait()
        if self.failures:
            self.failures -= 1
            raise OSError("no")
        assert old is None or old is self.program
        self.replaced += old is None
        self.program = new

    async def clear(self) -> None:
        self.cleared += 1

    async def settle(self) -> None:
        pass

    async def drops(self) -> AsyncGenerator[Drop, None]:
        while True:
            yield await self.dropped.get()

    async def answers(self) -> AsyncGenerator[Any, None]:
        await asyncio.Event().wait()
        yield

    def members(self, names: Iterable[str]) -> dict[str, frozenset[bytes]]:
        return {}

    async def cut(self, denied: Any) -> int:
        flows = [(YB.ip, XA.ip), (XA.ip, YB.ip)]
        self.cuts = [f for f in flows if denied(*map(ip_address, f), "TCP", 80)]
        return len(self.cuts)

    def lets(self, source: str, target: str, port: int = 80) -> bool:
        return self.program is None or passes(self.program, source, target, port, "TCP")


@contextlib.asynccontextmanager
async def running(
    api: FakeApi, memory: Memory, *, strict: bool = False
) -> AsyncIterator[PolicyAgent]:
    agent = PolicyAgent(api.client(), "node-0", memory, strict=strict)
    task = asyncio.create_task(agent.run())
    try:
        while agent.name not in api.agents:
            api.sync()
            await asyncio.sleep(0)
        yield agent
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def api_with(*more: dict[str, Any]) -> FakeApi:
    return FakeApi(*fixture(), *more)


def watched(api: FakeApi) -> set[str]:
    return {r.path.rsplit("/", 1)[-1] for r in api.requests if r.method == "GET"}


async def test_without_policies_pods_are_not_watched_and_the_gate_is_open() -> None:
    api, memory = api_with(), Memory()
    async with running(api, memory) as agent:
        await agent.admit(Key("x", "a"), "uid-0", (XA.ip,))
        assert "pods" not in watched(api)
        assert (memory.cleared, memory.program) == (1, None)


async def test_the_first_policy_is_applied_before_sync_returns() -> None:
    api, memory = api_with(), Memory()
    async with running(api, memory):
        api.put(DENY)
        await api.converge()
        assert not memory.lets(YB.ip, XA.ip)


async def test_changes_follow() -> None:
    api, memory = api_with(DENY), Memory()
    async with running(api, memory):
        assert not memory.lets(YB.ip, XA.ip)
        api.put(ALLOW_Y)
        await api.converge()
        assert memory.lets(YB.ip, XA.ip)
        moved = pod(YB)
        moved["status"] = {"podIP": "10.244.0.99", "phase": "Running"}
        api.put(moved)
        await api.converge()
        assert (memory.lets("10.244.0.99", XA.ip), memory.lets(YB.ip, XA.ip)) == (True, False)
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "y", "labels": {}}}
        api.put(space)
        await api.converge()
        assert not memory.lets("10.244.0.99", XA.ip)
        api.remove(NETWORK_POLICIES, "deny", "x")
        api.remove(NETWORK_POLICIES, "allow", "x")
        await api.converge()
        assert memory.program is not None
        assert memory.program.empty


async def test_a_failure_replaces_everything() -> None:
    api, memory = api_with(DENY), Memory(failures=1)
    async with running(api, memory):
        assert (memory.failures, memory.replaced) == (0, 1)
        memory.failures = 1
        api.put(ALLOW_Y)
        await api.converge()
        assert memory.replaced == 2
        assert memory.lets(YB.ip, XA.ip)


async def test_a_new_pod_is_admitted_when_its_rules_are_applied() -> None:
    api, memory = api_with(DENY), Memory()
    async with running(api, memory) as agent:
        new = pod(XA)
        new["metadata"] |= {"name": "new", "uid": "u-new"}
        new["status"] = {}
        memory.held.clear()
        admitting = asyncio.create_task(agent.admit(Key("x", "new"), "u-new", ("10.244.0.50",)))
        api.put(new)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not admitting.done()
        memory.held.set()
        async with asyncio.timeout(10):
            await admitting
        assert not memory.lets(YB.ip, "10.244.0.50")
        await agent.forget("u-new")
        api.remove(PODS, "new", "x")
        await api.converge()
        assert memory.program is not None
        assert ip_address("10.244.0.50").packed not in memory.program.known


async def test_strict_cuts_what_is_no_longer_allowed() -> None:
    api, memory = api_with(), Memory()
    async with running(api, memory, strict=True):
        api.put(DENY)
        await api.converge()
        assert memory.cuts == [(YB.ip, XA.ip)]


async def test_the_crd_may_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "_CRD_PERIOD", 0.01)
    without = tuple(r for r in BUILTIN if r is not CLUSTER_NETWORK_POLICIES)
    api, memory = FakeApi(*fixture(), DENY, resources=without), Memory()
    async with running(api, memory):
        assert not memory.lets(YB.ip, XA.ip)
        api.serve(CLUSTER_NETWORK_POLICIES)
        accept = [{"action": "Accept", "from": [{"namespaces": {}}]}]
        api.put(cluster("open", "Admin", 1, subject={"namespaces": {}}, ingress=accept))
        async with asyncio.timeout(10):
            while not memory.lets(YB.ip, XA.ip):
                api.sync()
                await asyncio.sleep(0)


async def test_a_drop_becomes_one_event_on_the_pod() -> None:
    api, memory = api_with(DENY), Memory()
    async with running(api, memory):
        drop = Drop("NetworkPolicy x/deny", "", "ingress", False, YB.ip, XA.ip, "TCP", 80)
        for _ in range(3):
            memory.dropped.put_nowait(drop)
        memory.dropped.put_nowait(msgspec.structs.replace(drop, port=81))
        events = await api.until(lambda: len(found := api.all(EVENTS, "x")) > 1 and found)
        assert sorted(e["message"] for e in events) == [
            "denied: y/b -> x/a:80 TCP by NetworkPolicy x/deny (ingress)",
            "denied: y/b -> x/a:81 TCP by NetworkPolicy x/deny (ingress)",
        ]
        assert events[0]["involvedObject"]["name"] == "a"
