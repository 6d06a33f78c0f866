"""kube-proxy of one node: watches Services, EndpointSlices and its Node, keeps the kernel in step."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import chain
from typing import Any

from kubewire.api.core import Node
from kubewire.api.errors import InputError
from kubewire.api.meta import JSON, Key
from kubewire.api.resources import CONFIG_MAPS, ENDPOINT_SLICES, NODES, SERVICE_CIDRS, SERVICES
from kubewire.api.service import TRIGGERED, EndpointSlice, Service
from kubewire.client.events import Recorder
from kubewire.client.informer import Change as Seen
from kubewire.client.informer import Index, Informer, key_of
from kubewire.client.loop import Changes, Loop, run_all
from kubewire.client.rest import Client
from kubewire.kernel import rtnetlink
from kubewire.kubeproxy import backends, servers, udp
from kubewire.kubeproxy.config import CONFIG_FILE, Config, over, sloppy
from kubewire.kubeproxy.health import ProxyHealth
from kubewire.kubeproxy.metrics import FAMILIES, Metrics
from kubewire.kubeproxy.plan import (
    FOREIGN,
    Frontend,
    HealthCheck,
    node_port_addresses,
    plan_service,
)
from kubewire.kubeproxy.proxier import CountsRules, Keeps, Proxier, Recalls, RuleCount, Stay
from kubewire.kubeproxy.table import Change, ServiceTable
from kubewire.kubeproxy.topology import NodeView

log = logging.getLogger(__name__)

ZONE = "topology.kubernetes.io/zone"
LOOK = 1.0
"""Seconds between quick looks at the kernel: one request as long as nobody changes anything."""
VIRTUAL = ("lo", "kube-ipvs0")
"""Devices that hold addresses of Services."""


class KubeProxy:
    """Run it in the node's network namespace."""

    def __init__(
        self,
        client: Client,
        node_name: str,
        node_ips: Sequence[str],
        config: Config,
        service_cidrs: Iterable[str] = (),
        *,
        alone: bool = False,
        config_map: Key | None = None,
    ) -> None:
        """``alone``: no other mode can have left rules in this namespace.

        ``config_map``: where the cluster keeps a KubeProxyConfiguration that goes over ``config``,
        now and whenever it is edited.
        """
        agent = f"kube-proxy/{node_name}"
        headed = ",".join(f"!{label}" for label in sorted(FOREIGN))
        self.services = Informer(client, SERVICES, Service, label_selector=headed, agent=agent)
        self.slices = Informer(
            client, ENDPOINT_SLICES, EndpointSlice, label_selector=headed, agent=agent
        )
        self.node = Informer(
            client, NODES, Node, field_selector=f"metadata.name={node_name}", agent=agent
        )
        self.cidrs: Informer[JSON] = Informer(client, SERVICE_CIDRS, dict)
        followed: list[Informer[Any]] = [self.services, self.slices, self.node]
        self.config_maps: Informer[JSON] | None = None
        if config_map:
            self.config_maps = Informer(
                client,
                CONFIG_MAPS,
                dict,
                namespace=config_map.namespace,
                field_selector=f"metadata.name={config_map.name}",
                agent=agent,
            )
            followed.append(self.config_maps)
        self._text = ""
        """Of the KubeProxyConfiguration in that ConfigMap when it was last read."""
        self.loop = Loop(
            agent,
            followed,
            self._reconcile,
            min_interval=config.min_sync_period,
        )
        self._by_service = Index(self.slices, lambda s: [_service_of(s)])
        self._stale: set[Key] = set()
        self._started = time.time()
        self._triggered: dict[Key, list[tuple[str, float]]] = {}
        """(IP family, since when) of changes that wait, by Service."""
        self.slices.listen(self._slices_changed)
        self.services.listen(self._services_changed)
        self.node.listen(self._node_changed)
        self.cidrs.listen(lambda _: self.loop.trigger())
        self._given = config
        self._given_cidrs = tuple(service_cidrs)
        self._view = NodeView(node_name, tuple(node_ips))
        self._addresses: tuple[str, ...] | None = None
        self._table = ServiceTable()
        self._checks: dict[Key, HealthCheck] = {}
        self._told: dict[Key, frozenset[str]] = {}
        self._closed: dict[Key, str] = {}
        """healthCheckNodePorts that could not be opened, and why."""
        self._stays: list[Stay] = []
        """Of the mode before, until the new one's rules are in."""
        self._looked = time.monotonic()
        """When the kernel was last read back."""
        self._alone = alone
        """Rules that other modes may have left are gone."""
        self._made = (config, self._given_cidrs)
        self._proxier: Proxier = backends.proxier(*self._made)
        self._recorder = Recorder(client, "kube-proxy", node_name)
        self.health = ProxyHealth(2 * config.sync_period)
        self.metrics = self._counting()
        self._health_checks = servers.HealthChecks(self.health)

    async def run(self) -> None:
        """Run until cancelled; the rules stay."""
        config = self._given
        watch = rtnetlink.monitor(rtnetlink.GROUP_IPV4_ADDRESS, rtnetlink.GROUP_IPV6_ADDRESS)
        asyncio.get_running_loop().add_reader(watch.fileno(), self._addressed, watch)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(run_all([self.loop], extra=[self.cidrs]), name="kube-proxy loop")
                group.create_task(self._recorder.run(), name="kube-proxy events")
                for what, address, pages in (
                    (
                        "healthz",
                        config.healthz_bind_address,
                        servers.proxy_pages(self.health, lambda: self.metrics),
                    ),
                    (
                        "metrics",
                        config.metrics_bind_address,
                        servers.metrics_pages(lambda: self.metrics, lambda: self._made[0].mode),
                    ),
                ):
                    if address:
                        hard = config.bind_address_hard_fail
                        group.create_task(
                            servers.serve(what, address, pages, hard_fail=hard), name=what
                        )
        finally:
            asyncio.get_running_loop().remove_reader(watch.fileno())
            watch.close()
            self._health_checks.close()
            self._proxier.close()

    async def _reconcile(self, changes: Changes) -> float:
        self._configure()
        view, made = self._seen(), self._wanted()
        if changes.full or view != self._view or made != self._made:
            self._view = view
            with self._timed(full=True), uncollected():
                self._remake(made)
                self._full()
            self._hand_on()
            self._leave_others()
            await self._checked()
        elif changes:
            with self._timed(full=False):
                self._partial(changes)
            await self._checked()
        else:
            self._look()
        return min(self._given.sync_period, LOOK)

    def _look(self) -> None:
        """A quick look every second; a whole one if that finds something, or after syncPeriod."""
        now = time.monotonic()
        if now < self._looked + self._given.sync_period and self._proxier.intact():
            return
        self._looked = now
        if self._proxier.heal():
            log.warning("%s: mended what somebody else had changed", self.loop.name)
        self._leave_others()

    def _configure(self) -> None:
        """Take what the ConfigMap says now; what cannot be used leaves everything as it is."""
        for obj in self.config_maps.store.values() if self.config_maps else ():
            text = (obj.get("data") or {}).get(CONFIG_FILE, "")
            if text == self._text:
                continue
            self._text = text
            name = f"ConfigMap {key_of(obj)} {CONFIG_FILE}"
            try:
                found = over(self._given, text, name)
                backends.require_machine(found.mode, f"{name}: mode")
            except InputError as error:
                log.error("%s", error)
                self._recorder.event(obj, "Warning", "InvalidConfiguration", str(error))
                continue
            self._alone = self._alone and found.mode == self._given.mode
            self._given = found

    def _leave_others(self) -> None:
        """Now that the new rules are in, nothing is open while those of other modes go."""
        if not self._alone:
            config = self._made[0]
            self._alone = backends.clear_others(config.mode, config, patient=True)

    @contextlib.contextmanager
    def _timed(self, *, full: bool) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        except Exception:
            self.metrics.failed(full=full)
            raise
        self.metrics.synced(time.perf_counter() - start, full=full)
        now = time.time()
        self.health.updated(now)
        for family, since in chain.from_iterable(self._triggered.values()):
            self.metrics.programming[family].observe(now - since)
        self._triggered = {}

    def _remake(self, made: tuple[Config, tuple[str, ...]]) -> None:
        """A back end that knows where pods and Services have their addresses now."""
        if made != self._made:
            anew = made[0].mode != self._made[0].mode
            if anew:
                self._stays = self._remembered()
            self._proxier.close()
            self._proxier = backends.proxier(*made)
            self._made = made
            if anew:
                self.metrics = self._counting()

    def _remembered(self) -> list[Stay]:
        """Whom the old mode leads where by session affinity, as far as it can tell."""
        try:
            return list(self._proxier.stays()) if isinstance(self._proxier, Recalls) else []
        except OSError as error:
            log.warning("%s: clients begin anew: %s", self.loop.name, error)
            return []

    def _hand_on(self) -> None:
        """Clients keep their endpoints in another mode, if that can be told about them."""
        stays, self._stays = self._stays, []
        if stays and isinstance(self._proxier, Keeps):
            try:
                self._proxier.keep(stays)
            except OSError as error:
                log.warning("%s: clients begin anew: %s", self.loop.name, error)

    def _counting(self) -> Metrics:
        """Of the mode that there is now."""
        counts = isinstance(self._proxier, CountsRules)
        return Metrics(self._made[0].mode, self._frontends, self._rules if counts else None)

    def _rules(self) -> Iterable[RuleCount]:
        return self._proxier.rule_counts() if isinstance(self._proxier, CountsRules) else ()

    def _frontends(self) -> Iterable[Frontend]:
        return self._table.frontends.values()

    def _partial(self, changes: Changes) -> None:
        dirty = self._stale | set(changes.of(self.services))
        self._stale = set()
        changed = self._all(dirty)
        addresses = {key: self._cluster_ips(key) for key in changes.of(self.services)}
        self._proxier.apply(changed, addresses)
        self._forget(changed)

    def _full(self) -> None:
        self._stale = set()
        self._table = ServiceTable()
        self._checks = {}
        self._all(self.services.store)
        everything = [
            Change(key, None, frontend) for key, frontend in self._table.frontends.items()
        ]
        self._proxier.sync(everything, {key: self._cluster_ips(key) for key in self.services.store})
        self._forget(everything)

    def _forget(self, changes: Sequence[Change]) -> None:
        """UDP flows that lead nowhere now."""
        start = time.perf_counter()
        self.metrics.reconciled(udp.forget(changes), time.perf_counter() - start)

    async def _checked(self) -> None:
        """Open and close healthCheckNodePorts where nodePorts answer."""
        config = self._made[0]
        hosts = [""]
        if "all" not in config.node_ports_on:
            hosts = [ip for v in (4, 6) for ip in node_port_addresses(self._view, config, v)]
        closed = await self._health_checks.update(self._checks, hosts)
        for key, fault in closed.items() - self._closed.items():
            if service := self.services.store.get(key):
                text = f'node {self._view.name} failed to start healthcheck "{key}" on {fault}'
                self._record(service, "FailedToStartServiceHealthcheck", text)
        self._closed = closed

    def _seen(self) -> NodeView:
        """This node as its object and its interfaces describe it."""
        if self._addresses is None:
            self._addresses = _own_addresses()
        for node in self.node.store.values():
            ips = tuple(map(sloppy, node.internal_ips)) or self._view.ips
            zone = node.labels.get(ZONE, "")
            return NodeView(self._view.name, self._preferred(ips), zone, self._addresses)
        return self._view._replace(addresses=self._addresses)

    def _preferred(self, ips: tuple[str, ...]) -> tuple[str, ...]:
        """With bindAddress, if it says anything, as the primary one of its family."""
        own = sloppy(self._given.bind_address)
        if not own or ipaddress.ip_address(own).is_unspecified:
            return ips
        return (own, *(ip for ip in ips if ip != own))

    def _wanted(self) -> tuple[Config, tuple[str, ...]]:
        """The configuration, and where ClusterIPs come from, as the objects say now."""
        config = self._given
        if config.detect_local == "NodeCIDR":
            found = tuple(c for node in self.node.store.values() for c in node.pod_cidrs)
            config = replace(config, cluster_cidrs=found)
        live = [
            str(cidr)
            for obj in self.cidrs.store.values()
            for cidr in (obj.get("spec") or {}).get("cidrs") or ()
        ]
        return config, tuple(dict.fromkeys((*self._given_cidrs, *sorted(live))))

    def _addressed(self, watch: rtnetlink.RtNetlink) -> None:
        """An interface got or lost an address."""
        with contextlib.suppress(OSError):  # Some were lost: the list is read anew in any case.
            watch.receive()
        found = _own_addresses()
        if found != self._addresses:
            self._addresses = found
            self.loop.trigger()

    def _slices_changed(self, changes: Sequence[Seen[EndpointSlice]]) -> None:
        self._stale.update(_service_of(x) for c in changes for x in (c.old, c.new) if x)
        for change in changes:
            self._note_trigger(change)
        self._queued(endpoints=len(changes))

    def _note_trigger(self, change: Seen[EndpointSlice]) -> None:
        """When the cause of a change came up; what is older than this proxy tells nothing of it."""
        piece = change.new
        if piece is None:  # The annotation of one that goes is that of an earlier change.
            if change.old:
                self._triggered.pop(_service_of(change.old), None)
        elif (found := _triggered(piece)) and found[1] > self._started:
            self._triggered.setdefault(_service_of(piece), []).append(found)

    def _services_changed(self, changes: Sequence[Seen[Service]]) -> None:
        self._queued(services=len(changes))

    def _node_changed(self, changes: Sequence[Seen[Node]]) -> None:
        for change in changes:
            self.health.seen(change.new)

    def _queued(self, *, services: int = 0, endpoints: int = 0) -> None:
        if services or endpoints:
            self.health.queued(time.time())
            self.metrics.queued(services=services, endpoints=endpoints)

    def _all(self, keys: Iterable[Key]) -> list[Change]:
        """Update some Services, and tell those that lose a frontend to an older one by it."""
        changed = [c for key in keys for c in self._update(key)]
        for change in changed:
            if change.old and change.new and change.old.service != change.new.service:
                self._update(change.old.service)
        return changed

    def _update(self, key: Key) -> list[Change]:
        service = self.services.store.get(key)
        if service is None:
            self._checks.pop(key, None)
            self._told.pop(key, None)
            return list(self._table.update(key, "", ()))
        skipped: set[str] = set()
        pieces = self._by_service.get(key).values()
        frontends, check = plan_service(service, pieces, self._view, self._made[0], skipped)
        if check:
            self._checks[key] = check
        else:
            self._checks.pop(key, None)
        found = list(self._table.update(key, service.metadata.creation_timestamp or "", frontends))
        self._tell(service, self._faults(key, skipped))
        return found

    def _faults(self, key: Key, skipped: set[str]) -> Mapping[str, str]:
        """What people should know about a Service: text -> reason of the Event."""
        told = dict.fromkeys(sorted(skipped), "FailedToUseEndpoint")
        for own, holder in self._table.conflicts(key):
            place = f"{own.key.address}:{own.key.port}/{own.key.protocol}"
            told[f"{own.kind} {place} belongs to {holder.reason}"] = "FrontendConflict"
        return told

    def _tell(self, service: Service, faults: Mapping[str, str]) -> None:
        """Log and record what is new."""
        before = self._told.get(service.key, frozenset())
        if faults:
            self._told[service.key] = frozenset(faults)
        else:
            self._told.pop(service.key, None)
        for text in faults.keys() - before:
            self._record(service, faults[text], text)

    def _record(self, service: Service, reason: str, text: str) -> None:
        log.warning("Service %s: %s", service.key, text)
        meta = service.metadata
        about = {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid}
        obj = {"apiVersion": "v1", "kind": "Service", "metadata": about}
        self._recorder.event(obj, "Warning", reason, text)

    def _cluster_ips(self, key: Key) -> tuple[str, ...]:
        service = self.services.store.get(key)
        return tuple(map(sloppy, service.cluster_ips)) if service else ()


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without the garbage collector, which takes half of the time while a big table is built.

    What was built has no cycles and stays for long: later collections need not walk it either.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _service_of(piece: EndpointSlice) -> Key:
    return Key(piece.metadata.namespace, piece.service_name)


def _triggered(piece: EndpointSlice) -> tuple[str, float] | None:
    """IP family, and when the change of a pod or Service happened that led to this slice."""
    text = piece.annotations.get(TRIGGERED, "")
    if not text or piece.address_type not in FAMILIES:
        return None
    try:
        return piece.address_type, datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _own_addresses() -> tuple[str, ...]:
    """Every address of this namespace that others can send to, without those of Services."""
    with rtnetlink.RtNetlink() as netlink:
        virtual = {x.index for x in netlink.links() if x.name in VIRTUAL}
        found = [(a.index, ipaddress.ip_interface(a.address).ip) for a in netlink.addresses()]
    usable = {
        ip for i, ip in found if i not in virtual and not ip.is_loopback and not ip.is_link_local
    }
    return tuple(sorted(map(str, usable)))
