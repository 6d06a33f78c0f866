"""Container runtimes that people use, with our plugins: containerd by its CRI, podman, cnitool."""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
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
FAR = Path("/run/netns/outside")


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


def limited() -> int:
    """How many devices of the node have a token bucket."""
    with RtNetlink() as netlink:
        return sum(kind == "tbf" for _, kind in netlink.qdiscs())


@contextmanager
def asking(address: tuple[str, int]) -> Iterator[socket.socket]:
    """Somebody outside who sends datagrams to an address, always from the same port."""
    with netns.socket_in(FAR, kind=socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.connect(address)
        yield client


def asked(client: socket.socket, pod: Path, ip: str) -> bool:
    """The pod hears the client, and the client its answer."""
    with netns.socket_in(pod, kind=socket.SOCK_DGRAM) as server:
        server.settimeout(2)
        server.bind((ip, 53))
        client.send(b"?")
        try:
            server.sendto(b"!", server.recvfrom(8)[1])
            return client.recv(8) == b"!"
        except OSError:
            return False


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
        first = cri.run_pod("a", ports=[[(1, 0), (2, 80), (3, 8080)], [(1, 0), (2, 80), (3, 8081), (4, "192.0.2.1")], [(1, 1), (2, 53), (3, 5353)]], annotations={"kubernetes.io/ingress-bandwidth": "80M"})  # fmt: skip
        assert limited() == 1
        [there] = [path for path in Path("/run/netns").iterdir() if path.name.startswith("cni-")]
        assert cri.ips(first) == ["10.1.0.2", "fd00:1::2"]
        assert devices(there) == ["lo", "eth0"]
        second = cri.run_pod("b")
        [other] = [p for p in Path("/run/netns").glob("cni-*") if p != there]
        with listener(there, "10.1.0.2", 80) as server:
            assert connects(other, ("10.1.0.2", 80), server)
            assert connects(None, ("127.0.0.1", 8080), server)
            assert connects(FAR, ("192.0.2.1", 8081), server)
            assert not connects(None, ("127.0.0.1", 8081), server)
        with asking(("192.0.2.1", 5353)) as client:
            assert asked(client, there, "10.1.0.2")
            cri.remove_pod(first)
            # The same "connection" of the client goes to whoever has the port now.
            third = cri.run_pod("c", ports=[[(1, 1), (2, 53), (3, 5353)]])
            [new] = [p for p in Path("/run/netns").glob("cni-*") if p not in (there, other)]
            assert asked(client, new, cri.ips(third)[0])
        cri.remove_pod(third)
        assert limited() == 0
        first = cri.run_pod("d")
        [there] = [p for p in Path("/run/netns").glob("cni-*") if p != other]
        with listener(there, cri.ips(first)[1], 80) as server:
            assert connects(other, (cri.ips(first)[1], 80), server)
        cri.remove_pod(first)
        cri.remove_pod(second)
    assert devices() == ["lo", "up0"]
    assert owners() == 0


@pytest.mark.kernel
@pytest.mark.tool("podman", "runc")
@pytest.mark.usefixtures("plugins")
def test_podman() -> None:
    podman = containers.Podman(BIN, CONF)
    podman("run", "-d", "--network", "kubewire", "--name", "a", "-p", "8080:80", "-p", "192.0.2.1:8081:80", containers.IMAGE)  # fmt: skip
    found = json.loads(podman("inspect", "a", "--format", "{{json .NetworkSettings}}"))
    network = found["Networks"]["kubewire"]
    assert (network["IPAddress"], network["GlobalIPv6Address"]) == ("10.1.0.2", "fd00:1::2")
    assert network["MacAddress"] == "0a:58:0a:01:00:02"
    with listener(Path(found["SandboxKey"]), "10.1.0.2", 80) as server:
        assert connects(None, ("127.0.0.1", 8080), server)
        assert connects(FAR, ("192.0.2.1", 8081), server)
        assert not connects(None, ("127.0.0.1", 8081), server)
    podman("run", "-d", "--network", "kubewire:ip=10.1.0.9,mac=02:00:00:00:00:09", "--name", "b", containers.IMAGE)  # fmt: skip
    second = json.loads(podman("inspect", "b", "--format", "{{json .NetworkSettings}}"))
    network = second["Networks"]["kubewire"]
    assert (network["IPAddress"], network["MacAddress"]) == ("10.1.0.9", "02:00:00:00:00:09")
    with listener(Path(found["SandboxKey"]), "fd00:1::2", 80) as server:
        assert connects(Path(second["SandboxKey"]), ("fd00:1::2", 80), server)
    podman("rm", "-f", "-t", "0", "a", "b")
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
