"""Pools of addresses that namespaces of a whole cluster use, on every node."""

import ipaddress
import json

from tests.e2e.conftest import Kubewire

MANIFESTS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: kubewire-ip-pools, namespace: kube-system}
data:
  blue: "{cidrs: [10.244.200.0/24], blockSize: 30, namespaces: [team-a]}"
  green: "{cidrs: [10.244.201.0/24]}"
---
apiVersion: v1
kind: Namespace
metadata: {name: team-a}
---
apiVersion: v1
kind: Namespace
metadata: {name: team-b, annotations: {kubewire.dev/ip-pool: green}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: team-a}
spec:
  replicas: 9
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: x, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: g, namespace: team-b}
spec: {containers: [{name: c, image: x, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: static, annotations: {kubewire.dev/ip: 10.244.201.77}}
spec: {containers: [{name: c, image: x, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: plain}
spec: {containers: [{name: c, image: x, ports: [{containerPort: 80}]}]}
"""


def test_pods_of_both_nodes_take_from_the_pools_and_reach_each_other(kubewire: Kubewire) -> None:
    kubewire("up", "--pod-network", "vxlan", "-f", "-", "--detach", text=MANIFESTS)
    web = kubewire.pods("team-a")
    blue = ipaddress.ip_network("10.244.200.0/24")
    assert all(ipaddress.ip_address(pod["status"]["podIP"]) in blue for pod in web)
    assert len({pod["status"]["podIP"] for pod in web}) == 9
    assert len({pod["spec"]["nodeName"] for pod in web}) == 2
    [green] = kubewire.pods("team-b")
    assert green["status"]["podIP"].startswith("10.244.201.")
    plain, static = kubewire.pods("default")
    assert static["status"]["podIP"] == "10.244.201.77"
    assert plain["status"]["podIP"].startswith(("10.244.0.", "10.244.1."))
    found = json.loads(kubewire("reach", "--pods", "--ports", "80", "-o", "json").stdout)
    failed = [flow for flow in found["flows"] if not flow["ok"] and "kube-system" not in flow["to"]]
    assert len(found["flows"]) >= 12 * 12
    assert not failed
