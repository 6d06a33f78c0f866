"""Whether the proxy keeps up, and what load balancers are told: pure, ``now`` comes in.

The proxy is healthy unless a change has waited for twice its syncPeriod; one sync covers both IP
families, so both are told the same. /healthz also fails while the node has no object or is about to
go, so that balancers drain it; /livez does not, or the proxy itself would be restarted just when it
is needed.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import NamedTuple

from kubewire.api.core import Node
from kubewire.kubeproxy.plan import HealthCheck

TO_BE_DELETED = "ToBeDeletedByClusterAutoscaler"
JSON_HEADERS = {"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}


class Page(NamedTuple):
    """An HTTP answer."""

    status: int
    body: str
    headers: dict[str, str]


class ProxyHealth:
    """The proxy's and the node's state, as upstream's health server keeps it."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._updated = 0.0
        self._oldest: float | None = None
        """Since when a change waits."""
        self.node_eligible = False
        """Balancers may send to the node: it is there, and not about to go."""

    def queued(self, now: float) -> None:
        """A change has come in."""
        if self._oldest is None:
            self._oldest = now

    def updated(self, now: float) -> None:
        """Everything that had come in is in force."""
        self._oldest = None
        self._updated = now

    def seen(self, node: Node | None) -> None:
        """The node's object has changed, or is gone."""
        if node is None:
            self.node_eligible = False
            return
        leaving = any(t.key == TO_BE_DELETED for t in node.spec.taints or ())
        self.node_eligible = node.metadata.deletion_timestamp is None and not leaving

    def healthy(self, now: float) -> bool:
        """Nothing waits for too long; a proxy that is still starting is healthy."""
        if self._oldest is None or not self._updated:
            return True
        return now - self._oldest < self._timeout

    def healthz(self, now: float) -> Page:
        """For load balancers and readiness probes."""
        fine = self.healthy(now) and self.node_eligible
        return self._page(now, fine, {"nodeEligible": self.node_eligible})

    def livez(self, now: float) -> Page:
        """For liveness probes."""
        return self._page(now, self.healthy(now), {})

    def _page(self, now: float, fine: bool, more: dict[str, bool]) -> Page:
        # Upstream's promise: "lastUpdated" is recent while all is well, changes or not.
        updated = now if fine else self._updated
        healthy = self.healthy(now)
        one = {"lastUpdated": _stamp(self._updated), "healthy": healthy}
        status = {"status": {"IPv4": one, "IPv6": one}} if self._updated else {}
        stamps = {"lastUpdated": _stamp(updated), "currentTime": _stamp(now)}
        body = {**stamps, **more, "healthy": healthy, **status}
        return Page(200 if fine else 503, json.dumps(body), JSON_HEADERS)


def _stamp(seconds: float) -> str:
    if not seconds:
        return "0001-01-01T00:00:00Z"
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def service_page(check: HealthCheck, *, proxy_healthy: bool) -> Page:
    """What a healthCheckNodePort answers: whether this node has something to send traffic to."""
    body = {
        "service": {"namespace": check.service.namespace, "name": check.service.name},
        "localEndpoints": check.local_ready,
        "serviceProxyHealthy": proxy_healthy,
    }
    weight = {"X-Load-Balancing-Endpoint-Weight": str(check.local_ready)}
    fine = check.local_ready > 0 and proxy_healthy
    return Page(200 if fine else 503, json.dumps(body, indent=2), JSON_HEADERS | weight)
