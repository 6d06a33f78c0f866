"""A container runtime as far as CNI is concerned: executes a list of plugins; and an agent for them."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from kubewire.cni.plugin import Plugin
from kubewire.cni.server import Server
from kubewire.kernel import links, netns, process, routes
from kubewire.kernel.rtnetlink import RtNetlink

REFERENCE = Path("/usr/lib/cni")
BIN = Path("/run/bin")
SOCKET = Path("/run/cni.sock")
JSON = dict[str, Any]


@dataclass
class Call:
    """What one plugin answered."""

    status: int
    answer: JSON


@dataclass
class Runtime:
    """Calls plugins found in ``path`` with the configuration ``plugins`` of one network."""

    plugins: list[JSON]
    path: list[Path]
    name: str = "net"
    version: str = "1.0.0"
    runtime_config: JSON = field(default_factory=dict)

    def config(self, plugin: JSON, previous: JSON | None) -> JSON:
        enabled = {c: v for c, v in self.runtime_config.items() if plugin.get("capabilities", {}).get(c)}  # fmt: skip
        config = {k: v for k, v in plugin.items() if k != "capabilities"}
        config |= {"cniVersion": self.version, "name": self.name}
        config |= {"runtimeConfig": enabled} if enabled else {}
        return config | ({"prevResult": previous} if previous else {})

    def call(self, command: str, config: JSON | bytes, container: str = "c1", **env: str) -> Call:
        data = config if isinstance(config, bytes) else json.dumps(config).encode()
        kind = json.loads(data)["type"] if isinstance(config, dict) else "kubewire-cni"
        program = next(p / kind for p in self.path if (p / kind).exists())
        variables = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": f"/run/netns/{container}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": ":".join(map(str, self.path)),
            "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin",
        } | env
        done = subprocess.run(program, env=variables, input=data, capture_output=True, check=False)
        try:
            answer = json.loads(done.stdout) if done.stdout else {}
        except ValueError:
            answer = {"text": done.stdout.decode()}
        return Call(done.returncode, answer)

    def add(self, container: str = "c1") -> JSON:
        path = Path(f"/run/netns/{container}")
        if not path.exists():
            netns.create(path)
        previous: JSON | None = None
        for plugin in self.plugins:
            done = self.call("ADD", self.config(plugin, previous), container)
            assert done.status == 0, (plugin["type"], done.answer)
            previous = done.answer
        assert previous is not None
        return previous

    def check(self, previous: JSON, container: str = "c1", *, but: str = "") -> None:
        for plugin in (p for p in self.plugins if p["type"] != but):
            done = self.call("CHECK", self.config(plugin, previous), container)
            assert done.status == 0, (plugin["type"], done.answer)

    def delete(self, previous: JSON | None, container: str = "c1", **env: str) -> None:
        for plugin in reversed(self.plugins):
            done = self.call("DEL", self.config(plugin, previous), container, **env)
            assert done.status == 0, (plugin["type"], done.answer)


def serve(path: Path = SOCKET) -> None:
    async def run() -> None:
        await Server(Plugin(lambda: ["10.244.0.0/24", "fd00::/64"]), path).start()
        await asyncio.Event().wait()

    asyncio.run(run())


@contextlib.contextmanager
def agent(path: Path = SOCKET, node: Path | None = None) -> Iterator[process.Process]:
    """An agent of this namespace or another."""
    child = process.fork_into(lambda: serve(path), netns=node, name="agent")
    while not path.exists():
        os.sched_yield()
    yield child
    child.kill()
    child.wait_blocking()
    path.unlink(missing_ok=True)


def connects(client_in: Path | None, address: tuple[str, int], server: socket.socket) -> bool:
    """Open a TCP connection and see that it is that server which gets it."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    server.settimeout(2)
    with netns.socket_in(client_in or Path("/proc/self/ns/net"), family) as client:
        client.settimeout(2)
        try:
            client.connect(address)
            server.accept()[0].close()
        except OSError:
            return False
        return True


def listener(container: str | Path, ip: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    server = netns.socket_in(Path("/run/netns") / container, family)
    server.bind((ip, port))
    server.listen()
    return server


def outside() -> Path:
    """Somebody beyond the node, at 192.0.2.2 with the node as 192.0.2.1, and no way to pods."""
    path = Path("/run/netns/outside")
    netns.create(path)
    with netns.opened(path) as fd, RtNetlink(fd) as there, RtNetlink() as here:
        here.transact([links.add_veth("up0", "eth0", peer_netns=fd)])
        for netlink, name, number in ((here, "up0", 1), (there, "eth0", 2)):
            index = netlink.index(name)
            netlink.transact(
                [
                    links.set_link(index, up=True),
                    routes.add_address(index, ip_interface(f"192.0.2.{number}/24")),
                ]
            )
    return path
