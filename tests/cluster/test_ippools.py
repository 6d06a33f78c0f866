"""Nodes that share pools by the API."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address, ip_network

import pytest

from kubewire.api.core import Node
from kubewire.api.errors import StatusError
from kubewire.api.meta import JSON
from kubewire.api.resources import NODES
from kubewire.client.informer import Informer
from kubewire.cluster.ippools import IpPools
from kubewire.cni.blocks import ANNOTATION, needed
from kubewire.cni.ipam import Address
from kubewire.cni.pools import Pod, Pool
from kubewire.cni.spec import CniError
from kubewire.testing.fakeapi import FakeApi

POOLS = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "kubewire-ip-pools", "namespace": "kube-system"},
    "data": {
        "blue": "cidrs: [10.50.0.0/28]\nblockSize: 30\nnamespaces: [team]\n",
        "broken": "cidrs: [x]\n",
        "torn": "cidrs: [",
    },
}


def node(name: str) -> JSON:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}


@asynccontextmanager
async def sources(api: FakeApi, *names: str, rest: float = 0) -> AsyncIterator[list[IpPools]]:
    client = api.client()
    nodes: Informer[Node] = Informer(client, NODES, Node)
    found = [IpPools(client, name, nodes, rest=rest) for name in names]
    tasks = [asyncio.create_task(i.run()) for i in (nodes, *(s.config for s in found))]
    for informer in (nodes, *(s.config for s in found)):
        await informer.wait_synced()
    yield found
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def ranges(pool: Pool) -> list[str]:
    return [str(one) for found in pool.sets for one in found]


async def test_no_two_nodes_have_the_same_block() -> None:
    names = [f"n{number}" for number in range(4)]
    api = FakeApi(POOLS, *map(node, names))
    async with sources(api, *names) as found:
        empty = [source.pools()[0] for source in found]
        assert all(pool.sets == () for pool in empty)
        got = await asyncio.gather(*(s.grow(e) for s, e in zip(found, empty, strict=True)))
        assert got == [True] * 4
        held = [ranges(source.pools()[0]) for source in found]
        assert sorted(text for texts in held for text in texts) == [
            "10.50.0.0-10.50.0.3",
            "10.50.0.12-10.50.0.15",
            "10.50.0.4-10.50.0.7",
            "10.50.0.8-10.50.0.11",
        ]
        assert not await found[0].grow(found[0].pools()[0])


async def test_pods_that_find_a_pool_full_together_bring_one_block() -> None:
    api = FakeApi(POOLS, node("n0"))
    async with sources(api, "n0") as [source]:
        full = source.pools()[0]
        assert await asyncio.gather(*(source.grow(full) for _ in range(5))) == [True] * 5
        assert ranges(source.pools()[0]) == ["10.50.0.0-10.50.0.3"]


async def test_a_block_stays_with_its_node_after_a_restart_and_is_refused_to_others() -> None:
    api = FakeApi(POOLS, node("n0"), node("n1"))
    async with sources(api, "n0", "n1") as [first, second]:
        assert await first.reach(ip_address("10.50.0.9"))
        assert await first.reach(ip_address("10.50.0.10"))
        assert not await second.reach(ip_address("10.50.0.9"))
        assert not await second.reach(ip_address("10.9.9.9"))
    async with sources(api, "n0") as [again]:
        assert ranges(again.pools()[0]) == ["10.50.0.8-10.50.0.11"]
    obj = api.get(NODES, "n0")
    assert obj is not None
    assert obj["metadata"]["annotations"] == {ANNOTATION: '{"blue":["10.50.0.8/30"]}'}


async def test_what_is_wrong_is_told_once_and_the_rest_works(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with sources(FakeApi(POOLS, node("n0")), "n0") as [source]:
        for _ in range(2):
            assert [pool.name for pool in source.pools()] == ["blue"]
    assert [record.getMessage().split(":")[1].strip() for record in caplog.records] == [
        "data[broken].cidrs",
        "data[torn]",
    ]


async def test_the_namespace_is_asked_for_only_if_there_are_pools() -> None:
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team", "labels": {"a": "b"}}}  # fmt: skip
    async with sources(FakeApi(space, node("n0")), "n0") as [source]:
        assert await source.complete(Pod("team")) == Pod("team")
    async with sources(FakeApi(POOLS, space, node("n0")), "n0") as [source]:
        assert (await source.complete(Pod("team"))).namespace_labels == {"a": "b"}
        with pytest.raises(CniError, match="namespaces gone") as caught:
            await source.complete(Pod("gone"))
        assert caught.value.code == 11


def annotated(api: FakeApi, name: str) -> str:
    obj = api.get(NODES, name)
    assert obj is not None
    return str(obj["metadata"].get("annotations", {}).get(ANNOTATION, ""))


@asynccontextmanager
async def running(source: IpPools, used: set[Address]) -> AsyncIterator[None]:
    task = asyncio.create_task(source.run(lambda: used))
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_empty_blocks_are_given_back_and_one_is_kept() -> None:
    api = FakeApi(POOLS, node("n0"), node("n1"))
    async with sources(api, "n0", "n1") as [source, other]:
        for number in (1, 5, 9):
            assert await source.reach(ip_address(f"10.50.0.{number}"))
        used: set[Address] = {ip_address("10.50.0.5"), ip_address("10.50.0.9")}
        async with running(source, used):
            await api.until(lambda: annotated(api, "n0") == '{"blue":["10.50.0.4/30","10.50.0.8/30"]}')  # fmt: skip
            assert ranges(source.pools()[0]) == ["10.50.0.4-10.50.0.7", "10.50.0.8-10.50.0.11"]
            used.clear()
            source.freed()
            await api.until(lambda: annotated(api, "n0") == '{"blue":["10.50.0.4/30"]}')
        assert await other.reach(ip_address("10.50.0.9"))


async def test_a_block_is_given_back_although_the_api_was_away_and_its_agent_killed() -> None:
    api = FakeApi(POOLS, node("n0"))
    async with sources(api, "n0") as [source]:
        await source.reach(ip_address("10.50.0.1"))
        await source.reach(ip_address("10.50.0.5"))
        api.fail = lambda method, _: (
            StatusError("InternalError", "x") if method == "PATCH" else None
        )
        with pytest.raises(StatusError):
            await source.release(lambda: [])
        # Nobody knows whether the server has heard it: the block is used no more.
        assert ranges(source.pools()[0]) == ["10.50.0.0-10.50.0.3"]
    api.fail = lambda *_: None
    async with sources(api, "n0") as [again], running(again, set()):
        await api.until(lambda: annotated(api, "n0") == '{"blue":["10.50.0.0/30"]}')


async def test_a_block_rests_before_others_may_have_it() -> None:
    api = FakeApi(POOLS, node("n0"))
    async with sources(api, "n0", rest=3600) as [source]:
        await source.reach(ip_address("10.50.0.1"))
        await source.reach(ip_address("10.50.0.5"))
        async with running(source, set()):
            source.freed()
            await asyncio.sleep(0)
            assert len(ranges(source.pools()[0])) == 2


async def test_a_node_that_is_made_anew_claims_what_its_pods_have() -> None:
    api = FakeApi(POOLS, node("n0"), node("n1"))
    async with sources(api, "n0", "n1") as [source, other]:
        await source.reach(ip_address("10.50.0.1"))
        await source.reach(ip_address("10.50.0.9"))
        async with running(source, {ip_address("10.50.0.9")}):
            await api.until(lambda: annotated(api, "n0") == '{"blue":["10.50.0.8/30"]}')
            api.remove(NODES, "n0")
            # What the Node had claimed is free with it.
            assert await other.reach(ip_address("10.50.0.1"))
            api.put(node("n0"))
            await api.until(lambda: annotated(api, "n0") == '{"blue":["10.50.0.8/30"]}')
        assert ranges(source.pools()[0]) == ["10.50.0.8-10.50.0.11"]


async def test_an_address_deep_in_a_large_pool_is_found_at_once() -> None:
    pools = {**POOLS, "data": {"six": "cidrs: ['fd50::/64']\n"}}
    api = FakeApi(pools, node("n0"))
    async with sources(api, "n0") as [source]:
        assert await source.reach(ip_address("fd50::ffff:ffff:ffff:1"))
        assert annotated(api, "n0") == '{"six":["fd50::ffff:ffff:ffff:0/122"]}'


def test_what_is_needed() -> None:
    own = {
        "a": (ip_network("10.50.0.0/30"), ip_network("10.50.0.4/30"), ip_network("fd50::/122")),
        "b": (ip_network("10.51.0.0/30"), ip_network("10.51.0.4/30")),
    }
    used = [ip_address("10.51.0.5")]
    assert needed(own, used) == {
        "a": (ip_network("10.50.0.0/30"), ip_network("fd50::/122")),
        "b": (ip_network("10.51.0.4/30"),),
    }
