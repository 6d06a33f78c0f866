"""Frontends -> what the kernel must do, and what Envoy must do.

The kernel's part is again a Frontend: of TCP it balances over nothing but a port of the node's
Envoy; everything else (sources, refusals, drops, UDP, SCTP) stays as the plan has it. So the flat
maps of nftables spell it, and a connection that Envoy gets is one that the plan lets through.

Envoy's part is one cluster per frontend, named after the frontend's address and port. A listener
picks the cluster by the address that the client asked for (the original destination), so no
listener, filter chain or route knows any Service: they are the same from the first day. Envoy asks
for a cluster when the first connection needs it, so ten thousand Services that nobody on this node
uses cost it nothing.

Affinity stays in the kernel: its maps remember clients for as long as a Service says, and Envoy's
hash knows no time.

There is one listener for every *way*: what the connection speaks, which of the two endpoint sets of
the plan it gets (all nodes', or this node's), and whose address the endpoints see.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import msgspec

from kubewire.kubeproxy.config import Config, contains
from kubewire.kubeproxy.plan import SOURCES, Decision, Frontend, FrontendKey, Source
from kubewire.kubeproxy.topology import Target
from kubewire.lang.xds.model import (
    JSON,
    Assignment,
    Cluster,
    Endpoint,
    admin,
    behind_socket,
    extension,
    from_stream,
    http_manager,
    listener,
    retry_policy,
    static,
    stream,
)

ADDRESSES = {4: "169.254.14.1", 6: "fd6b:7765:656e::1"}
"""Where the listeners are: addresses of the node's own that nobody else can reach."""
FIRST_PORT = 15001
METRICS = ("127.0.0.1", 15090)
ADMIN, XDS = "admin.sock", "xds.sock"
"""Sockets in the folder of Envoy."""
LOOPBACK = ("127.0.0.0/8", "::1/128")
PATIENCE = "30s"
"""A connection waits so long for a cluster that Envoy does not know: kube-proxy may be replaced."""
_HEADER = "x-kubewire-frontend"
Sees = Literal["client", "masquerade", "node"]
"""Whose address an endpoint sees: the client's own; the node's in its place; or the node's because
nothing else can be sent from (a client on the node's loopback)."""


class Way(NamedTuple):
    """One listener."""

    protocol: str
    """tcp, http."""
    second: bool
    """Its clusters are those of the second endpoint set."""
    sees: Sees

    @property
    def name(self) -> str:
        """As in Envoy's statistics."""
        return f"{self.protocol}-{'second' if self.second else 'first'}-{self.sees}"

    @property
    def port(self) -> int:
        """Its port."""
        return FIRST_PORT + WAYS.index(self)

    @property
    def prefix(self) -> str:
        """Of the names of its clusters."""
        return "second/" if self.second else ""


WAYS = tuple(
    Way(protocol, second, sees)
    for protocol in ("tcp", "http")
    for second in (False, True)
    for sees in ("client", "masquerade", "node")
)
BY_PORT = {way.port: way for way in WAYS}


class Marks(NamedTuple):
    """Bits of the packet mark; none is the one that asks for masquerading."""

    sent: int
    """A packet that Envoy sends in a client's name."""
    back: int
    """A packet that must come to Envoy, whatever its destination; on connections: such answers."""


def kernel_config(config: Config) -> Config:
    """Of the rules that lead to Envoy: a client on the loopback needs no guard, Envoy is there."""
    return replace(config, mode="nftables", node_port_addresses=("primary",))


def marks(config: Config) -> Marks:
    """Two bits that are free."""
    free = [1 << bit for bit in (16, 17, 18) if bit != config.masquerade_bit]
    return Marks(free[0], free[1])


@dataclass(slots=True)
class Compiled:
    """What one frontend needs."""

    kernel: Frontend
    """For the flat maps."""
    clusters: dict[str, Cluster] = field(default_factory=dict)
    assignments: dict[str, Assignment] = field(default_factory=dict)
    own: frozenset[str] = frozenset()
    """Endpoints that may be on this node: one that is its own client must be masqueraded."""


def compile_frontend(frontend: Frontend) -> Compiled:
    """Spell one frontend; cost follows its endpoints."""
    balanced = [s for s in SOURCES if frontend.decisions[s].action == "balance"]
    if frontend.key.protocol != "TCP" or not balanced or frontend.affinity is not None:
        return Compiled(frontend)
    ways = _ways(frontend)
    decisions = {
        source: _to_envoy(decision, ways[source], frontend.key) if source in ways else decision
        for source, decision in frontend.decisions.items()
    }
    compiled = Compiled(replace(frontend, decisions=decisions))
    own: set[str] = set()
    for source in balanced:
        name = cluster_name(frontend.key, ways[source])
        if name not in compiled.clusters:
            endpoints = frontend.decisions[source].endpoints
            compiled.clusters[name] = _cluster(name, frontend)
            compiled.assignments[name] = Assignment(name, tuple(map(_endpoint, endpoints)))
            own.update(t.ip for t in endpoints if t.near)
    compiled.own = frozenset(own)
    return compiled


def cluster_name(key: FrontendKey, way: Way) -> str:
    """As Envoy writes the address that a client asked for."""
    host = f"[{key.address}]" if ":" in key.address else key.address
    return f"{way.prefix}{host}:{key.port}"


def _ways(frontend: Frontend) -> dict[Source, Way]:
    """The listener of each class of source that is balanced."""
    protocol = "http" if frontend.application else "tcp"
    loopback = contains(LOOPBACK, frontend.key.address)
    sets: dict[tuple[Target, ...], bool] = {}
    found: dict[Source, Way] = {}
    # A process of the node has one of the node's addresses anyhow, so it shares another's way.
    for source in ("pod", "other", "node"):
        decision = frontend.decisions[source]
        if decision.action != "balance":
            continue
        if source == "node" and decision.endpoints in sets and not loopback:
            found["node"] = next(
                way
                for s, way in found.items()
                if frontend.decisions[s].endpoints == decision.endpoints
            )
            continue
        second = sets.setdefault(decision.endpoints, bool(sets))
        sees: Sees = "masquerade" if decision.masquerade else "client"
        found[source] = Way(protocol, second, "node" if loopback else sees)
    return found


def _to_envoy(decision: Decision, way: Way, key: FrontendKey) -> Decision:
    target = Target(ADDRESSES[6 if ":" in key.address else 4], way.port)
    return replace(decision, endpoints=(target,), masquerade=False)


def _cluster(name: str, frontend: Frontend) -> Cluster:
    service = frontend.service
    port = frontend.port_name or str(frontend.key.port)
    return Cluster(
        name,
        from_stream(),
        stat_name=f"{service.namespace}/{service.name}/{port}",
        policy="LEAST_REQUEST",
        connect_timeout="5s",
        protocol=frontend.application,
        ejects=True,
        limits=False,
    )


def _endpoint(target: Target) -> Endpoint:
    return Endpoint(target.ip, target.port, target.weight)


def where(frontend: Frontend, config: Config) -> list[str]:
    """Where a frontend is kept: Envoy's clusters, and the way to them."""
    compiled = compile_frontend(frontend)
    if not compiled.clusters:
        what = (
            f"{frontend.key.protocol} with affinity" if frontend.affinity else frontend.key.protocol
        )
        return [f"the kernel's maps: Envoy carries TCP, not {what}"]
    ports = sorted({d.endpoints[0].port for d in compiled.kernel.decisions.values() if d.endpoints})
    found = [f"listener {BY_PORT[port].name} (port {port})" for port in ports]
    for name, cluster in compiled.clusters.items():
        ends = ", ".join(map(str, compiled.assignments[name].endpoints))
        found.append(f"cluster {name} {cluster.policy} -> {ends}")
    return found


# -- Envoy's own configuration ----------------------------------------------------------------------


def bootstrap(node: str, versions: Iterable[int], config: Config) -> bytes:
    """Envoy's static configuration: every listener, and who tells the clusters.

    Paths are relative to the folder in which Envoy runs.
    """
    addresses = [ADDRESSES[v] for v in sorted(versions)]
    listeners = [_metrics(), *(_listener(w, addresses, config) for w in WAYS)]
    return msgspec.json.encode(
        {
            "node": {"id": node, "cluster": "kubewire-proxy"},
            "admin": admin(ADMIN),
            "dynamic_resources": {"ads_config": stream("xds")},
            "static_resources": {
                "listeners": list(map(static, listeners)),
                "clusters": [
                    behind_socket("admin", ADMIN),
                    behind_socket("xds", XDS, "h2c"),
                ],
            },
            "cluster_manager": {"enable_deferred_cluster_creation": True},
            "deferred_stat_options": {"enable_deferred_creation_stats": True},
            "stats_config": {"stats_matcher": {"inclusion_list": {"patterns": list(_kept())}}},
        }
    )


def _kept() -> Iterator[JSON]:
    """The statistics that are worth their memory: some twenty for each Service."""
    for prefix in ("cluster_manager.", "listener_manager.", "server."):
        yield {"prefix": prefix}
    for name in (
        "upstream_cx_total", "upstream_cx_active", "upstream_cx_connect_fail", "upstream_cx_connect_timeout",
        "upstream_cx_rx_bytes_total", "upstream_cx_tx_bytes_total", "upstream_cx_none_healthy",
        "upstream_rq_total", "upstream_rq_active", "upstream_rq_2xx", "upstream_rq_3xx", "upstream_rq_4xx",
        "upstream_rq_5xx", "upstream_rq_retry", "upstream_rq_time", "membership_healthy", "membership_total",
        "outlier_detection.ejections_active", "outlier_detection.ejections_enforced_total",
    ):  # fmt: skip
        yield {"suffix": f".{name}"}


def _listener(way: Way, addresses: list[str], config: Config) -> JSON:
    filters = [
        extension(
            "envoy.filters.listener.original_dst",
            "extensions.filters.listener.original_dst.v3.OriginalDst",
        )
    ]
    if way.sees != "node" and way.protocol == "tcp":
        filters.append(_original_source("listener", way, config))
    chain = {"filters": _http(way, config) if way.protocol == "http" else _tcp(way)}
    return listener(way.name, addresses, way.port, [chain], *filters)


def _original_source(layer: str, way: Way, config: Config) -> JSON:
    """Connect in the client's name; the mark leads the packets (see ``loop``)."""
    mark = marks(config).sent | (config.mark if way.sees == "masquerade" else 0)
    kind = f"extensions.filters.{layer}.original_src.v3.OriginalSrc"
    return extension(f"envoy.filters.{layer}.original_src", kind, mark=mark)


def _tcp(way: Way) -> list[JSON]:
    name = {"text_format_source": {"inline_string": f"{way.prefix}%DOWNSTREAM_LOCAL_ADDRESS%"}}
    choose = extension(
        "envoy.filters.network.set_filter_state",
        "extensions.filters.network.set_filter_state.v3.Config",
        on_new_connection=[{"object_key": "envoy.tcp_proxy.cluster", "format_string": name}],
    )
    proxy = extension(
        "envoy.filters.network.tcp_proxy",
        "extensions.filters.network.tcp_proxy.v3.TcpProxy",
        stat_prefix=way.name,
        cluster="chosen-by-address",
        idle_timeout="0s",
        max_connect_attempts=3,
        on_demand={"odcds_config": from_stream(), "timeout": PATIENCE},
    )
    return [choose, proxy]


def _http(way: Way, config: Config) -> list[JSON]:
    value = f"{way.prefix}%DOWNSTREAM_LOCAL_ADDRESS%"
    append = {
        "header": {"key": _HEADER, "value": value},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }
    choose = extension(
        "envoy.http.early_header_mutation.header_mutation",
        "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
        mutations=[{"append": append}],
    )
    route = {
        "cluster_header": _HEADER,
        "timeout": "0s",
        "retry_policy": retry_policy("connect-failure,refused-stream,reset-before-request"),
    }
    host = {
        "name": "services",
        "domains": ["*"],
        "request_headers_to_remove": [_HEADER],
        "routes": [{"match": {"prefix": "/"}, "route": route}],
    }
    filters = [] if way.sees == "node" else [_original_source("http", way, config)]
    demand = extension(
        "envoy.filters.http.on_demand",
        "extensions.filters.http.on_demand.v3.OnDemand",
        odcds={"source": from_stream(), "timeout": PATIENCE},
    )
    manager = http_manager(
        way.name,
        demand,
        *filters,
        early_header_mutation_extensions=[choose],
        stream_idle_timeout="0s",
        server_header_transformation="PASS_THROUGH",
        preserve_external_request_id=True,
        http_protocol_options={"accept_http_10": True},
        route_config={"virtual_hosts": [host]},
    )
    return [manager]


def _metrics() -> JSON:
    """Prometheus' text on the node's loopback, and nothing else of the admin interface."""
    route = {"match": {"path": "/stats/prometheus"}, "route": {"cluster": "admin"}}
    hosts = [{"name": "metrics", "domains": ["*"], "routes": [route]}]
    manager = http_manager("metrics", route_config={"virtual_hosts": hosts})
    address, port = METRICS
    return listener("metrics", [address], port, [{"filters": [manager]}])
