"""A proxy that is killed while it writes rules, again and again, and packets that must not notice."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kubewire.kernel.probe import PODS as FROM_PODS
from kubewire.kernel.probe import Probe, Shot
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.plan import plan
from kubewire.kubeproxy.table import Change
from kubewire.kubeproxy.topology import NodeView
from tests.kubeproxy.rows import NODE_IP, PODS, service, slice_

CONFIG = Config(cluster_cidrs=PODS)
SHOT = Shot("10.244.200.9", "10.96.0.1", 80, way_in=FROM_PODS)
Work = Callable[[Callable[[], None]], None]
"""Goes on for ever; calls what it is given after each step."""


def changes(count: int) -> list[Change]:
    """So many Services with five endpoints each."""
    services = [service(f"s{i}", f"10.96.{i >> 8}.{i & 255}") for i in range(1, count + 1)]
    slices = [
        slice_(*(f"10.244.{i & 127}.{j}@node-a" for j in range(1, 6)), of=f"s{i}")
        for i in range(1, count + 1)
    ]
    found = plan(services, slices, NodeView("node-a", (NODE_IP,)), CONFIG)
    return [Change(key, None, frontend) for key, frontend in found.frontends.items()]


def served(probe: Probe) -> bool:
    """A packet to the first Service comes to one of its endpoints."""
    (seen,) = probe.fire([SHOT])
    return seen.target.startswith("10.244.1.") and seen.source == SHOT.source


@contextmanager
def working(work: Work) -> Iterator[int]:
    """A process that works, until it is killed; a descriptor to read a byte from after each step."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        work(lambda: os.write(writing, b".") and None)
    os.close(writing)
    try:
        yield reading
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)


def kill_in_the_middle(probe: Probe, work: Work, times: int) -> None:
    """Each time at another point: after so many packets."""
    for kills in range(times):
        with working(work) as steps:
            os.read(steps, 1)
            assert all(served(probe) for _ in range(20 + 37 * kills))
        assert all(served(probe) for _ in range(20))
