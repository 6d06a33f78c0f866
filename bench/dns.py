"""Cluster DNS under dnsperf: questions answered per CPU-second of the server, beside its peers.

Everything runs in one private network namespace: an API server with 10,000 Services, 10,000 slices
of 10 endpoints and some headless Services, then one DNS server at a time. CPU is utime + stime of
the server's process alone, so that the generator beside it does not count. CoreDNS is taken from
``PATH`` or the variable ``COREDNS``; nsd, unbound and dnsmasq are Debian's; who is missing is named.
"""

import asyncio
import compileall
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import kubewire
from bench.apiserver import cpu_seconds
from kubewire.dns.explain import default_corefile
from kubewire.kernel import sandbox
from kubewire.lang.dns.message import Message, Question, encode, parse

SERVICES, ENDPOINTS, HEADLESS, ADDRESSES = 10_000, 10, 200, 6
LABELS, NAMESPACES = 300, ("d", "prd", "default")
"""First labels that a Service has in each of these namespaces, and that nothing has elsewhere."""
ROUNDS = 6
SECONDS = int(os.environ.get("SECONDS_EACH", "3"))
ZONE = "cluster.local"
PATHS = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
PORT = 5353

CACHED = default_corefile().replace(f"cache 30 {{\n       disable success {ZONE}\n       disable denial {ZONE}\n    }}", "cache 30")  # fmt: skip


def figures() -> Iterator[dict[str, Any]]:
    # Starting is measured, compiling to bytecode is not: an installed package has it done.
    compileall.compile_dir(Path(kubewire.__file__).parent, quiet=2)
    with tempfile.TemporaryDirectory() as folder:
        yield from sandbox.run(lambda: list(_measure(Path(folder))))  # type: ignore[misc]


# The world


def service_name(index: int) -> str:
    return f"s{index}.d.svc.{ZONE}"


def _service(index: int) -> dict[str, Any]:
    spec = {"clusterIP": _ip(10, 96, index + 256), "ports": [{"name": "http", "port": 80}]}
    return {"metadata": {"name": f"s{index}", "namespace": "d"}, "spec": spec}


def _dual(number: int, name: str, namespace: str) -> dict[str, Any]:
    both = [_ip(10, 96, number + 40_000), f"fd00:96::{number + 1:x}"]
    spec = {"clusterIP": both[0], "clusterIPs": both, "ipFamilyPolicy": "RequireDualStack", "ports": [{"name": "http", "port": 80}]}  # fmt: skip
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


def _headless(index: int) -> dict[str, Any]:
    spec = {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}
    return {"metadata": {"name": f"h{index}", "namespace": "d"}, "spec": spec}


def _slice(service: str, first: int, count: int) -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"{service}-x1",
            "namespace": "d",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": [_ip(10, 128, n)], "conditions": {"ready": True}, "nodeName": f"n{n % 50}"}
            for n in range(first, first + count)
        ],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }  # fmt: skip


def _ip(first: int, second: int, number: int) -> str:
    return f"{first}.{second + (number >> 16)}.{(number >> 8) & 255}.{number & 255}"


SLICES = "/apis/discovery.k8s.io/v1/namespaces/d/endpointslices"
SERVICES_OF = "/api/v1/namespaces/{}/services"
SERVICES_PATH = SERVICES_OF.format("d")


async def _fill(kubeconfig: Path) -> None:
    from kubewire.client import kubeconfig as files
    from kubewire.client.rest import Client

    client = Client.from_connection(files.connection(files.load(str(kubeconfig)), None))
    try:
        for name in NAMESPACES[:2]:
            await client.raw("POST", "/api/v1/namespaces", body={"metadata": {"name": name}})
        work: list[tuple[str, dict[str, Any]]] = []
        for i in range(SERVICES):
            work.append((SERVICES_PATH, _service(i)))
            work.append((SLICES, _slice(f"s{i}", i * ENDPOINTS, ENDPOINTS)))
        for i in range(HEADLESS):
            work.append((SERVICES_PATH, _headless(i)))
            work.append((SLICES, _slice(f"h{i}", 200_000 + i * ADDRESSES, ADDRESSES)))
        for i, (label, namespace) in enumerate(product(range(LABELS), NAMESPACES)):
            body = _dual(i, f"www-example{label}-com", namespace)
            work.append((SERVICES_OF.format(namespace), body))
        queue = iter(work)

        async def worker() -> None:
            for path, body in queue:
                await client.raw("POST", path, body=body)

        await asyncio.gather(*(worker() for _ in range(8)))
    finally:
        await client.close()


@contextlib.contextmanager
def _api(folder: Path) -> Iterator[Path]:
    kubeconfig = folder / "kubeconfig"
    command = [sys.executable, "-m", "kubewire", "apiserver", "--port", "6443", "--kubeconfig-out", str(kubeconfig), "--data-dir", str(folder / "store"), "--service-cluster-ip-range", "10.96.0.0/16,fd00:96::/112"]  # fmt: skip
    with _process(command, folder / "api.log"):
        _until(kubeconfig.exists, "the API server")
        _until(lambda: _open("127.0.0.1", 6443), "the API server")
        asyncio.run(_fill(kubeconfig))
        yield kubeconfig


def _open(host: str, port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((host, port)) == 0


def _until(done: Callable[[], bool], what: str, seconds: float = 20) -> float:
    began = time.perf_counter()
    while not done():
        if time.perf_counter() - began > seconds:
            raise RuntimeError(f"{what} did not come up")
        time.sleep(0.002)
    return time.perf_counter() - began


@contextlib.contextmanager
def _process(command: list[str], log: Path, env: dict[str, str] | None = None) -> Iterator[int]:
    with log.open("ab") as out:
        running = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, **(env or {})}
        )
    try:
        yield running.pid
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()


# The servers


@dataclass
class Server:
    name: str
    command: list[str]
    env: dict[str, str] = field(default_factory=dict)
    cluster: bool = True
    """Reads the API server's objects; the others serve a zone of the same addresses."""


def _servers(folder: Path, kubeconfig: Path) -> Iterator[Server]:
    plain, cached = folder / "Corefile", folder / "Corefile.cached"
    # CoreDNS has no option for a kubeconfig outside of its file; both servers read the same one.
    for path, text in ((plain, default_corefile()), (cached, CACHED)):
        text = text.replace(".:53", f".:{PORT}").replace("    ttl 30", f"    ttl 30\n       kubeconfig {kubeconfig}")  # noqa: PLW2901  # fmt: skip
        text = text.replace("    loop\n", "").replace("/etc/resolv.conf", "127.0.0.9")  # noqa: PLW2901
        path.write_text(text.replace("lameduck 5s", "lameduck 0s"))
    ours = [sys.executable, "-m", "kubewire", "dns", "--quiet", "--conf"]
    yield Server("kubewire compiled", [*ours, str(plain)])
    yield Server("kubewire pure Python", [*ours, str(plain)], {"KUBEWIRE_DNS_NATIVE": "0"})
    if coredns := os.environ.get("COREDNS") or shutil.which("coredns"):
        yield Server("CoreDNS", [coredns, "-quiet", "-conf", str(plain)])
        yield Server("CoreDNS cached", [coredns, "-quiet", "-conf", str(cached)])
    yield from _zone_servers(folder)


def _zone_servers(folder: Path) -> Iterator[Server]:
    addresses = [(service_name(i), _service(i)["spec"]["clusterIP"]) for i in range(SERVICES)]
    if nsd := shutil.which("nsd", path=PATHS):
        zone = folder / "zone"
        zone.write_text(
            f"$ORIGIN {ZONE}.\n@ 30 SOA ns.dns hostmaster 1 7200 1800 86400 30\n@ 30 NS ns.dns\n"
            "ns.dns 30 A 10.96.0.10\n" + "".join(f"{n}. 30 A {ip}\n" for n, ip in addresses)
        )
        conf = folder / "nsd.conf"
        conf.write_text(
            f'server:\n rrl-ratelimit: 0\n ip-address: 127.0.0.1@{PORT}\n server-count: 1\n username: ""\n chroot: ""\n'
            f' pidfile: ""\n zonesdir: "{folder}"\n xfrdir: "{folder}"\n zonelistfile: "{folder}/l"\n'
            f' xfrdfile: ""\n database: ""\n cookie-secret-file: "{folder}/c"\nremote-control:\n control-enable: no\n'
            f"zone:\n name: {ZONE}\n zonefile: {zone}\n"
        )
        yield Server("nsd", [nsd, "-d", "-c", str(conf)], cluster=False)
    if unbound := shutil.which("unbound", path=PATHS):
        conf = folder / "unbound.conf"
        data = "".join(f' local-data: "{n}. 30 A {ip}"\n' for n, ip in addresses)
        conf.write_text(
            f'server:\n interface: 127.0.0.1@{PORT}\n do-daemonize: no\n username: ""\n chroot: ""\n'
            f' directory: "{folder}"\n pidfile: ""\n use-syslog: no\n num-threads: 1\n'
            f' access-control: 127.0.0.0/8 allow\n local-zone: "{ZONE}." static\n{data}'
            "remote-control:\n control-enable: no\n"
        )
        yield Server("unbound", [unbound, "-d", "-c", str(conf)], cluster=False)
    if dnsmasq := shutil.which("dnsmasq", path=PATHS):
        hosts = folder / "hosts"
        hosts.write_text("".join(f"{ip} {n}\n" for n, ip in addresses))
        command = [dnsmasq, "-k", "-p", str(PORT), "--no-resolv", "--no-hosts", "-H", str(hosts), "-u", "root", "-g", "root", "--log-facility=-", "-C", "/dev/null", "--pid-file="]  # fmt: skip
        yield Server("dnsmasq", command, cluster=False)


# The questions


def _write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


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
    return {n: _write(folder / f"q{i}", lines) for i, (n, lines) in enumerate(lists.items())}


def _pair(folder: Path) -> dict[str, Path]:
    """What a pod asks of a Service and of an outside name: both families, one client after another.

    The same first labels, the same lengths of questions and as many of them; what differs is the
    answer.
    """
    hits = [f"www-example{i}-com.{n}.svc.{ZONE}" for i in range(LABELS) for n in NAMESPACES]
    path = ("d.svc.", "svc.", "")
    storm = [f"www.example{i}.com.{middle}{ZONE}" for i in range(LABELS) for middle in path]
    lists = {"hits of ndots:5 clients": hits, "NXDOMAIN of ndots:5 clients": storm}
    return {
        what: _write(folder / f"pair{i}", [f"{n} {kind}" for n in names for kind in ("A", "AAAA")])
        for i, (what, names) in enumerate(lists.items())
    }


def _cold(folder: Path, run: int) -> Path:
    """Names that nobody has asked for: pods by dashed address."""
    return _write(
        folder / f"cold{run}",
        [f"{_ip(10, 200 + run, i).replace('.', '-')}.d.pod.{ZONE} A" for i in range(200_000)],
    )


# Measuring


def _measure(folder: Path) -> Iterator[dict[str, Any]]:
    questions = _questions(folder)
    missing = [p for p in ("nsd", "unbound", "dnsmasq") if not shutil.which(p, path=PATHS)]
    if not (os.environ.get("COREDNS") or shutil.which("coredns")):
        missing.append("coredns")
    if missing:
        yield {"figure": "peers that are not installed", "value": missing}
    chosen = os.environ.get("SERVERS", "")
    with _api(folder) as kubeconfig:
        yield from _autopath(folder, kubeconfig)
        for number, server in enumerate(_servers(folder, kubeconfig)):
            if chosen and not re.search(chosen, server.name):
                continue
            log = folder / f"{number}.log"
            began = time.perf_counter()
            with _process(server.command, log, server.env) as pid:
                try:
                    _until(lambda: _answers(service_name(SERVICES - 1)), server.name)
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
                        "MiB": _status(pid, "VmHWM"), "now_MiB": _status(pid, "VmRSS"),
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
        with _process(command, folder / "autopath.log"):
            _until(lambda: _answers(service_name(0)), "autopath")
            names = [f"{OUTSIDE}{domain}".rstrip(".") for domain in SEARCH] + [OUTSIDE.rstrip(".")]
            found = [_answers(name) for name in names]
        yield {
            "figure": "questions per look-up of an outside name",
            "server": f"kubewire {'with' if directive else 'without'} autopath",
            "questions": found.index(True) + 1,
        }  # fmt: skip


def _cpu(pid: int) -> float:
    """Of a process and its children: nsd answers in one of them."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return cpu_seconds(pid) + sum(_cpu(int(child)) for child in children)


def _status(pid: int, key: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"{key}:\s+(\d+)", text)
    return int(found[1]) >> 10 if found else 0


def _load(
    server: Server, pid: int, questions: dict[str, Path], folder: Path, number: int
) -> Iterator[dict[str, Any]]:
    for what, path in questions.items():
        if not server.cluster and what.startswith("SRV"):
            continue
        _dnsperf(path, "-n", "1")
        yield _rate(server, what, pid, path, "-l", str(SECONDS))
    if server.cluster:
        yield from _alternately(server, pid, _pair(folder))
    if server.cluster and "cached" not in server.name:
        yield _rate(server, "cold names", pid, _cold(folder, number), "-n", "1", "-l", str(SECONDS))
    # The cold names pushed the others out of what is kept; the figure is of those that are kept.
    _dnsperf(questions["A of Services"], "-n", "1")
    yield _latency(server, questions["A of Services"])


def _alternately(server: Server, pid: int, lists: dict[str, Path]) -> Iterator[dict[str, Any]]:
    """Short turns, because the machine is not equally fast all the time."""
    for path in lists.values():
        _dnsperf(path, "-n", "1")
    runs: dict[str, list[Run]] = {what: [] for what in lists}
    for _ in range(ROUNDS):
        for what, path in lists.items():
            runs[what].append(_run(pid, path, "-l", f"{SECONDS / 2}"))
    for what, found in runs.items():
        yield _figure(server, what, *found)
    hits, storm = (sum(r.answered for r in f) / sum(r.cpu for r in f) for f in runs.values())
    yield {"figure": "NXDOMAIN against hits", "server": server.name, "x": round(storm / hits, 2)}


@dataclass
class Run:
    answered: int
    lost: int
    seconds: float
    cpu: float


def _rate(server: Server, what: str, pid: int, path: Path, *args: str) -> dict[str, Any]:
    return _figure(server, what, _run(pid, path, *args))


def _run(pid: int, path: Path, *args: str) -> Run:
    before = _cpu(pid)
    text = _dnsperf(path, *args)
    spent = _cpu(pid) - before
    answered, lost, seconds = (
        float(re.search(rf"{what}:\s+([\d.]+)", text)[1])  # type: ignore[index]
        for what in ("Queries completed", "Queries lost", r"Run time \(s\)")
    )
    return Run(int(answered), int(lost), seconds, spent)


def _figure(server: Server, what: str, *runs: Run) -> dict[str, Any]:
    answered, spent = sum(r.answered for r in runs), sum(r.cpu for r in runs)
    return {
        "figure": what, "server": server.name,
        "per_cpu_s": round(answered / spent) if spent else None,
        "per_s": round(answered / sum(r.seconds for r in runs)), "lost": sum(r.lost for r in runs),
    }  # fmt: skip


def _dnsperf(path: Path, *args: str) -> str:
    command = ["dnsperf", "-s", "127.0.0.1", "-p", str(PORT), "-d", str(path), "-c", "4", "-q", "200", *args]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _latency(server: Server, path: Path) -> dict[str, Any]:
    text = _dnsperf(path, "-l", "2", "-Q", "5000", "-v")
    found = sorted(float(m) for m in re.findall(r"^> NOERROR \S+ \S+ ([\d.]+)", text, re.MULTILINE))
    return {
        "figure": "latency at 5,000/s", "server": server.name,
        "p50_ms": round(found[len(found) // 2] * 1000, 3),
        "p99_ms": round(found[len(found) * 99 // 100] * 1000, 3),
    }  # fmt: skip


def _ask(name: str, sock: socket.socket) -> Message:
    sock.send(encode(Message(random.randrange(65536), 0x0100, Question(name + ".", 1))))
    return parse(sock.recv(4096))


def _answers(name: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.3)
        sock.connect(("127.0.0.1", PORT))
        try:
            return bool(_ask(name, sock).answer)
        except (OSError, ValueError):
            return False


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
            body = {**_service(60_000 - i), "metadata": {"name": name, "namespace": "d"}}
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


if __name__ == "__main__":
    for figure in figures():
        print(json.dumps(figure))
