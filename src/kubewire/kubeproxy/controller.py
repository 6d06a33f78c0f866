"""kube-proxy of one node: watches Services, EndpointSlices and its Node, keeps the kernel in step."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from kubewire.api.core import Node
from kubewire.api.meta import Key
from kubewire.api.resources import ENDPOINT_SLICES, NODES, SERVICES
from kubewire.api.service import EndpointSlice, Service
from kubewire.client.informer import Index, Informer
from kubewire.client.loop import Changes, Loop, run_all
from kubewire.client.rest import Client
from kubewire.kernel.conntrack import Conntrack, Entry
from kubewire.kubeproxy import backends
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.plan import FOREIGN, plan_service
from kubewire.kubeproxy.table import Change, ServiceTable
from kubewire.kubeproxy.topology import NodeView

log = logging.getLogger(__name__)

ZONE = "topology.kubernetes.io/zone"
UDP = 17


class KubeProxy:
    """Run it in the node's network namespace."""

    def __init__(
        self,
        client: Client,
        node_name: str,
        node_ips: Sequence[str],
        config: Config,
        service_cidrs: Iterable[str] = (),
    ) -> None:
        agent = f"kube-proxy/{node_name}"
        headed = ",".join(f"!{label}" for label in sorted(FOREIGN))
        self.services = Informer(client, SERVICES, Service, label_selector=headed, agent=agent)
        self.slices = Informer(
            client, ENDPOINT_SLICES, EndpointSlice, label_selector=headed, agent=agent
        )
        self.node = Informer(
            client, NODES, Node, field_selector=f"metadata.name={node_name}", agent=agent
        )
        self.loop = Loop(agent, [self.services, self.slices, self.node], self._reconcile)
        self._by_service = Index(self.slices, lambda s: [_service_of(s)])
        self._stale: set[Key] = set()
        self.slices.listen(
            lambda changes: self._stale.update(
                _service_of(x) for c in changes for x in (c.old, c.new) if x
            )
        )
        self._config = config
        self._view = NodeView(node_name, tuple(node_ips))
        self._table = ServiceTable()
        self._alone = False
        """Rules that other modes may have left are gone."""
        self._proxier = backends.proxier(config, service_cidrs)

    async def run(self) -> None:
        """Run until cancelled; the rules stay."""
        try:
            await run_all([self.loop])
        finally:
            self._proxier.close()

    async def _reconcile(self, changes: Changes) -> float:
        view = self._seen()
        if changes.full or view != self._view:
            self._view = view
            self._full()
        elif changes:
            self._partial(changes)
        elif self._proxier.heal():
            log.warning("%s: mended what somebody else had changed", self.loop.name)
        return self._config.sync_period

    def _partial(self, changes: Changes) -> None:
        dirty = self._stale | set(changes.of(self.services))
        self._stale = set()
        changed = [c for key in dirty for c in self._update(key)]
        addresses = {key: self._cluster_ips(key) for key in changes.of(self.services)}
        self._proxier.apply(changed, addresses)
        _forget_udp(changed)

    def _full(self) -> None:
        self._stale = set()
        self._table = ServiceTable()
        for key in self.services.store:
            for _ in self._update(key):
                pass
        everything = [
            Change(key, None, frontend) for key, frontend in self._table.frontends.items()
        ]
        self._proxier.sync(everything, {key: self._cluster_ips(key) for key in self.services.store})
        _forget_udp(everything)
        if not self._alone:
            # Now that the new rules are in, nothing is open while the old ones go.
            backends.clear_others(self._config.mode, self._config)
            self._alone = True

    def _seen(self) -> NodeView:
        """This node as its object describes it."""
        for node in self.node.store.values():
            ips = node.internal_ips or self._view.ips
            return NodeView(self._view.name, ips, node.labels.get(ZONE, ""))
        return self._view

    def _update(self, key: Key) -> Iterable[Change]:
        service = self.services.store.get(key)
        if service is None:
            return list(self._table.update(key, "", ()))
        frontends, _ = plan_service(
            service, self._by_service.get(key).values(), self._view, self._config
        )
        found = list(self._table.update(key, service.metadata.creation_timestamp or "", frontends))
        for own, holder in self._table.conflicts(key):
            log.warning(
                "%s: %s:%d belongs to %s", own.reason, own.key.address, own.key.port, holder.reason
            )
        return found

    def _cluster_ips(self, key: Key) -> tuple[str, ...]:
        service = self.services.store.get(key)
        return service.cluster_ips if service else ()


def _service_of(piece: EndpointSlice) -> Key:
    return Key(piece.metadata.namespace, piece.service_name)


def _forget_udp(changes: Sequence[Change]) -> None:
    """Flows to a UDP frontend that go where no endpoint is (any more) are black holes: end them."""
    valid: dict[tuple[str, int], set[tuple[str, int]]] = {}
    for change in changes:
        if change.key.protocol == "UDP":
            decisions = change.new.decisions.values() if change.new else ()
            ends = {(t.ip, t.port) for d in decisions for t in d.endpoints}
            valid[change.key.address, change.key.port] = ends
    if not valid:
        return

    def unwanted(entry: Entry) -> bool:
        if entry.original.protocol != UDP:
            return False
        ends = valid.get((str(entry.original.destination), entry.original.destination_port))
        if ends is None:
            return False
        address, port = entry.translated_to
        return (str(address), port) not in ends

    with Conntrack() as conntrack:
        conntrack.delete_where(unwanted)
