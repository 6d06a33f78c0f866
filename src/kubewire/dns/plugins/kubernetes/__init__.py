"""kubernetes: names of Services, endpoints and pods, from the API server's objects."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kubewire.api.selectors import LabelSelector, parse_selector
from kubewire.dns.corefile import CorefileError
from kubewire.dns.plugin import (
    Fallthrough,
    Plugin,
    Replay,
    Request,
    Response,
    Setup,
    Shortcut,
    duration,
)
from kubewire.dns.plugins.kubernetes.cluster import Cluster, from_objects
from kubewire.dns.plugins.kubernetes.names import parse
from kubewire.dns.plugins.kubernetes.records import Found, Options, Records
from kubewire.dns.plugins.kubernetes.shortcut import Labelled
from kubewire.lang.dns import codes
from kubewire.lang.dns.name import is_reverse, longest_zone, within
from kubewire.lang.dns.record import RR

if TYPE_CHECKING:
    from kubewire.client.rest import Client

POD_MODES = ("disabled", "insecure", "verified")


@dataclass
class Source:
    """Where the objects come from, and how many of them."""

    endpoint: str = ""
    tls: tuple[str, str, str] = ("", "", "")
    kubeconfig: str = ""
    context: str = ""
    labels: LabelSelector | None = None
    label_text: str = ""
    namespace_labels: LabelSelector | None = None
    namespace_label_text: str = ""
    startup_timeout: float = 5.0
    agent: str = ""
    client: Callable[[], Client] | None = None


@dataclass
class _Draft:
    """The options while they are being read."""

    pods: str = "disabled"
    ttl: int = 5
    endpoint_pod_names: bool = False
    endpoints: bool = True
    ignore_empty: bool = False
    zonal: bool = False
    namespaces: set[str] = field(default_factory=set)
    multicluster: list[str] = field(default_factory=list)
    fall: Fallthrough = field(default_factory=Fallthrough)
    source: Source = field(default_factory=Source)


class Kubernetes(Plugin):
    """Answers from a cluster's objects."""

    name = "kubernetes"

    def __init__(
        self, options: Options, fall: Fallthrough, source: Source, cluster: Cluster, *, live: bool
    ) -> None:
        self.options = options
        self.fall = fall
        self.source = source
        self.cluster = cluster
        self.records = Records(cluster, options)
        self.on_change: list[Callable[[set[object]], None]] = []
        """Told which answers are no longer true."""
        self._live = live
        self._stop: Callable[[], object] | None = None

    @classmethod
    def setup(cls, setup: Setup) -> Kubernetes:
        """Read the directive."""
        zones = tuple(setup.zones(setup.once()))
        if all(is_reverse(z) for z in zones):
            raise CorefileError("non-reverse zone name must be used")
        draft = _Draft()
        for word, args in setup.properties():
            _OPTIONS.get(word, _unknown)(setup, draft, word, args)
        if draft.namespaces and draft.source.namespace_labels is not None:
            raise setup.err("namespaces and namespace_labels cannot both be set")
        for zone in draft.multicluster:
            if zone not in zones:
                raise setup.err(
                    f"is not authoritative for the multicluster zone {zone} (authoritative zones: "
                    f"[{' '.join(zones)}])"
                )
        if draft.zonal and not draft.endpoints:
            raise setup.err("zonal requires the endpoint cache; remove noendpoints")
        setup.no_more()
        options = Options(
            zones, draft.ttl, draft.pods, draft.endpoint_pod_names, draft.endpoints,
            draft.ignore_empty, frozenset(draft.namespaces), frozenset(draft.multicluster),
            draft.zonal,
        )  # fmt: skip
        env, source = setup.env, draft.source
        if not source.kubeconfig and not source.endpoint:
            source.kubeconfig, source.context = env.kubeconfig, env.context
        source.agent, source.client = env.agent, env.client
        plugin = cls(options, draft.fall, source, Cluster(), live=not env.offline)
        if env.objects is not None:
            plugin.replace(from_objects(env.objects, accept=plugin.accepts, now=time.time()))
        plugin.on_change.append(lambda deps: _drop(setup, deps))
        return plugin

    def accepts(self, kind: str, labels: Mapping[str, str]) -> bool:
        """Tell whether the label options let an object in (an API server does it for us)."""
        chosen = self.source.namespace_labels if kind == "Namespace" else self.source.labels
        return chosen is None or chosen.matches(labels)

    def replace(self, cluster: Cluster) -> None:
        """Serve another cluster."""
        self.cluster = self.records.cluster = cluster
        if not self._live:
            self.records.local_ips = tuple(_dns_addresses(cluster))

    @property
    def ready(self) -> bool:
        """Everything has been listed once."""
        return self.cluster.synced

    async def start(self) -> None:
        """Begin to watch; wait a while for the first lists."""
        if not self._live:
            return
        from kubewire.dns.addresses import global_addresses
        from kubewire.dns.plugins.kubernetes.watch import Watch

        self.records.local_ips = tuple(global_addresses())
        watch = Watch(self.source, self.options, self.cluster, self.changed, self.metrics)
        self._stop = watch.stop
        await watch.start()

    async def stop(self, *, final: bool) -> None:
        """Stop to watch."""
        if self._stop is not None:
            await self._stop()  # type: ignore[misc]
            self._stop = None

    def changed(self, deps: set[object]) -> None:
        """Tell everybody who kept answers."""
        for listener in self.on_change:
            listener(deps)

    async def serve(self, request: Request) -> Response:
        """Answer names below our zones."""
        zone = longest_zone(request.name, self.options.zones)
        if not zone:
            return await self.next.serve(request)
        found = self.records.lookup(request.name, request.qname, zone, request.qtype)
        if found.refused:
            return self.fail(codes.REFUSED, found.reason)
        if not found.exists and self.fall.through(request.name):
            response = await self.next.serve(request)
            response.reason = response.reason or f"fell through: {found.reason}"
            return self._with_deps(response, found)
        replay = Replay(tuple(found.deps)) if self.cluster.synced else None
        outside: Response | None = None
        if found.outside is not None and request.block is not None:
            outside = await request.block.lookup(request, found.outside.target, request.qtype)
            found.answer = [*found.answer, *outside.answer]
            replay = _both(replay, outside.replay)
        response = self.reply(
            answer=found.answer, additional=found.additional, reason=found.reason, replay=replay
        )
        if outside is not None:
            response.tc = outside.tc
        if not found.answer:
            self._negative(response, found, request.qname[len(request.qname) - len(zone) :])
        return response

    def shortcut(self, behind: Shortcut | None, server: str, view: str) -> Shortcut | None:
        """Names of Services and pods, and those below what is not there."""
        zones = tuple(filter(self._labelled, self.options.zones))
        falls = any(within(f, z) or within(z, f) for f in self.fall.zones for z in zones)
        return Shortcut(zones, Labelled(self.records, falls=falls).answer, self.name)

    def _labelled(self, zone: str) -> bool:
        options = self.options
        nested = any(z != zone and within(z, zone) for z in options.zones)
        return not (nested or zone == "." or zone in options.multicluster or is_reverse(zone))

    def _negative(self, response: Response, found: Found, spelled: str) -> None:
        if not found.exists:
            response.rcode = codes.NXDOMAIN
            if not self.cluster.synced:
                response.rcode = codes.SERVFAIL
                response.reason += "; the API server's objects are not here yet"
        response.authority = [self.records.soa(spelled)]

    def _with_deps(self, response: Response, found: Found) -> Response:
        own = Replay(tuple(found.deps)) if self.cluster.synced else None
        response.replay = _both(own, response.replay)
        return response

    def metadata(self, request: Request) -> Mapping[str, Callable[[], str]]:
        """kubernetes/namespace and its like."""
        zone = longest_zone(request.name, self.options.zones)
        labels: dict[str, Callable[[], str]] = {}
        if self.options.pods == "verified":
            pods = self.cluster.pods_by_ip.get(request.client[0], {})
            for pod in pods.values():
                meta = pod.metadata
                labels["kubernetes/client-namespace"] = lambda m=meta: m.namespace  # type: ignore[misc]
                labels["kubernetes/client-pod-name"] = lambda m=meta: m.name  # type: ignore[misc]
                for key, value in (meta.labels or {}).items():
                    labels[f"kubernetes/client-label/{key}"] = lambda v=value: v  # type: ignore[misc]
                break
        if not zone or is_reverse(request.name):
            return labels
        ask = parse(request.name, zone)
        if not ask.valid:
            return labels
        for key, value in (
            ("endpoint", ask.endpoint), ("kind", ask.kind), ("namespace", ask.namespace),
            ("port-name", ask.port), ("protocol", ask.protocol), ("service", ask.service),
        ):  # fmt: skip
            labels[f"kubernetes/{key}"] = lambda v=value: v  # type: ignore[misc]
        return labels

    def autopath(self, request: Request) -> list[str] | None:
        """The search path of the pod that asks, for the autopath plugin."""
        zone = next((z for z in self.options.zones if not is_reverse(z)), "")
        if self.options.pods != "verified" or not zone:
            return None
        pods = self.cluster.pods_by_ip.get(request.client[0])
        if not pods:
            return None
        namespace = next(iter(pods.values())).metadata.namespace
        own = [f"{namespace}.svc.{zone}", f"svc.{zone}", zone]
        if zone == ".":
            own = [f"{namespace}.svc.", "svc.", "."]
        return [*own, *host_search(), ""]

    def transfer(self, zone: str, serial: int) -> list[RR] | None:
        """Every record of a zone, SOA first and last; None: not ours."""
        from kubewire.dns.plugins.kubernetes.transfer import records

        if zone not in self.options.zones or not self.cluster.synced:
            return None
        apex = self.records.soa(zone)
        if serial and serial == self.cluster.modified:
            return [apex]
        return [apex, *records(self.records, zone), apex]


def _both(one: Replay | None, other: Replay | None) -> Replay | None:
    if one is None or other is None:
        return None
    return Replay(one.deps + other.deps, min(one.until, other.until))


def _drop(setup: Setup, deps: set[object]) -> None:
    if setup.block.configuration is not None:
        setup.block.configuration.drop(deps)


def _dns_addresses(cluster: Cluster) -> list[str]:
    """Offline, the server is taken to be an endpoint of kube-system/kube-dns."""
    return [
        a
        for key, slices in cluster.slices.items()
        if key == ("kube-system", "kube-dns")
        for s in slices.values()
        for e in s.ready
        for a in e.addresses
    ]


def host_search() -> list[str]:
    """The search domains of the server's own resolv.conf."""
    from kubewire.dns.resolv import read

    return [s if s.endswith(".") else s + "." for s in read("/etc/resolv.conf").search]


Reader = Callable[[Setup, _Draft, str, list[str]], None]


def _unknown(setup: Setup, draft: _Draft, word: str, args: list[str]) -> None:
    raise setup.err(f"unknown property '{word}'")


def _pods(setup: Setup, draft: _Draft, word: str, args: list[str]) -> None:
    if len(args) != 1:
        raise setup.arg_err()
    if args[0] not in POD_MODES:
        raise CorefileError(
            f"wrong value for pods: {args[0]},  must be one of: disabled, verified, insecure"
        )
    draft.pods = args[0]


def _ttl(setup: Setup, draft: _Draft, word: str, args: list[str]) -> None:
    if not args:
        raise setup.arg_err()
    try:
        draft.ttl = int(args[0])
    except ValueError as error:
        raise CorefileError(f'strconv.Atoi: parsing "{args[0]}": invalid syntax') from error
    if not 0 <= draft.ttl <= 3600:
        raise setup.err(f"ttl must be in range [0, 3600]: {draft.ttl}")


def _selector(setup: Setup, draft: _Draft, word: str, args: list[str]) -> None:
    if not args:
        raise setup.arg_err()
    text = " ".join(args)
    try:
        selector = parse_selector(text)
    except ValueError as error:
        what = "label" if word == "labels" else "namespace_label"
        raise CorefileError(f"unable to parse {what} selector value: '{text}': {error}") from error
    if word == "labels":
        draft.source.labels, draft.source.label_text = selector, text
    else:
        draft.source.namespace_labels, draft.source.namespace_label_text = selector, text


def _flag(setup: Setup, draft: _Draft, word: str, args: list[str]) -> None:
    if args:
        raise setup.arg_err()
    if word == "endpoint_pod_names":
        draft.endpoint_pod_names = True
    elif word == "noendpoints":
        draft.endpoints = False
    else:
        draft.zonal = True


def _ignore(setup: Setup, draft: _Draft, word: str, args: list[str]) -> None:
    if args and args[0] != "empty_service":
        raise CorefileError(f"unable to parse ignore value: '{args[0]}'")
    draft.ignore_empty = draft.ignore_empty or bool(args)


def _where(setup: Setup, draft: _Draft, word: str, args: list[str]) -> None:
    allowed = {"endpoint": range(1, 99), "tls": (3,), "kubeconfig": (1, 2)}[word]
    if len(args) not in allowed:
        raise setup.arg_err()
    if word == "endpoint":
        draft.source.endpoint = args[0]
    elif word == "tls":
        draft.source.tls = (args[0], args[1], args[2])
    else:
        draft.source.kubeconfig = args[0]
        draft.source.context = args[1] if len(args) == 2 else ""


def _namespaces(setup: Setup, draft: _Draft, word: str, args: list[str]) -> None:
    if not args:
        raise setup.arg_err()
    draft.namespaces |= set(args)


def _timeout(setup: Setup, draft: _Draft, word: str, args: list[str]) -> None:
    if not args:
        raise setup.arg_err()
    try:
        draft.source.startup_timeout = duration(args[0])
    except ValueError as error:
        raise CorefileError(f"failed to parse startup_timeout: {args[0]}, {error}") from error


def _limit(setup: Setup, draft: _Draft, word: str, args: list[str]) -> None:
    """apiserver_qps and its like: checked; the informers' few requests need no limit."""
    if len(args) != 1:
        raise setup.arg_err()
    number = float if word == "apiserver_qps" else int
    try:
        value = number(args[0])
    except ValueError as error:
        function = "ParseFloat" if word == "apiserver_qps" else "Atoi"
        raise setup.err(
            f'invalid {word} "{args[0]}": strconv.{function}: parsing "{args[0]}": invalid syntax'
        ) from error
    if value < 0:
        raise setup.err(f"{word} must be >= 0")


def _fallthrough(setup: Setup, draft: _Draft, word: str, args: list[str]) -> None:
    draft.fall = Fallthrough.from_args(args)


def _multicluster(setup: Setup, draft: _Draft, word: str, args: list[str]) -> None:
    from kubewire.dns.config import zones_of

    draft.multicluster = zones_of(args)


_OPTIONS: dict[str, Reader] = {
    "endpoint_pod_names": _flag,
    "noendpoints": _flag,
    "zonal": _flag,
    "pods": _pods,
    "namespaces": _namespaces,
    "endpoint": _where,
    "tls": _where,
    "kubeconfig": _where,
    "labels": _selector,
    "namespace_labels": _selector,
    "fallthrough": _fallthrough,
    "ttl": _ttl,
    "ignore": _ignore,
    "multicluster": _multicluster,
    "startup_timeout": _timeout,
    "apiserver_qps": _limit,
    "apiserver_burst": _limit,
    "apiserver_max_inflight": _limit,
}

PLUGIN = Kubernetes
