"""The plugins as runtimes execute them, with an agent and alone."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cni.programs import MAIN, cables
from cni.runtime import BIN, Runtime, connects, listener, outside
from kubewire.kernel import netns, process, routes, sysctl
from kubewire.kernel.rtnetlink import RtNetlink

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("machine")]


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
