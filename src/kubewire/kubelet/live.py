"""What all workers of a node share, and what they know of a container that runs."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from kubewire.client.rest import Client
from kubewire.kubelet.enter import Entrance
from kubewire.kubelet.events import Recorder
from kubewire.kubelet.furnish import Furnisher
from kubewire.kubelet.network import PodNetwork, PolicyGate
from kubewire.kubelet.prober import Prober
from kubewire.kubelet.probes import Group
from kubewire.kubelet.runtime import Run, Runtimes
from kubewire.kubelet.sandbox import Host


@dataclass(slots=True)
class Node:
    """What all workers of a node share."""

    client: Client
    host: Host
    network: PodNetwork
    gate: PolicyGate
    runtimes: Runtimes
    furnisher: Furnisher
    prober: Prober
    recorder: Recorder
    clock: Callable[[], float]
    maximum_backoff: float = 300.0
    on_settled: Callable[[], None] = lambda: None


@dataclass(slots=True)
class Live:
    """A container that runs: its run, its entrance, its probes."""

    run: Run
    entrance: Entrance
    probes: Group
    stopping: "asyncio.Task[None] | None" = None
    grace: float = 0.0
    is_builtin: bool = False
    has_passed: bool = False
    """The readiness probe has succeeded once."""
