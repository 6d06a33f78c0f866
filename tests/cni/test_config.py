"""Network configurations."""

import json
from pathlib import Path
from typing import Any

import pytest

from kubewire.cni import config, spec
from kubewire.cni.bandwidth import Limits
from kubewire.cni.config import Fit
from kubewire.cni.spec import CniError
from kubewire.kernel.links import Gso

BASE = {"cniVersion": "1.1.0", "name": "net", "type": "kubewire-cni"}


def parse(wire: dict[str, Any], command: str = "ADD", args: str = "") -> config.Config:
    env = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/n",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": args,
    }
    request = spec.parse_request(env, json.dumps(BASE | wire).encode())
    return config.parse(request, ["10.244.1.0/24", "fd00:1::/64"])


def test_without_ranges_the_nodes_pod_cidrs_are_used() -> None:
    found = parse({})
    assert [str(ranges[0].subnet) for ranges in found.sets] == ["10.244.1.0/24", "fd00:1::/64"]
    assert found.data_dir == Path("/var/lib/cni/kubewire")


def test_ranges_of_its_own() -> None:
    found = parse(
        {
            "ipam": {
                "type": "kubewire-ipam",
                "ranges": [
                    [
                        {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "exclude": ["10.1.0.16/28"]},
                        {"subnet": "10.2.0.0/24", "gateway": "10.2.0.254"},
                    ],
                    [{"subnet": "fd00::/64"}],
                ],
                "routes": [{"dst": "10.0.0.0/8"}],
                "dataDir": "/run/x",
            }
        }
    )  # fmt: skip
    assert [len(ranges) for ranges in found.sets] == [2, 1]
    assert str(found.sets[0][0]) == "10.1.0.9-10.1.0.254"
    assert str(found.ipam.routes[0].destination) == "10.0.0.0/8"


@pytest.mark.parametrize(
    ("wire", "args"),
    [
        ({"runtimeConfig": {"ips": ["10.244.1.7/24"], "mac": "0A:00:00:00:00:07"}}, ""),
        ({"runtimeConfig": {"Ips": ["10.244.1.7"], "Mac": "0a:00:00:00:00:07"}}, ""),
        ({"args": {"cni": {"ips": ["10.244.1.7"]}}}, "MAC=0a:00:00:00:00:07"),
        ({}, "IP=10.244.1.7;MAC=0a:00:00:00:00:07"),
    ],
)
def test_a_static_address_can_be_asked_for_in_every_way(wire: dict[str, Any], args: str) -> None:
    found = parse(wire, args=args)
    assert [str(a) for a in found.wanted] == ["10.244.1.7"]
    if wire != {"args": {"cni": {"ips": ["10.244.1.7"]}}}:
        assert found.mac == "0a:00:00:00:00:07"


def test_dns_of_the_runtime_goes_first() -> None:
    wire = {"dns": {"domain": "a"}, "runtimeConfig": {"dns": {"nameservers": ["10.96.0.10"]}}}
    assert parse(wire).dns == {"nameservers": ["10.96.0.10"]}


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        ({"mtu": -1}, "mtu -1"),
        ({"mtu": 7}, "mtu 7: must be between 68 and 65535"),
        ({"mtu": "x"}, "mtu: expected `int`, got `str`"),
        ({"ipam": 3}, "ipam: expected `object`, got `int`"),
        ({"ipam": {"type": 3}}, "ipam.type: is not a string"),
        ({"ipam": {"ranges": {}}}, "ipam.ranges: expected `array`, got `object`"),
        ({"ipam": {"ranges": [[{"subnet": 4}]]}}, "ipam.ranges[0][0].subnet: expected `str`"),
        ({"ipam": {"ranges": [[]]}}, "ipam.ranges[0]: is empty"),
        ({"ipam": {"subnet": "10.1.0.5/24"}}, "ipam.subnet '10.1.0.5/24': 10.1.0.5/24 has host bits set"),
        ({"ipam": {"subnet": "10.1.0.0/24", "exclude": ["x"]}}, "ipam.exclude 'x'"),
        ({"ipam": {"subnet": "10.1.0.0/24", "gateway": "10.2.0.1"}}, "ipam.gateway 10.2.0.1: is not in subnet"),
        ({"ipam": {"pools": [{"ranges": []}]}}, "ipam.pools[0].name: is missing"),
        ({"ipam": {"pools": [{"name": "a", "ranges": [[{}]]}]}}, "ipam.pools[a].ranges[0][0].subnet: is missing"),
        ({"runtimeConfig": []}, "runtimeConfig: expected `object`"),
        ({"runtimeConfig": {"ips": "10.1.0.1"}}, "runtimeConfig.ips: expected `array`"),
        ({"runtimeConfig": {"mac": "01:00:00:00:00:00"}}, "runtimeConfig.mac '01:00:00:00:00:00': is not of one"),
        ({"runtimeConfig": {"portMappings": [{"hostPort": "x", "containerPort": 1}]}}, "runtimeConfig.portMappings[0].hostPort: expected `int`"),
        ({"runtimeConfig": {"PortMappings": [{"HostPort": 1}]}}, "runtimeConfig.portMappings[0].containerPort: is missing"),
        ({"runtimeConfig": {"bandwidth": {"ingressRate": -1}}}, "runtimeConfig.bandwidth.ingressRate -1: must be between"),
        ({"runtimeConfig": {"bandwidth": {"egressRate": 10**18}}}, f"runtimeConfig.bandwidth.egressRate {10**18}: must be between"),
        ({"runtimeConfig": {"bandwidth": {"egressRate": 1000, "egressBurst": -1}}}, "runtimeConfig.bandwidth.egressBurst -1: must not"),
        ({"runtimeConfig": {"bandwidth": {"ingressBurst": 1000}}}, "runtimeConfig.bandwidth.ingressBurst 1000: needs ingressRate"),
        ({"nonMasqueradeCIDRs": ["x"]}, "nonMasqueradeCIDRs: 'x'"),
        ({"args": {"cni": {"ips": ["x"]}}}, "args.cni.ips: 'x'"),
        ({"cni.dev/valid-attachments": [{"ifname": "a"}]}, "cni.dev/valid-attachments[0].containerID: is missing"),
        ({"ipam": []}, "ipam: expected `object`, got `array`"),
        ({"mtu": 70000}, "mtu 70000: must be between 68 and 65535"),
        ({"type": 5}, "type: expected `str`, got `int`"),
        ({"capabilities": "x"}, "capabilities: expected `object`, got `str`"),
        ({"prevResult": {"ips": "x"}}, "prevResult.ips: expected `array`, got `str`"),
        ({"prevResult": {"ips": [{"address": "x"}]}}, "prevResult.ips[0].address: 'x'"),
        ({"prevResult": {"interfaces": [5]}}, "prevResult.interfaces[0]: expected `object`"),
        ({"prevResult": {"ips": [{"address": "10.0.0.1/24", "interface": 0}]}}, "prevResult.ips[0].interface 0: there is no such"),
        ({"ipam": {"subnet": "10.1.0.0/33"}}, "ipam.subnet '10.1.0.0/33'"),
        ({"ipam": {"ranges": [[{}]]}}, "ipam.ranges[0][0].subnet: is missing"),
        ({"ipam": {"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.1.0.0/25"}]]}}, "ipam.ranges[1]: 10.1.0.1-10.1.0.126 overlaps"),
        ({"ipam": {"subnet": "10.1.0.0/24", "rangeStart": "10.2.0.1"}}, "ipam.rangeStart 10.2.0.1: is not in subnet"),
        ({"ipam": {"subnet": "10.1.0.0/24", "routes": [{"dst": "x"}]}}, "ipam.routes[0]: 'x'"),
        ({"ipam": {"subnet": "10.1.0.0/24", "routes": [{}]}}, "ipam.routes[0].dst: is missing"),
        ({"ipam": {"subnet": "10.1.0.0/24", "routes": [{"dst": "10.0.0.0/8", "mtu": -1}]}}, "ipam.routes[0].mtu: expected"),
        ({"runtimeConfig": {"ips": ["x"]}}, "runtimeConfig.ips:"),
        ({"runtimeConfig": {"mac": "x"}}, "runtimeConfig.mac 'x'"),
    ],
)  # fmt: skip
def test_a_wrong_configuration_names_its_field(wire: dict[str, Any], text: str) -> None:
    with pytest.raises(CniError) as caught:
        parse(wire)
    assert caught.value.code == spec.INVALID_CONFIG
    assert caught.value.message.startswith(text)


@pytest.mark.parametrize(
    "wire",
    [{}, {"ipam": {"subnet": "x"}}, {"ipam": 3}, {"runtimeConfig": 3}, {"prevResult": {"ips": 3}}],
)
def test_del_takes_what_add_refuses(wire: dict[str, Any]) -> None:
    request = spec.parse_request(
        {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0"},
        json.dumps(BASE | wire).encode(),
    )
    found = config.for_removal(request)
    assert (found.name, found.ipam.type) == ("net", "kubewire-ipam")


@pytest.mark.parametrize("name", ["cni.dev/valid-attachments", "cni.dev/attachments"])
def test_what_the_runtime_knows_by_either_name(name: str) -> None:
    assert parse({}).valid_attachments is None
    assert parse({name: []}).valid_attachments == frozenset()
    found = parse({name: [{"containerID": "c1", "ifname": "eth0"}]})
    assert found.valid_attachments == {"c1/eth0"}


@pytest.mark.parametrize(("text", "disabled"), [(True, True), ("true", True), ("false", False)])
def test_disable_gc_as_people_write_it(text: Any, disabled: bool) -> None:
    assert parse({"disableGC": text}).disable_gc is disabled


@pytest.mark.parametrize("capital", [False, True])
def test_capabilities_whatever_their_case(capital: bool) -> None:
    def shaped(value: Any) -> Any:
        if isinstance(value, dict):
            return {k[0].upper() + k[1:] if capital else k: shaped(v) for k, v in value.items()}
        return [shaped(v) for v in value] if isinstance(value, list) else value

    found = parse(
        {
            "runtimeConfig": shaped(
                {
                    "portMappings": [
                        {"hostPort": 8080, "containerPort": 80, "protocol": "udp", "hostIP": "1.2.3.4"}
                    ],
                    "bandwidth": {"ingressRate": 8000, "ingressBurst": 800, "egressRate": None},
                    "dns": {"servers": ["10.96.0.10"], "searches": ["a"], "options": ["ndots:5"]},
                }
            )
        }
    )  # fmt: skip
    [port] = found.ports
    assert (port.host_port, port.container_port, port.protocol, port.host_ip) == (8080, 80, "udp", "1.2.3.4")  # fmt: skip
    assert found.limits == Limits(ingress=8000, ingress_burst=100)
    assert found.dns == {"nameservers": ["10.96.0.10"], "search": ["a"], "options": ["ndots:5"]}


def test_an_mtu_that_is_set() -> None:
    """Smaller than what fits it changes nothing else; a larger one is no place for long IPv6 packets."""
    fits = Fit(1500, Gso(196_608, 196_608))
    assert fits.at(0) == fits
    assert fits.at(1400) == Fit(1400, fits.gso)
    assert fits.at(9000) == Fit(9000, Gso(196_608, 0))
