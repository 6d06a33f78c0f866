"""Objects of a cluster with every kind of Service, for tests of DNS."""

from typing import Any

Object = dict[str, Any]
ZONE = "cluster.local."


def service(
    name: str, *ips: str, namespace: str = "default", ports: Any = None, **spec: Any
) -> Object:
    if ips:
        spec |= {"clusterIP": ips[0], "clusterIPs": list(ips)}
    chosen = [("http", "TCP", 80)] if ports is None else ports
    spec["ports"] = [{"name": n, "protocol": p, "port": x} for n, p, x in chosen]
    meta = {"name": name, "namespace": namespace, "labels": {"app": name}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}


def external(name: str, target: str, namespace: str = "default") -> Object:
    return service(name, namespace=namespace, ports=[], type="ExternalName", externalName=target)


def slice_(
    of: str, name: str, *endpoints: Object, namespace: str = "default", ports: Any = None, family: str = "IPv4",
    labels: dict[str, str] | None = None,
) -> Object:  # fmt: skip
    chosen = [("http", "TCP", 8080)] if ports is None else ports
    meta = {
        "name": f"{of}-{name}",
        "namespace": namespace,
        "labels": {"kubernetes.io/service-name": of, "app": of, **(labels or {})},
    }
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": meta,
        "addressType": family, "endpoints": list(endpoints),
        "ports": [{"name": n, "protocol": p, "port": x} for n, p, x in chosen],
    }  # fmt: skip


def at(*addresses: str, **rest: Any) -> Object:
    return {"addresses": list(addresses), **rest}


def pod(name: str, *ips: str, namespace: str = "default", phase: str = "Running") -> Object:
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
        "spec": {"containers": [{"name": "c", "image": "x"}]},
        "status": {"phase": phase, "podIP": ips[0] if ips else "", "podIPs": [{"ip": i} for i in ips]},
    }  # fmt: skip


def namespace(name: str, **labels: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


NOT_READY = {"conditions": {"ready": False, "serving": True, "terminating": True}}
WORLD: list[Object] = [
    namespace("default", team="a"),
    namespace("other", team="b"),
    namespace("empty"),
    service("web", "10.96.0.7"),
    service("dual", "10.96.0.8", "fd00:96::8", ports=[("dns", "UDP", 53), ("dns-tcp", "TCP", 53)]),
    service("six", "fd00:96::9"),
    service("bare", "10.96.0.10", ports=[]),
    service("unnamed", "10.96.0.11", ports=[("", "TCP", 443)]),
    service("web", "10.96.1.7", namespace="other"),
    service("unready", "10.96.0.12"),
    slice_("unready", "a", at("10.244.3.1", **NOT_READY)),
    slice_("web", "a", at("10.244.0.2"), at("10.244.0.3", hostname="bob")),
    service("hl", "None"),
    slice_("hl", "a", at("10.244.1.1"), at("10.244.1.2", hostname="one"), at("10.244.1.9", **NOT_READY)),
    slice_("hl", "b", at("10.244.1.3", conditions={}), at("10.244.1.1"), ports=[("http", "TCP", 9090)]),
    slice_("hl", "c", at("fd00:10::1"), at("fd00:10:1::", targetRef={"kind": "Pod", "name": "p-6"}), family="IPv6"),
    service("gone", "None"),
    slice_("gone", "a", at("10.244.2.1", **NOT_READY)),
    service("none", "None"),
    service("nop", "None", ports=[]),
    slice_("nop", "a", at("10.244.4.1"), ports=[]),
    service("sts", "None"),
    slice_("sts", "a", at("10.244.5.1", hostname="sts-0"), at("10.244.5.2", hostname="sts-0")),
    external("alias", "web.default.svc.cluster.local"),
    external("alias2", "alias.default.svc.cluster.local"),
    external("away", "example.com"),
    external("away2", "away.default.svc.cluster.local."),
    external("missing", "nothing.default.svc.cluster.local"),
    external("numeric", "10.1.2.3"),
    external("loop1", "loop2.default.svc.cluster.local"),
    external("loop2", "loop1.default.svc.cluster.local"),
    external("self", "self.default.svc.cluster.local"),
    pod("client", "10.244.9.1"),
    pod("done", "10.244.9.2", phase="Succeeded"),
    pod("twofold", "10.244.9.3", "fd00:10::9"),
]  # fmt: skip


def corefile(options: str = "", zones: str = "cluster.local in-addr.arpa ip6.arpa") -> str:
    return f".:53 {{\n  kubernetes {zones} {{\n    {options}\n  }}\n}}\n"
