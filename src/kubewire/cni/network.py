"""The pod network of one node, as its kubelet uses it: a container runtime's side of CNI.

Each pod is one attachment of the network ``kubewire``. The plugin is called by the CNI protocol
either way: in this process as a library, or by executing the installed program, which passes the
call on to this process's socket, as it does for any other runtime. It runs inside the node's
network namespace.

What the plugin answered is kept in a file for each pod, so that a restarted agent can ask the
plugin whether all of it is still there (CHECK). The file is made, empty, before the first call:
an empty one is what a failure or a kill in the middle of an ADD leaves, and means DEL first.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from kubewire.api.meta import JSON
from kubewire.cni import bandwidth
from kubewire.cni.bandwidth import BandwidthError
from kubewire.cni.config import MAIN, Fit
from kubewire.cni.plugin import Plugin
from kubewire.cni.pools import Pod, PoolSource
from kubewire.cni.spec import FAILED, LATEST, CniError, Request

NAME = "kubewire"
INTERFACE = "eth0"
SOCKET = "cni.sock"
"""Where the installed program finds the agent, in the folder that it is executed in."""


class PodNetworkError(Exception):
    """A pod cannot be connected; the text names the pod and the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodPort:
    """A port of the node that leads to a port of the pod."""

    host_port: int
    container_port: int
    protocol: str = "TCP"
    host_ip: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRequest:
    """A pod that is to be connected."""

    uid: str
    namespace: str
    name: str
    netns: str | Path
    annotations: Mapping[str, str] = field(default_factory=dict)
    ports: Sequence[PodPort] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PodResult:
    """How a pod was connected; ``ips`` in the order of the node's podCIDRs."""

    ips: tuple[str, ...]
    mac: str
    host_interface: str


class PodNetwork:
    """Connects and disconnects the pods of this node."""

    def __init__(
        self,
        folder: Path,
        pod_cidrs: Callable[[], Sequence[str]],
        *,
        cluster_cidrs: Sequence[str] = (),
        fit: Callable[[], Fit] = Fit,
        programs: Path | None = None,
        pools: PoolSource | None = None,
    ) -> None:
        self._data = folder / "cni"
        self.plugin = Plugin(
            pod_cidrs,
            cluster_cidrs=cluster_cidrs,
            fit=fit,
            identify=self._identify,
            pools=pools,
            data_dir=self._data,
        )
        """Answers the calls; with ``programs`` a `cni.server.Server` must pass them on to it."""
        self._folder = folder
        self._programs = programs
        """Where the installed program is that is to be executed; None: call it in this process."""
        self._results = self._data / "results"
        self._results.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._pods: dict[str, Pod] = {}

    @property
    def socket(self) -> Path:
        """Where the executed program finds the plugin."""
        return self._folder / SOCKET

    async def close(self) -> None:
        """Let go of the sockets and files; pods stay connected."""
        await self.plugin.close()

    async def add(self, pod: PodRequest) -> PodResult:
        """Connect a pod; asked again, the pod keeps its addresses. On failure nothing stays."""
        path = self._results / pod.uid
        self._pods[pod.uid] = Pod(namespace=pod.namespace, annotations=pod.annotations)
        try:
            config = self._config(_capabilities(pod))
            if path.exists():
                if kept := await self._still_there(pod, path.read_bytes()):
                    return kept
                await self._call("DEL", pod.uid, self._config({}), {})
            path.write_bytes(b"")
            answer = await self._call("ADD", pod.uid, config, _environment(pod))
        except (CniError, BandwidthError, OSError) as error:
            raise PodNetworkError(f"pod {pod.namespace}/{pod.name}: {error}") from error
        beside = path.with_suffix(".new")
        beside.write_bytes(answer)
        beside.replace(path)
        return _connected(answer)

    async def remove(self, uid: str) -> None:
        """Disconnect a pod and free its addresses; unknown or done already is fine."""
        path = self._results / uid
        try:
            await self._call("DEL", uid, self._config({}), {})
        except (CniError, OSError) as error:
            raise PodNetworkError(f"pod {uid}: {error}") from error
        path.unlink(missing_ok=True)
        self._pods.pop(uid, None)

    async def _identify(self, request: Request) -> Pod:
        """What a runtime does not pass on: the pod's annotations."""
        return self._pods.get(request.container_id) or Pod()

    async def _still_there(self, pod: PodRequest, answer: bytes) -> PodResult | None:
        """What an earlier agent has connected, if nobody has changed it."""
        if not answer:
            return None
        config = self._config({}) | {"prevResult": msgspec.json.decode(answer)}
        try:
            await self._call("CHECK", pod.uid, config, _environment(pod))
        except CniError:
            return None
        return _connected(answer)

    def _config(self, capabilities: JSON) -> JSON:
        config = {"cniVersion": LATEST, "name": NAME, "type": MAIN, "dataDir": str(self._data)}
        return config | ({"runtimeConfig": capabilities} if capabilities else {})

    async def _call(
        self, command: str, uid: str, config: JSON, environment: Mapping[str, str]
    ) -> bytes:
        """Call the plugin and give what it printed; CniError if it refused."""
        env = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": uid,
            "CNI_IFNAME": INTERFACE,
            "CNI_PATH": str(self._programs or self._data),
            **environment,
        }
        stdin = msgspec.json.encode(config)
        if self._programs is None:
            status, answer = await self.plugin.run(MAIN, env, stdin)
        else:
            status, answer = await self._execute(self._programs / MAIN, env, stdin)
        if status:
            raise _error(answer, status)
        return answer

    async def _execute(
        self, program: Path, env: Mapping[str, str], stdin: bytes
    ) -> tuple[int, bytes]:
        process = await asyncio.create_subprocess_exec(
            program,
            cwd=self._folder,
            env=env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        answer, _ = await process.communicate(stdin)
        return process.returncode or 0, answer


def _capabilities(pod: PodRequest) -> JSON:
    found: JSON = {}
    mappings = [
        {
            "hostPort": port.host_port,
            "containerPort": port.container_port,
            "protocol": port.protocol.lower(),
            "hostIP": port.host_ip,
        }
        for port in pod.ports
        if port.host_port
    ]
    if mappings:
        found["portMappings"] = mappings
    if limits := bandwidth.from_annotations(pod.annotations):
        found["bandwidth"] = {"ingressRate": limits.ingress, "egressRate": limits.egress}
    return found


def _environment(pod: PodRequest) -> dict[str, str]:
    arguments = {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": pod.namespace,
        "K8S_POD_NAME": pod.name,
        "K8S_POD_UID": pod.uid,
    }
    text = ";".join(f"{name}={value}" for name, value in arguments.items())
    return {"CNI_NETNS": str(pod.netns), "CNI_ARGS": text}


class _Link(msgspec.Struct, frozen=True):
    name: str
    mac: str = ""
    sandbox: str = ""


class _Ip(msgspec.Struct, frozen=True):
    address: str


class _Answer(msgspec.Struct, frozen=True):
    """What is of interest here in the result of our own plugin."""

    interfaces: list[_Link]
    ips: list[_Ip]


def _connected(answer: bytes) -> PodResult:
    result = msgspec.json.decode(answer, type=_Answer)
    return PodResult(
        ips=tuple(ip.address.partition("/")[0] for ip in result.ips),
        mac=next((link.mac for link in result.interfaces if link.sandbox), ""),
        host_interface=next((link.name for link in result.interfaces if not link.sandbox), ""),
    )


def _error(answer: bytes, status: int) -> CniError:
    try:
        wire = msgspec.json.decode(answer)
        return CniError(int(wire["code"]), str(wire["msg"]), str(wire.get("details", "")))
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        text = answer.decode(errors="replace").strip()
        return CniError(FAILED, f"{MAIN}: exit status {status}: {text or 'no answer'}")
