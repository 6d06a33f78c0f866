"""A pod's sandbox: its folder, its network namespace, its addresses, the files it sees."""

import json
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kubewire.kernel import netns
from kubewire.kubelet.enter import POD_FILE, Bind
from kubewire.kubelet.files import (
    NSSWITCH,
    Complaint,
    Resolver,
    host_name,
    hosts_file,
    resolver,
)
from kubewire.kubelet.network import PodNetwork, PodRequest, PolicyGate
from kubewire.kubelet.pod import Container, Pod

OWN_FILES = ("resolv.conf", "hosts", "hostname")


@dataclass(frozen=True, slots=True)
class Host:
    """What the pods of a node share."""

    name: str
    ips: tuple[str, ...]
    run_dir: Path
    """``pods/UID`` and the node's own files lie here."""
    netns: Path
    """The node's network namespace."""
    domain: str
    cluster_dns: tuple[str, ...]
    resolver: Resolver
    """For pods with dnsPolicy Default."""
    hosts: str
    """/etc/hosts of host-network pods."""

    @property
    def nsswitch(self) -> Path:
        """One file for all pods: names come from /etc/hosts, then DNS."""
        return self.run_dir / "nsswitch.conf"

    def prepare(self) -> None:
        """Make what is not a pod's."""
        for name in ("pods", "names"):
            (self.run_dir / name).mkdir(parents=True, exist_ok=True)
        self.nsswitch.write_text(NSSWITCH)


@dataclass(slots=True)
class Sandbox:
    """The sandbox of one pod; ``up`` and ``down`` may be repeated."""

    host: Host
    pod: Pod
    network: PodNetwork
    gate: PolicyGate
    ips: tuple[str, ...] = ()
    complaints: list[Complaint] = field(default_factory=list)
    folder: Path = field(init=False)
    """The pod's folder."""
    netns: Path = field(init=False)
    """The pod's network namespace; the node's for a host-network pod."""
    _containers: dict[str, dict[str, object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = self.host.run_dir / "pods" / self.pod.uid
        self.netns = self.host.netns if self.pod.spec.host_network else self.folder / "netns"

    @property
    def hostname(self) -> str:
        """What ``hostname`` says in the pod."""
        return host_name(self.pod, self.host.domain, self.host.name)

    @property
    def binds(self) -> tuple[Bind, ...]:
        """What every container of the pod sees."""
        own = (Bind(f"{self.folder}/{n}", f"/etc/{n}") for n in OWN_FILES)
        return (*own, Bind(str(self.host.nsswitch), "/etc/nsswitch.conf"))

    @property
    def survives(self) -> bool:
        """The sandbox of an agent before this one is still there."""
        return (self.folder / POD_FILE).exists() and netns.is_namespace(self.netns)

    async def up(self) -> None:
        """Bring it up; NetworkError or OSError if that fails."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.pod.spec.host_network:
            self.ips = self.host.ips
        else:
            self.ips = await self._wire()
        self._write_files()
        await self.gate.admit(self.pod.key, self.pod.uid, self.ips)

    async def down(self) -> None:
        """Let go of the network; the files stay until ``remove``."""
        await self.gate.forget(self.pod.uid)
        if not self.pod.spec.host_network:
            await self.network.remove(self.pod.uid)
            netns.delete(self.netns)

    def remove(self) -> None:
        """Remove the files."""
        if self._link.is_symlink() and self._link.readlink().name == self.pod.uid:
            self._link.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)

    def describe(
        self, container: str, binds: Sequence[Bind], environment: dict[str, str], cwd: str
    ) -> None:
        """Note for whoever enters how a container sees the pod."""
        self._containers[container] = {
            "binds": [b.to_wire() for b in binds],
            "env": environment,
            "cwd": cwd,
        }
        self._write_description()

    async def _wire(self) -> tuple[str, ...]:
        if not netns.is_namespace(self.netns):
            self.netns.unlink(missing_ok=True)
            netns.create(self.netns)
        meta = self.pod.metadata
        request = PodRequest(
            uid=meta.uid,
            namespace=meta.namespace,
            name=meta.name,
            netns=str(self.netns),
            annotations=self.pod.annotations,
            ports=tuple(port for c in self.pod.spec.containers for port in c.ports or ()),
        )
        return (await self.network.add(request)).ips

    def _write_files(self) -> None:
        host = self.host
        resolv_conf, self.complaints = resolver(
            self.pod, host.cluster_dns, host.domain, host.resolver
        )
        hosts = hosts_file(self.pod, self.ips, host.domain, host.hosts)
        (self.folder / "resolv.conf").write_text(resolv_conf.render())
        (self.folder / "hosts").write_text(hosts)
        (self.folder / "hostname").write_text(f"{self.hostname}\n")
        self._write_description()
        self._link.unlink(missing_ok=True)
        self._link.symlink_to(f"../pods/{self.pod.uid}")

    @property
    def _listed(self) -> tuple[Container, ...]:
        """Every container; the first of the main ones, where programs go by default, first."""
        spec = self.pod.spec
        return (*spec.containers, *spec.inits, *spec.ephemerals)

    @property
    def _link(self) -> Path:
        """``names/NAMESPACE_NAME``: how ``kubewire exec`` finds the folder."""
        meta = self.pod.metadata
        return self.host.run_dir / "names" / f"{meta.namespace}_{meta.name}"

    def _write_description(self) -> None:
        meta, folder = self.pod.metadata, self.folder
        description = {
            "namespace": meta.namespace,
            "name": meta.name,
            "uid": meta.uid,
            "netns": str(self.netns),
            "hostname": self.hostname,
            "ips": self.ips,
            "containerNames": [c.name for c in self._listed],
            "binds": [b.to_wire() for b in self.binds],
            "containers": self._containers,
        }
        temporary = folder / f"{POD_FILE}.new"
        temporary.write_text(json.dumps(description))
        temporary.rename(folder / POD_FILE)


async def remove_orphans(
    host: Host, network: PodNetwork, gate: PolicyGate, known: Collection[str]
) -> None:
    """Remove what is left of pods that went from the API while no agent was there to see it."""
    for folder in (host.run_dir / "pods").iterdir():
        uid = folder.name
        if uid in known:
            continue
        await gate.forget(uid)
        await network.remove(uid)
        netns.delete(folder / "netns")
        for link in (host.run_dir / "names").iterdir():
            if link.readlink().name == uid:
                link.unlink()
        shutil.rmtree(folder, ignore_errors=True)
