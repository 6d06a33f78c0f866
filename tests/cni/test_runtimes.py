"""Container runtimes that people use, with our plugins: containerd by its CRI, podman, cnitool."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni import containers
from cni.runtime import BIN, SOCKET, agent, connects, listener, outside
from kubewire.cni import install
from kubewire.kernel import namespaces, netns, sandbox
from kubewire.kernel.rtnetlink import RtNetlink

CONF = Path("/run/conf")
LEASES = Path("/var/lib/cni/kubewire/kubewire/leases")
SUBNETS = ["10.1.0.0/24", "fd00:1::/64"]
NODE = Path("/proc/self/ns/net")


@pytest.fixture
def plugins() -> Iterator[None]:
    """The plugins with an agent on a node that has an address of its own; what runtimes keep below /var/lib stays in here."""
    namespaces.mount_tmpfs("/var/lib")
    install.install_programs(BIN, socket=SOCKET)
    install.install_config(CONF, install.network_config("kubewire", subnets=SUBNETS))
    outside()
    with agent():
        yield


def devices(where: Path = NODE) -> list[str]:
    with RtNetlink(where) as netlink:
        return [link.name for link in netlink.links()]


def owners() -> int:
    """How many attachments hold an address."""
    found = set()
    for line in map(json.loads, LEASES.read_text().splitlines()):
        (found.add if line.get("addresses") else found.discard)(line["owner"])
    return len(found)


@pytest.mark.kernel
@pytest.mark.tool("containerd", "runc", "ctr")
@pytest.mark.usefixtures("plugins")
def test_containerd_by_the_cri() -> None:
    with containers.containerd(BIN, CONF) as cri:
        assert cri.conditions()["NetworkReady"][0]
        first = cri.run_pod("a", ports=[[(1, 0), (2, 80), (3, 8080)]], annotations={"kubernetes.io/ingress-bandwidth": "80M"})  # fmt: skip
        [there] = [path for path in Path("/run/netns").iterdir() if path.name.startswith("cni-")]
        assert cri.ips(first) == ["10.1.0.2", "fd00:1::2"]
        assert devices(there) == ["lo", "eth0"]
        second = cri.run_pod("b")
        [other] = [p for p in Path("/run/netns").glob("cni-*") if p != there]
        with listener(there, "10.1.0.2", 80) as server:
            assert connects(other, ("10.1.0.2", 80), server)
            assert connects(None, ("127.0.0.1", 8080), server)
        with listener(there, "fd00:1::2", 80) as server:
            assert connects(other, ("fd00:1::2", 80), server)
        cri.remove_pod(first)
        cri.remove_pod(second)
    assert devices() == ["lo", "up0"]
    assert owners() == 0


@pytest.mark.kernel
@pytest.mark.tool("podman", "runc")
@pytest.mark.usefixtures("plugins")
def test_podman() -> None:
    podman = containers.Podman(BIN, CONF)
    podman("run", "-d", "--network", "kubewire", "--name", "a", "-p", "8080:80", containers.IMAGE)
    found = json.loads(podman("inspect", "a", "--format", "{{json .NetworkSettings}}"))
    network = found["Networks"]["kubewire"]
    assert (network["IPAddress"], network["GlobalIPv6Address"]) == ("10.1.0.2", "fd00:1::2")
    assert network["MacAddress"] == "0a:58:0a:01:00:02"
    with listener(Path(found["SandboxKey"]), "10.1.0.2", 80) as server:
        assert connects(None, ("127.0.0.1", 8080), server)
    podman("rm", "-f", "-t", "0", "a")
    assert devices() == ["lo", "up0"]
    assert owners() == 0


@pytest.fixture(scope="module")
def cnitool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by Go from its module; there is no package of it."""
    folder = tmp_path_factory.mktemp("cnitool")
    go = shutil.which("go", path=f"{os.environ['PATH']}:/usr/local/go/bin")
    assert go is not None
    env = os.environ | {"GOBIN": str(folder), "GOTOOLCHAIN": "local"}
    source = "github.com/containernetworking/cni/cnitool@v1.1.2"
    done = subprocess.run([go, "install", source], env=env, capture_output=True, text=True, check=False)  # fmt: skip
    if done.returncode:
        pytest.skip(f"cnitool cannot be had here: {done.stderr.strip().splitlines()[-1]}")
    return folder / "cnitool"


@pytest.mark.tool("go")
def test_cnitool(cnitool: Path) -> None:
    def use() -> None:
        namespaces.mount_tmpfs("/var/lib")
        install.install_programs(BIN, socket=SOCKET)
        install.install_config(CONF, install.network_config("kubewire", subnets=SUBNETS))
        netns.create(Path("/run/netns/c1"))

        def run(command: str, **env: str) -> str:
            done = subprocess.run(
                [cnitool, command, "kubewire", "/run/netns/c1"],
                env={"CNI_PATH": str(BIN), "NETCONFPATH": str(CONF), "CNI_IFNAME": "net1", **env},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        with agent():
            wanted = json.dumps({"ips": ["10.1.0.9"], "mac": "0a:00:00:00:00:09"})
            result = json.loads(run("add", CAP_ARGS=wanted))
            assert [ip["address"] for ip in result["ips"]] == ["10.1.0.9/32", "fd00:1::2/128"]
            assert result["interfaces"][1]["mac"] == "0a:00:00:00:00:09"
            run("check")
            run("del")
            run("del")
            assert devices() == ["lo"]
            assert owners() == 0

    sandbox.run(use, user_namespace=True)
