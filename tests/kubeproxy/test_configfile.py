"""KubeProxyConfiguration: upstream's own file is read unchanged, slips are named by path."""

from typing import Any

import pytest
import yaml

from kubewire.api.errors import InputError
from kubewire.kubeproxy.config import Config, read

HEAD = {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration"}

# What kubeadm writes, with every section that upstream has.
WHOLE = """
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection: {acceptContentTypes: "", burst: 0, contentType: "", kubeconfig: /var/lib/kube-proxy/kubeconfig.conf, qps: 0}
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack: {maxPerCore: null, min: null, tcpBeLiberal: false, tcpCloseWaitTimeout: null, tcpEstablishedTimeout: 24h0m0s, udpStreamTimeout: 0s, udpTimeout: 0s}
detectLocal: {bridgeInterface: "", interfaceNamePrefix: ""}
detectLocalMode: ""
enableProfiling: false
featureGates: {NFTablesProxyMode: true}
healthzBindAddress: ""
hostnameOverride: " Node-A "
iptables: {localhostNodePorts: null, masqueradeAll: false, masqueradeBit: null, minSyncPeriod: 0s, syncPeriod: 0s, snatNodeInternalIP: null}
ipvs: {excludeCIDRs: null, minSyncPeriod: 0s, scheduler: "", strictARP: false, syncPeriod: 0s, tcpFinTimeout: 0s, tcpTimeout: 0s, udpTimeout: 0s}
logging: {flushFrequency: 0, options: {json: {infoBufferSize: "0"}, text: {infoBufferSize: "0", splitStream: false}}, verbosity: 0, vmodule: [{filePattern: x, verbosity: 1}]}
metricsBindAddress: ""
mode: nftables
nftables: {masqueradeAll: true, masqueradeBit: 15, minSyncPeriod: 1s, syncPeriod: 1m30s}
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
windowsRunAsService: false
winkernel: {enableDSR: false, forwardHealthCheckVip: false, networkName: "", rootHnsEndpointName: "", sourceVip: ""}
"""


def test_upstreams_file_is_read_unchanged() -> None:
    config = read(yaml.safe_load(WHOLE), "config.conf")
    assert config == Config(
        mode="nftables",
        cluster_cidrs=("10.244.0.0/16",),
        hostname_override="node-a",
        kubeconfig="/var/lib/kube-proxy/kubeconfig.conf",
        bind_address="0.0.0.0",
        masquerade_all=True,
        masquerade_bit=15,
        sync_period=90.0,
        min_sync_period=1.0,
    )
    assert config.mark == 1 << 15


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"moode": "x"}, 'strict decoding error: unknown field "moode"'),
        ({"iptables": {"masqueradeAl": True}}, 'unknown field "iptables.masqueradeAl"'),
        ({"logging": {"options": {"text": {"x": 1}}}}, 'unknown field "logging.options.text.x"'),
        ({"nftables": {"masqueradeAll": "yes"}}, "nftables.masqueradeAll: "),
        ({"apiVersion": "kubeproxy.config.k8s.io/v1"}, 'apiVersion: no kind "KubeProxyConfiguration" is registered for version'),
        ({"kind": "KubeletConfiguration"}, "kind: expected KubeProxyConfiguration"),
        ({"mode": "userspace"}, 'mode: Invalid value: "userspace": must be '),
        ({"detectLocalMode": "Guess"}, 'detectLocalMode: Invalid value: "Guess": must be '),
        ({"detectLocalMode": "BridgeInterface"}, "detectLocal.bridgeInterface: Required value"),
        ({"detectLocalMode": "InterfaceNamePrefix"}, "detectLocal.interfaceNamePrefix: Required value"),
        ({"detectLocal": {"bridgeInterface": "a" * 16}}, "detectLocal.bridgeInterface: Invalid value"),
        ({"iptables": {"masqueradeBit": 32}}, "iptables.masqueradeBit: Invalid value: 32: must be within the range [0, 31]"),
        ({"nftables": {"masqueradeBit": -1}}, "nftables.masqueradeBit: Invalid value: -1: must be within the range [0, 31]"),
        ({"nftables": {"syncPeriod": "-1s"}}, 'nftables.syncPeriod: Invalid value: "-1s": must be greater than 0'),
        ({"nftables": {"syncPeriod": "soon"}}, 'nftables.syncPeriod: time: invalid duration "soon"'),
        ({"iptables": {"minSyncPeriod": "-1s"}}, "iptables.minSyncPeriod: "),
        ({"iptables": {"minSyncPeriod": "40s"}}, "iptables.syncPeriod: "),
        ({"ipvs": {"excludeCIDRs": ["10.0.0.0/33"]}}, "ipvs.excludeCIDRs[0]: "),
        ({"conntrack": {"maxPerCore": -1}}, "conntrack.maxPerCore: Invalid value: -1: must be greater than or equal to 0"),
        ({"conntrack": {"tcpCloseWaitTimeout": "-1s"}}, "conntrack.tcpCloseWaitTimeout: "),
        ({"oomScoreAdj": 1001}, "oomScoreAdj: Invalid value: 1001: must be within the range [-1000, 1000]"),
        ({"configSyncPeriod": "-1s"}, "configSyncPeriod: "),
        ({"clientConnection": {"burst": -1}}, "clientConnection.burst: Invalid value: -1: must be greater than or equal to 0"),
        ({"bindAddress": "here"}, 'bindAddress: Invalid value: "here": not a valid textual representation of an IP address'),
        ({"healthzBindAddress": "here"}, 'healthzBindAddress: Invalid value: "here": must be IP:port'),
        ({"healthzBindAddress": "x:1"}, 'healthzBindAddress: Invalid value: "x": must be a valid IP'),
        ({"metricsBindAddress": "1.2.3.4:0"}, 'metricsBindAddress: Invalid value: "0": must be a valid port'),
        ({"metricsBindAddress": "[::1]:99999"}, "metricsBindAddress: Invalid value"),
        ({"clusterCIDR": "x"}, "clusterCIDR: Invalid value"),
        ({"clusterCIDR": "10.0.0.0/8,10.1.0.0/16"}, "must be a valid DualStack CIDR (e.g. 10.100.0.0/16,fde4:8dba:82e1::/48)"),
        ({"clusterCIDR": "10.0.0.0/8,fd00::/8,fd01::/16"}, "only one CIDR allowed or a valid DualStack CIDR"),
        ({"nodePortAddresses": ["10.0.0.0"]}, "nodePortAddresses[0]: "),
        ({"portRange": "a-b"}, "portRange: "),
    ],
)  # fmt: skip
def test_slips_are_named(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as caught:
        read({**HEAD, **given}, "config.conf")
    assert str(caught.value).startswith("config.conf: ")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Config()),
        ({"mode": ""}, Config()),
        ({"bindAddress": "::"}, Config(bind_address="::", healthz_bind_address="[::]:10256", metrics_bind_address="[::1]:10249")),
        ({"healthzBindAddress": "1.2.3.4", "metricsBindAddress": "::"}, Config(healthz_bind_address="1.2.3.4:10256", metrics_bind_address="[::]:10249")),
        ({"mode": "ipvs", "iptables": {"masqueradeAll": True}}, Config(mode="ipvs", masquerade_all=True)),
        ({"iptables": {"masqueradeAll": True}}, Config()),
        ({"mode": "iptables", "iptables": {"localhostNodePorts": False}}, Config(mode="iptables", localhost_node_ports=False)),
        ({"clusterCIDR": "10.0.0.0/8, fd00::/8"}, Config(cluster_cidrs=("10.0.0.0/8", "fd00::/8"))),
        ({"nodePortAddresses": ["primary", "10.0.0.0/8"]}, Config(node_port_addresses=("primary", "10.0.0.0/8"))),
    ],
)  # fmt: skip
def test_what_it_means(given: dict[str, Any], expected: Config) -> None:
    assert read({**HEAD, **given}, "config.conf") == expected
