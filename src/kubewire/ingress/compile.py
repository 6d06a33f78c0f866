"""Route plan + Services + endpoints + certificates -> Envoy's configuration, as xDS resources.

A resource per cluster, set of endpoints, certificate and listener, and one route table: a change of
one endpoint is one small message and touches no listener.

Facts of Envoy 1.40 that shaped this: virtual hosts do not fall through; two virtual hosts with the
same domain reject the whole update; ``path_separated_prefix`` takes neither "/" nor a trailing
slash; path normalisation is off unless asked for; a secret that is referenced and never sent blocks
its listener; an unknown SNI is a reset unless there is a default filter chain.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from kubewire.api.ingress import Secret
from kubewire.api.meta import JSON, Key
from kubewire.api.service import EndpointSlice, Service, ServicePort
from kubewire.ingress.plan import Backend, Plan, Route
from kubewire.lang.xds.model import (
    ASSIGNMENT,
    CLUSTER,
    LISTENER,
    ROUTES,
    SECRET,
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
    stream,
)

HTTP_PORT, HTTPS_PORT, READY_PORT = 80, 443, 8081
TABLE = "ingress"
"""Name of the route table."""
XDS = "xds.sock"
"""In Envoy's folder: who tells it."""
Resources = dict[str, dict[str, JSON]]
H2C = ("kubernetes.io/h2c", "grpc")
"""appProtocol of ports that speak HTTP/2 without TLS (KEP-3726); websockets need none."""
FALLBACK = "fallback"
"""Name of the certificate shown for an unknown SNI name."""

_TLS = "extensions.transport_sockets.tls.v3"


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM chain and key, checked to belong together by the caller."""

    chain: bytes
    key: bytes


def certificate_of(secret: Secret) -> Certificate | str:
    """Decode a kubernetes.io/tls Secret; a text says what is wrong with it."""
    found = []
    for name in ("tls.crt", "tls.key"):
        try:
            value = base64.b64decode((secret.data or {}).get(name, ""), validate=True)
        except binascii.Error:
            return f"data[{name}]: not base64"
        if not value:
            return f"data[{name}]: Required value"
        found.append(value)
    return Certificate(*found)


def compile_resources(
    plan: Plan,
    services: Mapping[Key, Service],
    slices: Iterable[EndpointSlice],
    certificates: Mapping[Key, Certificate],
    fallback: Certificate,
    anywhere: str = "::",
) -> Resources:
    """Type -> name -> resource, in the order in which Envoy must have them.

    ``anywhere`` is where Envoy listens: "::" is both families, "0.0.0.0" for a kernel without IPv6.
    """
    compiler = _Compiler(plan, services, certificates, anywhere)
    by_service: dict[Key, list[EndpointSlice]] = {}
    for piece in slices:
        by_service.setdefault(Key(piece.metadata.namespace, piece.service_name), []).append(piece)
    backends = sorted({r.backend for r in plan.routes if compiler.port(r.backend)}, key=str)
    secrets = {str(k): certificates[k] for k in plan.certificates.values() if k in certificates}
    return {
        CLUSTER: {str(b): compiler.cluster(b).to_json() for b in backends},
        ASSIGNMENT: {
            str(b): _assignment(b, compiler.port(b), by_service).to_json()
            for b in backends
            if not _external(services, b)
        },
        SECRET: {n: _secret(n, c) for n, c in ({FALLBACK: fallback} | secrets).items()},
        LISTENER: {one["name"]: one for one in compiler.listeners()},
        ROUTES: {TABLE: compiler.route_table()},
    }


def bootstrap(node: str) -> bytes:
    """Envoy's static configuration: who tells it the rest, and nothing that listens.

    Sockets are named as seen from Envoy's folder: a unix socket's name has only 107 bytes.
    """
    return msgspec.json.encode(
        {
            "node": {"id": node, "cluster": "kubewire-ingress"},
            "dynamic_resources": {
                "ads_config": stream("xds"),
                "lds_config": from_stream(),
                "cds_config": from_stream(),
            },
            "static_resources": {"clusters": [behind_socket("xds", XDS, "h2c")]},
            "admin": admin("admin.sock"),
            "layered_runtime": {
                "layers": [
                    {"name": "static", "static_layer": {"re2.max_program_size.error_level": 1000}}
                ]
            },
        }
    )


class _Compiler:
    def __init__(
        self,
        plan: Plan,
        services: Mapping[Key, Service],
        certificates: Mapping[Key, Certificate],
        anywhere: str,
    ) -> None:
        self.plan = plan
        self.services = services
        self.certificates = certificates
        self.anywhere = anywhere

    def port(self, backend: Backend) -> ServicePort | None:
        """The Service port that a backend names; None if there is none."""
        service = self.services.get(backend.service) if backend.service else None
        if service is None:
            return None
        for port in service.spec.ports or ():
            if (
                backend.port.name == port.name
                if backend.port.name
                else backend.port.number == port.port
            ):
                return port
        if service.spec.type == "ExternalName" and backend.port.number:
            return ServicePort(port=backend.port.number)
        return None

    def cluster(self, backend: Backend) -> Cluster:
        name = str(backend)
        service = self.services[backend.service or Key("", "")]
        port = self.port(backend)
        assert port is not None
        if service.spec.type == "ExternalName":
            return Cluster(name, dns=(service.spec.external_name, port.port))
        return Cluster(name, from_stream(), protocol="h2c" if port.app_protocol in H2C else "")

    def route_table(self) -> JSON:
        hosts = [
            {"name": host, "domains": [host], "routes": self._routes(host)}
            for host in self.plan.hosts
        ]
        hosts.append({"name": "*", "domains": ["*"], "routes": self._routes("")})
        return {
            "@type": ROUTES,
            "name": TABLE,
            "ignore_port_in_host_matching": True,
            "virtual_hosts": hosts,
        }

    def _routes(self, host: str) -> list[JSON]:
        return [r for route in self.plan.routes_for(host) for r in self._route(route)]

    def _route(self, route: Route) -> list[JSON]:
        matches = _match(route)
        if route.host.startswith("*."):
            regex = rf"(?i)^[^.]+{re.escape(route.host[1:])}(:\d+)?$"
            authority = {"name": ":authority", "string_match": {"safe_regex": {"regex": regex}}}
            matches["headers"] = [authority]
        found: list[JSON] = []
        if route.https_redirect:
            plain = {"name": ":scheme", "string_match": {"exact": "http"}}
            only_http = matches | {"headers": [*matches.get("headers", ()), plain]}
            redirect = {"https_redirect": True, "response_code": "PERMANENT_REDIRECT"}
            found.append({"match": only_http, "redirect": redirect})
        found.append({"match": matches} | self._action(route.backend))
        return found

    def _action(self, backend: Backend) -> JSON:
        if self.port(backend) is None:
            reason = (
                backend.fault
                or f"Service {backend.service} or its port {backend.port} does not exist"
            )
            return {"direct_response": {"status": 503, "body": {"inline_string": reason + "\n"}}}
        return {
            "route": {
                "cluster": str(backend),
                "timeout": "0s",
                "retry_policy": retry_policy("connect-failure,refused-stream"),
            }
        }

    def listeners(self) -> list[JSON]:
        http = self._listener("http", HTTP_PORT, [{"filters": [self._manager("http")]}])
        chains = []
        by_secret: dict[Key, list[str]] = {}
        for host, key in self.plan.certificates.items():
            if key in self.certificates:
                by_secret.setdefault(key, []).append(host)
        for key, hosts in sorted(by_secret.items()):
            chains.append(self._tls_chain(str(key), sorted(hosts)))
        inspector = extension(
            "envoy.filters.listener.tls_inspector",
            "extensions.filters.listener.tls_inspector.v3.TlsInspector",
        )
        https = self._listener("https", HTTPS_PORT, chains, inspector)
        https["default_filter_chain"] = self._tls_chain(FALLBACK, [])
        return [http, https, self._listener("ready", READY_PORT, [_ready_chain()])]

    def _listener(self, name: str, port: int, chains: list[JSON], *filters: JSON) -> JSON:
        found = listener(name, [self.anywhere], port, chains, *filters)
        if self.anywhere == "::":
            found["address"]["socket_address"]["ipv4_compat"] = True
        return found

    def _tls_chain(self, secret: str, hosts: list[str]) -> JSON:
        chain: JSON = {
            "name": secret,
            "filters": [self._manager("https")],
            "transport_socket": extension(
                "envoy.transport_sockets.tls",
                f"{_TLS}.DownstreamTlsContext",
                common_tls_context={
                    "alpn_protocols": ["h2", "http/1.1"],
                    "tls_certificate_sds_secret_configs": [
                        {"name": secret, "sds_config": from_stream()}
                    ],
                },
            ),
        }
        if hosts:
            chain["filter_chain_match"] = {"server_names": hosts}
        return chain

    def _manager(self, name: str) -> JSON:
        table = {"config_source": from_stream(), "route_config_name": TABLE}
        return _manager(name, rds=table)


def _manager(name: str, **routes: JSON) -> JSON:
    """HTTP from clients that are not trusted."""
    return http_manager(
        name,
        normalize_path=True,
        merge_slashes=True,
        http_protocol_options={"accept_http_10": True},
        path_with_escaped_slashes_action="UNESCAPE_AND_REDIRECT",
        **routes,
    )


def _ready_chain() -> JSON:
    """Answers 200 from the moment on which the first whole configuration is in force."""
    answer = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    hosts = [{"name": "ready", "domains": ["*"], "routes": [answer]}]
    return {"filters": [_manager("ready", route_config={"virtual_hosts": hosts})]}


def _match(route: Route) -> JSON:
    if route.exact:
        return {"path": route.path}
    return {"path_separated_prefix": route.path} if route.path else {"prefix": "/"}


def _external(services: Mapping[Key, Service], backend: Backend) -> bool:
    service = services.get(backend.service or Key("", ""))
    return service is not None and service.spec.type == "ExternalName"


def _assignment(
    backend: Backend, port: ServicePort | None, slices: Mapping[Key, list[EndpointSlice]]
) -> Assignment:
    found = _endpoints(port, slices.get(backend.service or Key("", ""), ()))
    return Assignment(str(backend), tuple(Endpoint(*e) for e in found))


def _endpoints(port: ServicePort | None, slices: Iterable[EndpointSlice]) -> list[tuple[str, int]]:
    """Addresses to send to: ready ones, else those that still serve while they terminate."""
    ready: set[tuple[str, int]] = set()
    serving: set[tuple[str, int]] = set()
    for piece in slices:
        number = next(
            (p.port for p in piece.ports or () if port and (p.name or "") == port.name), None
        )
        if number is None or piece.address_type == "FQDN":
            continue
        for endpoint in piece.endpoints or ():
            for address in endpoint.addresses[:1]:
                if endpoint.ready:
                    ready.add((address, number))
                elif endpoint.serving and endpoint.terminating:
                    serving.add((address, number))
    return sorted(ready or serving)


def _secret(name: str, certificate: Certificate) -> JSON:
    def data(value: bytes) -> JSON:
        return {"inline_bytes": base64.b64encode(value).decode()}

    return {
        "@type": SECRET,
        "name": name,
        "tls_certificate": {
            "certificate_chain": data(certificate.chain),
            "private_key": data(certificate.key),
        },
    }
