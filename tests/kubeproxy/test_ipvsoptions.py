from typing import Any

import pytest

from kubewire.api.errors import InputError
from kubewire.kubeproxy.config import read
from kubewire.kubeproxy.ipvsoptions import IpvsOptions, read_ipvs

BASE: dict[str, Any] = {
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
    "kind": "KubeProxyConfiguration",
    "mode": "ipvs",
}


def test_the_section_is_read_as_upstream_writes_it() -> None:
    section = {
        "excludeCIDRs": ["10.9.0.0/16"],
        "minSyncPeriod": "0s",
        "scheduler": "wrr",
        "strictARP": True,
        "syncPeriod": "30s",
        "tcpFinTimeout": "1m30s",
        "tcpTimeout": "15m0s",
        "udpTimeout": "0s",
    }
    assert read({**BASE, "ipvs": section}, "f").ipvs == IpvsOptions(
        "wrr", True, ("10.9.0.0/16",), tcp_timeout=900, tcp_fin_timeout=90
    )
    assert read(BASE, "f").ipvs == IpvsOptions()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"scheduler": "fastest"}, "ipvs.scheduler: must be one of rr, wrr"),
        ({"tcpTimeout": "15"}, "ipvs.tcpTimeout: must be a duration"),
        ({"udpTimeout": "1x"}, "ipvs.udpTimeout: must be a duration"),
    ],
)
def test_bad_values_are_named(section: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_ipvs(section, "f")
