"""The agent of one node: informers -> plan -> program -> kernel, and the gate for new pods.

Without any policy it watches policies only: a cluster that uses none pays nothing for pods. The
first policy starts the second loop (pods, namespaces, nodes); its creation counts as applied, for
``kubewire sync`` too, when that loop has applied it.

The gate: ``admit`` returns once every event that had arrived before it is in the kernel and the
pod's addresses are among those that are enforced. Rules stay in the kernel when the agent ends; the
next one replaces them in one transaction.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable
from ipaddress import ip_address
from typing import Any, Protocol

import msgspec

from kubewire.api import resources
from kubewire.api.clusternetworkpolicy import ClusterNetworkPolicy
from kubewire.api.core import Namespace, Node, Pod
from kubewire.api.errors import StatusError
from kubewire.api.meta import Key
from kubewire.api.networkpolicy import NetworkPolicy
from kubewire.client.events import Recorder
from kubewire.client.informer import Informer
from kubewire.client.loop import Changes, Loop, Reporter
from kubewire.client.rest import Client
from kubewire.networkpolicy.answers import Names, Reader
from kubewire.networkpolicy.compile import FAMILIES, Compiler, set_name
from kubewire.networkpolicy.droplog import Drop
from kubewire.networkpolicy.judge import Flow, judge, party
from kubewire.networkpolicy.model import Address
from kubewire.networkpolicy.notices import Notices
from kubewire.networkpolicy.plan import (
    Plan,
    PodFacts,
    PolicyId,
    as_policy,
    node_facts,
    parse_address,
    pod_facts,
)
from kubewire.networkpolicy.program import Program
from kubewire.networkpolicy.report import Reporter as DropReporter

PATIENCE = 0.1
"""Seconds for which a DNS answer waits until its addresses are in the kernel."""
INHERITED = 60.0
"""Seconds for which addresses stay that an agent before this one has learned."""
_CRD_PERIOD = 10.0
"""Seconds between two looks for the kind ClusterNetworkPolicy while the server does not have it."""


class _InstalledError(Exception):
    """The server knows ClusterNetworkPolicies now."""


class Enforcer(Protocol):
    """Brings programs into the kernel; nftables or iptables."""

    async def apply(self, old: Program | None, new: Program) -> None:
        """One transaction from ``old`` to ``new``; None: whatever there is, is replaced."""
        ...

    async def clear(self) -> None:
        """Remove everything that an agent before this one may have left."""
        ...

    async def settle(self) -> None:
        """Remove what another back end has left: this one is in force now."""
        ...

    def drops(self) -> AsyncGenerator[Drop, None]:
        """Packets that rules have denied, from now on."""
        ...

    async def cut(self, denied: "Denied") -> int:
        """Forget established flows that are denied; gives how many."""
        ...

    def answers(self) -> AsyncGenerator["Waiting", None]:
        """DNS answers on their way to pods whose policies name domains."""
        ...

    def members(self, names: Iterable[str]) -> dict[str, frozenset[bytes]]:
        """Addresses in sets that are in force, by their names in the program."""
        ...


class Waiting(Protocol):
    """A packet that waits to be released."""

    payload: bytes

    def release(self) -> None:
        """Let it go on."""
        ...


Denied = Callable[[Address, Address, str, int], bool]
"""(source, destination, protocol, port) of a flow after NAT -> no longer allowed."""


class PolicyAgent:
    """Enforces every policy on the pods of one node."""

    def __init__(
        self,
        client: Client,
        node: str,
        enforcer: Enforcer,
        *,
        strict: bool = False,
        log_drops: bool = False,
        notices: Notices | None = None,
    ) -> None:
        """``notices``: who hears what this agent does, if it runs by itself."""
        self.client = client
        self.node = node
        self.name = f"networkpolicy/{node}"
        self.plan = Plan()
        self.program: Program | None = None
        """What is in the kernel; None before the first policy."""
        self._enforcer = enforcer
        self._strict = strict
        self._notices = notices
        self._compiler = Compiler(self.plan, node, strict=strict)
        self._recorder = Recorder(client, "kubewire-networkpolicy", node)
        self._drops = DropReporter(self._recorder, self.plan, log_drops=log_drops)
        self._policies: dict[str, Informer[Any]] = {}
        self._names = Names()
        self._reader = Reader()
        self._inherited_until: float | None = None
        self._admitted: dict[str, tuple[Key, tuple[Address, ...]]] = {}
        self._asked = self._served = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._begin()

    def _begin(self) -> None:
        client = self.client
        self._reporter = Reporter(client, self.name)
        self._pods = Informer(client, resources.PODS, Pod, agent=self.name)
        self._namespaces = Informer(client, resources.NAMESPACES, Namespace, agent=self.name)
        self._nodes = Informer(client, resources.NODES, Node, agent=self.name)
        self._group: asyncio.TaskGroup | None = None
        self._first: Loop | None = None
        self._world: Loop | None = None

    async def run(self) -> None:
        """Enforce for ever."""
        while True:
            try:
                await self._run()
            except* _InstalledError:
                # The rules stay in the kernel until the first load of the new run replaces them.
                self._begin()

    async def _run(self) -> None:
        kinds: dict[str, tuple[resources.Resource, Any]] = {
            "NetworkPolicy": (resources.NETWORK_POLICIES, NetworkPolicy)
        }
        installed = await self._has_cluster_policies()
        if installed:
            kind = (resources.CLUSTER_NETWORK_POLICIES, ClusterNetworkPolicy)
            kinds["ClusterNetworkPolicy"] = kind
        self._policies = {
            name: Informer(self.client, resource, type_, agent=self.name)
            for name, (resource, type_) in kinds.items()
        }
        watched = tuple(self._policies.values())
        self._first = Loop(self.name, watched, self._watch_policies, reporter=self._reporter)
        if self._notices:
            self._listen(self._notices, watched[0])
        async with asyncio.TaskGroup() as group:
            self._group = group
            for informer in watched:
                group.create_task(informer.run(), name=f"{self.name} {informer.resource.plural}")
            group.create_task(self._first.run(), name=self.name)
            if not installed:
                group.create_task(self._await_cluster_policies(), name=f"{self.name} CRD")

    @staticmethod
    def _listen(notices: Notices, informer: Informer[Any]) -> None:
        """One that follows the server speaks for all."""
        informer.listen(notices.heard)
        informer.listen_failures(notices.failed)

    async def admit(self, pod: Key, uid: str, ips: tuple[str, ...]) -> None:
        """Return when the rules of this pod and these addresses are in the kernel."""
        addresses = tuple(a for ip in ips if (a := parse_address(ip)))
        self._admitted[uid] = (pod, addresses)
        self._asked += 1
        ticket = self._asked
        if self._world:
            self._show_pod(pod)
            self._world.trigger()
        while not self._enforced(pod, uid, addresses, ticket):
            await self._next_apply()

    async def _next_apply(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter

    async def forget(self, uid: str) -> None:
        """The pod is gone."""
        self._admitted.pop(uid, None)

    async def _report_drops(self) -> None:
        loop = asyncio.get_running_loop()
        async with contextlib.aclosing(self._enforcer.drops()) as drops:
            async for drop in drops:
                self._drops.report(drop, loop.time())

    async def _read_answers(self) -> None:
        async with (
            asyncio.TaskGroup() as group,
            contextlib.aclosing(self._enforcer.answers()) as packets,
        ):
            async for waiting in packets:
                if self._learn(waiting.payload):
                    group.create_task(self._hold(waiting), name=f"{self.name} answer")
                else:
                    waiting.release()

    def _learn(self, packet: bytes) -> bool:
        """Note what an answer says; tell whether the kernel has to be told."""
        now = asyncio.get_running_loop().time()
        changed = self._names.learn(self._reader.read(packet), now, self.plan.names)
        for name, addresses in changed.items():
            self.plan.set_domain(name, addresses)
        return bool(changed)

    async def _hold(self, waiting: Waiting) -> None:
        """The pod connects as soon as it has the answer: its addresses come first."""
        self._asked += 1
        ticket = self._asked
        assert self._world is not None
        self._world.trigger()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    while self._served < ticket:
                        await self._next_apply()
        finally:
            waiting.release()

    def _forget_names(self) -> float | None:
        """Drop addresses whose time is over; gives the seconds until the next ones' is."""
        now = asyncio.get_running_loop().time()
        for name, addresses in self._names.expire(now).items():
            self.plan.set_domain(name, addresses)
        if self._inherited_until is not None and now >= self._inherited_until:
            for peer in list(self.plan.inherited):
                self.plan.inherit(peer, frozenset())
            self._inherited_until = None
        ends = (self._names.next(now), self._inherited_until and self._inherited_until - now)
        return min((e for e in ends if e is not None), default=None)

    def _inherit_names(self) -> None:
        """What was learned before a restart goes on until pods have asked again."""
        peers = {set_name(p, f): p for p in self.plan.domain_peers for f in FAMILIES}
        if not peers or self.program is not None or self._inherited_until is not None:
            return
        for name, found in self._enforcer.members(peers).items():
            known = self.plan.inherited.get(peers[name], frozenset())
            self.plan.inherit(peers[name], known | {ip_address(a) for a in found})
        self._inherited_until = asyncio.get_running_loop().time() + INHERITED

    def _enforced(self, pod: Key, uid: str, addresses: tuple[Address, ...], ticket: int) -> bool:
        if self._world is None:
            return self._first is not None and self._first.applied > 0 and not self._first.busy
        facts = self.plan.pods.get(pod)
        return (
            self._served >= ticket
            and self.program is not None
            and facts is not None
            and facts.uid == uid
            and (facts.host_network or self.program.known.issuperset(a.packed for a in addresses))
        )

    async def _has_cluster_policies(self) -> bool:
        path = resources.CLUSTER_NETWORK_POLICIES.path()
        try:
            await self.client.raw("GET", path, params={"limit": 1})
        except StatusError as error:
            return error.code != 404
        return True

    async def _await_cluster_policies(self) -> None:
        """A cluster may get the CRD later; nothing can be watched until then."""
        while True:
            await asyncio.sleep(_CRD_PERIOD)
            if await self._has_cluster_policies():
                raise _InstalledError

    async def _watch_policies(self, changes: Changes) -> None:
        if self._world is None and any(i.store for i in self._policies.values()):
            informers = (*self._policies.values(), self._pods, self._namespaces, self._nodes)
            self._world = Loop(self.name, informers, self._reconcile, reporter=self._reporter)
            assert self._group is not None
            for informer in (self._pods, self._namespaces, self._nodes):
                name = f"{self.name} {informer.resource.plural}"
                self._group.create_task(informer.run(), name=name)
            self._group.create_task(self._world.run(), name=f"{self.name} world")
            self._group.create_task(self._report_drops(), name=f"{self.name} drops")
            self._group.create_task(self._read_answers(), name=f"{self.name} answers")
            self._group.create_task(self._recorder.run(), name=f"{self.name} events")
        if self._world is not None:
            await self._world.wait_applied()
        elif changes.full:
            await self._enforcer.clear()
            await self._enforcer.settle()
            if self._notices:
                self._notices.waiting(self._policies)
                await self._notices.look(self.client)
        self._announce()

    async def _reconcile(self, changes: Changes) -> float | None:
        serving = self._asked
        if changes.full or self.program is None:
            self._show_everything()
            self._inherit_names()
        else:
            self._show(changes)
        again = self._forget_names()
        changed = self.plan.take_changes()
        if changes.full or self.program is None:
            old, new = None, self._compiler.program()
        elif changed:
            old, new = self.program, self._compiler.update(self.program, changed)
        else:
            old = new = self.program
        if old is not new:
            self.program = None
            await self._enforcer.apply(old, new)
            if old is None:
                await self._enforcer.settle()
            if self._strict:
                await self._enforcer.cut(self._denied)
        self.program = new
        self._served = serving
        self._announce()
        if self._notices:
            self._tell(self._notices, changes, first=old is None)
        return again

    def _tell(self, notices: Notices, changes: Changes, *, first: bool) -> None:
        if first or changes.of(self._nodes):
            notices.nodes(key.name for key in self._nodes.store)
        if first:
            notices.enforcing(self.plan)

    def _denied(self, source: Address, target: Address, protocol: str, port: int) -> bool:
        ends_of = party(self.plan, source), party(self.plan, target)
        flow = Flow(*ends_of, protocol, port, established=True)
        ends = ((flow.source, "egress"), (flow.target, "ingress"))
        return any(
            end.subject is not None
            and end.subject.node == self.node
            and judge(self.plan, flow, way).verdict == "deny"  # type: ignore[arg-type]
            for end, way in ends
        )

    def _announce(self) -> None:
        # The loop counts as busy until this reconcile has returned.
        asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def _show_everything(self) -> None:
        for name in self._namespaces.store.keys() | {
            Key("", n) for n in self.plan.selections.namespaces
        }:
            self._show_namespace(name)
        for key in self._nodes.store.keys() | {Key("", n) for n in self.plan.nodes}:
            self._show_node(key)
        for key in self._pods.store.keys() | self.plan.pods.keys():
            self._show_pod(key)
        known = {(kind, key) for kind, i in self._policies.items() for key in i.store}
        for identity in known | self.plan.policies.keys():
            self._show_policy(identity)

    def _show(self, changes: Changes) -> None:
        for key in changes.of(self._namespaces):
            self._show_namespace(key)
        for key in changes.of(self._nodes):
            self._show_node(key)
        for key in changes.of(self._pods):
            self._show_pod(key)
        for kind, informer in self._policies.items():
            for key in changes.of(informer):
                self._show_policy((kind, key))

    def _show_namespace(self, key: Key) -> None:
        found = self._namespaces.store.get(key)
        self.plan.set_namespace(key.name, found.labels if found else None)

    def _show_node(self, key: Key) -> None:
        if found := self._nodes.store.get(key):
            self.plan.set_node(node_facts(found))
        else:
            self.plan.remove_node(key.name)

    def _show_policy(self, identity: PolicyId) -> None:
        kind, key = identity
        if found := self._policies[kind].store.get(key):
            self.plan.set_policy(as_policy(found))
        else:
            self.plan.remove_policy(identity)

    def _show_pod(self, key: Key) -> None:
        if found := self._pods.store.get(key):
            self.plan.set_pod(self._facts(found))
        else:
            self.plan.remove_pod(key)

    def _facts(self, pod: Pod) -> PodFacts:
        """A pod that starts has its addresses before its status says so."""
        facts = pod_facts(pod)
        known = self._admitted.get(facts.uid)
        if facts.addresses or known is None:
            return facts
        return msgspec.structs.replace(facts, addresses=known[1])
