"""Fields of the messages that kubewire sends to Envoy: numbers and kinds, those of Envoy's v3 API.

Numbers never change, so the table needs no look at Envoy's own files. Messages that travel inside
an Any have their full name; the others are known by where they stand, and share a short one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Field = tuple[int, Any]
"""(number, kind): ``text``, ``bytes`` (base64 in JSON), ``uint``, ``bool``, ``wrapped`` (a UInt32Value or
BoolValue), ``duration``, ``any``, ``anys`` (a map of texts to Anys), a mapping of names (an enum),
or the name of a message."""

_ASSIGNMENT = "envoy.config.endpoint.v3.ClusterLoadAssignment"
_ROUTES = "envoy.config.route.v3.RouteConfiguration"
_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3"
_TLS = "envoy.extensions.transport_sockets.tls.v3"

MESSAGES: Mapping[str, Mapping[str, Field]] = {
    # -- clusters
    "envoy.config.cluster.v3.Cluster": {
        "name": (1, "text"),
        "type": (2, {"STATIC": 0, "STRICT_DNS": 1, "EDS": 3}),
        "eds_cluster_config": (3, "EdsClusterConfig"),
        "connect_timeout": (4, "duration"),
        "lb_policy": (6, {"ROUND_ROBIN": 0, "LEAST_REQUEST": 1, "RING_HASH": 2, "MAGLEV": 5}),
        "circuit_breakers": (10, "CircuitBreakers"),
        "outlier_detection": (19, "OutlierDetection"),
        "dns_lookup_family": (17, {"AUTO": 0, "V4_ONLY": 1, "V6_ONLY": 2, "V4_PREFERRED": 3}),
        "alt_stat_name": (28, "text"),
        "ignore_health_on_host_removal": (32, "bool"),
        "load_assignment": (33, _ASSIGNMENT),
        "typed_extension_protocol_options": (36, "anys"),
    },
    "EdsClusterConfig": {"eds_config": (1, "ConfigSource")},
    "ConfigSource": {"ads": (3, "Empty"), "resource_api_version": (6, {"AUTO": 0, "V3": 2})},
    "Empty": {},
    "CircuitBreakers": {"thresholds": (1, "Thresholds")},
    "Thresholds": {
        "max_connections": (2, "wrapped"),
        "max_pending_requests": (3, "wrapped"),
        "max_requests": (4, "wrapped"),
        "max_retries": (5, "wrapped"),
    },
    "OutlierDetection": {"interval": (2, "duration"), "max_ejection_percent": (4, "wrapped")},
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "explicit_http_config": (3, "ExplicitHttpConfig"),
        "use_downstream_protocol_config": (4, "UseDownstreamHttpConfig"),
    },
    "ExplicitHttpConfig": {"http2_protocol_options": (2, "Empty")},
    "UseDownstreamHttpConfig": {"http2_protocol_options": (2, "Empty")},
    _ASSIGNMENT: {
        "cluster_name": (1, "text"),
        "endpoints": (2, "LocalityLbEndpoints"),
    },
    "LocalityLbEndpoints": {"lb_endpoints": (2, "LbEndpoint")},
    "LbEndpoint": {
        "endpoint": (1, "Endpoint"),
        "health_status": (2, {"UNKNOWN": 0, "HEALTHY": 1, "UNHEALTHY": 2, "DRAINING": 3}),
        "load_balancing_weight": (4, "wrapped"),
    },
    "Endpoint": {"address": (1, "Address")},
    "Address": {"socket_address": (1, "SocketAddress")},
    "SocketAddress": {
        "address": (2, "text"),
        "port_value": (3, "uint"),
        "ipv4_compat": (6, "bool"),
    },
    # -- listeners
    "envoy.config.listener.v3.Listener": {
        "name": (1, "text"),
        "address": (2, "Address"),
        "filter_chains": (3, "FilterChain"),
        "listener_filters": (9, "Extension3"),
        "default_filter_chain": (25, "FilterChain"),
    },
    "FilterChain": {
        "filter_chain_match": (1, "FilterChainMatch"),
        "filters": (3, "Extension4"),
        "transport_socket": (6, "Extension3"),
        "name": (7, "text"),
    },
    "FilterChainMatch": {"server_names": (11, "text")},
    "Extension3": {"name": (1, "text"), "typed_config": (3, "any")},
    "Extension4": {"name": (1, "text"), "typed_config": (4, "any")},
    "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector": {},
    # -- HTTP
    f"{_MANAGER}.HttpConnectionManager": {
        "stat_prefix": (2, "text"),
        "rds": (3, "Rds"),
        "route_config": (4, _ROUTES),
        "http_filters": (5, "Extension4"),
        "http_protocol_options": (8, "Http1ProtocolOptions"),
        "use_remote_address": (14, "wrapped"),
        "generate_request_id": (15, "wrapped"),
        "upgrade_configs": (23, "UpgradeConfig"),
        "normalize_path": (30, "wrapped"),
        "merge_slashes": (33, "bool"),
        "path_with_escaped_slashes_action": (
            45,
            {
                "KEEP_UNCHANGED": 1,
                "REJECT_REQUEST": 2,
                "UNESCAPE_AND_REDIRECT": 3,
                "UNESCAPE_AND_FORWARD": 4,
            },
        ),
    },
    "Http1ProtocolOptions": {"accept_http_10": (2, "bool")},
    "UpgradeConfig": {"upgrade_type": (1, "text")},
    "Rds": {"config_source": (1, "ConfigSource"), "route_config_name": (2, "text")},
    "envoy.extensions.filters.http.router.v3.Router": {},
    # -- routes
    _ROUTES: {
        "name": (1, "text"),
        "virtual_hosts": (2, "VirtualHost"),
        "ignore_port_in_host_matching": (14, "bool"),
    },
    "VirtualHost": {"name": (1, "text"), "domains": (2, "text"), "routes": (3, "Route")},
    "Route": {
        "match": (1, "RouteMatch"),
        "route": (2, "RouteAction"),
        "redirect": (3, "RedirectAction"),
        "direct_response": (7, "DirectResponseAction"),
    },
    "RouteMatch": {
        "prefix": (1, "text"),
        "path": (2, "text"),
        "headers": (6, "HeaderMatcher"),
        "path_separated_prefix": (14, "text"),
    },
    "HeaderMatcher": {"name": (1, "text"), "string_match": (13, "StringMatcher")},
    "StringMatcher": {"exact": (1, "text"), "safe_regex": (5, "RegexMatcher")},
    "RegexMatcher": {"regex": (2, "text")},
    "RouteAction": {
        "cluster": (1, "text"),
        "timeout": (8, "duration"),
        "retry_policy": (9, "RetryPolicy"),
    },
    "RetryPolicy": {
        "retry_on": (1, "text"),
        "num_retries": (2, "wrapped"),
        "retry_host_predicate": (5, "Extension3"),
        "host_selection_retry_max_attempts": (6, "uint"),
    },
    "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate": {},
    "RedirectAction": {
        "response_code": (
            3,
            {
                "MOVED_PERMANENTLY": 0,
                "FOUND": 1,
                "SEE_OTHER": 2,
                "TEMPORARY_REDIRECT": 3,
                "PERMANENT_REDIRECT": 4,
            },
        ),
        "https_redirect": (4, "bool"),
    },
    "DirectResponseAction": {"status": (1, "uint"), "body": (2, "DataSource")},
    "DataSource": {"inline_bytes": (2, "bytes"), "inline_string": (3, "text")},
    # -- TLS
    f"{_TLS}.Secret": {"name": (1, "text"), "tls_certificate": (2, "TlsCertificate")},
    "TlsCertificate": {"certificate_chain": (1, "DataSource"), "private_key": (2, "DataSource")},
    f"{_TLS}.DownstreamTlsContext": {"common_tls_context": (1, "CommonTlsContext")},
    "CommonTlsContext": {
        "alpn_protocols": (4, "text"),
        "tls_certificate_sds_secret_configs": (6, "SdsSecretConfig"),
    },
    "SdsSecretConfig": {"name": (1, "text"), "sds_config": (2, "ConfigSource")},
}
