"""The plugins as runtimes execute them, with an agent and alone, beside the reference plugins."""

import asyncio
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from cni.runtime import BIN, REFERENCE, SOCKET, Runtime, agent, connects, listener, outside, serve
from kubewire.cni import install
from kubewire.cni.config import Config, Fit
from kubewire.cni.ipam import Range
from kubewire.cni.plugin import Plugin
from kubewire.cni.pools import Pod, Pool
from kubewire.cni.spec import Request
from kubewire.kernel import links, namespaces, netns, process, routes, sysctl
from kubewire.kernel.rtnetlink import GROUP_LINK, RtNetlink, monitor

pytestmark = pytest.mark.kernel

MAIN: dict[str, Any] = {
    "type": "kubewire-cni",
    "ipam": {"type": "kubewire-ipam", "subnet": "10.1.0.0/24", "dataDir": "/run/data"},
    "capabilities": {"ips": True, "mac": True, "dns": True},
}
needs_reference = [
    pytest.mark.tool(str(REFERENCE / "bridge")),
]


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


EVERYTHING = {
    "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "udp"}],
    "bandwidth": {"ingressRate": 8_000_000, "egressRate": 8_000_000},
    "ips": ["10.1.0.9/24"],
    "mac": "02:00:00:00:00:09",
    "dns": {"servers": ["10.96.0.10"], "searches": ["svc"]},
}
CALLS: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("STATUS", {}, {}),
    ("ADD", {"runtimeConfig": EVERYTHING, "ipMasq": True}, {}),
    ("ADD", {}, {}),
    ("CHECK", {"runtimeConfig": EVERYTHING, "ipMasq": True}, {}),
    ("CHECK", {"cniVersion": "0.3.1"}, {}),
    ("ADD", {"cniVersion": "0.4.0"}, {"CNI_IFNAME": "net1"}),
    ("GC", {"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}, {}),
    ("GC", {}, {}),
    ("ADD", {"ipam": {"type": "host-local", "subnet": "10.3.0.0/24"}, "cniVersion": "1.0.0"}, {"CNI_IFNAME": "net2"}),
    ("DEL", {"ipam": {"type": "host-local", "subnet": "10.3.0.0/24"}, "cniVersion": "1.0.0"}, {"CNI_IFNAME": "net2"}),
    ("ADD", {}, {"CNI_NETNS": "/run/netns/none"}),
    ("DEL", {}, {"CNI_NETNS": ""}),
    ("DEL", {}, {}),
    ("VERSION", {"cniVersion": "0.4.0"}, {}),
]  # fmt: skip


async def _in_process(env: dict[str, str], stdin: bytes) -> tuple[int, bytes]:
    plugin = Plugin()
    try:
        return await plugin.run("kubewire-cni", env, stdin)
    finally:
        await plugin.close()


def _answers(way: str) -> list[tuple[str, int, Any, list[str]]]:
    """What each call answers, and whose cables there are then."""
    netns.create(Path("/run/netns/c1"))
    ranges = [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]
    ipam = {"type": "kubewire-ipam", "ranges": ranges, "dataDir": f"/run/{way}"}
    found, previous = [], None
    for command, change, env in CALLS:
        config = {"cniVersion": "1.1.0", "name": "net", "type": "kubewire-cni", "ipam": ipam} | change  # fmt: skip
        if command == "CHECK":
            config["prevResult"] = previous
        variables = {
            "CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1",
            "CNI_IFNAME": "eth0", "CNI_PATH": f"{BIN}:{REFERENCE}",
        } | env  # fmt: skip
        stdin = json.dumps(config).encode()
        if way == "library":
            status, out = asyncio.run(_in_process(variables, stdin))
        else:
            done = subprocess.run(BIN / "kubewire-cni", env=variables, input=stdin, capture_output=True, check=False)  # fmt: skip
            status, out = done.returncode, done.stdout
        answer = json.loads(out) if out else None
        previous = answer if command == "ADD" and not previous else previous
        with RtNetlink() as node:
            owners = sorted(link.alias for link in node.links() if link.alias)
        found.append((command, status, answer, owners))
    netns.delete(Path("/run/netns/c1"))
    # What host-local remembers.
    shutil.rmtree("/var/lib/cni/networks")
    return found


@pytest.mark.tool(str(REFERENCE / "host-local"))
def test_every_way_answers_alike() -> None:
    """In one process, by a program that asks the agent, by a program alone."""
    library = _answers("library")
    assert [status for _, status, _, _ in library] == [0, 0, 1, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 0]
    assert library[-1][-1] == []
    for way in ("served", "alone"):
        install.install_programs(BIN, socket=SOCKET, standalone=way == "alone")
        with contextlib.nullcontext() if way == "alone" else agent():
            assert _answers(way) == library


def test_version_lists_all(runtime: Runtime) -> None:
    answer = runtime.call("VERSION", {"cniVersion": "0.4.0", "type": "kubewire-cni"}).answer
    assert answer["cniVersion"] == "0.4.0"
    assert answer["supportedVersions"][-4:] == ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]


@pytest.mark.parametrize(
    ("config", "env", "code", "text"),
    [
        ({}, {"CNI_NETNS": "/run/netns/none"}, 3, "CNI_NETNS /run/netns/none"),
        ({}, {"CNI_NETNS": ""}, 4, "CNI_NETNS: required"),
        ({}, {"CNI_NETNS": "/proc/self/ns/net"}, 4, "CNI_NETNS /proc/self/ns/net: is the node's own"),
        ({}, {"CNI_IFNAME": "lo"}, 4, "CNI_IFNAME lo: already exists"),
        ({"cniVersion": "7"}, {}, 1, "cniVersion '7'"),
        ({"ipam": {"type": "no-such"}}, {}, 7, "ipam.type 'no-such': no such plugin"),
        ({"ipam": {"subnet": "10.0.0.0/30", "dataDir": "/run/d2"}, "full": True}, {}, 11, "no address is free"),
        ({"runtimeConfig": {"ips": ["10.9.9.9"]}}, {}, 7, "requested address 10.9.9.9: is not in any range"),
        ({"mtu": 7}, {}, 7, "mtu 7: must be"),
        ({"mtu": 1000, "ipam": {"subnet": "fd00:1::/64", "dataDir": "/run/data"}}, {}, 7, "mtu 1000: IPv6 needs 1280"),
        ({"ipam": {"subnet": "10.1.0.0/24", "dataDir": "data"}}, {}, 7, "ipam.dataDir 'data': is not an absolute path"),
        ({"ipam": {"subnet": "10.1.0.0/24", "dataDir": "/proc/version"}}, {}, 5, "/proc/version/net: Not a directory"),
        ({"ipam": {"type": "kubewire-cni"}}, {}, 7, "ipam.type 'kubewire-cni': is not an IPAM plugin"),
        ({"ipam": {"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.1.0.0/25"}]]}}, {}, 7, "ipam.ranges[1]: 10.1.0.1-10.1.0.126 overlaps"),
        ({"prevResult": {"ips": [{"address": "x"}]}}, {}, 7, "prevResult.ips[0].address: 'x'"),
        ({"runtimeConfig": {"portMappings": [{"hostPort": 70000, "containerPort": 1}]}}, {}, 7, "runtimeConfig.portMappings: hostPort 70000"),
        ({"name": "n" * 201}, {}, 7, "name 'nnn"),
        ({}, {"CNI_CONTAINERID": "c" * 250}, 4, "CNI_CONTAINERID ccc"),
        ({}, {"CNI_IFNAME": "eth%d"}, 4, "CNI_IFNAME 'eth%d': has illegal characters"),
        ({}, {"CNI_IFNAME": "default"}, 4, "CNI_IFNAME 'default': is not a name"),
    ],
)  # fmt: skip
def test_a_failed_add_leaves_nothing(
    served: Runtime, config: dict[str, Any], env: dict[str, str], code: int, text: str
) -> None:
    netns.create(Path("/run/netns/c1"))
    own = ("cniVersion", "name", "prevResult", "runtimeConfig")
    wanted = served.config(MAIN | config, None) | {k: v for k, v in config.items() if k in own}
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


def test_an_add_that_is_killed_before_its_answer_is_read() -> None:
    """All is made, but the runtime takes it for failed: the next call undoes it."""
    install.install_programs(BIN, socket=SOCKET, standalone=True)
    runtime = Runtime([MAIN], [BIN])
    netns.create(Path("/run/netns/c1"))
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "eth0"}  # fmt: skip
    with subprocess.Popen(BIN / "kubewire-cni", env=env, stdin=subprocess.PIPE, stdout=writing) as add:  # fmt: skip
        assert add.stdin is not None
        add.stdin.write(json.dumps(runtime.config(MAIN, None)).encode())
        add.stdin.close()
        while "pipe_write" not in Path(f"/proc/{add.pid}/wchan").read_text():
            assert add.poll() is None
            os.sched_yield()
        assert len(cables()) == 1
        add.kill()
    os.close(reading)
    os.close(writing)
    result = runtime.add("c2")
    assert cables() == [result["interfaces"][0]["name"]]
    runtime.delete(result, "c2")


def test_an_add_whose_answer_nobody_reads() -> None:
    install.install_programs(BIN, socket=SOCKET, standalone=True)
    runtime = Runtime([MAIN], [BIN])
    netns.create(Path("/run/netns/c1"))
    reading, writing = os.pipe()
    os.close(reading)
    env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "eth0"}  # fmt: skip
    stdin = json.dumps(runtime.config(MAIN, None)).encode()
    done = subprocess.run(BIN / "kubewire-cni", env=env, input=stdin, stdout=writing, check=False)
    os.close(writing)
    assert done.returncode == 1
    result = runtime.add("c2")
    assert cables() == [result["interfaces"][0]["name"]]


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


@pytest.mark.parametrize("capital", [False, True])
def test_host_ports_without_a_chain(served: Runtime, capital: bool) -> None:
    served.plugins = [MAIN | {"capabilities": {"portMappings": True}}]
    entry = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}
    if capital:
        entry = {key[0].upper() + key[1:]: value for key, value in entry.items()}
    served.runtime_config = {"portMappings": [entry]}
    result = served.add()
    far = outside()
    with listener("c1", "10.1.0.2", 80) as server:
        assert connects(None, ("127.0.0.1", 8080), server)
        assert connects(None, ("192.0.2.1", 8080), server)
        assert connects(far, ("192.0.2.1", 8080), server)
        assert connects(Path("/run/netns/c1"), ("192.0.2.1", 8080), server)
    netns.create(Path("/run/netns/c2"))
    done = served.call("ADD", served.config(served.plugins[0], None), "c2")
    assert (done.status, done.answer["code"]) == (1, 7)
    assert "hostPort 8080/TCP: is held by net:c1/eth0" in done.answer["msg"]
    assert len(cables()) == 1
    served.delete(result)
    assert served.add("c2")["ips"][0]["address"] == "10.1.0.4/32"


def test_gc_frees_a_host_port_whose_cable_is_gone(served: Runtime) -> None:
    served.version = "1.1.0"
    served.plugins = [MAIN | {"capabilities": {"portMappings": True}}]
    served.runtime_config = {"portMappings": [{"hostPort": 8080, "containerPort": 80}]}
    served.add()
    netns.delete(Path("/run/netns/c1"))
    config = served.config(served.plugins[0], None) | {"cni.dev/valid-attachments": None}
    done = served.call("GC", config)
    assert (done.status, done.answer["code"]) == (1, 7)
    assert done.answer["msg"].startswith("cni.dev/valid-attachments: is required")
    assert served.call("GC", config | {"cni.dev/valid-attachments": []}).status == 0
    served.add("c2")


def queue_of(device: str) -> str:
    command = ["tc", "qdisc", "show", "dev", device]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.tool("tc")
def test_bandwidth_without_a_chain(served: Runtime) -> None:
    served.plugins = [MAIN | {"capabilities": {"bandwidth": True}}]
    served.runtime_config = {"bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 80_000, "egressRate": 16_000_000}}  # fmt: skip
    result = served.add()
    host = result["interfaces"][0]["name"]
    assert "rate 8Mbit burst 10000b" in queue_of(host)
    with netns.entered("/run/netns/c1"):
        assert "rate 16Mbit" in queue_of("eth0")


def test_masquerade_with_exceptions(served: Runtime) -> None:
    far = outside()
    served.plugins = [MAIN | {"ipMasq": True}]
    result = served.add()
    with netns.socket_in(far) as server:
        server.bind(("192.0.2.2", 80))
        server.listen()
        assert connects(Path("/run/netns/c1"), ("192.0.2.2", 80), server)
        served.delete(result)
        served.plugins = [MAIN | {"ipMasq": True, "nonMasqueradeCIDRs": ["192.0.2.0/24"]}]
        served.add("c2")
        # The other side has no way back to a pod's own address.
        assert not connects(Path("/run/netns/c2"), ("192.0.2.2", 80), server)


def test_an_attachment_that_is_there_is_not_made_again_elsewhere(served: Runtime) -> None:
    result = served.add()
    netns.create(Path("/run/netns/other"))
    config = served.config(MAIN, None)
    done = served.call("ADD", config, "c1", CNI_NETNS="/run/netns/other")
    assert (done.status, done.answer["code"]) == (1, 4)
    assert done.answer["msg"].startswith("CNI_CONTAINERID c1: eth0 is attached elsewhere already")
    served.check(result)


def test_routes_of_the_configuration_with_all_that_1_1_0_says(served: Runtime) -> None:
    served.version = "1.1.0"
    wanted = [
        {"dst": "0.0.0.0/0", "mtu": 1400, "advmss": 1300},
        {"dst": "10.0.0.0/8", "priority": 7},
        {"dst": "10.9.0.0/16", "table": 100},
    ]
    served.plugins = [MAIN | {"ipam": MAIN["ipam"] | {"routes": wanted}}]
    result = served.add()
    assert result["routes"] == [{**route, "gw": "169.254.1.1"} for route in wanted]
    with RtNetlink(Path("/run/netns/c1")) as pod:
        found = {
            str(r.destination): (r.mtu, r.advmss, r.metric, r.table)
            for r in pod.routes()
            if r.protocol == routes.PROTOCOL_KUBEWIRE
        }
    assert found == {
        "0.0.0.0/0": (1400, 1300, 0, 254),
        "10.0.0.0/8": (0, 0, 7, 254),
        "10.9.0.0/16": (0, 0, 0, 100),
    }
    served.check(result)
    served.delete(result)
    served.plugins = [MAIN | {"ipam": MAIN["ipam"] | {"routes": [{"dst": "10.0.0.0/8", "scope": 253}]}}]  # fmt: skip
    done = served.call("ADD", served.config(served.plugins[0], None))
    assert (done.status, done.answer["code"]) == (1, 2)
    assert done.answer["msg"].startswith("ipam.routes scope 253:")
    assert cables() == []


def test_an_mtu_too_small_for_ipv6(served: Runtime) -> None:
    served.version = "1.1.0"
    served.plugins = [MAIN | {"mtu": 1000}]
    result = served.add()
    assert {link["mtu"] for link in result["interfaces"]} == {1000}
    served.check(result)


def test_networks_that_give_the_same_address(served: Runtime) -> None:
    """The second does not take the first one's packets."""
    result = served.add()
    netns.create(Path("/run/netns/c2"))
    done = served.call("ADD", served.config(MAIN, None) | {"name": "other"}, "c2")
    assert (done.status, done.answer["code"]) == (1, 100)
    assert done.answer["msg"].startswith("route 10.1.0.2/32 dev ")
    assert "is there already, to an attachment of another network" in done.answer["msg"]
    assert len(cables()) == 1
    served.check(result)


def test_gc_of_the_ipam_without_a_list_takes_nothing(served: Runtime) -> None:
    served.version = "1.1.0"
    result = served.add()
    ipam = served.config(MAIN | {"type": "kubewire-ipam"}, None)
    done = served.call("GC", ipam)
    assert (done.status, done.answer["code"]) == (1, 7)
    assert (
        served.call("GC", ipam | {"cni.dev/valid-attachments": [], "disableGC": True}).status == 0
    )
    served.check(result)


def test_a_burst_beyond_what_the_kernel_counts(served: Runtime) -> None:
    served.runtime_config = {"bandwidth": {"ingressRate": 1_000_000, "ingressBurst": 1 << 40}}
    served.plugins = [MAIN | {"capabilities": {"bandwidth": True}}]
    served.check(served.add())


def test_del_of_another_network_leaves_an_attachment_alone(served: Runtime) -> None:
    result = served.add()
    done = served.call("DEL", served.config(MAIN, None) | {"name": "other"})
    assert done.status == 0
    served.check(result)


def test_addresses_of_containers_that_ended_without_del_are_taken_back(served: Runtime) -> None:
    ipam = {"type": "kubewire-ipam", "subnet": "10.2.0.0/30", "dataDir": "/run/s"}
    served.plugins = [MAIN | {"ipam": ipam}]
    config = served.config(served.plugins[0], None)
    host = served.add("gone")["interfaces"][0]["name"]
    netns.create(Path("/run/netns/c2"))
    assert served.call("ADD", config, "c2").answer["code"] == 11
    with monitor(GROUP_LINK) as changes, RtNetlink() as node:
        netns.delete(Path("/run/netns/gone"))
        # The kernel takes a namespace apart when it finds the time.
        while host in node:
            select.select([changes.socket], [], [])
            changes.receive()
    assert served.call("ADD", config, "c2").answer["ips"][0]["address"] == "10.2.0.2/32"


def test_del_takes_the_devices_at_once(served: Runtime) -> None:
    for number in range(3):
        result = served.add(f"c{number}")
        served.delete(result, f"c{number}")
        with RtNetlink() as node, RtNetlink(Path(f"/run/netns/c{number}")) as pod:
            assert [link.name for link in (*node.links(), *pod.links())] == ["lo", "lo"]


def test_status_tells_that_the_node_does_not_forward(served: Runtime) -> None:
    served.version = "1.1.0"
    config = served.config(MAIN, None)
    assert served.call("STATUS", config).status == 0
    served.add()
    sysctl.write("net.ipv4.ip_forward", 0)
    done = served.call("STATUS", config)
    assert (done.status, done.answer["code"]) == (1, 51)


def test_pools_by_the_namespace_that_the_runtime_names(served: Runtime) -> None:
    pools = [{"name": "blue", "ranges": [[{"subnet": "10.50.0.0/30"}]], "namespaces": ["team-a"]}]
    served.plugins = [MAIN | {"ipam": MAIN["ipam"] | {"pools": pools}}]
    config = served.config(served.plugins[0], None)
    for name in ("a", "b", "c"):
        netns.create(Path(f"/run/netns/{name}"))
    team = {"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=team-a;K8S_POD_NAME=x"}
    found = served.call("ADD", config, "a", **team).answer
    assert found["ips"][0]["address"] == "10.50.0.2/32"
    full = served.call("ADD", config, "b", **team)
    assert (full.status, full.answer["code"]) == (1, 11)
    assert "10.50.0.1-10.50.0.2" in full.answer["msg"]
    assert served.call("ADD", config, "c").answer["ips"][0]["address"] == "10.1.0.2/32"


async def test_what_the_agent_knows_of_the_node_and_the_pod() -> None:
    async def identify(_: Request) -> Pod:
        return Pod("x", {"kubewire.dev/ip": "10.244.0.77"}, {}, {"kubewire.dev/ip-pool": "p"})

    pools = [{"name": "p", "ranges": [[{"subnet": "fd50::/64"}]]}]
    config = {"cniVersion": "1.1.0", "name": "net", "ipam": {"pools": pools}}
    env = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/c1",
        "CNI_IFNAME": "eth0",
    }
    netns.create(Path("/run/netns/c1"))
    cidrs = ["10.244.0.0/24", "fd00::/64"]
    plugin = Plugin(lambda: cidrs, fit=lambda: Fit(1450), identify=identify)
    _, answer = await plugin.run("kubewire-cni", env, json.dumps(config).encode())
    found = json.loads(answer)
    assert [ip["address"] for ip in found["ips"]] == ["10.244.0.77/32", "fd50::2/128"]
    assert {link["mtu"] for link in found["interfaces"]} == {1450}
    assert [(u.pool, u.used) for u in plugin.usage()] == [("", 1), ("", 0), ("p", 1)]
    await plugin.close()


async def test_a_pod_cidr_outside_of_the_cluster() -> None:
    plugin = Plugin(lambda: ["10.9.0.0/24"], cluster_cidrs=["10.244.0.0/16"])
    env = {"CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "eth0", "CNI_PATH": "/"}  # fmt: skip
    for command, expected in (("ADD", 1), ("STATUS", 1), ("DEL", 0)):
        stdin = b'{"cniVersion": "1.1.0", "name": "net"}'
        status, answer = await plugin.run("kubewire-cni", env | {"CNI_COMMAND": command}, stdin)
        assert status == expected
        if expected:
            assert json.loads(answer)["code"] == 7
            assert json.loads(answer)["msg"] == "podCIDR 10.9.0.0/24: is outside the cluster CIDR 10.244.0.0/16"  # fmt: skip
    await plugin.close()


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

    @pytest.mark.parametrize("kind", ["bridge", "ptp"])
    def test_our_ipam_under_their_plugin_in_both_families(self, served: Runtime, kind: str) -> None:
        ranges = [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]
        ipam = {"type": "kubewire-ipam", "dataDir": "/run/data", "ranges": ranges}
        served.plugins = [{"type": kind, "bridge": "br9", "isGateway": True, "ipam": ipam}]
        result = served.add()
        assert [ip["address"] for ip in result["ips"]] == ["10.1.0.2/24", "fd00:1::2/64"]
        served.delete(result)

    @pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
    def test_what_came_before_is_passed_on(self, served: Runtime, version: str) -> None:
        served.version = version
        four = {"version": "4"} if version < "1.0.0" else {}
        before = {
            "cniVersion": version,
            "interfaces": [{"name": "other0", "mac": "0a:00:00:00:00:01"}],
            "ips": [{**four, "interface": 0, "address": "10.7.0.2/24"}],
            "routes": [{"dst": "10.8.0.0/16", "gw": "10.7.0.1"}],
            "dns": {"domain": "example"},
        }
        netns.create(Path("/run/netns/c1"))
        done = served.call("ADD", served.config(MAIN, before))
        assert done.status == 0, done.answer
        assert [link["name"] for link in done.answer["interfaces"]][::2] == ["other0", "eth0"]
        assert done.answer["ips"][0] == before["ips"][0]
        assert done.answer["ips"][1]["interface"] == 2
        assert done.answer["routes"][0] == before["routes"][0]
        assert done.answer["dns"] == before["dns"]

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


class Shrinking:
    """Pools of a cluster of which this node gives a part back while an ADD is under way."""

    def __init__(self) -> None:
        self.parts = ["10.50.0.0/30"]
        self.next = ["10.50.0.8/30"]
        self.told = 0

    def pools(self) -> list[Pool]:
        sets = tuple((Range.of(part),) for part in self.parts)
        return [Pool("p", sets, frozenset({"team"}))]

    async def complete(self, pod: Pod) -> Pod:
        return pod

    async def grow(self, full: Pool) -> bool:
        return self.pools()[0].sets != full.sets

    async def reach(self, _: Any) -> bool:
        return False

    def freed(self) -> None:
        self.told += 1


async def test_no_address_of_a_part_that_was_given_back_meanwhile() -> None:
    source = Shrinking()
    netns.create(Path("/run/netns/c1"))
    plugin = Plugin(lambda: ["10.244.0.0/24"], pools=source, data_dir=Path("/run/data"))
    config = {"cniVersion": "1.1.0", "name": "net", "dataDir": "/run/data"}
    env = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/c1",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "K8S_POD_NAMESPACE=team",
    }
    original, calls = plugin._config, 0

    async def then_shrink(request: Request) -> Config:
        nonlocal calls
        calls += 1
        found = await original(request)
        source.parts = source.next
        return found

    plugin._config = then_shrink  # type: ignore[method-assign]
    status, answer = await plugin.run("kubewire-cni", env, json.dumps(config).encode())
    assert (status, json.loads(answer)["ips"][0]["address"], calls) == (0, "10.50.0.10/32", 2)
    assert plugin.in_use() == {ip_address("10.50.0.10")}
    plugin._config = original  # type: ignore[method-assign]
    await plugin.run("kubewire-cni", env | {"CNI_COMMAND": "DEL"}, json.dumps(config).encode())
    assert (plugin.in_use(), source.told) == (set(), 1)
    await plugin.close()


async def test_what_is_in_use_is_known_after_a_restart() -> None:
    netns.create(Path("/run/netns/c1"))
    env = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/c1",
        "CNI_IFNAME": "eth0",
    }
    config = {"cniVersion": "1.1.0", "name": "net", "dataDir": "/run/data"}
    plugin = Plugin(lambda: ["10.244.0.0/24"])
    await plugin.run("kubewire-cni", env, json.dumps(config).encode())
    again = Plugin(data_dir=Path("/run/data"))
    assert again.in_use() == plugin.in_use() == {ip_address("10.244.0.2")}
    for one in (plugin, again):
        await one.close()


IN_POD, ON_NODE = "nsenter --net=/run/netns/c1 ", ""
DAMAGE = {
    IN_POD + "ip route replace 10.99.0.0/16 dev eth0": "route 10.99.0.0/16 does not lead to 169.254.1.1",
    IN_POD + "ip -6 route del default": "eth0: route ::/0 is missing",
    "; ".join(IN_POD + step for step in (
        "ip address del 10.1.0.2/32 dev eth0",
        "ip address add 10.1.0.2/24 dev eth0",
        "ip route add default via 169.254.1.1 dev eth0 onlink",
        "ip route add 10.99.0.0/16 via 169.254.1.1 dev eth0 onlink",
    )): "eth0: address 10.1.0.2/32 is missing",
    IN_POD + "ip neighbour del 169.254.1.1 dev eth0": "eth0: neighbour 169.254.1.1 is missing",
    IN_POD + "tc qdisc del dev eth0 root": "eth0: the limit of egressRate is missing",
    IN_POD + "ip link set eth0 address 0a:00:00:00:00:99": "eth0: mac is 0a:00:00:00:00:99",
    IN_POD + "ip link set eth0 mtu 9000": "eth0: mtu 9000 is larger than 1400 of",
    "tc qdisc del dev $host root": "the limit of ingressRate is missing",
    "ip link set $host mtu 1300": "mtu is 1300, not 1400",
    "ip link set $host address 0a:00:00:00:00:99": "mac is 0a:00:00:00:00:99, not ee:ee:ee:ee:ee:ee",
    "ip link set $host down": "of the node is down",
    "ip neighbour del 10.1.0.2 dev $host": "neighbour 10.1.0.2 of the node",
    "ip -6 route del fd01::2": "route fd01::2 of the node",
    "sysctl -qw net.ipv4.ip_forward=0": "net.ipv4.ip_forward: forwarding is off",
    "sysctl -qw net.ipv6.conf.all.forwarding=0": "net.ipv6.conf.all.forwarding: forwarding is off",
    "nft flush ruleset": "runtimeConfig.portMappings: hostPort 8080/TCP, hostPort 8080/TCP: is missing in nftables",
    "nft delete table inet $(nft list tables | grep -o 'kubewire-masquerade.*')": "ipMasq: the rules are missing",
}  # fmt: skip


@pytest.mark.tool("nft", "ip", "tc")
def test_check_names_every_damage(served: Runtime) -> None:
    served.version = "1.1.0"
    ranges = [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd01::/64"}]]
    routes_of = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "10.99.0.0/16"}]
    addresses = {"type": "kubewire-ipam", "dataDir": "/run/data", "ranges": ranges, "routes": routes_of}  # fmt: skip
    limits = {"ingressRate": 1_000_000, "egressRate": 1_000_000}
    port = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}
    plugin = MAIN | {"mtu": 1400, "ipMasq": True, "ipam": addresses}
    config = served.config(plugin, None) | {"runtimeConfig": {"portMappings": [port], "bandwidth": limits}}  # fmt: skip
    netns.create(Path("/run/netns/c1"))
    for number, (damage, expected) in enumerate(DAMAGE.items(), 2):
        static = {"CNI_ARGS": "IP=10.1.0.2,fd01::2"}
        done = served.call("ADD", config, **static)
        assert done.status == 0, (number, done.answer)
        checked = config | {"prevResult": done.answer}
        assert served.call("CHECK", checked, **static).status == 0
        host = done.answer["interfaces"][0]["name"]
        subprocess.run(f"host={host}; {damage}", shell=True, check=True)
        done = served.call("CHECK", checked, **static)
        assert (done.status, done.answer["code"]) == (1, 101), damage
        assert expected in done.answer["msg"], damage
        assert served.call("DEL", checked).status == 0
    # What the network needs is made again by the next ADD, who ever has cleared it.
    assert served.call("ADD", config).status == 0


def test_check_leaves_other_plugins_routes_to_them(served: Runtime) -> None:
    served.version = "1.1.0"
    other = {"interfaces": [{"name": "x0", "sandbox": "/run/netns/c1"}], "ips": [{"address": "10.9.0.5/24", "interface": 0}], "routes": [{"dst": "10.9.0.0/24"}]}  # fmt: skip
    config = served.config(MAIN, other)
    netns.create(Path("/run/netns/c1"))
    result = served.call("ADD", config).answer
    with RtNetlink(Path("/run/netns/c1")) as pod:
        pod.transact([links.add_veth("x0", "x1"), *links.bring_up("x0")])
        pod.transact([links.set_link("x1", up=True)])
        pod.transact([routes.add_route(routes.Route(ip_network("10.9.0.0/24"), pod.index("x0")))])
    assert served.call("CHECK", served.config(MAIN, result)).status == 0


def test_state_that_somebody_clears_is_made_anew(runtime: Runtime) -> None:
    result = runtime.add()
    shutil.rmtree("/run/data")
    done = runtime.call("CHECK", runtime.config(MAIN, result))
    assert (done.status, done.answer["code"]) == (1, 101)
    runtime.delete(result)
    again = runtime.add("c2")
    assert again["ips"][0]["address"] == "10.1.0.2/32"
    assert held() == 1


def test_an_add_that_its_client_gave_up_is_undone() -> None:
    install.install_programs(BIN, socket=SOCKET, compiler="")
    netns.create(Path("/run/netns/c1"))
    with agent() as server:
        # Stopped in the middle of the call: the client ends before there is an answer.
        os.kill(server.pid, signal.SIGSTOP)
        call = Runtime([MAIN], [BIN]).config(MAIN, None)
        env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "eth0"}  # fmt: skip
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(SOCKET))
        head = "\0".join(["kubewire-cni", *(f"{k}={v}" for k, v in env.items())])
        client.sendall(f"{head}\0\0{json.dumps(call)}".encode())
        client.close()
        os.kill(server.pid, signal.SIGCONT)
        # The agent serves in turn: whoever is answered now comes after the undoing.
        other = Runtime([MAIN], [BIN])
        other.add("c2")
        while len(cables()) > 1:
            os.sched_yield()
        assert held() >= 1


@pytest.mark.parametrize("kind", ["../x", "a/b"])
def test_delete_with_what_is_no_name_of_an_ipam_plugin(served: Runtime, kind: str) -> None:
    config = served.config(MAIN | {"ipam": {"type": kind}}, None)
    netns.create(Path("/run/netns/c1"))
    assert served.call("ADD", config).answer["code"] == 7
    assert served.call("DEL", config).status == 0


def test_two_interfaces_of_one_container(served: Runtime) -> None:
    """As with a meta plugin: both are ours, and the first one's default route stays."""
    config = served.config(MAIN, None)
    netns.create(Path("/run/netns/c1"))
    for name in ("eth0", "net1"):
        done = served.call("ADD", config, CNI_IFNAME=name)
        assert done.status == 0, done.answer
        checked = config | {"prevResult": done.answer}
        assert served.call("CHECK", checked, CNI_IFNAME=name).status == 0
    assert served.call("DEL", config).status == 0
    assert len(cables()) == 1
    assert served.call("DEL", config, CNI_IFNAME="net1").status == 0
    assert cables() == []
