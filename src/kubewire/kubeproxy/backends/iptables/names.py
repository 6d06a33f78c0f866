"""Chain names, exactly as kube-proxy makes them: tools and people know them by heart."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from kubewire.api.meta import Key
from kubewire.kubeproxy.plan import Frontend

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

    def endpoint_chain(self, endpoint: str) -> str:
        """``KUBE-SEP-`` with the hash of this port and an endpoint (``ip:port``)."""
        return "KUBE-SEP-" + _hash(f"{self}{self.protocol}{endpoint}")


_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_SHIFTS = range(70, -1, -10)
_PAIRS = [first + second for first in _LETTERS for second in _LETTERS]


def _hash(text: str) -> str:
    """The first 16 letters of the SHA-256 in base32: 80 bits, ten at a time (it is hot)."""
    bits = int.from_bytes(hashlib.sha256(text.encode()).digest()[:10], "big")
    return "".join([_PAIRS[bits >> shift & 1023] for shift in _SHIFTS])
