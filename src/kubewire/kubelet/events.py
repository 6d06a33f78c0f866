"""Events of the kubelet: recorded at once, sent behind everything else.

Equal events are counted together (Unhealthy, BackOff), and a bucket limits how many are sent, as
the kubelet limits its own (eventRecordQPS): a thousand pods that start must not wait for what
nobody may read.
"""

import asyncio
import itertools
import logging
import time
from collections import OrderedDict

from kubewire.api.errors import StatusError
from kubewire.api.meta import JSON
from kubewire.api.resources import EVENTS
from kubewire.client.rest import Client
from kubewire.kubelet.pod import Pod
from kubewire.kubelet.status import timestamp

BURST = 50
PER_SECOND = 10.0
REMEMBERED = 500
QUEUED = 2000

log = logging.getLogger(__name__)


class Recorder:
    """Sends events of one node."""

    def __init__(self, client: Client, node: str) -> None:
        self._client = client
        self._node = node
        self._pending: OrderedDict[tuple[str, ...], JSON] = OrderedDict()
        self._sent: OrderedDict[tuple[str, ...], JSON] = OrderedDict()
        self._wake = asyncio.Event()
        self._numbers = itertools.count(int(time.time() * 1000))

    def event(
        self, pod: Pod, reason: str, message: str, *, container: str = "", warning: bool = False
    ) -> None:
        """Record an event on a pod, or on one of its containers."""
        field = f"spec.containers{{{container}}}" if container else ""
        if any(c.name == container for c in pod.spec.inits):
            field = f"spec.initContainers{{{container}}}"
        elif any(c.name == container for c in pod.spec.ephemerals):
            field = f"spec.ephemeralContainers{{{container}}}"
        identity = (pod.uid, field, reason, message)
        now = timestamp(time.time())
        event = self._pending.get(identity)
        if event is None:
            if len(self._pending) >= QUEUED:
                return
            event = self._new(pod, field, reason, message, warning, now)
            if sent := self._sent.get(identity):
                event["metadata"] = sent["metadata"]
                event["firstTimestamp"], event["count"] = sent["firstTimestamp"], sent["count"]
            self._pending[identity] = event
        event["count"] += 1
        event["lastTimestamp"] = now
        self._wake.set()

    async def run(self) -> None:
        """Send what is recorded, for ever."""
        allowed, last = float(BURST), time.monotonic()
        while True:
            await self._wake.wait()
            if not self._pending:
                self._wake.clear()
                continue
            now = time.monotonic()
            allowed, last = min(float(BURST), allowed + (now - last) * PER_SECOND), now
            if allowed < 1:
                await asyncio.sleep((1 - allowed) / PER_SECOND)
                continue
            allowed -= 1
            await self._send(*self._pending.popitem(last=False))

    async def _send(self, identity: tuple[str, ...], event: JSON) -> None:
        meta = event["metadata"]
        try:
            if identity in self._sent:
                patch = {k: event[k] for k in ("count", "lastTimestamp")}
                await self._client.patch(EVENTS, meta["name"], patch, meta["namespace"])
            else:
                await self._client.create(EVENTS, event, meta["namespace"])
        except StatusError as error:
            log.debug("event %s is lost: %s", identity, error)
            self._sent.pop(identity, None)
            return
        self._sent[identity] = event
        if len(self._sent) > REMEMBERED:
            self._sent.popitem(last=False)

    def _new(
        self, pod: Pod, field: str, reason: str, message: str, warning: bool, now: str
    ) -> JSON:
        meta = pod.metadata
        regarding = {
            "apiVersion": "v1", "kind": "Pod", "namespace": meta.namespace, "name": meta.name,
            "uid": meta.uid, "resourceVersion": meta.resource_version,
        }  # fmt: skip
        if field:
            regarding["fieldPath"] = field
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{meta.name}.{next(self._numbers):x}",
                "namespace": meta.namespace,
            },
            "involvedObject": regarding,
            "reason": reason,
            "message": message[:1024],
            "type": "Warning" if warning else "Normal",
            "source": {"component": "kubelet", "host": self._node},
            "reportingComponent": "kubelet",
            "reportingInstance": self._node,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 0,
        }
