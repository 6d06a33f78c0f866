"""Manifests -> the plan, as the command line reads them."""

from typing import Any

from kubewire.networkpolicy.judge import Flow, Party, judge
from kubewire.networkpolicy.objects import Objects, Source, read
from kubewire.networkpolicy.plan import Plan, PodFacts
from kubewire.networkpolicy.why import Asker, from_json
from networkpolicy.fixture import P as Pod
from networkpolicy.fixture import fixture, netpol

JSON = dict[str, Any]
Y_A, Y_B = Pod("y", "a"), Pod("y", "b")
ALLOW_80 = netpol("p80", "y", {"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]})
ONLY_NODE_1 = netpol(
    "node1",
    "y",
    {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "172.30.0.11/32"}}]}]},
)


def objects(manifests: list[dict[str, Any]]) -> Objects:
    return read(Source(m, lambda field: field) for m in manifests)


def plan(manifests: list[dict[str, Any]]) -> Plan:
    found = objects(manifests)
    return Plan.of(found.policies, found.pods, found.namespaces, found.nodes)


def passes(
    plan: Plan, source: PodFacts, target: PodFacts, port: int, protocol: str, version: int = 4
) -> bool:
    def party(pod: PodFacts) -> Party:
        address = next((a for a in pod.addresses if a.version == version), None)
        return Party(str(pod.key), pod, address)

    flow = Flow(party(source), party(target), protocol, port)
    return all(judge(plan, flow, d).verdict == "allow" for d in ("egress", "ingress"))


def service(name: str, ip: str, target: Any, **spec: Any) -> JSON:
    port = {"name": "web", "port": 8000, "targetPort": target}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "y"},
        "spec": {"clusterIP": ip, "ports": [port], **spec},
    }


def slice_of(name: str, *addresses: str, port: int = 80, **conditions: bool) -> JSON:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-1",
            "namespace": "y",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [a], "conditions": conditions} for a in addresses],
        "ports": [{"name": "web", "port": port, "protocol": "TCP"}],
    }


def ask(extra: list[JSON], source: str, target: str, port: Any = 80, **more: Any) -> JSON:
    asker = Asker(objects([*fixture(), *extra]), "x")
    return asker.ask(from_json({"from": source, "to": target, "port": port, **more}))
