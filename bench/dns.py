"""Cluster DNS under dnsperf: questions answered per CPU-second of the server, beside its peers.

Everything runs in one private network namespace: an API server, then one DNS server at a time
(``LANES=alone``), then those of the cluster side by side (``LANES=turns``, see ``dnsturns``). CoreDNS
is taken from ``PATH`` or the variable ``COREDNS``; nsd, unbound and dnsmasq are Debian's; who is missing
is named. ``SERVERS`` is a regular expression of the servers' names.
"""

import asyncio
import compileall
import json
import os
import random
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubewire
from bench.dnsturns import in_turns
from bench.dnsworld import (
    HEADLESS,
    PATHS,
    PORT,
    SERVICES,
    SERVICES_PATH,
    ZONE,
    Run,
    Server,
    answers,
    api,
    dnsperf,
    ip,
    process,
    run,
    servers,
    service,
    service_name,
    status,
    until,
    write,
)
from kubewire.kernel import sandbox
from kubewire.lang.dns.message import Message, Question, encode, parse

SECONDS = int(os.environ.get("SECONDS_EACH", "3"))


def figures() -> Iterator[dict[str, Any]]:
    # Starting is measured, compiling to bytecode is not: an installed package has it done.
    compileall.compile_dir(Path(kubewire.__file__).parent, quiet=2)
    with tempfile.TemporaryDirectory() as folder:
        yield from sandbox.run(lambda: list(_measure(Path(folder))))  # type: ignore[misc]


# The questions


def _questions(folder: Path) -> dict[str, Path]:
    random.seed(1)
    order = random.sample(range(SERVICES), SERVICES)
    lists = {
        "A of Services": [f"{service_name(i)} A" for i in order],
        "SRV of headless": [f"_http._tcp.h{i % HEADLESS}.d.svc.{ZONE} SRV" for i in order[:1000]],
        "NXDOMAIN of search paths": [
            f"www.example{i}.com.{middle}{ZONE} {kind}"
            for i in order[:1000]
            for middle in ("d.svc.", "svc.", "")
            for kind in ("A", "AAAA")
        ],
    }
    return {n: write(folder / f"q{i}", lines) for i, (n, lines) in enumerate(lists.items())}


def _cold(folder: Path, run: int) -> Path:
    """Names that nobody has asked for: pods by dashed address."""
    return write(
        folder / f"cold{run}",
        [f"{ip(10, 200 + run, i).replace('.', '-')}.d.pod.{ZONE} A" for i in range(200_000)],
    )


# Measuring


def _measure(folder: Path) -> Iterator[dict[str, Any]]:
    questions = _questions(folder)
    missing = [p for p in ("nsd", "unbound", "dnsmasq") if not shutil.which(p, path=PATHS)]
    if not (os.environ.get("COREDNS") or shutil.which("coredns")):
        missing.append("coredns")
    if missing:
        yield {"figure": "peers that are not installed", "value": missing}
    chosen, lanes = os.environ.get("SERVERS", ""), os.environ.get("LANES", "")
    with api(folder) as kubeconfig:
        if re.search(lanes, "turns"):
            yield from in_turns(folder, kubeconfig, chosen)
        if not re.search(lanes, "alone"):
            return
        yield from _autopath(folder, kubeconfig)
        for number, server in enumerate(servers(folder, kubeconfig)):
            if chosen and not re.search(chosen, server.name):
                continue
            log = folder / f"{number}.log"
            began = time.perf_counter()
            with process(server.command, log, server.env) as pid:
                try:
                    until(lambda: answers(service_name(SERVICES - 1)), server.name)
                    yield {
                        "figure": "first answer after start",
                        "server": server.name,
                        "s": round(time.perf_counter() - began, 2),
                    }
                    yield from _load(server, pid, questions, folder, number)
                    if server.cluster and "cached" not in server.name:
                        yield asyncio.run(_changes(kubeconfig, server))
                    yield {
                        "figure": "memory, peak", "server": server.name,
                        "MiB": status(pid, "VmHWM"), "now_MiB": status(pid, "VmRSS"),
                    }  # fmt: skip
                except RuntimeError as error:
                    yield {
                        "figure": "failed",
                        "server": server.name,
                        "why": f"{error}: {log.read_text()[-300:]}",
                    }


SEARCH = (f"d.svc.{ZONE}.", f"svc.{ZONE}.", f"{ZONE}.")
OUTSIDE = "www.example.com."


def _autopath(folder: Path, kubeconfig: Path) -> Iterator[dict[str, Any]]:
    """Questions that a pod's resolver (ndots:5) puts until it has the address of an outside name."""
    resolv, conf = folder / "search", folder / "Corefile.autopath"
    resolv.write_text(f"search {' '.join(SEARCH)}\n")
    for directive in ("", f"autopath {resolv}"):
        conf.write_text(
            f".:{PORT} {{\n {directive}\n hosts {{\n  192.0.2.1 {OUTSIDE}\n  fallthrough\n }}\n"
            f" kubernetes {ZONE} {{\n  kubeconfig {kubeconfig}\n }}\n}}\n"
        )
        command = [sys.executable, "-m", "kubewire", "dns", "--quiet", "--conf", str(conf)]
        with process(command, folder / "autopath.log"):
            until(lambda: answers(service_name(0)), "autopath")
            names = [f"{OUTSIDE}{domain}".rstrip(".") for domain in SEARCH] + [OUTSIDE.rstrip(".")]
            found = [answers(name) for name in names]
        yield {
            "figure": "questions per look-up of an outside name",
            "server": f"kubewire {'with' if directive else 'without'} autopath",
            "questions": found.index(True) + 1,
        }  # fmt: skip


def _load(
    server: Server, pid: int, questions: dict[str, Path], folder: Path, number: int
) -> Iterator[dict[str, Any]]:
    for what, path in questions.items():
        if not server.cluster and what.startswith("SRV"):
            continue
        dnsperf(path, "-n", "1")
        yield _figure(server, what, run(pid, path, "-l", str(SECONDS)))
    if server.cluster and "cached" not in server.name:
        # The memory that is told afterwards is that with a full table.
        dnsperf(_cold(folder, number), "-n", "1", "-l", str(SECONDS))


async def _changes(kubeconfig: Path, server: Server) -> dict[str, Any]:
    """From the API server's 201 to the first answer with the new address."""
    from kubewire.client import kubeconfig as files
    from kubewire.client.rest import Client

    client = Client.from_connection(files.connection(files.load(str(kubeconfig)), None))
    spent = []
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(("127.0.0.1", PORT))
        for i in range(100):
            name = f"c{i}-{os.getpid()}-{abs(hash(server.name)) % 1000}"
            body = {**service(60_000 - i), "metadata": {"name": name, "namespace": "d"}}
            await client.raw("POST", SERVICES_PATH, body=body)
            began = time.perf_counter()
            while True:
                question = Question(f"{name}.d.svc.{ZONE}.", 1)
                await loop.sock_sendall(sock, encode(Message(7, 0x0100, question)))
                if parse(await loop.sock_recv(sock, 4096)).answer:
                    break
                await asyncio.sleep(0.0005)
            spent.append((time.perf_counter() - began) * 1000)
            await client.raw("DELETE", f"{SERVICES_PATH}/{name}")
    await client.close()
    spent.sort()
    return {
        "figure": "a new Service answers", "server": server.name,
        "p50_ms": round(spent[50], 2), "p99_ms": round(spent[98], 2),
    }  # fmt: skip


def _figure(server: Server, what: str, *runs: Run) -> dict[str, Any]:
    answered, spent = sum(r.answered for r in runs), sum(r.cpu for r in runs)
    return {
        "figure": what, "server": server.name,
        "per_cpu_s": round(answered / spent) if spent else None,
        "per_s": round(answered / sum(r.seconds for r in runs)), "lost": sum(r.lost for r in runs),
    }  # fmt: skip


if __name__ == "__main__":
    for figure in figures():
        print(json.dumps(figure))
