"""All controllers in one event loop over shared informers."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from kubewire.api.errors import InputError
from kubewire.api.resources import (
    BUILTIN,
    EVENTS,
    INGRESS_CLASSES,
    LIMIT_RANGES,
    PERSISTENT_VOLUMES,
    REPLICA_SETS,
    REPLICATION_CONTROLLERS,
    RESOURCE_QUOTAS,
)
from kubewire.client.loop import Loop, run_all
from kubewire.client.rest import Client
from kubewire.controllermanager import (
    cronjob,
    daemonset,
    defaults,
    deployment,
    disruption,
    endpoints,
    endpointslice,
    garbage,
    job,
    loadbalancer,
    namespaces,
    nodeipam,
    nodelifecycle,
    replicaset,
    scheduler,
    statefulset,
)
from kubewire.controllermanager.context import Context

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """What the controllers need to be told."""

    controllers: tuple[str, ...] = ("*",)
    """Names to run; ``*`` means all, ``-NAME`` leaves one out."""
    cluster_cidrs: tuple[str, ...] = ()
    """Pod ranges of the cluster, one per family; none: nodes get no range from here."""
    node_masks: dict[int, int] = field(default_factory=lambda: dict(nodeipam.MASKS))
    """Prefix length of a node's range, per IP version."""
    lb_pool: tuple[str, ...] = ()
    """Addresses and ranges for LoadBalancer Services."""
    node_grace: float = 40.0
    """Seconds without a sign of life after which a node is not ready."""
    root_ca: str = ""
    """PEM that goes into each namespace's kube-root-ca.crt."""


FOLLOWED = tuple(
    r for r in BUILTIN if r.group in ("", "apps", "batch", "discovery.k8s.io", "networking.k8s.io")
    and r not in (EVENTS, LIMIT_RANGES, RESOURCE_QUOTAS, PERSISTENT_VOLUMES, INGRESS_CLASSES)
)  # fmt: skip
"""What the garbage collector looks at."""


def chosen(names: tuple[str, ...]) -> list[str]:
    """The controllers that ``--controllers`` asks for; InputError names an unknown one."""
    for name in names:
        if name.removeprefix("-") not in (*CONTROLLERS, "*"):
            raise InputError(f'--controllers: "{name}" is not in the list of known controllers')
    everything = "*" in names
    return [n for n in CONTROLLERS if n in names or (everything and f"-{n}" not in names)]


def build(context: Context, options: Options) -> list[Loop]:
    """The control loops of the chosen controllers."""
    return [loop for n in chosen(options.controllers) for loop in CONTROLLERS[n](context, options)]


async def run(client: Client, options: Options | None = None) -> None:
    """Run the controllers for ever."""
    context = Context(client)
    loops = build(context, options or Options())
    async with asyncio.TaskGroup() as group:
        group.create_task(context.recorder.run(), name="events")
        group.create_task(run_all(loops, extra=context.informers.values()), name="controllers")


def _ipam(context: Context, options: Options) -> list[Loop]:
    if not options.cluster_cidrs:
        return []
    return [nodeipam.loop(context, options.cluster_cidrs, options.node_masks)]


CONTROLLERS: dict[str, Callable[[Context, Options], list[Loop]]] = {
    "namespace-defaults": lambda c, o: [defaults.controller(c, o.root_ca).loop],
    "node-ipam": _ipam,
    "deployment": lambda c, o: [deployment.controller(c).loop],
    "replicaset": lambda c, o: [replicaset.controller(c, REPLICA_SETS).loop],
    "replicationcontroller": lambda c, o: [replicaset.controller(c, REPLICATION_CONTROLLERS).loop],
    "scheduler": lambda c, o: [scheduler.Scheduler(c).loop],
    "statefulset": lambda c, o: [statefulset.controller(c).loop],
    "claim-binder": lambda c, o: [statefulset.binder(c).loop],
    "daemonset": lambda c, o: [daemonset.controller(c).loop],
    "cronjob": lambda c, o: [cronjob.controller(c).loop],
    "disruption": lambda c, o: [disruption.controller(c).loop],
    "job": lambda c, o: [job.controller(c).loop],
    "node-lifecycle": lambda c, o: [nodelifecycle.Lifecycle(c, o.node_grace).loop],
    "load-balancer": lambda c, o: [loadbalancer.loop(c, o.lb_pool)] if o.lb_pool else [],
    "endpointslice": lambda c, o: [endpointslice.controller(c).loop],
    "endpoints": lambda c, o: [endpoints.controller(c).loop],
    "endpointslice-mirroring": lambda c, o: [endpoints.mirror(c).loop],
    "garbage": lambda c, o: [garbage.Collector(c, FOLLOWED).keyed.loop],
    "namespace": lambda c, o: [namespaces.controller(c).loop],
}
"""Name -> loops; ``namespace`` comes last: it listens to whatever the others follow."""
