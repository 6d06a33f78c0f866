"""The plugin in one process: it answers as the programs do, and is told what an agent knows."""

import asyncio
import contextlib
import json
import shutil
import subprocess
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from cni.runtime import BIN, REFERENCE, SOCKET, agent
from kubewire.cni import install
from kubewire.cni.config import Config, Fit
from kubewire.cni.ipam import Range
from kubewire.cni.plugin import Plugin
from kubewire.cni.pools import Pod, Pool
from kubewire.cni.spec import Request
from kubewire.kernel import netns
from kubewire.kernel.rtnetlink import RtNetlink

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("machine")]


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


async def _told(plugin: Plugin, command: str) -> tuple[int, str]:
    """Code and message of a call for a pod; code 0 if it went well."""
    env = {"CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "eth0", "CNI_PATH": "/"}  # fmt: skip
    stdin = b'{"cniVersion": "1.1.0", "name": "net", "cni.dev/valid-attachments": []}'
    status, answer = await plugin.run("kubewire-cni", env | {"CNI_COMMAND": command}, stdin)
    found = json.loads(answer) if status else {"code": 0, "msg": ""}
    return found["code"], found["msg"]


@pytest.mark.parametrize("cidr", ["10.9.0.0/24", "fd00::/64"])
async def test_a_pod_cidr_outside_of_the_cluster(cidr: str) -> None:
    plugin = Plugin(lambda: [cidr], cluster_cidrs=["10.244.0.0/16"])
    why = f"podCIDR {cidr}: is outside the cluster CIDR 10.244.0.0/16"
    for command, expected in (("ADD", (7, why)), ("STATUS", (7, why)), ("DEL", (0, ""))):
        assert await _told(plugin, command) == expected
    await plugin.close()


async def test_a_node_that_has_no_pod_cidr_yet() -> None:
    """It will have one; an agent that is told none never has."""
    why = "spec.podCIDRs of this node's Node: there are none yet"
    never = "ipam.ranges: at least one range is required"
    for plugin, texts in (
        (Plugin(lambda: []), [(11, why), (50, why)]),
        (Plugin(), [(7, never), (7, never)]),
    ):
        assert [await _told(plugin, command) for command in ("ADD", "STATUS")] == texts
        assert await _told(plugin, "DEL") == await _told(plugin, "GC") == (0, "")
        await plugin.close()


async def test_a_node_whose_address_is_on_no_device() -> None:
    def fit() -> Fit:
        raise LookupError("no device of this node has the address 192.0.2.1")

    netns.create(Path("/run/netns/c1"))
    plugin = Plugin(lambda: ["10.244.0.0/24"], fit=fit)
    why = "status.addresses of this node's Node: no device of this node has the address 192.0.2.1"
    assert await _told(plugin, "ADD") == (11, why)
    for command in ("STATUS", "GC", "DEL"):
        assert await _told(plugin, command) == (0, "")
    await plugin.close()


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
