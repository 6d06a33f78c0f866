"""Chain names, exactly as kube-proxy makes them: tools and people know them by heart."""

from __future__ import annotations

import base64
import hashlib
from typing import NamedTuple

from kubewire.api.meta import Key
from kubewire.kubeproxy.plan import Frontend
from kubewire.kubeproxy.topology import Target
from kubewire.kubeproxy.trace import endpoint_text

SERVICES, NODEPORTS, EXTERNAL = "KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-EXTERNAL-SERVICES"
POSTROUTING, MARK_MASQ, FORWARD = "KUBE-POSTROUTING", "KUBE-MARK-MASQ", "KUBE-FORWARD"
FIREWALL, KUBELET_FIREWALL = "KUBE-PROXY-FIREWALL", "KUBE-FIREWALL"
CANARY, KUBELET_CANARY = "KUBE-PROXY-CANARY", "KUBE-KUBELET-CANARY"
NOT_POD = "KUBE-MARK-MASQ-NOT-POD"
"""Ours: masquerades what comes from none of several networks of pods."""
PREFIXES = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-")
"""Of the chains in the nat table that belong to one Service port each."""


class ServicePort(NamedTuple):
    """What has chains of its own: one port of a Service in one IP family."""

    service: Key
    name: str
    protocol: str
    version: int

    @classmethod
    def of(cls, frontend: Frontend) -> ServicePort:
        """The port that a frontend belongs to."""
        key = frontend.key
        version = 6 if ":" in key.address else 4
        return cls(frontend.service, frontend.port_name, key.protocol.lower(), version)

    def __str__(self) -> str:
        return f"{self.service}:{self.name}" if self.name else str(self.service)

    def chain(self, prefix: str) -> str:
        """``KUBE-SVC-`` and the like with this port's hash."""
        return prefix + _hash(f"{self}{self.protocol}")

    def endpoint_chain(self, target: Target) -> str:
        """``KUBE-SEP-`` with the hash of this port and an endpoint."""
        return "KUBE-SEP-" + _hash(f"{self}{self.protocol}{endpoint_text(target)}")


def _hash(text: str) -> str:
    return base64.b32encode(hashlib.sha256(text.encode()).digest())[:16].decode()
