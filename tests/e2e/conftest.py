"""Whole clusters, driven through the command line as a user would."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from kubewire.kernel import sysctl
from kubewire.kernel.rtnetlink import RtNetlink

if TYPE_CHECKING:
    from kubewire.client.rest import Client

T = TypeVar("T")
POD = """
apiVersion: v1
kind: Pod
metadata: {name: p%d}
spec: {nodeName: node-%d, containers: [{name: c, image: x, ports: [{containerPort: 80}]}]}
---
"""
"""A stand-in with a number, on the node with a number."""
ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker runs all clusters: two at once would only wait for each other."""
    for item in items:
        if Path(item.fspath).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.xdist_group("e2e"))


class Kubewire:
    """The command line with one cluster name and a home of its own."""

    def __init__(self, home: Path, name: str = "kubewire") -> None:
        self.home = home
        self.name = name
        self.environment = os.environ | {"KUBEWIRE_HOME": str(home)}
        self.patience = 100
        """Seconds that a command may take."""

    def __call__(
        self, command: str, *arguments: str, code: int | None = 0, text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; ``code`` is the exit status that it must have (None: any)."""
        argv = [sys.executable, "-m", "kubewire", *command.split(), "--name", self.name, *arguments]
        result = subprocess.run(
            argv,
            env=self.environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=self.patience,
            check=False,
        )
        if code is not None and result.returncode != code:
            logs = "".join(
                f"\n--- {p.name}\n{p.read_text()[-2000:]}"
                for p in (self.home / self.name / "log").glob("*.log")
            )
            raise AssertionError(
                f"{argv[3:]}: exit {result.returncode}\n{result.stdout}\n{result.stderr}{logs}"
            )
        return result

    @contextmanager
    def beside(self, command: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Run a command, with pipes, while the block runs."""
        argv = [sys.executable, "-m", "kubewire", *command.split(), "--name", self.name, *arguments]
        pipe = subprocess.PIPE
        with subprocess.Popen(
            argv, env=self.environment, stdin=pipe, stdout=pipe, text=True
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def exec(self, pod: str, *argv: str, code: int | None = 0) -> str:
        """Standard output of a program in a pod (``ns/name``)."""
        namespace, _, name = pod.rpartition("/")
        return self("exec", "-n", namespace or "default", name, "--", *argv, code=code).stdout

    def python(self, pod: str, program: str, code: int | None = 0) -> str:
        """Standard output of a Python program in a pod."""
        return self.exec(pod, sys.executable, "-c", program, code=code)

    def api(self, path: str) -> Any:
        """GET from the API server."""
        return self.ask(lambda client: client.request("GET", path))

    def ask(self, question: Callable[["Client"], Awaitable[T]]) -> T:
        """What the API server answers."""
        import asyncio

        from kubewire.client.rest import Client

        async def main() -> T:
            async with Client.from_kubeconfig(self.home / self.name / "kubeconfig") as client:
                return await question(client)

        return asyncio.run(main())

    def pod_ips(self, name: str) -> list[str]:
        """Addresses of a pod of the namespace default."""
        status = self.api(f"/api/v1/namespaces/default/pods/{name}")["status"]
        return [entry["ip"] for entry in status["podIPs"]]

    def pods(self, namespace: str, selector: str = "") -> list[dict[str, Any]]:
        """Pods of a namespace."""
        found: list[dict[str, Any]] = self.api(
            f"/api/v1/namespaces/{namespace}/pods?labelSelector={selector}"
        )["items"]
        return sorted(found, key=lambda p: str(p["metadata"]["name"]))

    def apply(self, text: str) -> None:
        """Create the objects of a manifest through the API."""
        from kubewire.client.manifests import parse
        from kubewire.cluster.apply import apply

        self.ask(lambda client: apply(client, parse(text, "test")))


@pytest.fixture
def kubewire(tmp_path: Path) -> Iterator[Kubewire]:
    """A command line without a cluster; whatever was started is gone afterwards."""
    command = Kubewire(tmp_path / "home")
    yield command
    command("down", "--all", code=None)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubewire]:
    """examples/shop, running."""
    home = tmp_path_factory.mktemp("shop")
    command = Kubewire(home)
    try:
        command("up", "-f", str(ROOT / "examples" / "shop"), "--detach")
        yield command
    finally:
        command("down", code=None)
        shutil.rmtree(home, ignore_errors=True)


def host_network() -> str:
    """Everything of the host's network that kubewire could have touched, as one text."""
    with RtNetlink() as netlink:
        links = sorted((x.name, x.index) for x in netlink.links())
        addresses = sorted(str(x) for x in netlink.addresses())
        routes = sorted(str(x) for x in netlink.routes())
    settings = {
        name: sysctl.read(name)
        for name in (
            "net.ipv4.ip_forward",
            "net.ipv4.conf.all.rp_filter",
            "net.ipv4.conf.default.rp_filter",
            "net.ipv4.conf.all.route_localnet",
            "net.ipv6.conf.all.forwarding",
        )
    }
    mounts = Path("/proc/self/mounts").read_text()
    return json.dumps([links, addresses, routes, settings, mounts], indent=1)
