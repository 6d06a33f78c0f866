"""Services as xDS for Envoys that are not the node's: sidecars and edges.

A cluster per Service port, named ``NAMESPACE/SERVICE:PORT`` (the port's name, else its number), and
its endpoints under the same name; headless Services have them too. One route table, ``services``,
leads hosts (``web.shop``, ``web.shop.svc``, ``web.shop.svc.cluster.local``, each also with its port)
to the ports that speak HTTP. Listeners are the business of whoever writes the bootstrap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kubewire.api.meta import Key
from kubewire.api.service import EndpointSlice, Service, ServicePort
from kubewire.kubeproxy.plan import FOREIGN, application
from kubewire.kubeproxy.topology import NodeView, choose, targets
from kubewire.lang.xds.model import (
    JSON,
    ROUTES,
    Assignment,
    Cluster,
    Endpoint,
    from_rest,
    retry_policy,
)

TABLE = "services"
SERVER = "xds"
"""What a bootstrap calls the cluster of this server: clusters that are told name it."""
DOMAIN = "cluster.local"


def resources(
    services: Iterable[Service], slices: Iterable[EndpointSlice], view: NodeView
) -> Iterator[JSON]:
    """Everything that is told to an Envoy which runs at a place."""
    by_service: dict[Key, list[EndpointSlice]] = {}
    for piece in slices:
        if not FOREIGN & piece.labels.keys():
            key = Key(piece.metadata.namespace, piece.service_name)
            by_service.setdefault(key, []).append(piece)
    hosts: list[JSON] = []
    for service in sorted(services, key=lambda s: s.key):
        if FOREIGN & service.labels.keys() or service.spec.type == "ExternalName":
            continue
        for port in service.spec.ports or ():
            if port.protocol == "TCP":
                pieces = by_service.get(service.key, ())
                cluster, assignment = _port(service, port, pieces, view)
                yield cluster.to_json()
                yield assignment.to_json()
                if cluster.protocol:
                    hosts.append(_host(service, port, cluster.name))
    yield {"@type": ROUTES, "name": TABLE, "virtual_hosts": hosts}


def cluster_name(service: Service, port: ServicePort) -> str:
    """``NAMESPACE/SERVICE:PORT``."""
    return f"{service.key}:{port.name or port.port}"


def _port(
    service: Service, port: ServicePort, slices: Iterable[EndpointSlice], view: NodeView
) -> tuple[Cluster, Assignment]:
    name = cluster_name(service, port)
    pieces = list(slices)
    found = [
        t for version in (4, 6) for t in choose(targets(port, pieces, view, version), view).cluster
    ]
    cluster = Cluster(
        name,
        from_rest(SERVER),
        stat_name=name.replace(":", "/"),
        policy="MAGLEV" if service.spec.session_affinity == "ClientIP" else "LEAST_REQUEST",
        connect_timeout="5s",
        protocol=application(service, port),
        ejects=True,
    )
    return cluster, Assignment(name, tuple(Endpoint(t.ip, t.port) for t in found))


def _host(service: Service, port: ServicePort, cluster: str) -> JSON:
    name, namespace = service.metadata.name, service.metadata.namespace
    names = [f"{name}.{namespace}", f"{name}.{namespace}.svc", f"{name}.{namespace}.svc.{DOMAIN}"]
    ports = [f"{n}:{port.port}" for n in names]
    route = {
        "cluster": cluster,
        "timeout": "0s",
        "hash_policy": [{"connection_properties": {"source_ip": True}}],
        "retry_policy": retry_policy("connect-failure,refused-stream,reset-before-request"),
    }
    return {
        "name": cluster,
        "domains": [*names, *ports] if port.port == 80 else ports,
        "routes": [{"match": {"prefix": "/"}, "route": route}],
    }
