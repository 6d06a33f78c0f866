"""The objects of a cluster, indexed the way that names and addresses ask for them.

Every change says which answers it touches: by Service, by namespace, by address, by pod. The tag
``ANY`` stands for whatever the whole depends on (the serial, the server's own name). Tags are texts,
which the garbage collector does not walk over: every kept answer has some.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import msgspec

from kubewire.api.meta import Key
from kubewire.dns.plugins.kubernetes.objects import (
    EndpointSlice,
    Namespace,
    Pod,
    Service,
    ServiceImport,
)

ANY = "*"

Accept = Callable[[str, Mapping[str, str]], bool]
"""Kind and labels of an object: whether it is let in."""

Deps = set[Hashable]


class _Untold(Deps):
    """Where nobody can have kept an answer yet, what is touched need not be written down."""

    def add(self, dep: Hashable, /) -> None:
        """Forget it."""


_UNTOLD = _Untold()
AnyService = Service | ServiceImport


def service_dep(namespace: str, name: str) -> Hashable:
    """Answers made of a Service and its slices."""
    return f"s {namespace} {name}"


def import_dep(namespace: str, name: str) -> Hashable:
    """Answers made of a ServiceImport and its slices."""
    return f"m {namespace} {name}"


def namespace_dep(namespace: str) -> Hashable:
    """Answers that need a namespace to exist."""
    return f"n {namespace}"


def address_dep(ip: str) -> Hashable:
    """Reverse answers."""
    return f"a {ip}"


def pod_dep(namespace: str, ip: str) -> Hashable:
    """Answers for a pod's address."""
    return f"p {namespace} {ip}"


class Cluster:
    """Objects by key, and the indexes."""

    def __init__(self) -> None:
        self.namespaces: dict[str, Namespace] = {}
        self.services: dict[Key, Service] = {}
        self.imports: dict[Key, ServiceImport] = {}
        self.slices: dict[Key, dict[str, EndpointSlice]] = {}
        """Service -> its slices by name."""
        self.import_slices: dict[Key, dict[str, EndpointSlice]] = {}
        self.cluster_ips: dict[str, tuple[Key, ...]] = {}
        self.endpoint_ips: dict[str, tuple[Key, ...]] = {}
        self.pods: dict[tuple[str, str], dict[str, Pod]] = {}
        """(namespace, address) -> running pods by name."""
        self.pods_by_ip: dict[str, dict[Key, Pod]] = {}
        self.synced = False
        self.modified = 0
        """Unix time of the last change, the zone's serial."""

    def apply(self, old: Any, new: Any, now: float) -> Deps:
        """Take one object in, out, or over; gives what it touches (before ``synced``: nothing)."""
        touched: Deps = {ANY} if self.synced else _UNTOLD
        match new if new is not None else old:
            case Service():
                self._service(old, new, touched)
            case EndpointSlice():
                self._slice(old, new, touched)
            case Namespace() as space:
                self.namespaces.pop(space.metadata.name, None)
                if new is not None:
                    self.namespaces[space.metadata.name] = new
                touched.add(namespace_dep(space.metadata.name))
            case Pod():
                self._pod(old, new, touched)
            case ServiceImport():
                self._import(old, new, touched)
        self.modified = int(now)
        return touched

    def _service(self, old: Service | None, new: Service | None, touched: Deps) -> None:
        meta = (new or old).metadata  # type: ignore[union-attr]
        key = Key(meta.namespace, meta.name)
        for ip in map(canonical, old.ips) if old else ():
            _remove(self.cluster_ips, ip, key, touched)
        if new is None:
            self.services.pop(key, None)
        else:
            self.services[key] = new
            for ip in map(canonical, new.ips):
                _add(self.cluster_ips, ip, (key,), touched)
        touched.add(service_dep(*key))

    def _import(self, old: ServiceImport | None, new: ServiceImport | None, touched: Deps) -> None:
        meta = (new or old).metadata  # type: ignore[union-attr]
        key = Key(meta.namespace, meta.name)
        self.imports.pop(key, None)
        if new is not None:
            self.imports[key] = new
        touched.add(import_dep(*key))

    def _slice(self, old: EndpointSlice | None, new: EndpointSlice | None, touched: Deps) -> None:
        for slice_, gone in ((old, True), (new, False)):
            if slice_ is None:
                continue
            if key := slice_.service:
                self._attach(self.slices, key, slice_, gone=gone)
                touched.add(service_dep(*key))
                one = (key,)
                ips = {a for e in slice_.ready for a in e.addresses}
                for ip in ips if slice_.address_type == "IPv4" else set(map(canonical, ips)):
                    if gone:
                        if not self._still(key, ip):
                            _remove(self.endpoint_ips, ip, key, touched)
                        touched.add(address_dep(ip))
                    else:
                        _add(self.endpoint_ips, ip, one, touched)
            if key := slice_.imported:
                self._attach(self.import_slices, key, slice_, gone=gone)
                touched.add(import_dep(*key))

    def _attach(
        self,
        index: dict[Key, dict[str, EndpointSlice]],
        key: Key,
        slice_: EndpointSlice,
        *,
        gone: bool,
    ) -> None:
        name = slice_.metadata.name
        if not gone:
            index.setdefault(key, {})[name] = slice_
        elif found := index.get(key):
            found.pop(name, None)
            if not found:
                del index[key]

    def _still(self, key: Key, ip: str) -> bool:
        """Another slice of the Service holds the address too."""
        return any(
            canonical(a) == ip
            for s in self.slices.get(key, {}).values()
            for e in s.ready
            for a in e.addresses
        )

    def _pod(self, old: Pod | None, new: Pod | None, touched: Deps) -> None:
        for pod, gone in ((old, True), (new, False)):
            if pod is None:
                continue
            meta = pod.metadata
            for ip in map(canonical, pod.ips):
                touched.add(pod_dep(meta.namespace, ip))
                by_name = self.pods.setdefault((meta.namespace, ip), {})
                by_ip = self.pods_by_ip.setdefault(ip, {})
                if gone:
                    by_name.pop(meta.name, None)
                    by_ip.pop(meta.key, None)
                else:
                    by_name[meta.name] = pod
                    by_ip[meta.key] = pod


def _add(index: dict[str, tuple[Key, ...]], ip: str, key: tuple[Key, ...], touched: Deps) -> None:
    if touched is not _UNTOLD:
        touched.add(address_dep(ip))
    before = index.get(ip)
    if before is None:
        index[ip] = key
    elif key[0] not in before:
        index[ip] = before + key


def _remove(index: dict[str, tuple[Key, ...]], ip: str, key: Key, touched: Deps) -> None:
    touched.add(address_dep(ip))
    if left := tuple(k for k in index.get(ip, ()) if k != key):
        index[ip] = left
    else:
        index.pop(ip, None)


def canonical(ip: str) -> str:
    """The shortest spelling of an IPv6 address; IPv4 has only one."""
    if ":" not in ip:
        return ip
    import socket

    try:
        return socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, ip))
    except OSError:
        return ip


KINDS: Mapping[tuple[str, str], type[Any]] = {
    ("v1", "Service"): Service,
    ("v1", "Namespace"): Namespace,
    ("v1", "Pod"): Pod,
    ("discovery.k8s.io/v1", "EndpointSlice"): EndpointSlice,
    ("multicluster.x-k8s.io/v1alpha1", "ServiceImport"): ServiceImport,
}
ALWAYS_THERE = ("default", "kube-node-lease", "kube-public", "kube-system")


def from_objects(
    objects: Iterable[Mapping[str, Any]],
    *,
    accept: Accept | None = None,
    now: float = 0,
) -> Cluster:
    """A synced cluster of given objects; a namespace that something lives in exists."""
    cluster = Cluster()
    chosen = [o for o in objects if (o.get("apiVersion"), o.get("kind")) in KINDS]
    named = {o["metadata"]["name"] for o in chosen if o["kind"] == "Namespace"}
    implied = {
        o["metadata"].get("namespace") or "default" for o in chosen if o["kind"] != "Namespace"
    }
    for name in sorted((implied | set(ALWAYS_THERE)) - named):
        chosen.append({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    for obj in chosen:
        labels = obj["metadata"].get("labels") or {}
        if accept is not None and not accept(obj["kind"], labels):
            continue
        if obj["kind"] != "Namespace" and not obj["metadata"].get("namespace"):
            obj = {**obj, "metadata": {**obj["metadata"], "namespace": "default"}}  # noqa: PLW2901
        cluster.apply(None, msgspec.convert(obj, KINDS[obj["apiVersion"], obj["kind"]]), now)
    cluster.synced = True
    return cluster
