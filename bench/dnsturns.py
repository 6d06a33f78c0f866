"""DNS servers side by side and in turns: what one of them gains does not come from a quieter moment.

All run at once, each at a port of its own, idle but for its turns. Each turn puts names that nobody
has asked for; a figure is the median of the turns with its quartiles, and so is the ratio of each turn
to CoreDNS' turn beside it.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

from bench.dnsworld import (
    LABELS,
    NAMESPACES,
    SERVICES,
    ZONE,
    Server,
    answers,
    cluster_servers,
    dnsperf,
    ip,
    process,
    run,
    service_name,
    until,
    write,
)

TURNS = int(os.environ.get("TURNS", "7"))
SECONDS = 0.4
NAMES = 60_000
"""Of one turn: more than a server answers in it."""
QUERIES_PER_SECOND = 5000
LATENCY_SECONDS = 1
APART = 10
"""Between the ports of two servers."""


class Running(NamedTuple):
    server: Server
    pid: int


def in_turns(folder: Path, kubeconfig: Path, chosen: str) -> Iterator[dict[str, Any]]:
    """Cold names of pods and of search paths, NXDOMAIN against hits, then latency."""
    with contextlib.ExitStack() as stack:
        running = []
        for server in cluster_servers(folder, kubeconfig, lambda number: APART * (number + 1)):
            if chosen and not re.search(chosen, server.name):
                continue
            log = folder / f"turns-{server.port}.log"
            pid = stack.enter_context(process(server.command, log, server.env))
            until(lambda at=server.port: answers(service_name(SERVICES - 1), at), server.name)  # type: ignore[misc]
            running.append(Running(server, pid))
        plain = [r for r in running if "cached" not in r.server.name]
        for what, kind in (("cold names", _pods), ("cold NXDOMAIN of search paths", _nowhere)):
            yield from _cold(what, kind, folder, plain)
        yield from _storm(folder, running)
        yield from _latency(folder, running)


def _pods(turn: int, number: int) -> str:
    return f"{ip(10, 128 + turn, number).replace('.', '-')}.d.pod.{ZONE}"


def _nowhere(turn: int, number: int) -> str:
    middle = ("d.svc.", "svc.", "")[number % 3]
    return f"www.t{turn}-{number // 3}.com.{middle}{ZONE}"


def _cold(what: str, kind: Any, folder: Path, running: list[Running]) -> Iterator[dict[str, Any]]:
    rates: dict[str, list[float]] = {r.server.name: [] for r in running}
    lost = dict.fromkeys(rates, 0)
    for turn in range(TURNS):
        path = write(folder / "cold", [f"{kind(turn, i)} A" for i in range(NAMES)])
        # Who comes first changes, so that nobody always follows the same neighbour.
        for server, pid in running[turn % len(running) :] + running[: turn % len(running)]:
            found = run(pid, path, "-n", "1", "-l", str(SECONDS), port=server.port)
            rates[server.name].append(found.answered / found.cpu)
            lost[server.name] += found.lost
    for name, values in rates.items():
        yield {"figure": what, "server": name, "per_cpu_s": _middle(values, 0), "lost": lost[name]}
    yield from _against("CoreDNS", f"{what} against CoreDNS", rates)


def _pair(folder: Path) -> dict[str, Path]:
    """What a pod asks of a Service and of an outside name: both families, one client after another.

    First labels of the same lengths below three domains whose lengths lie as far apart, and as many
    questions. Addresses have two sizes, one per family; NXDOMAIN has one.
    """
    hits = [f"www-example{i}-com.{n}.svc.{ZONE}" for i in range(LABELS) for n in NAMESPACES]
    path = ("d.svc.", "svc.", "")
    storm = [f"www.example{i}.com.{middle}{ZONE}" for i in range(LABELS) for middle in path]
    lists = {"hits of ndots:5 clients": hits, "NXDOMAIN of ndots:5 clients": storm}
    return {
        what: write(folder / f"pair{i}", [f"{n} {kind}" for n in names for kind in ("A", "AAAA")])
        for i, (what, names) in enumerate(lists.items())
    }


def _storm(folder: Path, running: list[Running]) -> Iterator[dict[str, Any]]:
    """NXDOMAIN against hits: both in each turn, who is first changes."""
    hits, storm = lists = list(_pair(folder).items())
    for server, _ in running:
        for _, path in lists:
            dnsperf(path, "-n", "1", port=server.port)
    for server, pid in running:
        rates: dict[str, list[float]] = {what: [] for what, _ in lists}
        for turn in range(2 * TURNS):
            for what, path in lists if turn % 2 else lists[::-1]:
                found = run(pid, path, "-l", str(SECONDS), port=server.port)
                rates[what].append(found.answered / found.cpu)
        for what, values in rates.items():
            yield {"figure": what, "server": server.name, "per_cpu_s": _middle(values, 0)}
        ratios = [b / a for a, b in zip(rates[hits[0]], rates[storm[0]], strict=True)]
        yield {"figure": "NXDOMAIN against hits", "server": server.name, "x": _middle(ratios, 2)}


def _latency(folder: Path, running: list[Running]) -> Iterator[dict[str, Any]]:
    path = write(folder / "kept", [f"{service_name(i)} A" for i in range(SERVICES)])
    p50: dict[str, list[float]] = {r.server.name: [] for r in running}
    p99: dict[str, list[float]] = {r.server.name: [] for r in running}
    for server, _ in running:
        dnsperf(path, "-n", "1", port=server.port)
    for turn in range(TURNS):
        for server, _ in running[turn % len(running) :] + running[: turn % len(running)]:
            text = dnsperf(
                path, "-l", str(LATENCY_SECONDS), "-Q", str(QUERIES_PER_SECOND), "-v", port=server.port
            )  # fmt: skip
            found = sorted(float(m) * 1000 for m in re.findall(r"^> NOERROR \S+ \S+ ([\d.]+)", text, re.MULTILINE))  # fmt: skip
            p50[server.name].append(found[len(found) // 2])
            p99[server.name].append(found[len(found) * 99 // 100])
    for name, values in p50.items():
        yield {
            "figure": "latency at 5,000/s", "server": name,
            "p50_ms": _middle(values, 3), "p99_ms": _middle(p99[name], 3),
        }  # fmt: skip
    yield from _against("CoreDNS cached", "p99 at 5,000/s against CoreDNS cached", p99)


def _against(peer: str, what: str, found: dict[str, list[float]]) -> Iterator[dict[str, Any]]:
    for name, values in found.items():
        if peer in found and name.startswith("kubewire"):
            ratios = [a / b for a, b in zip(values, found[peer], strict=True)]
            yield {"figure": what, "server": name, "x": _middle(ratios, 2)}


def _middle(values: list[float], digits: int) -> dict[str, Any]:
    low, middle, high = (
        round(value, digits or None) for value in quantiles(values, n=4, method="inclusive")
    )
    return {"median": middle, "quartiles": [low, high]}
