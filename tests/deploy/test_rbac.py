"""The roles of the nodes' agents: what they ask the API server for, and nothing else."""

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubewire.api.meta import JSON
from kubewire.api.resources import BUILTIN, SERVICE_CIDRS
from kubewire.cluster.node import AgentOptions, run_agent
from kubewire.kernel import netns
from kubewire.testing.fakeapi import FakeApi

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "charts" / "kubewire-node"
VERBS = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete", "WATCH": "watch"}
PARTS = {"cni": "pod-network/a", "service_proxy": "kube-proxy/a", "network_policy": "networkpolicy/a"}  # fmt: skip
"""Each part's name as an agent."""

Grant = tuple[str, str, str, str]
"""Namespace of a Role ("" of the ClusterRole), API group, resource, verb."""


def metadata(name: str, namespace: str = "") -> JSON:
    return {"name": name, "uid": f"uid-{name}"} | ({"namespace": namespace} if namespace else {})


def service(name: str, created: str) -> JSON:
    meta = metadata(name, "default") | {"creationTimestamp": created}
    ports = [{"port": 80, "protocol": "TCP"}]
    spec = {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}


WORLD: list[JSON] = [
    {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": metadata("a"),
        "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]},
    },
    {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata("default")},
    {"apiVersion": "v1", "kind": "Pod", "metadata": metadata("p", "default")},
    {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata("kubewire-ip-pools", "kube-system"),
        "data": {"blue": "{cidrs: [10.50.0.0/28], namespaces: [default]}"},
    },
    {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata("n", "default"),
        "spec": {"podSelector": {}},
    },
]


def asked(method: str, path: str) -> Grant | None:
    """What a request needs; None for what is no resource (agents' reports, discovery)."""
    parts = path.strip("/").split("/")
    if parts[0] not in ("api", "apis") or len(parts) < (3 if parts[0] == "api" else 4):
        return None
    group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    verb = VERBS.get(method) or ("get" if len(rest) > 1 else "list")
    # Roles are of kube-system; whatever namespace a pod is in needs the ClusterRole.
    return (namespace if namespace == "kube-system" else ""), group, rest[0], verb


def granted(objects: list[JSON]) -> Iterator[Grant]:
    for obj in objects:
        if obj["kind"] in ("Role", "ClusterRole"):
            for rule in obj["rules"]:
                for group in rule["apiGroups"]:
                    for resource in rule["resources"]:
                        for verb in rule["verbs"]:
                            yield obj["metadata"].get("namespace", ""), group, resource, verb


async def add(socket: Path) -> JSON:
    """What a runtime's ADD for pod default/p would send."""
    reader, writer = await asyncio.open_unix_connection(socket)
    env = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/c1",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "K8S_POD_NAMESPACE=default;K8S_POD_NAME=p",
    }
    config = {"cniVersion": "1.0.0", "name": "net", "type": "kubewire-cni", "dataDir": "/run/data"}
    head = "\0".join(["kubewire-cni", *(f"{k}={v}" for k, v in env.items())])
    writer.write(f"{head}\0\0{json.dumps(config)}".encode())
    writer.write_eof()
    status, _, answer = (await reader.read()).partition(b"\n")
    writer.close()
    assert status == b"0", answer
    found: JSON = json.loads(answer)
    return found


async def requests(parts: dict[str, bool]) -> set[Grant]:
    """Run the agent with some parts through everything that makes it ask for something."""
    api = FakeApi(*WORLD, resources=(*BUILTIN, SERVICE_CIDRS))
    seen: set[Grant] = set()

    def record(method: str, path: str) -> None:
        if found := asked(method, path):
            seen.add(found)

    api.fail = record
    socket = Path("/run/kubewire/cni.sock")
    options = AgentOptions(
        socket=socket, pod_network="host-gw",
        cluster_cidrs=(ip_network("10.244.0.0/16"), ip_network("10.50.0.0/24")), **parts,
    )  # fmt: skip
    agent = asyncio.create_task(run_agent(api.client(), "a", options))
    if parts["cni"]:
        netns.create(Path("/run/netns/c1"))
        # The agent that listens has synced, and says so.
        while PARTS["cni"] not in api.agents or not os.path.exists(socket):  # noqa: ASYNC240, PTH110
            await api.converge()
            await asyncio.sleep(0)
        assert (await add(socket))["ips"][0]["address"].startswith("10.50.0.")
    if parts["service_proxy"]:
        api.put(service("one", "2026-01-01T00:00:00Z"))
        # The second has the first one's address: an event, and the same again.
        for method in ("POST", "PATCH"):
            api.put(service("two", "2026-01-02T00:00:00Z"))
            await api.until(lambda m=method: any(r.method == m and "/events" in r.path for r in api.requests))  # fmt: skip
            api.put({**service("two", "2026-01-02T00:00:00Z"), "spec": {"clusterIP": "None", "ports": [{"port": 80}]}})  # fmt: skip
            await api.converge()
    while not all(name in api.agents for part, name in PARTS.items() if parts[part]):
        await api.converge()
        await asyncio.sleep(0)
    agent.cancel()
    with suppress(asyncio.CancelledError):
        await agent
    return seen


@pytest.mark.kernel
async def test_the_manifest_grants_what_the_agent_asks_for_and_nothing_else() -> None:
    objects = list(yaml.safe_load_all((DEPLOY / "node.yaml").read_text()))
    seen = await requests(dict.fromkeys(PARTS, True))
    assert sorted(granted(objects)) == sorted(seen)


def rendered(*settings: str) -> list[JSON]:
    command = ["helm", "template", "net", str(CHART), "-n", "net", "--set", ",".join(settings)]
    objects: list[Any] = list(yaml.safe_load_all(subprocess.check_output(command, text=True)))
    return [o for o in objects if o]


@pytest.mark.kernel
@pytest.mark.tool("helm")
@pytest.mark.parametrize("part", PARTS)
async def test_each_part_of_the_chart_is_granted_its_own(part: str) -> None:
    parts = {name: name == part for name in PARTS}
    names = {"cni": "cni", "service_proxy": "serviceProxy", "network_policy": "networkPolicy"}
    settings = [f"{names[n]}.enabled={str(on).lower()}" for n, on in parts.items()]
    seen = await requests(parts)
    found = set(granted(rendered(*settings, "apiServer.host=192.0.2.1")))
    # Events of policies need packets that are dropped.
    if part == "network_policy":
        seen |= {("", "", "events", "create"), ("", "", "events", "patch")}
    assert sorted(found) == sorted(seen)
