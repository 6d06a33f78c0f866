"""Switches the proxy mode of a running cluster: by its kube-proxy ConfigMap, which every node follows.

Nodes put the rules of the new mode in before those of the old one go, and what is established is
tracked by the kernel in every mode: no connection is lost on the way.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from kubewire.api.errors import InputError
from kubewire.api.resources import CONFIG_MAPS
from kubewire.client.manifests import parse
from kubewire.cluster.addons import PROXY_CONFIG
from kubewire.kubeproxy import backends
from kubewire.kubeproxy.config import CONFIG_FILE

if TYPE_CHECKING:
    from kubewire.client.rest import Client
    from kubewire.cluster.state import ClusterState


async def switch(client: Client, cluster: ClusterState, mode: str) -> None:
    """Return when every node is in the new mode, and what asks about the cluster knows it."""
    if cluster.options.get("proxyMode") == "none":
        raise InputError(f"cluster {cluster.name}: it was started with --proxy-mode none")
    backends.require_machine(mode, mode)
    namespace, name = PROXY_CONFIG
    found = await client.get(CONFIG_MAPS, name, namespace)
    text = (found.get("data") or {}).get(CONFIG_FILE, "")
    config = parse(text, f"ConfigMap {PROXY_CONFIG} {CONFIG_FILE}")[0].obj | {"mode": mode}
    lines = "".join(f"{field}: {json.dumps(value)}\n" for field, value in config.items())
    patch = {"data": {CONFIG_FILE: lines}}
    await client.patch(CONFIG_MAPS, name, patch, namespace)
    await client.request("POST", "/kubewire/v1/sync", params={"timeoutSeconds": "30"})
    replace(cluster, options=cluster.options | {"proxyMode": mode}).save()
