"""Beside Debian's containernetworking-plugins: our IPAM below theirs, theirs below ours, chains."""

from pathlib import Path

import pytest

from cni.programs import MAIN, cables
from cni.runtime import BIN, REFERENCE, Runtime
from kubewire.kernel import netns

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.tool(str(REFERENCE / "bridge")),
    pytest.mark.usefixtures("machine"),
]


@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_our_ipam_under_their_plugin(served: Runtime, kind: str) -> None:
    ipam = MAIN["ipam"] | {"routes": [{"dst": "0.0.0.0/0"}]}
    served.plugins = [{"type": kind, "bridge": "br9", "isGateway": True, "ipam": ipam}]
    result = served.add()
    assert result["ips"][0]["address"] == "10.1.0.2/24"
    assert result["ips"][0]["gateway"] == "10.1.0.1"
    served.check(result)
    served.delete(result)


@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_our_ipam_under_their_plugin_in_both_families(served: Runtime, kind: str) -> None:
    ranges = [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]
    ipam = {"type": "kubewire-ipam", "dataDir": "/run/data", "ranges": ranges}
    served.plugins = [{"type": kind, "bridge": "br9", "isGateway": True, "ipam": ipam}]
    result = served.add()
    assert [ip["address"] for ip in result["ips"]] == ["10.1.0.2/24", "fd00:1::2/64"]
    served.delete(result)


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_what_came_before_is_passed_on(served: Runtime, version: str) -> None:
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


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
@pytest.mark.parametrize("kind", ["host-local", "static"])
def test_their_ipam_under_our_plugin(served: Runtime, kind: str, version: str) -> None:
    """Also where it is older than the version that is asked for (1.1.0)."""
    served.version = version
    ipam = {
        "host-local": {"type": kind, "subnet": "10.3.0.0/24", "dataDir": "/run/hl"},
        "static": {"type": kind, "addresses": [{"address": "10.3.0.2/24", "gateway": "10.3.0.1"}]},
    }[kind]
    served.plugins = [MAIN | {"ipam": ipam}]
    result = served.add()
    assert (result["cniVersion"], result["ips"][0]["address"]) == (version, "10.3.0.2/32")
    if version != "0.3.1":
        served.check(result)
    served.delete(result)
    served.delete(None, CNI_NETNS="")
    if kind == "host-local":
        assert not list(Path("/run/hl/net").glob("10.*"))


def test_a_refusal_of_their_ipam_is_passed_on(served: Runtime) -> None:
    ipam = {"type": "host-local", "subnet": "10.3.0.0/30", "dataDir": "/run/hl"}
    served.plugins = [MAIN | {"ipam": ipam}]
    served.add()
    netns.create(Path("/run/netns/c2"))
    done = served.call("ADD", served.config(served.plugins[0], None), "c2")
    assert done.status == 1
    assert done.answer["msg"].startswith("host-local: ")
    assert len(cables()) == 1


def test_gc_takes_back_what_their_ipam_gave(served: Runtime) -> None:
    """It knows no GC."""
    ipam = {"type": "host-local", "subnet": "10.3.0.0/24", "dataDir": "/run/hl"}
    served.version = "1.1.0"
    served.plugins = [MAIN | {"ipam": ipam}]
    for name in ("keep", "stray"):
        served.add(name)
    known = [{"containerID": "keep", "ifname": "eth0"}]
    config = served.config(served.plugins[0], None) | {"cni.dev/valid-attachments": known}
    assert served.call("GC", config).status == 0
    assert [path.read_text().split() for path in Path("/run/hl/net").glob("10.*")] == [["keep", "eth0"]]  # fmt: skip


def test_delete_without_their_ipam_fails_only_if_it_gave_something(served: Runtime) -> None:
    ipam = {"type": "host-local", "subnet": "10.3.0.0/24", "dataDir": "/run/hl"}
    served.plugins = [MAIN | {"ipam": ipam}]
    result = served.add()
    netns.create(Path("/run/netns/c2"))
    config = served.config(served.plugins[0], None)
    assert served.call("ADD", config, "c2", CNI_PATH=str(BIN)).answer["code"] == 7
    assert served.call("DEL", config, "c2", CNI_PATH=str(BIN)).status == 0
    done = served.call("DEL", config, CNI_PATH=str(BIN))
    assert (done.status, done.answer["code"]) == (1, 7)
    assert done.answer["msg"].startswith("ipam.type 'host-local': no such plugin")
    assert cables() == []
    served.delete(result)
    assert served.call("DEL", config, CNI_PATH=str(BIN)).status == 0


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_a_chain_of_all(served: Runtime, version: str) -> None:
    served.version = version
    served.plugins = [
        MAIN,
        {"type": "tuning", "mtu": 1400, "sysctl": {"net.core.somaxconn": "500"}},
        {"type": "portmap", "capabilities": {"portMappings": True}},
        {"type": "bandwidth", "capabilities": {"bandwidth": True}},
    ]
    if version != "0.3.1":
        served.plugins.append({"type": "firewall", "backend": "iptables"})
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
