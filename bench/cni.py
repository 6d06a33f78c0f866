"""The plugins as a runtime executes them, and what pods get through their cables (`bench.podpath`).

Peer, in the same run: the reference ``bridge`` with ``host-local``.
"""

import contextlib
import json
import statistics
import sys
import time
from collections.abc import Iterator
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
def _installed() -> Iterator[Runtime]:
    namespaces.mount_tmpfs("/var/lib")
    install.install_programs(BIN, socket=SOCKET)
    with agent():
        yield Runtime([OURS], [BIN])


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
    with _installed() as ours:
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
    with _installed() as ours:
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
    """The last hundred of a node that fills up, in turn with the first hundred of another one.

    Neighbours on the machine slow both alike.
    """
    namespaces.mount_tmpfs("/var/lib")
    taken: dict[str, list[float]] = {"first": [], "last": []}
    used: dict[str, list[float]] = {"first": [], "last": []}
    with contextlib.ExitStack() as stack:
        nodes = {name: stack.enter_context(_node(name, plugin)) for name in taken}
        for number in range(SEQUENCE - 100):
            _added(nodes["last"][0], f"before{number}")
        for number in range(100):
            for name in ("first", "last") if number % 2 else ("last", "first"):
                runtime, pid = nodes[name]
                before = _cpu(pid)
                taken[name].append(_added(runtime, f"{name}{number}"))
                used[name].append(_cpu(pid) - before)
    (first, last), (early, late) = (
        [statistics.quantiles(found[name])[0] * 1000 for name in found] for found in (taken, used)
    )
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


@contextlib.contextmanager
def _node(name: str, plugin: dict[str, Any]) -> Iterator[tuple[Runtime, int]]:
    """A node of its own with an agent."""
    space, programs, socket = Path(f"/run/netns/{name}"), Path(f"/run/{name}"), Path(f"/run/{name}.sock")  # fmt: skip
    netns.create(space)
    install.install_programs(programs, socket=socket)
    ipam = plugin["ipam"] | {"dataDir": f"/var/lib/{name}"}
    with agent(socket, space) as child:
        yield Runtime([plugin | {"ipam": ipam}], [programs]), child.pid


def _added(runtime: Runtime, container: str) -> float:
    netns.create(Path(f"/run/netns/{container}"))
    return _timed(runtime, "ADD", container)[0]


def _reference_sequence() -> Figures:
    namespaces.mount_tmpfs("/var/lib")
    runtime = Runtime([THEIRS], [REFERENCE], name="reference")
    taken = [_added(runtime, f"c{number}") for number in range(SEQUENCE)]
    # Lower quartiles, so that neighbours do not count.
    first, last = (statistics.quantiles(part)[0] * 1000 for part in (taken[:100], taken[-100:]))
    return [
        {
            "figure": f"{SEQUENCE} ADDs in sequence, bridge + host-local",
            "first hundred ms": round(first, 2),
            "last hundred ms": round(last, 2),
            "ratio": round(last / first, 3),
        }
    ]


def _cpu(pid: int) -> float:
    """Seconds that a process has run."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


if __name__ == "__main__":
    for line in figures():
        print(json.dumps(line))
