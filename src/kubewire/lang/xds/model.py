"""The messages that Ingress and kube-proxy both write: clusters, assignments, listeners, bootstrap.

Each value renders itself as the JSON of Envoy's v3 API. What only one room needs (route matches,
TLS) stays there, built from the small helpers below.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

JSON = dict[str, Any]

TYPE = "type.googleapis.com/envoy"
CLUSTER = f"{TYPE}.config.cluster.v3.Cluster"
ASSIGNMENT = f"{TYPE}.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = f"{TYPE}.config.listener.v3.Listener"
ROUTES = f"{TYPE}.config.route.v3.RouteConfiguration"
SECRET = f"{TYPE}.extensions.transport_sockets.tls.v3.Secret"

_MANAGER = f"{TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
PANIC = 0.5
"""With a smaller share of healthy endpoints Envoy balances over all of them."""
UNLIMITED = 1 << 30


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address that a cluster may send to."""

    address: str
    port: int
    weight: int = 1
    health: str = "HEALTHY"
    """HEALTHY, DRAINING (keeps its connections, gets no new ones) or UNHEALTHY."""

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"

    def to_json(self) -> JSON:
        """As an LbEndpoint."""
        found: JSON = {"endpoint": {"address": socket_address(self.address, self.port)}}
        if self.weight != 1:
            found["load_balancing_weight"] = self.weight
        if self.health != "HEALTHY":
            found["health_status"] = self.health
        return found


@dataclass(frozen=True, slots=True)
class Assignment:
    """The endpoints of one cluster (EDS)."""

    name: str
    endpoints: tuple[Endpoint, ...] = ()

    def to_json(self) -> JSON:
        """As a ClusterLoadAssignment."""
        found = [e.to_json() for e in self.endpoints if e.weight > 0]
        return {
            "@type": ASSIGNMENT,
            "cluster_name": self.name,
            "endpoints": [{"lb_endpoints": found}],
        }

    def offered(self) -> tuple[Endpoint, ...]:
        """Evaluate: every endpoint that a new connection may get."""
        known = [e for e in self.endpoints if e.weight > 0]
        healthy = [e for e in known if e.health == "HEALTHY"]
        return tuple(known if len(healthy) < PANIC * len(known) else healthy)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where traffic may be sent to, and how it is spread.

    ``source`` names who tells its endpoints; ``dns`` is a host name and port instead.
    """

    name: str
    source: Mapping[str, Any] | None = None
    dns: tuple[str, int] | None = None
    stat_name: str = ""
    """Its name in metrics; several clusters may share one."""
    policy: str = "ROUND_ROBIN"
    connect_timeout: str = "2s"
    protocol: str = ""
    """Of its endpoints: "" (bytes, or HTTP/1.1), ``http`` (as the client speaks) or ``h2c``."""
    ejects: bool = False
    """Outlier detection: an endpoint that keeps failing is left out for a while."""
    limits: bool = True
    """Envoy's default limits (1,024 connections, requests ...)."""

    def to_json(self) -> JSON:
        """As a Cluster."""
        found: JSON = {
            "@type": CLUSTER,
            "name": self.name,
            "connect_timeout": self.connect_timeout,
            "ignore_health_on_host_removal": True,
            "lb_policy": self.policy,
        }
        if self.stat_name:
            found["alt_stat_name"] = self.stat_name
        if self.ejects:
            found["outlier_detection"] = {"max_ejection_percent": 50, "interval": "5s"}
        if not self.limits:
            names = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
            found["circuit_breakers"] = {"thresholds": [dict.fromkeys(names, UNLIMITED)]}
        return found | _options(self.protocol) | self._endpoints()

    def _endpoints(self) -> JSON:
        if self.dns is None:
            return {"type": "EDS", "eds_cluster_config": {"eds_config": self.source}}
        load = static(Assignment(self.name, (Endpoint(*self.dns),)).to_json())
        return {"type": "STRICT_DNS", "dns_lookup_family": "V4_PREFERRED", "load_assignment": load}


_HTTP: Mapping[str, JSON] = {
    "http": {"use_downstream_protocol_config": {"http2_protocol_options": {}}},
    "h2c": {"explicit_http_config": {"http2_protocol_options": {}}},
}


def _options(protocol: str) -> JSON:
    if not protocol:
        return {}
    options = {"@type": f"type.googleapis.com/{_HTTP_OPTIONS}", **_HTTP[protocol]}
    return {"typed_extension_protocol_options": {_HTTP_OPTIONS: options}}


def socket_address(address: str, port: int) -> JSON:
    """An Address."""
    return {"socket_address": {"address": address, "port_value": port}}


def extension(name: str, kind: str, **config: Any) -> JSON:
    """A named extension with its typed configuration; ``kind`` is the message below envoy."""
    return {"name": name, "typed_config": {"@type": f"{TYPE}.{kind}", **config}}


def listener(
    name: str, addresses: Sequence[str], port: int, chains: Iterable[JSON], *filters: JSON
) -> JSON:
    """A Listener on one port of each address; ``filters`` see a connection first."""
    first, *more = (socket_address(a, port) for a in addresses)
    found: JSON = {
        "@type": LISTENER,
        "name": name,
        "address": first,
        "filter_chains": list(chains),
    }
    if more:
        found["additional_addresses"] = [{"address": a} for a in more]
    if filters:
        found["listener_filters"] = list(filters)
    return found


def http_manager(stat_prefix: str, *filters: JSON, **options: Any) -> JSON:
    """The network filter that speaks HTTP; ``filters`` stand before the router."""
    router = extension("envoy.filters.http.router", "extensions.filters.http.router.v3.Router")
    config: JSON = {
        "@type": _MANAGER,
        "stat_prefix": stat_prefix,
        "use_remote_address": True,
        "generate_request_id": False,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "http_filters": [*filters, router],
    }
    name = "envoy.filters.network.http_connection_manager"
    return {"name": name, "typed_config": config | options}


def retry_policy(retry_on: str) -> JSON:
    """Try another endpoint, twice at most."""
    kind = "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    return {
        "retry_on": retry_on,
        "num_retries": 2,
        "retry_host_predicate": [extension("envoy.retry_host_predicates.previous_hosts", kind)],
        "host_selection_retry_max_attempts": 3,
    }


def static(resource: JSON) -> JSON:
    """A resource as a bootstrap holds it: its place says its type."""
    return {name: value for name, value in resource.items() if name != "@type"}


def from_stream() -> JSON:
    """A ConfigSource that is the aggregated stream which the bootstrap names."""
    return {"resource_api_version": "V3", "ads": {}}


def stream(cluster: str) -> JSON:
    """The aggregated stream of a bootstrap: delta xDS from a cluster, asked for again soon."""
    again = {"retry_back_off": {"base_interval": "0.05s", "max_interval": "0.5s"}}
    return {
        "api_type": "DELTA_GRPC",
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        "grpc_services": [{"envoy_grpc": {"cluster_name": cluster, "retry_policy": again}}],
    }


def behind_socket(name: str, path: str, protocol: str = "") -> JSON:
    """A cluster of a bootstrap that is reached by a unix socket."""
    endpoint = {"endpoint": {"address": {"pipe": {"path": path}}}}
    load = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    return {"name": name, "type": "STATIC", "load_assignment": load} | _options(protocol)


def from_rest(cluster: str, refresh: str = "0.5s", timeout: str = "60s") -> JSON:
    """A ConfigSource that is a server of the REST-JSON form of xDS."""
    source = {
        "api_type": "REST",
        "transport_api_version": "V3",
        "cluster_names": [cluster],
        "refresh_delay": refresh,
        "request_timeout": timeout,
    }
    return {"resource_api_version": "V3", "api_config_source": source}


def admin(path: str) -> JSON:
    """The admin interface on a socket that only its owner opens."""
    return {"address": {"pipe": {"path": path, "mode": 0o600}}}
