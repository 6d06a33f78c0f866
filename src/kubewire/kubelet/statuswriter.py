"""Writes a pod's status to the API server, when it says something new; takes out a pod that has ended."""

import asyncio
import logging
from collections.abc import Sequence

from kubewire.api.errors import StatusError
from kubewire.api.meta import JSON
from kubewire.api.resources import PODS
from kubewire.client.rest import Client
from kubewire.kubelet.pod import Pod
from kubewire.kubelet.record import PodRecord
from kubewire.kubelet.status import pod_status

RETRY_SECONDS = 1.0

log = logging.getLogger(__name__)


class StatusWriter:
    """Of one pod."""

    def __init__(self, client: Client, host_ips: Sequence[str]) -> None:
        self._client = client
        self._host_ips = tuple(host_ips)
        self._written: JSON = {}

    async def write(self, pod: Pod, record: PodRecord, now: float) -> float:
        """Write it if it is new; when to try again."""
        never = float("inf")
        written = self._written.get("conditions") or ()
        status = pod_status(pod, record, self._host_ips, now, written)
        if status == self._written:
            return never
        meta = pod.metadata
        gone: JSON = {key: None for key in ("message", "reason") if key in self._written}
        patch = {"metadata": {"uid": meta.uid}, "status": {**gone, **status}}
        try:
            await self._client.patch(
                PODS, meta.name, patch, meta.namespace, kind="strategic", subresource="status"
            )
        except StatusError as error:
            if error.code in (404, 409):
                return never
            log.warning("status of pod %s cannot be written: %s", pod.key, error)
            return now + RETRY_SECONDS
        self._written = status
        return never

    async def remove(self, pod: Pod) -> None:
        """Take a pod out of the API, whose containers have ended; for as long as it takes."""
        meta = pod.metadata
        while True:
            try:
                await self._client.delete(
                    PODS, meta.name, meta.namespace, uid=meta.uid, grace_seconds=0
                )
            except StatusError as error:
                if error.code in (404, 409):
                    return
                log.warning("pod %s cannot be deleted: %s", pod.key, error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return
