"""The ranges of a cluster: defaults by family, and what is refused before anything starts."""

from typing import Any

import pytest

from kubewire.api.errors import InputError
from kubewire.cluster.options import Options


@pytest.mark.parametrize(
    ("flags", "pods", "services", "node", "dns"),
    [
        ({}, ["10.244.0.0/16"], ["10.96.0.0/16"], ["172.30.0.11"], ["10.96.0.10"]),
        (
            {"ip_family": "ipv6"},
            ["fd00:10:244::/56"], ["fd00:10:96::/112"], ["fd00:172:30::b"], ["fd00:10:96::a"],
        ),
        (
            {"ip_family": "dual"},
            ["10.244.0.0/16", "fd00:10:244::/56"], ["10.96.0.0/16", "fd00:10:96::/112"],
            ["172.30.0.11", "fd00:172:30::b"], ["10.96.0.10", "fd00:10:96::a"],
        ),
        (
            {"ip_family": "dual", "pod_cidr": "fd01::/56, 10.1.0.0/16"},
            ["fd01::/56", "10.1.0.0/16"], ["fd00:10:96::/112", "10.96.0.0/16"],
            ["fd00:172:30::b", "172.30.0.11"], ["fd00:10:96::a", "10.96.0.10"],
        ),
        (
            {"ip_family": "dual", "service_cidr": "fd01::/108,10.1.0.0/16"},
            ["fd00:10:244::/56", "10.244.0.0/16"], ["fd01::/108", "10.1.0.0/16"],
            ["fd00:172:30::b", "172.30.0.11"], ["fd01::a", "10.1.0.10"],
        ),
    ],
)  # fmt: skip
def test_the_ranges_follow_the_family_and_the_order(
    flags: dict[str, Any], pods: list[str], services: list[str], node: list[str], dns: list[str]
) -> None:
    options = Options("x", **flags)
    assert list(options.addresses.cluster_cidrs) == pods
    assert list(options.addresses.service_cidrs) == services
    assert list(options.node_ips(1)) == node
    assert list(options.dns_ips) == dns


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ({"pod_cidr": "10.0.0.1/8"}, "--pod-cidr 10.0.0.1/8: 10.0.0.1/8 has host bits set"),
        ({"pod_cidr": "nonsense"}, "--pod-cidr nonsense: 'nonsense' does not appear to be an IPv4 or IPv6 network"),
        ({"pod_cidr": "fd00::/56"}, "--pod-cidr fd00::/56: --ip-family ipv4 needs one IPv4 range"),
        ({"ip_family": "ipv6", "service_cidr": "10.0.0.0/16"}, "--service-cidr 10.0.0.0/16: --ip-family ipv6 needs one IPv6 range"),
        ({"ip_family": "dual", "pod_cidr": "10.0.0.0/16"}, "--pod-cidr 10.0.0.0/16: --ip-family dual needs one IPv4 range and one IPv6 range"),
        ({"ip_family": "dual", "pod_cidr": "10.0.0.0/16,10.1.0.0/16"}, "--pod-cidr 10.0.0.0/16,10.1.0.0/16: --ip-family dual needs one IPv4 range and one IPv6 range"),
        (
            {"ip_family": "dual", "pod_cidr": "10.0.0.0/16,fd01::/56", "service_cidr": "fd02::/112,10.1.0.0/16"},
            "--service-cidr fd02::/112,10.1.0.0/16: names the families in another order than --pod-cidr 10.0.0.0/16,fd01::/56",
        ),
        ({"pod_cidr": "10.96.0.0/12"}, "--pod-cidr 10.96.0.0/12: overlaps --service-cidr 10.96.0.0/16"),
        ({"pod_cidr": "172.30.4.0/22"}, "--pod-cidr 172.30.4.0/22: overlaps the nodes' network 172.30.0.0/16"),
        ({"service_cidr": "172.16.0.0/12"}, "--service-cidr 172.16.0.0/12: overlaps the nodes' network 172.30.0.0/16"),
        ({"ip_family": "ipv6", "pod_cidr": "fd00:172:30::/56"}, "--pod-cidr fd00:172:30::/56: overlaps the nodes' network fd00:172:30::/64"),
        ({"service_cidr": "10.96.0.0/29"}, "--service-cidr 10.96.0.0/29: is too small, it needs 16 addresses"),
        ({"pod_cidr": "10.0.0.0/23", "nodes": 3}, "--node-cidr-mask-size-ipv4 24: --pod-cidr 10.0.0.0/23 has room for 2 nodes, --nodes is 3"),
        ({"pod_cidr": "10.0.0.0/26"}, "--node-cidr-mask-size-ipv4 24: is larger than --pod-cidr 10.0.0.0/26"),
        ({"node_cidr_mask_size": 31}, "--node-cidr-mask-size-ipv4 31: a node would have no address for a pod"),
        ({"node_cidr_mask_size": 40}, "--node-cidr-mask-size-ipv4 40: more than 2^16 node ranges in --pod-cidr 10.244.0.0/16"),
        ({"ip_family": "ipv6", "node_cidr_mask_size_ipv6": 80}, "--node-cidr-mask-size-ipv6 80: more than 2^16 node ranges in --pod-cidr fd00:10:244::/56"),
        ({"ip_family": "dual", "node_cidr_mask_size": 26}, "--node-cidr-mask-size 26: of one family only; with --ip-family dual use --node-cidr-mask-size-ipv4 and --node-cidr-mask-size-ipv6"),
        ({"mtu": 500}, "--mtu 500: must be between 576 and 65535"),
        ({"ip_family": "dual", "mtu": 1279}, "--mtu 1279: must be between 1280 and 65535"),
        ({"non_masquerade_cidr": "10.0.0.0/8,x"}, "--non-masquerade-cidr 10.0.0.0/8,x: 'x' does not appear to be an IPv4 or IPv6 network"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_in_one_line(flags: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        Options("x", **flags)
    assert str(caught.value) == complaint
