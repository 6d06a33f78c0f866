"""Which proxy mode a cluster is in: its ConfigMap says, as far as nodes can follow it."""

from pathlib import Path

import pytest

from kubewire.api.meta import JSON
from kubewire.cluster import proxymode
from kubewire.cluster.state import ClusterState
from kubewire.testing.fakeapi import FakeApi

CLUSTER = ClusterState(
    "c", Path("/c"), 1, 1, options={"proxyMode": "nftables", "podCIDRs": ["10.1.0.0/16"]}
)
HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"


def config_map(text: str, name: str = "kube-proxy") -> JSON:
    meta = {"name": name, "namespace": "kube-system"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"config.conf": text}}  # fmt: skip


@pytest.mark.parametrize(
    ("objects", "mode"),
    [
        ([], "nftables"),
        ([config_map(HEAD + "mode: ipvs\n")], "ipvs"),
        ([config_map(HEAD + "mode: ipvs\n", "another")], "nftables"),
        ([config_map(HEAD + "mode: userspace\n")], "nftables"),
        ([config_map("mode: [")], "nftables"),
    ],
)
async def test_mode_is_what_the_config_map_says(objects: list[JSON], mode: str) -> None:
    found = await proxymode.live(FakeApi(*objects).client(), CLUSTER)
    assert found.mode == mode
    assert found.cluster_cidrs == ("10.1.0.0/16",)


async def test_live_questions_know_more_than_the_mode() -> None:
    edited = config_map(HEAD + "nodePortAddresses: [10.0.0.0/8]\nclusterCIDR: 10.9.0.0/16\n")
    found = await proxymode.live(FakeApi(edited).client(), CLUSTER)
    assert found.node_ports_on == ("10.0.0.0/8",)
    assert found.cluster_cidrs == ("10.9.0.0/16",)
