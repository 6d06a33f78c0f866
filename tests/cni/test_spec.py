"""The CNI specification, sans I/O."""

import json
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubewire.cni import spec
from kubewire.cni.spec import CniError, Ip, Link, Result, ResultRoute

ENV = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/c1",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin:/usr/lib/cni",
    "CNI_ARGS": "K8S_POD_NAME=web;IgnoreUnknown=1",
}
CONFIG = {"cniVersion": "1.1.0", "name": "net", "type": "kubewire-cni"}

RESULT = Result(
    interfaces=(
        Link("kc1", "ee:ee:ee:ee:ee:ee", 1450),
        Link("eth0", "0a:58:0a:01:00:02", 1450, "/run/netns/c1", "/run/vhost", "0000:00:1f.6"),
    ),
    ips=(
        Ip(ip_interface("10.1.0.2/32"), ip_address("169.254.1.1"), 1),
        Ip(ip_interface("fd00::2/128"), ip_address("fe80::1"), 1),
    ),
    routes=(ResultRoute(ip_network("0.0.0.0/0"), ip_address("169.254.1.1"), mtu=1400, priority=5),),
    dns={"nameservers": ["10.96.0.10"]},
)


def test_a_request_is_read() -> None:
    request = spec.parse_request(ENV, json.dumps(CONFIG).encode())
    assert (request.command, request.owner, request.version, request.name) == (
        "ADD", "c1/eth0", "1.1.0", "net",
    )  # fmt: skip
    assert request.path == ("/opt/cni/bin", "/usr/lib/cni")
    assert request.args == {"K8S_POD_NAME": "web", "IgnoreUnknown": "1"}


@pytest.mark.parametrize(
    ("env", "config", "code", "text"),
    [
        ({"CNI_COMMAND": ""}, {}, 4, "CNI_COMMAND: required"),
        ({"CNI_COMMAND": "MAKE"}, {}, 4, "CNI_COMMAND: unknown command 'MAKE'"),
        ({"CNI_CONTAINERID": ""}, {}, 4, "CNI_CONTAINERID: required"),
        ({"CNI_NETNS": "", "CNI_IFNAME": ""}, {}, 4, "CNI_NETNS, CNI_IFNAME: required"),
        ({"CNI_CONTAINERID": "../x"}, {}, 4, "CNI_CONTAINERID '../x': has illegal characters"),
        ({"CNI_IFNAME": "a-very-long-name"}, {}, 4, "CNI_IFNAME 'a-very-long-name': is longer"),
        ({"CNI_IFNAME": "a/b"}, {}, 4, "CNI_IFNAME 'a/b': has illegal characters"),
        ({"CNI_IFNAME": ".."}, {}, 4, "CNI_IFNAME '..': has illegal characters"),
        ({"CNI_ARGS": "nonsense"}, {}, 4, "CNI_ARGS: 'nonsense' is not KEY=VALUE"),
        ({}, {"cniVersion": "9.9"}, 1, "cniVersion '9.9': is not supported"),
        ({"CNI_COMMAND": "GC"}, {"cniVersion": "1.0.0"}, 1, "cniVersion 1.0.0: GC needs 1.1.0"),
        ({"CNI_COMMAND": "CHECK"}, {"cniVersion": "0.3.1"}, 1, "cniVersion 0.3.1: CHECK needs"),
        ({}, {"name": ""}, 7, "name: is missing"),
        ({}, {"name": None, "cniVersion": "0.3.1"}, 7, "name: is missing"),
        ({}, {"name": 5}, 7, "name: is not a string"),
        ({}, {"cniVersion": {}}, 1, "cniVersion {}: is not supported"),
        ({"CNI_COMMAND": "GC", "CNI_PATH": ""}, {}, 4, "CNI_PATH: required"),
        ({"CNI_COMMAND": "STATUS", "CNI_PATH": ""}, {}, 4, "CNI_PATH: required"),
        ({"CNI_IFNAME": "eth%d"}, {}, 4, "CNI_IFNAME 'eth%d': has illegal characters"),
        ({"CNI_IFNAME": "all"}, {}, 4, "CNI_IFNAME 'all': is not a name"),
        ({}, {"name": "n" * 201}, 7, "name 'nnn"),
        ({}, {"name": "a/b"}, 7, "name 'a/b': has illegal characters"),
        ({}, b"{", 6, "network configuration on stdin:"),
        ({}, b"[]", 6, "network configuration on stdin: is not a JSON object"),
        ({}, b"\xff", 6, "network configuration on stdin:"),
    ],
)
def test_a_wrong_request_names_what_is_wrong(
    env: dict[str, str], config: dict[str, Any] | bytes, code: int, text: str
) -> None:
    stdin = config if isinstance(config, bytes) else json.dumps(CONFIG | config).encode()
    with pytest.raises(CniError) as caught:
        spec.parse_request(ENV | env, stdin)
    assert caught.value.code == code
    assert caught.value.message.startswith(text)


@pytest.mark.parametrize(
    ("command", "missing"), [("DEL", "CNI_NETNS"), ("GC", "CNI_IFNAME"), ("STATUS", "CNI_NETNS")]
)
def test_what_a_command_does_not_need_may_be_missing(command: str, missing: str) -> None:
    env = {k: v for k, v in ENV.items() if k != missing} | {"CNI_COMMAND": command}
    assert spec.parse_request(env, json.dumps(CONFIG).encode()).command == command


def test_del_undoes_what_was_refused_for_its_args() -> None:
    env = ENV | {"CNI_COMMAND": "DEL", "CNI_ARGS": "nonsense;A=B"}
    assert spec.parse_request(env, json.dumps(CONFIG).encode()).args["A"] == "B"


def test_version_needs_nothing() -> None:
    assert spec.parse_request({"CNI_COMMAND": "VERSION"}, b"").command == "VERSION"


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_a_result_comes_back_from_every_version(version: str) -> None:
    wire = RESULT.to_wire(version)
    back = spec.parse_result(json.loads(json.dumps(wire)))
    assert [str(ip.address) for ip in back.ips] == ["10.1.0.2/32", "fd00::2/128"]
    assert back.dns == RESULT.dns
    assert back.interfaces[1].sandbox == "/run/netns/c1"
    if version == "1.1.0":
        assert back == RESULT


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.4.0", {"version": "4", "interface": 1, "address": "10.1.0.2/32", "gateway": "169.254.1.1"}),
        ("1.0.0", {"interface": 1, "address": "10.1.0.2/32", "gateway": "169.254.1.1"}),
    ],
)  # fmt: skip
def test_ips_have_a_version_before_1_0(version: str, expected: dict[str, Any]) -> None:
    assert RESULT.to_wire(version)["ips"][0] == expected


def test_mtu_and_route_details_only_since_1_1() -> None:
    old, new = RESULT.to_wire("1.0.0"), RESULT.to_wire("1.1.0")
    assert "mtu" not in old["interfaces"][0]
    assert old["routes"] == [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}]
    assert new["interfaces"][0]["mtu"] == 1450
    assert new["routes"][0] == {"dst": "0.0.0.0/0", "gw": "169.254.1.1", "mtu": 1400, "priority": 5}


def test_the_oldest_form() -> None:
    wire = RESULT.to_wire("0.2.0")
    assert wire["ip4"] == {
        "ip": "10.1.0.2/32",
        "gateway": "169.254.1.1",
        "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}],
    }
    assert wire["ip6"]["ip"] == "fd00::2/128"
    assert [str(ip.address) for ip in spec.parse_result(wire).ips] == ["10.1.0.2/32", "fd00::2/128"]


def test_results_of_a_chain_are_joined() -> None:
    earlier = Result(interfaces=(Link("br0"),), dns={"domain": "x"})
    joined = RESULT.after(earlier)
    assert [link.name for link in joined.interfaces] == ["br0", "kc1", "eth0"]
    assert [ip.interface for ip in joined.ips] == [2, 2]
    assert joined.dns == {"domain": "x", "nameservers": ["10.96.0.10"]}


@pytest.mark.parametrize(
    "wire", [{"ips": [{"address": "nonsense"}]}, {"interfaces": [{}]}, {"routes": [{"gw": "1.1.1.1"}]}, {"ips": 3}]
)  # fmt: skip
def test_a_wrong_prev_result_is_a_decoding_failure(wire: dict[str, Any]) -> None:
    with pytest.raises(CniError, match="prevResult") as caught:
        spec.parse_result(wire)
    assert caught.value.code == spec.DECODING_FAILURE


@given(st.binary(max_size=60), st.sampled_from(spec.COMMANDS))
def test_any_input_is_read_or_refused(stdin: bytes, command: str) -> None:
    try:
        spec.parse_request(ENV | {"CNI_COMMAND": command}, stdin)
    except CniError as error:
        assert error.code in (1, 4, 6, 7)
