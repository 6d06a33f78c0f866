"""What ``kubewire status`` reports of a running cluster."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from kubewire.api.errors import StatusError
from kubewire.api.meta import JSON
from kubewire.api.resources import (
    BUILTIN,
    CUSTOM_RESOURCE_DEFINITIONS,
    DAEMON_SETS,
    DEPLOYMENTS,
    JOBS,
    NODES,
    PODS,
    REPLICA_SETS,
    STATEFUL_SETS,
    Resource,
)
from kubewire.client.rest import Client
from kubewire.cluster.apply import LAST_APPLIED
from kubewire.cluster.coverage import inert_fields, inert_kinds
from kubewire.cluster.proxymode import configured
from kubewire.cluster.readiness import unready
from kubewire.cluster.state import ClusterState
from kubewire.kubeproxy import backends

SHOWN = ("ipFamilies", "podCIDRs", "serviceCIDRs", "podNetwork", "cni")
"""Options of ``up`` that are repeated as they are."""
WATCHED = (NODES, PODS, DEPLOYMENTS, REPLICA_SETS, STATEFUL_SETS, DAEMON_SETS, JOBS)


def status_of(found: ClusterState) -> dict[str, Any]:
    """Ask supervisor and API server; never raises because a part of the cluster is down."""
    processes = json.loads((found.directory / "processes.json").read_text())
    try:
        objects = asyncio.run(_objects(found))
        fault = ""
    except StatusError as error:
        objects, fault = {}, f"API server: {error}"
    not_ready = [
        f"{name}: {why}"
        for name, why in unready(o for r in WATCHED for o in objects.get(r.plural, ()))
    ]
    if fault:
        not_ready.insert(0, fault)
    not_ready += [f"process {p['name']}: down ({p['lastExit']})" for p in processes if not p["pid"]]
    mode = str(found.options.get("proxyMode", "none"))
    if mode != "none":
        mode = configured(found, objects.get("configmaps", ())).mode
    return {
        "name": found.name,
        "running": True,
        "healthy": not not_ready,
        "server": found.server,
        "kubeconfig": str(found.kubeconfig),
        **{name: found.options.get(name) for name in SHOWN},
        "proxyMode": mode,
        "proxyNotes": backends.notes(mode) if mode != "none" else [],
        "processes": processes,
        "nodes": [_node(n, objects.get("pods", ())) for n in objects.get("nodes", ())],
        "notReady": not_ready,
        "inert": _inert([o for group in objects.values() for o in group]),
    }


def _node(node: JSON, pods: Any) -> dict[str, Any]:
    name = node["metadata"]["name"]
    status = node.get("status", {})
    addresses = [a["address"] for a in status.get("addresses") or () if a["type"] == "InternalIP"]
    return {
        "name": name,
        "ready": any(
            c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ()
        ),
        "pods": sum(1 for p in pods if p["spec"].get("nodeName") == name),
        "address": next(iter(addresses), ""),
        "addresses": addresses,
        "podCIDRs": node.get("spec", {}).get("podCIDRs") or [],
    }


def _inert(objects: list[JSON]) -> list[str]:
    """Kinds and fields of what users applied that nothing acts on."""
    written = []
    for obj in objects:
        text = (obj["metadata"].get("annotations") or {}).get(LAST_APPLIED)
        if text:
            written.append(json.loads(text))
    kinds = [f"kind {kind}: {count} stored" for kind, count in inert_kinds(written).items()]
    fields = [f"field {name}: in {count}" for name, count in inert_fields(written).items()]
    return sorted(kinds) + sorted(fields)


async def _objects(found: ClusterState) -> dict[str, list[JSON]]:
    async with Client.from_kubeconfig(found.kubeconfig) as client:
        definitions = await client.list(CUSTOM_RESOURCE_DEFINITIONS)
        resources = [
            r
            for r in BUILTIN
            if r.kind not in ("Event", "Secret", "EndpointSlice", "Endpoints", "Lease")
        ]
        resources += [
            Resource(
                group=d["spec"]["group"],
                version=d["spec"]["versions"][0]["name"],
                plural=d["spec"]["names"]["plural"],
                kind=d["spec"]["names"]["kind"],
            )
            for d in definitions
        ]
        lists = await asyncio.gather(*(_list(client, r) for r in resources))
        return {r.plural: found for r, found in zip(resources, lists, strict=True)}


async def _list(client: Client, resource: Resource) -> list[JSON]:
    try:
        return await client.list(resource)
    except StatusError as error:
        if error.code == 404:
            return []
        raise
