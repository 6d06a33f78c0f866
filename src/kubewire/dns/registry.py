"""Which directives there are, in the order in which they run, and where their classes live."""

import functools
import importlib
import importlib.metadata

from kubewire.dns.plugin import Plugin

GROUP = "kubewire.dns_plugins"

ORDER = (
    "root", "metadata", "geoip", "cancel", "proxyproto", "quic", "grpc_server", "https", "https3",
    "timeouts", "multisocket", "reload", "nsid", "bufsize", "bind", "debug", "trace", "ready",
    "health", "pprof", "shed", "prometheus", "errors", "log", "dnstap", "rrl", "cookies", "local",
    "dns64", "any", "chaos", "loadbalance", "tsig", "rewrite", "autopath", "acl", "cache", "header", "dnssec",
    "tls", "minimal", "template", "transfer", "hosts", "route53", "azure", "clouddns",
    "k8s_external", "kubernetes", "file", "auto", "secondary", "etcd", "loop", "forward", "grpc",
    "erratic", "whoami", "on", "sign", "view", "nomad",
)  # fmt: skip
"""plugin.cfg of CoreDNS 1.14.7, and its external plugin rrl; cookies is our own."""

SHIPPED = frozenset({
    "root", "metadata", "cancel", "timeouts", "multisocket", "reload", "nsid", "bufsize", "bind",
    "debug", "ready", "health", "prometheus", "errors", "log", "local", "dns64", "any", "chaos",
    "loadbalance", "tsig", "rewrite", "autopath", "acl", "cache", "header", "dnssec", "tls",
    "minimal", "template", "transfer", "hosts", "k8s_external", "kubernetes", "file", "auto",
    "secondary", "etcd", "loop", "forward", "erratic", "whoami", "view", "https", "https3", "quic",
    "grpc_server", "rrl", "cookies",
})  # fmt: skip

DECLARED_OUT = {
    "geoip": "needs MaxMind's database, which may not be redistributed",
    "proxyproto": "the sandbox has no proxy in front of DNS",
    "trace": "Zipkin and Datadog collectors are outside",
    "pprof": "profiles Go programs",
    "shed": "the receive loop sheds by batches",
    "dnstap": "no frame stream collector is outside",
    "route53": "a cloud's own zone",
    "azure": "a cloud's own zone",
    "clouddns": "a cloud's own zone",
    "grpc": "upstreams over gRPC are not offered",
    "on": "hooks run programs of the server's machine",
    "sign": "zones are signed on the fly by dnssec",
    "nomad": "another scheduler",
}
"""Directives of CoreDNS that are not offered, and why."""


@functools.cache
def _third_party() -> dict[str, type[Plugin]]:
    found: dict[str, type[Plugin]] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        loaded = point.load()
        if isinstance(loaded, type) and issubclass(loaded, Plugin):
            found[point.name] = loaded
    return found


def order() -> list[str]:
    """Every directive that can be used, in running order."""
    names = [name for name in ORDER if name in SHIPPED]
    for name, plugin in _third_party().items():
        place = names.index(plugin.before) if plugin.before in names else len(names)
        names.insert(place, name)
    return names


@functools.cache
def find(directive: str) -> type[Plugin]:
    """The class of a directive."""
    if directive in _third_party():
        return _third_party()[directive]
    module = importlib.import_module(f"kubewire.dns.plugins.{directive}")
    found = module.PLUGIN
    assert isinstance(found, type) and issubclass(found, Plugin)
    return found
