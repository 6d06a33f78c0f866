"""What a network configuration is made of."""

from typing import Any

import pytest

from kubewire.cni import written
from kubewire.cni.spec import CniError


def test_null_is_an_absent_key_but_for_the_list_of_gc() -> None:
    found = written.convert({"mtu": None, "ipam": {"type": None}, "more": 1}, written.Network)
    assert (found.mtu, found.ipam, found.valid) == (0, {}, None)
    found = written.convert({"cni.dev/valid-attachments": []}, written.Network)
    assert found.valid == []


@pytest.mark.parametrize(
    ("wire", "kind", "text"),
    [
        ({"mtu": "x"}, written.Network, "at.mtu: expected `int`, got `str`"),
        ({"routes": [{}]}, written.Previous, "at.routes[0].dst: is missing"),
        ({"ifname": "eth0"}, written.Attachment, "at.containerID: is missing"),
    ],
)
def test_a_wrong_value_is_named_with_its_way(wire: Any, kind: type, text: str) -> None:
    with pytest.raises(CniError, match=text.replace("[", r"\[")):
        written.convert(wire, kind, "at")


def test_names_of_capabilities_without_their_case() -> None:
    wire = {"PortMappings": [{"HostPort": 1, "hostip": "x"}], "Other": {"Ips": 2}}
    assert written.canonical(wire) == {
        "portMappings": [{"hostPort": 1, "hostIP": "x"}],
        "Other": {"ips": 2},
    }
