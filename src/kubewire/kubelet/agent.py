"""The kubelet of one node: registers the node, and gives every pod bound to it a worker."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kubewire.api.core import Node as NodeObject
from kubewire.api.errors import StatusError
from kubewire.api.meta import Key, Object
from kubewire.api.resources import CONFIG_MAPS, NODES, PODS, SECRETS
from kubewire.client.informer import Change, Informer
from kubewire.client.loop import Changes, Loop, Reporter
from kubewire.client.rest import Client
from kubewire.kernel import netns as namespaces
from kubewire.kernel.unixsocket import short_name
from kubewire.kubelet import node as registration
from kubewire.kubelet.environment import Source
from kubewire.kubelet.events import Recorder
from kubewire.kubelet.files import Resolver, machine_resolver
from kubewire.kubelet.furnish import Furnisher
from kubewire.kubelet.live import Node
from kubewire.kubelet.network import OpenGate, PodNetwork, PolicyGate
from kubewire.kubelet.pod import Pod
from kubewire.kubelet.prober import Prober
from kubewire.kubelet.runtime import Builtin, Runtimes, StandInRuntime
from kubewire.kubelet.sandbox import Host, remove_orphans
from kubewire.kubelet.serving.server import Tls, Workers, serve
from kubewire.kubelet.sources import Sources
from kubewire.kubelet.standin.control import Control
from kubewire.kubelet.volumes import volume_references
from kubewire.kubelet.worker import PodWorker

STAND_IN_SOCKET = "standin.sock"
RESOLV_CONF = Path("/etc/resolv.conf")
HOSTS = Path("/etc/hosts")
FIRST_RETRY = 0.5
LAST_RETRY = 30.0

log = logging.getLogger(__name__)


class _Reporter(Reporter):
    """Reports only while no worker is busy: a pod that is seen is not yet a pod that runs."""

    def __init__(self, client: Client, name: str, workers: Mapping[str, PodWorker]) -> None:
        super().__init__(client, name)
        self._workers = workers

    async def report(self) -> None:
        """Report if nothing is under way; the workers ask again."""
        if all(worker.is_settled for worker in self._workers.values()):
            await super().report()


class Kubelet:
    """The agent; ``run`` it in the node's network namespace."""

    def __init__(
        self,
        client: Client,
        node_name: str,
        node_ips: Sequence[str],
        run_dir: Path,
        network: PodNetwork,
        gate: PolicyGate | None = None,
        *,
        node_netns: Path,
        builtins: Mapping[str, Builtin] | None = None,
        images: Mapping[str, Sequence[str]] | None = None,
        cluster_dns: Sequence[str] = (),
        cluster_domain: str = "cluster.local",
        zone: str = "",
        host_resolver: Resolver | None = None,
        host_hosts: str | None = None,
        max_container_restart_period: float = 300.0,
        tls: Tls | None = None,
    ) -> None:
        """``tls``: serve the kubelet's API on the node's addresses; None: do not."""
        self.client = client
        self.host = Host(
            name=node_name,
            ips=tuple(node_ips),
            run_dir=run_dir,
            netns=node_netns,
            domain=cluster_domain,
            cluster_dns=tuple(cluster_dns),
            resolver=host_resolver or machine_resolver(_text(RESOLV_CONF)),
            hosts=_text(HOSTS) if host_hosts is None else host_hosts,
        )
        self._zone = zone
        self._tls = tls
        self._control = Control(short_name(run_dir / STAND_IN_SOCKET), self._exited)
        self._stand_in = StandInRuntime(self._control)
        runtimes = Runtimes(self._stand_in, builtins or {}, images or {})
        started = time.time() - time.monotonic()
        self._node = Node(
            client=client,
            host=self.host,
            network=network,
            gate=gate or OpenGate(),
            runtimes=runtimes,
            furnisher=Furnisher(Sources(client), runtimes),
            prober=Prober(None if _is_here(node_netns) else node_netns),
            recorder=Recorder(client, node_name),
            clock=lambda: started + time.monotonic(),
            maximum_backoff=max_container_restart_period,
            on_settled=self._settled,
        )
        self._workers: dict[str, PodWorker] = {}
        self._uids: dict[Key, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        agent = f"kubelet/{node_name}"
        self.nodes: Informer[NodeObject] = Informer(
            client, NODES, NodeObject, field_selector=f"metadata.name={node_name}"
        )
        self.pods: Informer[Pod] = Informer(
            client, PODS, Pod, field_selector=f"spec.nodeName={node_name}", agent=agent
        )
        self.volumes: list[Informer[Object]] = []
        """ConfigMaps and Secrets, of which only the metadata are kept."""
        for kind, resource in (("ConfigMap", CONFIG_MAPS), ("Secret", SECRETS)):
            informer = Informer(client, resource, Object)
            informer.listen(partial(self._volumes_changed, kind))
            self.volumes.append(informer)
        self._reporter = _Reporter(client, agent, self._workers)
        self.loop = Loop(agent, [self.pods], self._reconcile, reporter=self._reporter)
        self._has_control = False

    async def register(self) -> tuple[str, ...]:
        """Register the node; its podCIDRs, once it has some. ``run`` does this, too."""
        await registration.register(self.client, self.host.name, self.host.ips, self._zone)
        following = asyncio.create_task(self.nodes.run())
        try:
            return await registration.wait_for_pod_cidr(self.nodes, self.host.name)
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following

    async def run(self, *, registered: bool = False) -> None:
        """Run for ever; ``registered``: the caller has awaited ``register``."""
        self.host.prepare()
        if not registered:
            await self.register()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(registration.keep_lease(self.client, self.host.name))
                group.create_task(self._node.recorder.run())
                group.create_task(self.pods.run())
                for informer in self.volumes:
                    group.create_task(informer.run())
                group.create_task(self.loop.run())
                if self._tls is not None:
                    group.create_task(self._serve(self._tls))
        finally:
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, tls: Tls) -> None:
        workers = Workers(self._uids, self._workers)
        await serve(self.client, self.host.name, self.host.ips, tls, workers)

    async def _reconcile(self, changes: Changes) -> None:
        """Tell each pod's worker; new pods get one."""
        if not self._has_control:
            self._has_control = True
            self._spawn(self._control.run(self._playing()))
            known = {pod.uid for pod in self.pods.store.values()}
            await remove_orphans(self.host, self._node.network, self._node.gate, known)
        keys = set(changes.of(self.pods))
        if changes.full:
            keys |= {*self.pods.store, *self._uids}
        for key in keys:
            self._tell(key, self.pods.store.get(key))

    def _tell(self, key: Key, pod: Pod | None) -> None:
        uid = self._uids.get(key, "")
        worker = self._workers.get(uid)
        if worker is not None and (pod is None or pod.uid != uid):
            worker.update(None)
            worker = None
        if pod is None:
            self._uids.pop(key, None)
        elif worker is not None:
            worker.update(pod)
        elif uid != pod.uid:
            self._uids[key] = pod.uid
            self._workers[pod.uid] = PodWorker(self._node, pod)
            self._spawn(self._follow(pod.uid))

    async def _follow(self, uid: str) -> None:
        """Run a pod's worker; one that fails starts anew from what the API and the folder hold."""
        delay = FIRST_RETRY
        while True:
            worker = self._workers[uid]
            try:
                await worker.run()
            except Exception:
                log.exception("pod %s", worker.pod.key)
                await asyncio.sleep(delay)
                delay = min(delay * 2, LAST_RETRY)
                self._workers[uid] = worker.replacement()
            else:
                del self._workers[uid]
                self._settled()
                return

    def _volumes_changed(self, kind: str, changes: Sequence[Change[Object]]) -> None:
        changed = {change.key for change in changes if change.new is not None}
        for worker in self._workers.values():
            for source in {
                s for v in worker.pod.spec.volumes or () for s, _ in volume_references(v)
            }:
                if source[0] == kind and Key(worker.pod.key.namespace, source[1]) in changed:
                    self._spawn(self._refresh(worker, source))

    async def _refresh(self, worker: PodWorker, source: Source) -> None:
        try:
            await worker.refresh(source)
        except (StatusError, OSError) as error:
            log.warning("pod %s: %s %s: %s", worker.pod.key, *source, error)

    def _playing(self) -> list[str]:
        """Stand-ins that go on playing after a restart of the agent."""
        return [
            f"{pod.uid}/{container.name}"
            for pod in self.pods.store.values()
            for container in pod.spec.everything
        ]

    def _exited(self, stand_in_id: str, code: int) -> None:
        self._stand_in.exited(stand_in_id, code)

    def _settled(self) -> None:
        if self._reporter.reported < self.loop.marked:
            self._spawn(self._reporter.report())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _is_here(node_netns: Path) -> bool:
    """Whether this thread lives in the node's namespace already."""
    try:
        return namespaces.inode(node_netns) == namespaces.inode("/proc/thread-self/ns/net")
    except FileNotFoundError:
        return False


def _text(path: Path) -> str:
    """A file of the machine; "" if it has none."""
    try:
        return path.read_text()
    except OSError:
        return ""
