"""IPv6 and dual stack: everything reaches everything, over both families, with either CNI path."""

import ipaddress
import json
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import Kubewire

MANIFESTS = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: c
        image: x
        ports: [{containerPort: 80}, {containerPort: 5353, protocol: UDP}]
        readinessProbe: {httpGet: {path: /, port: 80}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, ipFamilyPolicy: PreferDualStack, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: six}
spec: {ipFamilies: [IPv6], selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec: {rules: [{http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}
"""
CLUSTERS = {
    "dual": ["--ip-family", "dual", "--pod-network", "vxlan", "--cni", "exec"],
    "ipv6": ["--ip-family", "ipv6", "--pod-network", "auto"],
    "ipv6-vxlan": ["--ip-family", "ipv6", "--pod-network", "vxlan"],
}
RESOLVE = """
import json, socket, sys
found = socket.getaddrinfo(sys.argv[1], 80, type=socket.SOCK_STREAM)
print(json.dumps(sorted({item[4][0] for item in found})))
"""
ASK = """
import json, sys, urllib.request as u
for url in sys.argv[1:]:
    print(json.load(u.urlopen(url, timeout=5))["client"])
"""
SERVE_ONCE = """
import socket, sys
s = socket.create_server((sys.argv[1], 0), family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
print(s.getsockname()[1], flush=True)
print(s.accept()[1][0], flush=True)
"""


@pytest.fixture(scope="module", params=list(CLUSTERS))
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kubewire]:
    home = tmp_path_factory.mktemp(request.param)
    command = Kubewire(home, request.param)
    try:
        command("up", *CLUSTERS[request.param], "-f", "-", "--detach", text=MANIFESTS)
        yield command
    finally:
        command("down", code=None)
        shutil.rmtree(home, ignore_errors=True)


def families(cluster: Kubewire) -> list[str]:
    return ["IPv4", "IPv6"] if cluster.name == "dual" else ["IPv6"]


def of(addresses: list[str]) -> list[str]:
    return [f"IPv{ipaddress.ip_address(a).version}" for a in addresses]


def script(cluster: Kubewire, pod: str, program: str, *arguments: str) -> str:
    return cluster.exec(f"default/{pod}", sys.executable, "-c", program, *arguments)


def url(ip: str, port: int = 80) -> str:
    return f"http://[{ip}]:{port}/" if ":" in ip else f"http://{ip}:{port}/"


def web(cluster: Kubewire) -> list[dict[str, Any]]:
    return cluster.pods("default", "app%3Dweb")


def test_pods_nodes_and_services_have_addresses_of_each_family(cluster: Kubewire) -> None:
    wanted = families(cluster)
    for pod in web(cluster):
        status = pod["status"]
        assert of([p["ip"] for p in status["podIPs"]]) == wanted
        assert of([p["ip"] for p in status["hostIPs"]]) == wanted
        assert (status["podIP"], status["hostIP"]) == (status["podIPs"][0]["ip"], status["hostIPs"][0]["ip"])  # fmt: skip
    report = json.loads(cluster("status", "-o", "json").stdout)
    assert report["ipFamilies"] == wanted
    for node in report["nodes"]:
        assert of(node["addresses"]) == wanted
        for cidr, whole in zip(node["podCIDRs"], report["podCIDRs"], strict=True):
            assert ipaddress.ip_network(cidr).subnet_of(ipaddress.ip_network(whole))  # type: ignore[arg-type]
    for name, expected in (("web", wanted), ("six", ["IPv6"]), ("kubernetes", wanted[:1])):
        spec = cluster.api(f"/api/v1/namespaces/default/services/{name}")["spec"]
        assert (spec["ipFamilies"], of(spec["clusterIPs"])) == (expected, expected)
        label = f"labelSelector=kubernetes.io/service-name%3D{name}"
        slices = cluster.api(f"/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?{label}")
        assert sorted(s["addressType"] for s in slices["items"]) == expected


def test_every_flow_over_every_family_is_reached(cluster: Kubewire) -> None:
    flows = json.loads(cluster("reach", "-o", "json").stdout)["flows"]
    assert [f for f in flows if not f["ok"]] == []
    pods = len(web(cluster))
    by_family = {
        family: [f for f in flows if of([f["ip"]]) == [family] and f["toKind"] == "Pod"]
        for family in families(cluster)
    }
    for found in by_family.values():
        assert len(found) == pods * pods * 2  # Two ports, one of them UDP.


def test_names_have_a_and_aaaa(cluster: Kubewire) -> None:
    pod = web(cluster)[0]["metadata"]["name"]
    spec = cluster.api("/api/v1/namespaces/default/services/web")["spec"]
    assert json.loads(script(cluster, pod, RESOLVE, "web")) == sorted(spec["clusterIPs"])
    only = cluster.api("/api/v1/namespaces/default/services/six")["spec"]["clusterIPs"]
    assert json.loads(script(cluster, pod, RESOLVE, "six.default.svc.cluster.local")) == only


def test_node_ports_ingress_and_the_pod_itself(cluster: Kubewire) -> None:
    """The last: a pod reaches itself through its own Service (hairpin)."""
    pods = web(cluster)
    spec = cluster.api("/api/v1/namespaces/default/services/web")["spec"]
    front = cluster.api("/api/v1/namespaces/kube-system/services/kubewire-ingress")["spec"]
    urls = [url(ip["ip"], spec["ports"][0]["nodePort"]) for p in pods for ip in p["status"]["hostIPs"]]  # fmt: skip
    urls += [url(ip) for ip in front["clusterIPs"]]
    urls += [url(ip) for ip in spec["clusterIPs"]] * 12
    clients = script(cluster, pods[0]["metadata"]["name"], ASK, *urls).split()
    assert len(clients) == len(urls)


def test_what_leaves_the_cluster_has_the_nodes_address(cluster: Kubewire) -> None:
    """The other node is outside of the pods' ranges: it sees the address of the pod's node."""
    pod = web(cluster)[0]
    here = pod["spec"]["nodeName"]
    other = next(n for n in ("node-1", "node-2") if n != here)
    addresses = {
        a["address"]: pod["status"]["hostIPs"][i]["ip"]
        for i, a in enumerate(
            a for a in cluster.api(f"/api/v1/nodes/{other}")["status"]["addresses"]
            if a["type"] == "InternalIP"
        )
    }  # fmt: skip
    for address, expected in addresses.items():
        argv = ("--", sys.executable, "-c", SERVE_ONCE, address)
        with cluster.beside("node-exec", other, *argv) as server:
            assert server.stdout
            port = server.stdout.readline().strip()
            program = f"import socket; socket.create_connection(('{address}', {port}), 5)"
            cluster.python(f"default/{pod['metadata']['name']}", program)
            assert server.stdout.readline().strip() == expected


def test_the_largest_packet_fits_the_way_between_nodes(cluster: Kubewire) -> None:
    """VXLAN over the nodes' first address: 50 bytes over IPv4, 70 over IPv6."""
    name = web(cluster)[0]["metadata"]["name"]
    shown = cluster.exec(f"default/{name}", "ip", "-o", "link", "show", "eth0")
    assert f" mtu {1450 if cluster.name == 'dual' else 1430} " in shown


def test_nobody_waits_for_duplicate_addresses(cluster: Kubewire) -> None:
    for place in (["exec", "-n", "default", web(cluster)[0]["metadata"]["name"]], ["node-exec", "node-1"]):  # fmt: skip
        assert cluster(*place, "--", "ip", "-6", "address", "show", "tentative").stdout == ""
