"""The objects that a new cluster starts with: DNS and ingress in kube-system, ingress classes.

They are ordinary objects: ``kubectl edit configmap coredns -n kube-system`` takes effect.
"""

from __future__ import annotations

import json
from typing import Any

from kubewire.api.meta import JSON, Key
from kubewire.cluster.options import DOMAIN, INGRESS_SERVICE, Options

DNS_IMAGE = "kubewire.dev/dns"
INGRESS_IMAGE = "kubewire.dev/ingress"
PROXY_CONFIG = Key("kube-system", "kube-proxy")
"""The ConfigMap that every node's kube-proxy follows."""

COREFILE = """.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes %s in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30 {
       disable success %s
       disable denial %s
    }
    loop
    reload
    loadbalance
}
"""
"""The Corefile that kubeadm 1.36 writes."""


def addons(options: Options) -> list[JSON]:
    """Every object, in the order of creation."""
    return [*_proxy(options), *_dns(options), *_ingress()]


def _proxy(options: Options) -> list[JSON]:
    """kube-proxy's configuration where kubeadm keeps it; every node follows it."""
    if options.proxy_mode == "none":
        return []
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": options.proxy_mode,
        "clusterCIDR": ",".join(options.addresses.cluster_cidrs),
    }
    text = "".join(f"{name}: {json.dumps(value)}\n" for name, value in config.items())
    meta = {"name": PROXY_CONFIG.name, "namespace": PROXY_CONFIG.namespace}
    return [_object("v1", "ConfigMap", meta, data={"config.conf": text})]


def _dns(options: Options) -> list[JSON]:
    labels = {"k8s-app": "kube-dns"}
    meta = {"namespace": "kube-system", "labels": labels}
    container = {
        "name": "coredns",
        "image": DNS_IMAGE,
        "args": ["--conf", "/etc/coredns/Corefile"],
        "ports": [
            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
            {"name": "metrics", "containerPort": 9153, "protocol": "TCP"},
        ],
        "volumeMounts": [{"name": "config-volume", "mountPath": "/etc/coredns", "readOnly": True}],
        "livenessProbe": {"httpGet": {"path": "/health", "port": 8080}, "periodSeconds": 10},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
    }
    volume = {
        "name": "config-volume",
        "configMap": {"name": "coredns", "items": [{"key": "Corefile", "path": "Corefile"}]},
    }
    pod = {
        "serviceAccountName": "coredns",
        "dnsPolicy": "Default",
        "containers": [container],
        "volumes": [volume],
    }
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
        {"name": "metrics", "port": 9153, "protocol": "TCP", "targetPort": 9153},
    ]
    corefile = COREFILE % (DOMAIN, DOMAIN, DOMAIN)
    return [
        _object("v1", "ServiceAccount", {"name": "coredns", "namespace": "kube-system"}),
        _object(
            "v1",
            "ConfigMap",
            {"name": "coredns", "namespace": "kube-system"},
            data={"Corefile": corefile},
        ),
        _object(
            "v1",
            "Service",
            {"name": "kube-dns", **meta},
            spec={**_cluster_ips(options), "selector": labels, "ports": ports},
        ),
        _deployment("coredns", labels, pod, replicas=min(2, options.nodes)),
    ]


def _cluster_ips(options: Options) -> JSON:
    ips = list(options.dns_ips)
    return {"clusterIP": ips[0], "clusterIPs": ips, "ipFamilyPolicy": "PreferDualStack"}


def _ingress() -> list[JSON]:
    namespace, name = INGRESS_SERVICE
    labels = {"app.kubernetes.io/name": name}
    container = {
        "name": "envoy",
        "image": INGRESS_IMAGE,
        "ports": [{"name": "http", "containerPort": 80}, {"name": "https", "containerPort": 443}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8081}, "periodSeconds": 1},
    }
    ports = [
        {"name": "http", "port": 80, "targetPort": "http"},
        {"name": "https", "port": 443, "targetPort": "https"},
    ]
    return [
        _object("v1", "ServiceAccount", {"name": name, "namespace": namespace}),
        _object(
            "v1",
            "Service",
            {"name": name, "namespace": namespace, "labels": labels},
            spec={"selector": labels, "ports": ports, "ipFamilyPolicy": "PreferDualStack"},
        ),
        _deployment(name, labels, {"serviceAccountName": name, "containers": [container]}),
        _ingress_class("kubewire", default=True),
        # Manifests of others name "nginx" more often than any other class.
        _ingress_class("nginx", default=False),
    ]


def _ingress_class(name: str, *, default: bool) -> JSON:
    annotations = {"ingressclass.kubernetes.io/is-default-class": "true"} if default else {}
    return _object(
        "networking.k8s.io/v1",
        "IngressClass",
        {"name": name, "annotations": annotations},
        spec={"controller": "kubewire.dev/ingress"},
    )


def _deployment(name: str, labels: dict[str, str], pod: JSON, replicas: int = 1) -> JSON:
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    return _object(
        "apps/v1",
        "Deployment",
        {"name": name, "namespace": "kube-system", "labels": labels},
        spec=spec,
    )


def _object(api_version: str, kind: str, metadata: dict[str, Any], **rest: Any) -> JSON:
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **rest}
