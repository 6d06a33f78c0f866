"""The plugins as runtimes execute them, with an agent and alone, beside the reference plugins."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from cni.runtime import REFERENCE, Runtime
from kubewire.cni import install
from kubewire.cni.plugin import Plugin
from kubewire.cni.server import Server
from kubewire.kernel import links, namespaces, netns, process, routes
from kubewire.kernel.rtnetlink import RtNetlink

pytestmark = pytest.mark.kernel

BIN = Path("/run/bin")
SOCKET = Path("/run/cni.sock")
MAIN: dict[str, Any] = {
    "type": "kubewire-cni",
    "ipam": {"type": "kubewire-ipam", "subnet": "10.1.0.0/24", "dataDir": "/run/data"},
    "capabilities": {"ips": True, "mac": True, "dns": True},
}
needs_reference = [
    pytest.mark.tool(str(REFERENCE / "bridge")),
]


def serve() -> None:
    async def run() -> None:
        await Server(Plugin(lambda: ["10.244.0.0/24", "fd00::/64"]), SOCKET).start()
        await asyncio.Event().wait()

    asyncio.run(run())


@contextlib.contextmanager
def agent() -> Iterator[process.Process]:
    child = process.fork_into(serve, name="agent")
    while not SOCKET.exists():
        os.sched_yield()
    yield child
    child.kill()
    child.wait_blocking()
    SOCKET.unlink(missing_ok=True)


@pytest.fixture(autouse=True)
def machine() -> None:
    """What plugins keep below /var/lib stays in the sandbox."""
    namespaces.mount_tmpfs("/var/lib")


@pytest.fixture(params=["compiled", "perl", "standalone"])
def runtime(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    compiler = {"compiled": "cc", "perl": ""}.get(request.param)
    alone = request.param == "standalone"
    install.install_programs(BIN, socket=SOCKET, standalone=alone, compiler=compiler)
    with contextlib.nullcontext() if alone else agent():
        yield Runtime([MAIN], [BIN, REFERENCE])


@pytest.fixture
def served() -> Iterator[Runtime]:
    install.install_programs(BIN, socket=SOCKET, compiler="")
    with agent():
        yield Runtime([MAIN], [BIN, REFERENCE])


def cables() -> list[str]:
    with RtNetlink() as netlink:
        return [link.name for link in netlink.links() if link.name.startswith("kc") and link.up]


def held() -> int:
    return len((Path("/run/data/net/leases")).read_text().splitlines())


def test_life_of_an_attachment(runtime: Runtime) -> None:
    runtime.version = "1.1.0"
    result = runtime.add()
    assert result["ips"] == [{"interface": 1, "address": "10.1.0.2/32", "gateway": "169.254.1.1"}]
    host, eth0 = result["interfaces"]
    assert cables() == [host["name"]]
    assert eth0 == {
        "name": "eth0",
        "mac": "0a:58:0a:01:00:02",
        "mtu": 1500,
        "sandbox": "/run/netns/c1",
    }
    runtime.check(result)
    assert runtime.call("STATUS", runtime.config(MAIN, None)).status == 0
    runtime.delete(result)
    assert cables() == []
    runtime.delete(None, CNI_NETNS="")
    netns.delete(Path("/run/netns/c1"))
    runtime.delete(result)
    assert runtime.add("c2")["ips"][0]["address"] == "10.1.0.3/32"


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_every_version_is_answered_in_kind(served: Runtime, version: str) -> None:
    served.version = version
    result = served.add()
    assert result["cniVersion"] == version
    assert ("version" in result["ips"][0]) == (version < "1.0.0")
    served.delete(result)


def test_version_lists_all(runtime: Runtime) -> None:
    answer = runtime.call("VERSION", {"cniVersion": "0.4.0", "type": "kubewire-cni"}).answer
    assert answer["cniVersion"] == "0.4.0"
    assert answer["supportedVersions"][-4:] == ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]


@pytest.mark.parametrize(
    ("config", "env", "code", "text"),
    [
        ({}, {"CNI_NETNS": "/run/netns/none"}, 3, "CNI_NETNS /run/netns/none"),
        ({}, {"CNI_NETNS": ""}, 4, "CNI_NETNS: required"),
        ({}, {"CNI_IFNAME": "lo"}, 4, "CNI_IFNAME lo: already exists"),
        ({"cniVersion": "7"}, {}, 1, "cniVersion '7'"),
        ({"ipam": {"type": "no-such"}}, {}, 7, "ipam.type 'no-such': no such plugin"),
        ({"ipam": {"subnet": "10.0.0.0/30", "dataDir": "/run/d2"}, "full": True}, {}, 11, "no address is free"),
        ({"runtimeConfig": {"ips": ["10.9.9.9"]}}, {}, 7, "requested address 10.9.9.9: is not in any range"),
        ({"mtu": 7}, {}, 7, "mtu 7: must be"),
    ],
)  # fmt: skip
def test_a_failed_add_leaves_nothing(
    served: Runtime, config: dict[str, Any], env: dict[str, str], code: int, text: str
) -> None:
    netns.create(Path("/run/netns/c1"))
    wanted = served.config(MAIN | config, None) | ({"cniVersion": "7"} if "cniVersion" in config else {})  # fmt: skip
    if config.get("full"):
        netns.create(Path("/run/netns/other"))
        assert served.call("ADD", wanted, "other").status == 0
    before = cables()
    done = served.call("ADD", wanted, **env)
    assert (done.status, done.answer["code"]) == (1, code)
    assert done.answer["msg"].startswith(text)
    assert done.answer["cniVersion"]
    assert cables() == before
    with RtNetlink(Path("/run/netns/c1")) as pod:
        assert [link.name for link in pod.links()] == ["lo"]
    assert served.add("fresh")["ips"]


@pytest.mark.parametrize("damage", ["route", "link", "address", "lease"])
def test_check_names_what_was_removed(served: Runtime, damage: str) -> None:
    result = served.add()
    with RtNetlink(Path("/run/netns/c1")) as pod:
        index = pod.index("eth0")
        if damage == "route":
            pod.transact(
                [
                    routes.delete_route(
                        routes.Route(ip_network("0.0.0.0/0"), index, ip_address("169.254.1.1"))
                    )
                ]
            )
        elif damage == "link":
            pod.transact([links.set_link(index, up=False)])
        elif damage == "address":
            pod.transact([routes.delete_address(index, ip_interface("10.1.0.2/32"))])
        else:
            served.call("DEL", served.config(MAIN["ipam"] | {"ipam": MAIN["ipam"]}, None))
    done = served.call("CHECK", served.config(MAIN, result))
    assert (done.status, done.answer["code"]) == (1, 101)
    expected = {"route": "route 0.0.0.0/0 is missing", "link": "is down", "address": "is missing", "lease": "holds no address"}  # fmt: skip
    assert expected[damage] in done.answer["msg"]


def test_gc_removes_what_the_runtime_does_not_know(served: Runtime) -> None:
    served.version = "1.1.0"
    served.add("keep")
    served.add("stray")
    known = [{"containerID": "keep", "ifname": "eth0"}]
    config = served.config(MAIN, None) | {"cni.dev/valid-attachments": known}
    assert served.call("GC", config | {"disableGC": True}).status == 0
    assert len(cables()) == 2
    assert served.call("GC", config).status == 0
    assert len(cables()) == 1
    with RtNetlink() as netlink:
        assert [link.alias for link in netlink.links() if link.up and link.alias] == [
            "net:keep/eth0"
        ]


def test_status_says_that_no_address_is_left(served: Runtime) -> None:
    served.version = "1.1.0"
    small = MAIN | {"ipam": {"type": "kubewire-ipam", "subnet": "10.2.0.0/30", "dataDir": "/run/s"}}
    served.plugins = [small]
    served.add()
    done = served.call("STATUS", served.config(small, None))
    assert (done.status, done.answer["code"]) == (1, 50)


def test_without_an_agent_the_answer_is_try_again() -> None:
    for compiler in ("cc", ""):
        install.install_programs(BIN, socket=SOCKET, compiler=compiler)
        runtime = Runtime([MAIN], [BIN])
        for command in ("ADD", "DEL"):
            done = runtime.call(command, runtime.config(MAIN, None))
            assert (done.status, done.answer["code"]) == (1, 11)
            assert str(SOCKET) in done.answer["msg"]
            assert done.answer["cniVersion"] == "1.0.0"


def test_an_agent_killed_in_the_middle_of_an_add(served: Runtime) -> None:
    """A socket that accepts and says nothing more, then closes: code 11, and DEL cleans up."""
    SOCKET.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(SOCKET))
        server.listen()
        config = served.config(MAIN, None)
        child = process.fork_into(lambda: sys.exit(served.call("ADD", config).answer["code"]))
        connection, _ = server.accept()
        connection.close()
        assert child.wait_blocking() == 11
    SOCKET.unlink()
    with agent():
        served.delete(None)


def test_parallel_adds_get_different_addresses(served: Runtime) -> None:
    for number in range(40):
        netns.create(Path(f"/run/netns/p{number}"))
    config = served.config(MAIN, None)
    children = [
        process.fork_into(lambda n=n: sys.exit(served.call("ADD", config, f"p{n}").status))  # type: ignore[misc]
        for n in range(40)
    ]
    assert [child.wait_blocking() for child in children] == [0] * 40
    leases = Path("/run/data/net/leases").read_text().splitlines()
    assert len(set(leases)) == 40


def test_dual_stack_from_the_agents_pod_cidrs(served: Runtime) -> None:
    served.plugins = [
        {"type": "kubewire-cni", "ipam": {"type": "kubewire-ipam", "dataDir": "/run/d"}}
    ]
    result = served.add()
    assert [ip["address"] for ip in result["ips"]] == ["10.244.0.2/32", "fd00::2/128"]
    served.check(result)


def test_loopback(served: Runtime) -> None:
    served.plugins = [{"type": "loopback"}]
    served.path = [BIN]
    result = served.add()
    assert [ip["address"] for ip in result["ips"]] == ["127.0.0.1/8", "::1/128"]
    served.check(result)
    served.delete(result)


class TestReference:
    """Debian's containernetworking-plugins, both ways."""

    pytestmark = needs_reference

    @pytest.mark.parametrize("kind", ["bridge", "ptp"])
    def test_our_ipam_under_their_plugin(self, served: Runtime, kind: str) -> None:
        ipam = MAIN["ipam"] | {"routes": [{"dst": "0.0.0.0/0"}]}
        served.plugins = [{"type": kind, "bridge": "br9", "isGateway": True, "ipam": ipam}]
        result = served.add()
        assert result["ips"][0]["address"] == "10.1.0.2/24"
        assert result["ips"][0]["gateway"] == "10.1.0.1"
        served.check(result)
        served.delete(result)

    @pytest.mark.parametrize("kind", ["host-local", "static"])
    def test_their_ipam_under_our_plugin(self, served: Runtime, kind: str) -> None:
        ipam = {
            "host-local": {"type": kind, "subnet": "10.3.0.0/24", "dataDir": "/run/hl"},
            "static": {"type": kind, "addresses": [{"address": "10.3.0.2/24"}]},
        }[kind]
        served.plugins = [MAIN | {"ipam": ipam}]
        result = served.add()
        assert result["ips"][0]["address"] == "10.3.0.2/32"
        served.check(result)
        served.delete(result)
        served.delete(None, CNI_NETNS="")
        if kind == "host-local":
            assert not list(Path("/run/hl/net").glob("10.*"))

    def test_a_refusal_of_their_ipam_is_passed_on(self, served: Runtime) -> None:
        ipam = {"type": "host-local", "subnet": "10.3.0.0/30", "dataDir": "/run/hl"}
        served.plugins = [MAIN | {"ipam": ipam}]
        served.add()
        netns.create(Path("/run/netns/c2"))
        done = served.call("ADD", served.config(served.plugins[0], None), "c2")
        assert done.status == 1
        assert done.answer["msg"].startswith("host-local: ")
        assert len(cables()) == 1

    @pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
    def test_a_chain_of_all(self, served: Runtime, version: str) -> None:
        served.version = version
        served.plugins = [
            MAIN,
            {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}},
            {"type": "portmap", "capabilities": {"portMappings": True}},
            {"type": "bandwidth", "capabilities": {"bandwidth": True}},
        ]
        served.runtime_config = {
            "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
            "bandwidth": {"ingressRate": 10_000_000, "ingressBurst": 1_000_000},
        }
        result = served.add()
        if version != "0.3.1":
            # The CHECK of portmap 1.1.1 looks for IPv6 rules that its ADD did not make.
            served.check(result, but="portmap")
        served.delete(result)
        served.delete(None, CNI_NETNS="")
        assert cables() == []


def test_the_agent_replaces_a_socket_that_a_killed_one_left() -> None:
    install.install_programs(BIN, socket=SOCKET, compiler="")
    runtime = Runtime([MAIN], [BIN])
    child = process.fork_into(serve)
    while not SOCKET.exists():
        os.sched_yield()
    child.signal(signal.SIGKILL)
    child.wait_blocking()
    assert runtime.call("ADD", runtime.config(MAIN, None)).answer["code"] == 11
    stale = SOCKET.stat().st_ino
    again = process.fork_into(serve)
    while SOCKET.stat().st_ino == stale:
        os.sched_yield()
    runtime.add()
    again.kill()
