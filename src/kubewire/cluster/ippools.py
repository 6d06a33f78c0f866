"""The IP pools of a cluster on one node: which there are, and this node's blocks of them.

What a pool is, and how nodes share one, is in `kubewire.cni.blocks`; this module asks the API.

A block is given back in this order: nobody is given an address of it any more, none of its
addresses is in use, the claim goes. A kill in between leaves a claim, which the next run finds.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import yaml

from kubewire.api.core import Node
from kubewire.api.errors import StatusError
from kubewire.api.meta import JSON, Key
from kubewire.api.resources import CONFIG_MAPS, NAMESPACES, NODES, PODS
from kubewire.client.informer import Informer
from kubewire.client.rest import Client
from kubewire.cni import blocks
from kubewire.cni.blocks import ClusterPool
from kubewire.cni.ipam import Address, IpamError, Network
from kubewire.cni.pools import Pod, Pool
from kubewire.cni.spec import TRY_AGAIN_LATER, CniError, Request

ATTEMPTS = 8
REST = 60.0
"""Seconds that a block stays without a pod before other nodes may use its addresses."""
RETRY = 5.0

log = logging.getLogger(__name__)


class IpPools:
    """A `kubewire.cni.pools.PoolSource` of one node."""

    def __init__(
        self, client: Client, node: str, nodes: Informer[Node], *, rest: float = REST
    ) -> None:
        self._client = client
        self._node = node
        self._nodes = nodes
        self._claims: dict[str, tuple[Network, ...]] | None = None
        """This node's blocks as this process has written them; None: as its Node has them."""
        self._uid = ""
        """Of this node's Node."""
        self._rest = rest
        self._look = asyncio.Event()
        self._look.set()
        nodes.listen(self._follow_node)
        self._claiming = asyncio.Lock()
        self._told: set[str] = set()
        self.config: Informer[JSON] = Informer(
            client,
            CONFIG_MAPS,
            dict,
            namespace=blocks.NAMESPACE,
            field_selector=f"metadata.name={blocks.NAME}",
            agent=f"pod-network/{node}",
        )

    def pools(self) -> Sequence[Pool]:
        """Every pool with this node's part of it."""
        own = self._own()
        return [pool.pool(own.get(pool.name, ())) for pool in self._specified()]

    async def complete(self, pod: Pod) -> Pod:
        """Look up the namespace, if there are pools that may ask for it."""
        await self.config.wait_synced()
        if not pod.namespace or not self._specified():
            return pod
        meta = await self._metadata(NAMESPACES, pod.namespace)
        return replace(
            pod,
            namespace_labels=meta.get("labels") or {},
            namespace_annotations=meta.get("annotations") or {},
        )

    async def identify(self, request: Request) -> Pod:
        """What a foreign runtime does not pass on: the annotations of the pod."""
        namespace = request.args.get("K8S_POD_NAMESPACE", "")
        name = request.args.get("K8S_POD_NAME", "")
        if not namespace or not name:
            return Pod(namespace)
        meta = await self._metadata(PODS, name, namespace)
        return Pod(namespace, meta.get("annotations") or {})

    async def grow(self, full: Pool) -> bool:
        """Claim one more block of each family, unless another pod's need has just brought one."""
        async with self._claiming:
            found = next((p for p in self._specified() if p.name == full.name), None)
            if found is None:
                return False
            if found.pool(self._own().get(found.name, ())).sets != full.sets:
                return True
            return any([await self._claim(found, version) for version in found.versions])

    async def reach(self, address: Address) -> bool:
        """Claim the block that an address is in."""
        async with self._claiming:
            if any(pool.holds(address) for pool in self.pools()):
                return True
            for pool in self._specified():
                if any(address in cidr for cidr in pool.cidrs):
                    return await self._claim(pool, address.version, address)
        return False

    def freed(self) -> None:
        """Look soon whether a block is empty."""
        self._look.set()

    async def run(self, in_use: Callable[[], Iterable[Address]]) -> None:
        """Give back what is empty, and claim again what pods have if the Node was made anew; for ever."""
        await self._nodes.wait_synced()
        await self.config.wait_synced()
        while True:
            await self._look.wait()
            self._look.clear()
            try:
                before = set(in_use())
                await self.reclaim(before)
                await asyncio.sleep(self._rest)
                await self.release(in_use, before)
            except (StatusError, OSError, TimeoutError) as error:
                log.warning("blocks of IP pools: %s", error)
                self._look.set()
                await asyncio.sleep(RETRY)

    async def reclaim(self, used: Iterable[Address]) -> None:
        """Claim the blocks of addresses that pods have already."""
        for address in used:
            mine = any(address in block for found in self._own().values() for block in found)
            pooled = any(address in c for p in self._specified() for c in p.cidrs)
            if pooled and not mine and not await self.reach(address):
                log.warning("%s of a pod here is in a block of another node", address)

    async def release(
        self, in_use: Callable[[], Iterable[Address]], before: Iterable[Address] = ()
    ) -> None:
        """Give back the blocks that no pod has an address of, or had ``before``."""
        async with self._claiming:
            own = self._own()
            kept = dict(blocks.needed(own, {*before, *in_use()}))
            if kept == own:
                return
            # From here on no pod is given an address of the others, whatever comes of the request.
            self._claims = kept
            await self._write(kept)

    def _follow_node(self, _: object) -> None:
        """A Node that was made anew has claimed nothing."""
        node = self._nodes.store.get(Key("", self._node))
        if node and node.metadata.uid != self._uid:
            self._uid, self._claims = node.metadata.uid, None
            self._look.set()

    def _specified(self) -> list[ClusterPool]:
        found = self.config.store.get(Key(blocks.NAMESPACE, blocks.NAME)) or {}
        pools = []
        for name, text in sorted((found.get("data") or {}).items()):
            try:
                pools.append(blocks.parse_pool(name, _loaded(name, text)))
            except IpamError as error:
                if str(error) not in self._told:
                    log.warning("%s", error)
                    self._told.add(str(error))
        return pools

    def _own(self) -> dict[str, tuple[Network, ...]]:
        if self._claims is not None:
            return self._claims
        node = self._nodes.store.get(Key("", self._node))
        return dict(blocks.claims(node)) if node else {}

    async def _claim(self, pool: ClusterPool, version: int, wanted: Address | None = None) -> bool:
        for _ in range(ATTEMPTS):
            others, own = await self._read()
            known = [b for found in own.values() for b in found]
            block = pool.free_block(version, [*blocks.taken(others), *known], wanted)
            if block is None:
                return False
            more = {**own, pool.name: (*own.get(pool.name, ()), block)}
            await self._write(more)
            others, _ = await self._read()
            if not any(block.overlaps(t) for t in blocks.taken(others) if t.version == version):
                self._claims = more
                return True
            await self._write(own)
            # Both step back: whoever is the first to come again gets it.
            await asyncio.sleep(random.random() / 20)
        return False

    async def _read(self) -> tuple[list[Node], dict[str, tuple[Network, ...]]]:
        """The other nodes with this node's podCIDRs, and this node's blocks; as they are now."""
        nodes = msgspec.convert(await self._client.list(NODES), list[Node])
        own = next((n for n in nodes if n.metadata.name == self._node), None)
        return [n for n in nodes if n is not own], dict(blocks.claims(own)) if own else {}

    async def _write(self, found: dict[str, tuple[Network, ...]]) -> None:
        value = blocks.written(found)
        await self._client.patch(
            NODES, self._node, {"metadata": {"annotations": {blocks.ANNOTATION: value}}}
        )

    async def _metadata(self, resource: Any, name: str, namespace: str = "") -> JSON:
        try:
            found = await self._client.get(resource, name, namespace)
        except (StatusError, OSError, TimeoutError) as error:
            if resource is PODS and isinstance(error, StatusError) and error.code == 404:
                # A static pod, whose mirror comes later.
                return {}
            raise CniError(TRY_AGAIN_LATER, f"{resource.plural} {name}: {error}") from None
        meta: JSON = found["metadata"]
        return meta


def _loaded(name: str, text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise IpamError(
            f"ConfigMap {blocks.NAMESPACE}/{blocks.NAME}: data[{name}]: {error}"
        ) from None
