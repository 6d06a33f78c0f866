"""The first minute of a cluster: apply add-ons and manifests, wait until all of it is Ready.

Runs inside the sandbox, forked from the supervisor, and tells the command line by one JSON line per
event: ``{"event": "progress"|"ready"|"failed", ...}``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from kubewire.api.errors import InputError, StatusError
from kubewire.api.meta import JSON
from kubewire.api.resources import (
    DAEMON_SETS,
    DEPLOYMENTS,
    EVENTS,
    JOBS,
    NODES,
    PODS,
    REPLICA_SETS,
    STATEFUL_SETS,
)
from kubewire.client.informer import Informer
from kubewire.client.manifests import Manifest
from kubewire.client.rest import Client
from kubewire.cluster.addons import addons
from kubewire.cluster.apply import apply, ensure_namespace
from kubewire.cluster.options import Start
from kubewire.cluster.readiness import unready

Tell = Callable[[dict[str, Any]], None]
SETTLE = 10.0
"""Seconds that the final sync may take, though no time to wait is left."""


async def bootstrap(client: Client, start: Start, tell: Tell) -> bool:
    """Do it all; True if everything became Ready in time."""
    began = time.monotonic()
    try:
        own = [Manifest("kubewire", 1, obj) for obj in addons(start.options)]
        await ensure_namespace(client, start.namespace)
        await apply(client, [*own, *start.manifests], start.namespace)
    except (InputError, StatusError) as error:
        tell({"event": "failed", "bad_input": True, "lines": str(error).splitlines()})
        return False
    tell(
        {
            "event": "progress",
            "stage": "applied",
            "objects": len(start.manifests),
            "seconds": time.monotonic() - began,
        }
    )
    waiting = await _wait_ready(client, start, tell)
    if not waiting:
        try:
            left = max(SETTLE, start.patience - (time.monotonic() - began))
            await client.request(
                "POST", "/kubewire/v1/sync", params={"timeoutSeconds": f"{left:g}"}
            )
        except StatusError as error:
            waiting = [("sync", str(error))]
    if waiting:
        waiting = await _with_warnings(client, waiting)
        tell(
            {
                "event": "failed",
                "bad_input": False,
                "lines": [f"{name}: {why}" for name, why in waiting],
            }
        )
        return False
    tell({"event": "ready", "seconds": time.monotonic() - began})
    return True


async def _with_warnings(client: Client, waiting: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Add the last warning that was recorded about each object: it usually is the cause."""
    warnings: dict[str, str] = {}
    for event in await client.list(EVENTS):
        about = event.get("involvedObject") or {}
        if event.get("type") == "Warning":
            name = f"{about.get('kind')} {about.get('namespace')}/{about.get('name')}"
            warnings[name] = str(event.get("message", ""))
    return [(n, f"{why} ({warnings[n]})" if n in warnings else why) for n, why in waiting]


async def _wait_ready(client: Client, start: Start, tell: Tell) -> list[tuple[str, str]]:
    """Watch until nothing is unready; what is left at the timeout."""
    kinds = (NODES, PODS, DEPLOYMENTS, REPLICA_SETS, STATEFUL_SETS, DAEMON_SETS, JOBS)
    informers: list[Informer[JSON]] = [Informer(client, kind, dict) for kind in kinds]
    changed = asyncio.Event()
    for informer in informers:
        informer.listen(lambda _: changed.set())
    tasks = [asyncio.create_task(i.run(), name=f"ready-{i.resource.plural}") for i in informers]
    deadline = time.monotonic() + start.patience
    try:
        for informer in informers:
            await informer.wait_synced()
        while True:
            changed.clear()
            waiting = unready(obj for i in informers for obj in i.store.values())
            missing = start.options.nodes - len(informers[0].store)
            if missing > 0:
                waiting.append(("Node", f"{missing} of {start.options.nodes} have not joined"))
            pods = informers[1].store
            tell(
                {
                    "event": "progress",
                    "stage": "waiting",
                    "pods": len(pods),
                    "waiting": len(waiting),
                }
            )
            if not waiting:
                return []
            try:
                await asyncio.wait_for(changed.wait(), deadline - time.monotonic())
            except TimeoutError:
                return waiting
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
