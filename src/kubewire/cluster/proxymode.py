"""The proxy mode of a running cluster: what its kube-proxy ConfigMap says, which every node follows.

Nodes put the rules of the new mode in before those of the old one go, and what is established is
tracked by the kernel in every mode: no connection is lost on the way.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from kubewire.api.errors import InputError, StatusError
from kubewire.api.meta import JSON
from kubewire.api.resources import CONFIG_MAPS
from kubewire.client.informer import key_of
from kubewire.client.manifests import parse
from kubewire.cluster.addons import PROXY_CONFIG
from kubewire.kubeproxy import backends
from kubewire.kubeproxy.config import CONFIG_FILE, Config, over

if TYPE_CHECKING:
    from kubewire.client.rest import Client
    from kubewire.cluster.state import ClusterState


async def live(client: Client, cluster: ClusterState) -> Config:
    """How the cluster's proxies are configured now."""
    namespace, name = PROXY_CONFIG
    try:
        found = [await client.get(CONFIG_MAPS, name, namespace)]
    except StatusError as error:
        if error.code != 404:
            raise
        found = []
    return configured(cluster, found)


def configured(cluster: ClusterState, config_maps: Iterable[JSON]) -> Config:
    """The same, when the ConfigMaps are known; nodes let alone what they cannot use, and so does this."""
    options = cluster.options
    mode = options.get("proxyMode", "nftables")
    config = Config(
        mode="nftables" if mode == "none" else mode,
        cluster_cidrs=tuple(options.get("podCIDRs", ())),
    )
    for obj in config_maps:
        if key_of(obj) == PROXY_CONFIG:
            try:
                found = over(config, (obj.get("data") or {}).get(CONFIG_FILE, ""), CONFIG_FILE)
                backends.require(found.mode, CONFIG_FILE)
            except InputError:
                return config
            return found
    return config


async def switch(client: Client, cluster: ClusterState, mode: str) -> None:
    """Return when every node is in the new mode."""
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
