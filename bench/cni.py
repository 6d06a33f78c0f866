"""The plugins as a runtime executes them, and what pods get through their cables (`bench.podpath`).

Peer, in the same run: the reference ``bridge`` with ``host-local``.
"""

import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from bench import podpath
from cni.runtime import BIN, REFERENCE, SOCKET, Runtime, agent
from kubewire.cni import install
from kubewire.kernel import namespaces, netns, process, sandbox

CALLS = 50
PARALLEL = 40
SEQUENCE = 1000

OURS = {"type": "kubewire-cni", "ipam": {"type": "kubewire-ipam", "subnet": "10.1.0.0/16"}}
THEIRS = {
    "type": "bridge",
    "bridge": "br0",
    "isGateway": True,
    "ipam": {"type": "host-local", "subnet": "10.2.0.0/16"},
}
DUAL = {
    "type": "kubewire-cni",
    "ipam": {
        "type": "kubewire-ipam",
        "ranges": [[{"subnet": "10.1.0.0/16"}], [{"subnet": "fd00:1::/64"}]],
    },
}
Figures = list[dict[str, Any]]


def figures() -> Iterator[dict[str, Any]]:
    for part in (_calls, _parallel, _sequence, _dual_sequence, _reference_sequence):
        yield from sandbox.run(part, user_namespace=True)  # type: ignore[misc]
    yield from podpath.figures()


# -- calls -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _installed() -> Iterator[tuple[Runtime, int]]:
    namespaces.mount_tmpfs("/var/lib")
    install.install_programs(BIN, socket=SOCKET)
    with agent() as child:
        yield Runtime([OURS], [BIN]), child.pid


def _timed(
    runtime: Runtime, command: str, container: str, previous: Any = None
) -> tuple[float, Any]:
    config = runtime.config(runtime.plugins[0], previous)
    began = time.perf_counter()
    done = runtime.call(command, config, container)
    seconds = time.perf_counter() - began
    assert done.status == 0, done.answer
    return seconds, done.answer


def _calls() -> Figures:
    with _installed() as (ours, _):
        theirs = Runtime([THEIRS], [REFERENCE], name="reference")
        taken: dict[str, list[float]] = {}
        for number in range(CALLS):
            for name, runtime in (("kubewire", ours), ("bridge", theirs)):
                container = f"{name}{number}"
                netns.create(Path(f"/run/netns/{container}"))
                seconds, result = _timed(runtime, "ADD", container)
                taken.setdefault(f"{name} ADD", []).append(seconds)
                seconds, _ = _timed(runtime, "DEL", container, result)
                taken.setdefault(f"{name} DEL", []).append(seconds)
    found = {name: statistics.median(values) for name, values in taken.items()}
    return [
        {
            "figure": f"{command}, median of {CALLS}",
            "ms": round(found[f"kubewire {command}"] * 1000, 2),
            "bridge + host-local ms": round(found[f"bridge {command}"] * 1000, 2),
            "ratio": round(found[f"kubewire {command}"] / found[f"bridge {command}"], 3),
        }
        for command in ("ADD", "DEL")
    ]


def _parallel() -> Figures:
    with _installed() as (ours, _):
        theirs = Runtime([THEIRS], [REFERENCE], name="reference")
        seconds = {}
        for name, runtime in (("kubewire", ours), ("bridge", theirs)):
            spaces = [f"{name}{number}" for number in range(PARALLEL)]
            for space in spaces:
                netns.create(Path(f"/run/netns/{space}"))
            began = time.perf_counter()
            children = [
                process.fork_into(lambda s=space, r=runtime: sys.exit(_status(r, s)))  # type: ignore[misc]
                for space in spaces
            ]
            assert [child.wait_blocking() for child in children] == [0] * PARALLEL
            seconds[name] = time.perf_counter() - began
    return [
        {
            "figure": f"{PARALLEL} parallel ADDs",
            "ms": round(seconds["kubewire"] * 1000),
            "bridge + host-local ms": round(seconds["bridge"] * 1000),
            "ratio": round(seconds["kubewire"] / seconds["bridge"], 3),
        }
    ]


def _status(runtime: Runtime, container: str) -> int:
    return runtime.call("ADD", runtime.config(runtime.plugins[0], None), container).status


def _sequence() -> Figures:
    return _grown("ADDs in sequence", OURS)


def _dual_sequence() -> Figures:
    return _grown("dual-stack ADDs in sequence", DUAL)


def _grown(title: str, plugin: dict[str, Any]) -> Figures:
    with _installed() as (ours, agent_pid):
        ours.plugins = [plugin]
        taken, used = _filled(ours, lambda: _cpu(agent_pid))
    first, last = _ends(taken)
    early, late = ((used[end] - used[end - 99]) / 99 * 1000 for end in (99, SEQUENCE - 1))
    return [
        {
            "figure": f"{SEQUENCE} {title}",
            "first hundred ms": round(first, 2),
            "last hundred ms": round(last, 2),
            "ratio": round(last / first, 3),
            "first hundred agent CPU ms": round(early, 2),
            "last hundred agent CPU ms": round(late, 2),
            "CPU ratio": round(late / early, 3),
        }
    ]


def _reference_sequence() -> Figures:
    namespaces.mount_tmpfs("/var/lib")
    taken, _ = _filled(Runtime([THEIRS], [REFERENCE], name="reference"), float)
    first, last = _ends(taken)
    return [
        {
            "figure": f"{SEQUENCE} ADDs in sequence, bridge + host-local",
            "first hundred ms": round(first, 2),
            "last hundred ms": round(last, 2),
            "ratio": round(last / first, 3),
        }
    ]


def _filled(runtime: Runtime, used: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Seconds of each ADD, and what ``used`` says after it."""
    taken, after = [], []
    for number in range(SEQUENCE):
        netns.create(Path(f"/run/netns/c{number}"))
        taken.append(_timed(runtime, "ADD", f"c{number}")[0])
        after.append(used())
    return taken, after


def _ends(taken: list[float]) -> tuple[float, float]:
    """Milliseconds at the start and at the end: lower quartiles, so that neighbours do not count."""
    first, last = (statistics.quantiles(part)[0] * 1000 for part in (taken[:100], taken[-100:]))
    return first, last


def _cpu(pid: int) -> float:
    """Seconds that a process has run."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


if __name__ == "__main__":
    for line in figures():
        print(json.dumps(line))
