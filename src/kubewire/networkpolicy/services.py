"""Where a Service sends a packet: policies are judged after that.

Uses the EndpointSlices among the objects; a Service without any (manifests that were never applied)
gets its endpoints from its selector and the pods.
"""

from typing import NamedTuple

from kubewire.api.core import ContainerPort, Pod
from kubewire.api.meta import Key
from kubewire.api.selectors import as_selector
from kubewire.api.service import EndpointSlice, Service, ServicePort
from kubewire.networkpolicy.model import Address
from kubewire.networkpolicy.objects import Objects
from kubewire.networkpolicy.plan import parse_address, pod_facts


class Backend(NamedTuple):
    """One endpoint; ``pod`` is known when the objects say so, ``address`` unless it has none yet."""

    address: Address | None
    port: int
    pod: Pod | None = None


class Front(NamedTuple):
    """An address and port of a Service that a packet may be sent to."""

    service: Service
    port: ServicePort
    node_port: bool = False


class Services:
    """Services, slices and pods by what packets are sent to."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self.by_key = {s.key: s for s in objects.services}
        self.by_address = {a: s for s in objects.services for a in _addresses(s)}
        self._node_ports = {
            (p.node_port, p.protocol or "TCP"): Front(s, p, node_port=True)
            for s in objects.services
            for p in s.spec.ports or ()
            if p.node_port
        }
        self._slices: dict[Key, list[EndpointSlice]] = {}
        for found in objects.slices:
            key = Key(found.metadata.namespace, found.service_name)
            self._slices.setdefault(key, []).append(found)

    def by_node_port(self, port: int | None, protocol: str) -> Front | None:
        """The Service port that every node forwards."""
        return self._node_ports.get((port or 0, protocol))

    def by_host_port(
        self, node: str, address: Address | None, port: int | str | None, protocol: str
    ) -> Backend | None:
        """The pod of a node that has this port of its host at this address."""
        for pod in self._objects.pods:
            if not node or pod.spec.node_name != node or pod.spec.host_network or pod.finished:
                continue
            for p in (p for c in pod.spec.containers for p in c.ports or ()):
                if p.host_port and p.host_port == port and (p.protocol or "TCP") == protocol:
                    found = _behind(pod, p, address)
                    if found is not None:
                        return found
        return None

    def backends(self, service: Service, port: ServicePort, version: int) -> list[Backend]:
        """Endpoints of one family that are ready, else those that terminate and still serve."""
        slices = self._slices.get(service.key, [])
        if not slices and service.spec.selector:
            return _selected(self._objects, service, port, version)
        family = [s for s in slices if s.address_type == f"IPv{version}"]
        ready = [b for s in family for b in _of_slice(s, port, serving=False)]
        return ready or [b for s in family for b in _of_slice(s, port, serving=True)]


def _behind(pod: Pod, port: ContainerPort, address: Address | None) -> Backend | None:
    """The pod behind a port of its host, in the family in which the host was asked."""
    known, asked = pod_facts(pod).addresses, parse_address(port.host_ip)
    version = address.version if address else 4
    if asked and (asked.version != version or not (asked.is_unspecified or asked == address)):
        return None
    mine = next((a for a in known if a.version == version), None)
    return None if known and mine is None else Backend(mine, port.container_port, pod)


def port_of(service: Service, port: int | str | None, protocol: str) -> ServicePort | None:
    """The port of a Service by number or name."""
    for p in service.spec.ports or ():
        if (p.protocol or "TCP") == protocol and port in (p.port, p.name):
            return p
    return None


def _addresses(service: Service) -> set[Address]:
    texts = [*service.cluster_ips, *(service.spec.external_ips or ())]
    texts += [i.ip for i in service.status.load_balancer.ingress or () if i.ip]
    return {a for t in texts if (a := parse_address(t))}


def _of_slice(found: EndpointSlice, port: ServicePort, *, serving: bool) -> list[Backend]:
    numbers = [
        p.port
        for p in found.ports or ()
        if (p.name or "") == port.name
        and (p.protocol or "TCP") == (port.protocol or "TCP")
        and p.port
    ]
    return [
        Backend(address, number)
        for endpoint in found.endpoints or ()
        if (endpoint.serving and endpoint.terminating if serving else endpoint.ready)
        for text in endpoint.addresses
        if (address := parse_address(text))
        for number in numbers
    ]


def _selected(objects: Objects, service: Service, port: ServicePort, version: int) -> list[Backend]:
    selector = as_selector(service.spec.selector)
    found = []
    for pod in objects.pods:
        if (
            selector is None
            or pod.metadata.namespace != service.metadata.namespace
            or pod.finished
            or not selector.matches(pod.labels)
            or (pod.status.conditions and not pod.ready)
        ):
            continue
        number = _target(pod, port)
        facts = pod_facts(pod)
        address = next((a for a in facts.addresses if a.version == version), None)
        if number and (address or not facts.addresses):
            found.append(Backend(address, number, pod))
    return found


def _target(pod: Pod, port: ServicePort) -> int | None:
    target = port.target_port if port.target_port not in (None, 0, "") else port.port
    if isinstance(target, int):
        return target
    named = ((n, p, number) for n, p, number in pod_facts(pod).ports)
    return next((c for n, p, c in named if n == target and p == (port.protocol or "TCP")), None)
