"""The Node object and its Lease: how a node says that it is there."""

import asyncio
import logging
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

from kubewire import __version__
from kubewire.api.core import Node
from kubewire.api.errors import StatusError
from kubewire.api.meta import JSON, Key
from kubewire.api.release import VERSION
from kubewire.api.resources import LEASES, NODES
from kubewire.client.informer import Informer
from kubewire.client.rest import Client
from kubewire.kubelet.status import timestamp

LEASE_NAMESPACE = "kube-node-lease"
LEASE_SECONDS = 40
RENEW_SECONDS = 10.0
PODS = "250"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

log = logging.getLogger(__name__)


def node_object(name: str, ips: tuple[str, ...], zone: str, now: float) -> JSON:
    """The Node as it is registered."""
    machine = platform.machine()
    arch = _ARCHITECTURES.get(machine, machine)
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": arch,
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": arch,
    }
    if zone:
        labels["topology.kubernetes.io/zone"] = zone
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {},
        "status": node_status(name, ips, arch, now),
    }


def node_status(name: str, ips: tuple[str, ...], arch: str, now: float) -> JSON:
    """The status: always enough of everything, since nothing here is limited by it."""
    capacity = {
        "cpu": str(os.cpu_count() or 1),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 1024}Ki",
        "pods": PODS,
    }
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    addresses = [{"type": "InternalIP", "address": ip} for ip in ips]
    return {
        "addresses": [*addresses, {"type": "Hostname", "address": name}],
        "capacity": capacity,
        "allocatable": capacity,
        "conditions": _conditions(timestamp(now)),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {
            "architecture": arch,
            "bootID": boot_id,
            "containerRuntimeVersion": f"kubewire://{__version__}",
            "kernelVersion": platform.release(),
            "kubeProxyVersion": VERSION,
            "kubeletVersion": VERSION,
            "machineID": "",
            "operatingSystem": "linux",
            "osImage": "kubewire (network namespaces of this machine)",
            "systemUUID": "",
        },
    }


def _conditions(now: str) -> list[JSON]:
    fine = {
        "MemoryPressure": ("False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        "DiskPressure": ("False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        "PIDPressure": ("False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        "Ready": ("True", "KubeletReady", "kubelet is posting ready status"),
    }  # fmt: skip
    return [
        {
            "type": type_,
            "status": status,
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        for type_, (status, reason, message) in fine.items()
    ]


async def register(
    client: Client, name: str, ips: tuple[str, ...], zone: str, *, unreachable_delay: float = 0.2
) -> None:
    """Create the Node, or bring labels and status of the one that is there up to date."""
    wanted = node_object(name, ips, zone, time.time())
    while True:
        try:
            try:
                await client.create(NODES, wanted)
            except StatusError as error:
                if error.reason != "AlreadyExists":
                    raise
                labels = {"metadata": {"labels": wanted["metadata"]["labels"]}}
                await client.patch(NODES, name, labels)
            await client.patch(NODES, name, {"status": wanted["status"]}, subresource="status")
        except StatusError as error:
            log.warning("node %s cannot register: %s", name, error)
            await asyncio.sleep(unreachable_delay)
        else:
            return


async def wait_for_pod_cidr(informer: Informer[Node], name: str) -> tuple[str, ...]:
    """Return the podCIDRs that the controller has given to the node."""
    changed = asyncio.Event()
    informer.listen(lambda _: changed.set())
    while True:
        node = informer.store.get(Key("", name))
        if node is not None and node.pod_cidrs:
            return node.pod_cidrs
        changed.clear()
        await changed.wait()


async def keep_lease(client: Client, name: str) -> None:
    """Renew the node's Lease for ever."""
    while True:
        try:
            await _renew(client, name)
        except StatusError as error:
            log.debug("lease of %s: %s", name, error)
        await asyncio.sleep(RENEW_SECONDS)


async def _renew(client: Client, name: str) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now}
    try:
        await client.patch(LEASES, name, {"spec": spec}, LEASE_NAMESPACE)
    except StatusError as error:
        if error.code != 404:
            raise
        lease = {
            "apiVersion": LEASES.api_version,
            "kind": "Lease",
            "metadata": {"name": name, "namespace": LEASE_NAMESPACE},
            "spec": spec,
        }
        await client.create(LEASES, lease, LEASE_NAMESPACE)
