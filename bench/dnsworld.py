"""The cluster that DNS servers are measured in, the servers, and dnsperf.

An API server with 10,000 Services, 10,000 slices of 10 endpoints and some headless Services, and
every server's configuration. CPU is that of the server's process alone, so that the generator beside
it does not count.
"""

import asyncio
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from kubewire.dns.explain import default_corefile
from kubewire.lang.dns.message import Message, Question, encode, parse

SERVICES, ENDPOINTS, HEADLESS, ADDRESSES = 10_000, 10, 200, 6
LABELS, NAMESPACES = 300, ("d", "prd", "default")
"""First labels that a Service has in each of these namespaces, and that nothing has elsewhere."""
ZONE = "cluster.local"
PATHS = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
PORT = 5353

CACHED = default_corefile().replace(f"cache 30 {{\n       disable success {ZONE}\n       disable denial {ZONE}\n    }}", "cache 30")  # fmt: skip


def service_name(index: int) -> str:
    return f"s{index}.d.svc.{ZONE}"


def service(index: int) -> dict[str, Any]:
    spec = {"clusterIP": ip(10, 96, index + 256), "ports": [{"name": "http", "port": 80}]}
    return {"metadata": {"name": f"s{index}", "namespace": "d"}, "spec": spec}


def _dual(number: int, name: str, namespace: str) -> dict[str, Any]:
    both = [ip(10, 96, number + 40_000), f"fd00:96::{number + 1:x}"]
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
            {"addresses": [ip(10, 128, n)], "conditions": {"ready": True}, "nodeName": f"n{n % 50}"}
            for n in range(first, first + count)
        ],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }  # fmt: skip


def ip(first: int, second: int, number: int) -> str:
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
            work.append((SERVICES_PATH, service(i)))
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
def api(folder: Path) -> Iterator[Path]:
    kubeconfig = folder / "kubeconfig"
    command = [sys.executable, "-m", "kubewire", "apiserver", "--port", "6443", "--kubeconfig-out", str(kubeconfig), "--data-dir", str(folder / "store"), "--service-cluster-ip-range", "10.96.0.0/16,fd00:96::/112"]  # fmt: skip
    with process(command, folder / "api.log"):
        until(kubeconfig.exists, "the API server")
        until(lambda: _open("127.0.0.1", 6443), "the API server")
        asyncio.run(_fill(kubeconfig))
        yield kubeconfig


def _open(host: str, port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((host, port)) == 0


def until(done: Callable[[], bool], what: str, seconds: float = 20) -> float:
    began = time.perf_counter()
    while not done():
        if time.perf_counter() - began > seconds:
            raise RuntimeError(f"{what} did not come up")
        time.sleep(0.002)
    return time.perf_counter() - began


@contextlib.contextmanager
def process(command: list[str], log: Path, env: dict[str, str] | None = None) -> Iterator[int]:
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
    port: int = PORT


def servers(folder: Path, kubeconfig: Path) -> Iterator[Server]:
    """Everybody, one at a time at the same port."""
    yield from cluster_servers(folder, kubeconfig, lambda _: 0)
    yield from _zone_servers(folder)


def cluster_servers(
    folder: Path, kubeconfig: Path, place: Callable[[int], int]
) -> Iterator[Server]:
    """Who reads the API server's objects; ``place`` moves all ports of server number N."""
    ours = [sys.executable, "-m", "kubewire", "dns", "--quiet", "--conf"]
    theirs = os.environ.get("COREDNS") or shutil.which("coredns")
    python = {"KUBEWIRE_DNS_NATIVE": "0"}
    candidates: list[tuple[str, list[str], dict[str, str], str]] = [
        ("kubewire compiled", ours, {}, default_corefile()),
        ("kubewire pure Python", ours, python, default_corefile()),
    ]
    if theirs:
        command = [theirs, "-quiet", "-conf"]
        candidates += [("CoreDNS", command, {}, default_corefile()), ("CoreDNS cached", command, {}, CACHED)]  # fmt: skip
    for number, (name, command, env, text) in enumerate(candidates):
        path = folder / f"Corefile{number}"
        path.write_text(_corefile(text, kubeconfig, place(number)))
        yield Server(name, [*command, str(path)], env, port=PORT + place(number))


def _corefile(text: str, kubeconfig: Path, moved: int) -> str:
    # CoreDNS has no option for a kubeconfig outside of its file; both servers read the same one.
    for before, after in {
        ".:53": f".:{PORT + moved}", "    ttl 30": f"    ttl 30\n       kubeconfig {kubeconfig}",
        "    loop\n": "", "/etc/resolv.conf": "127.0.0.9", "lameduck 5s": "lameduck 0s",
        "health {": f"health :{8080 + moved} {{", "ready": f"ready :{8180 + moved}",
        "prometheus :9153": f"prometheus :{9153 + moved}",
    }.items():  # fmt: skip
        text = text.replace(before, after, 1)
    return text


def _zone_servers(folder: Path) -> Iterator[Server]:
    addresses = [(service_name(i), service(i)["spec"]["clusterIP"]) for i in range(SERVICES)]
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


# The generator


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def cpu(pid: int) -> float:
    """Seconds of a process's threads and of its children's: nsd answers in one of those.

    From the scheduler, by nanoseconds: user and system time count in hundredths of a second.
    """
    spent = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            spent += int((task / "schedstat").read_text().split()[0]) / 1e9
            spent += sum(cpu(int(child)) for child in (task / "children").read_text().split())
    return spent


def status(pid: int, key: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"{key}:\s+(\d+)", text)
    return int(found[1]) >> 10 if found else 0


@dataclass
class Run:
    answered: int
    lost: int
    seconds: float
    cpu: float


def run(pid: int, path: Path, *args: str, port: int = PORT) -> Run:
    """Put the questions of a file."""
    before = cpu(pid)
    text = dnsperf(path, *args, port=port)
    spent = cpu(pid) - before
    answered, lost, seconds = (
        float(re.search(rf"{what}:\s+([\d.]+)", text)[1])  # type: ignore[index]
        for what in ("Queries completed", "Queries lost", r"Run time \(s\)")
    )
    return Run(int(answered), int(lost), seconds, spent)


def dnsperf(path: Path, *args: str, port: int = PORT) -> str:
    command = ["dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", str(path), "-c", "4", "-q", "200", *args]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def ask(name: str, sock: socket.socket) -> Message:
    sock.send(encode(Message(random.randrange(65536), 0x0100, Question(name + ".", 1))))
    return parse(sock.recv(4096))


def answers(name: str, port: int = PORT) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.3)
        sock.connect(("127.0.0.1", port))
        try:
            return bool(ask(name, sock).answer)
        except (OSError, ValueError):
            return False
