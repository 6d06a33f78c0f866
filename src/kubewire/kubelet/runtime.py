"""What runs a container: a stand-in, a built-in program of kubewire, or a program of this machine.

No image is ever pulled. An image that the user maps to a command runs as a program, an image that
kubewire itself brings (DNS, ingress) as a builtin, every other one is played by the stand-in;
``imageID`` and ``containerID`` say which.
"""

import asyncio
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kubewire.kernel import process, terminal
from kubewire.kubelet.capture import captured, kill_group
from kubewire.kubelet.enter import Entrance
from kubewire.kubelet.output import Output
from kubewire.kubelet.pod import Container, Pod
from kubewire.kubelet.standin.control import Control, StandInError
from kubewire.kubelet.standin.ports import listeners

STAND_IN_IMAGE = "kubewire.dev/stand-in"
BUILTIN_IMAGE = "kubewire.dev/builtin"
PROGRAM_IMAGE = "kubewire.dev/program"


class StartError(Exception):
    """A container cannot start: ``reason`` is its waiting reason, the text says why."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class BuiltinPod:
    """What a built-in program is told of the pod that it is."""

    namespace: str
    name: str
    node: str
    ips: tuple[str, ...]
    args: tuple[str, ...]
    environment: dict[str, str]
    folder: Path
    """For its own files: empty at first, of the pod's folder, and gone with the pod."""


Builtin = Callable[[BuiltinPod], None]
"""Runs in a forked child inside the pod (network, files); returning ends the container."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a container."""

    id: str
    pod: Pod
    container: Container
    node: str
    netns: str
    folder: Path
    ips: tuple[str, ...]
    output: Output
    """Where to it prints; it has ended when the run has."""
    on_exit: Callable[[int], None]
    """Called once when the run has ended, with the exit code."""

    @property
    def stand_in_id(self) -> str:
        """Name of the container on the stand-in's control socket."""
        return f"{self.pod.uid}/{self.container.name}"


class Runtime(Protocol):
    """Starts and stops runs."""

    image_id: str
    """What imageID says."""
    scheme: str
    """First part of containerID, before ``://``."""
    needs_environment: bool
    """Variables and volumes matter to what runs."""

    async def start(self, run: Run, entrance: Entrance) -> None:
        """Start; StartError if it cannot."""
        ...

    async def stop(self, run: Run, grace: float) -> None:
        """End a run within ``grace`` seconds; ``on_exit`` has been called afterwards."""
        ...

    async def execute(
        self, run: Run, entrance: Entrance, argv: Sequence[str], limit: float
    ) -> tuple[int, str]:
        """Run a command beside it; exit code and output. TimeoutError after ``limit``."""
        ...


class StandInRuntime:
    """Played by the stand-in process; ``adopt`` keeps one that plays already."""

    image_id = STAND_IN_IMAGE
    scheme = "kubewire-standin"
    needs_environment = False

    def __init__(self, control: Control) -> None:
        self._control = control
        self._runs: dict[str, Run] = {}

    async def start(self, run: Run, entrance: Entrance) -> None:
        """Ask the stand-in to listen."""
        if completes_at_once(run.pod, run.container):
            run.on_exit(0)
            return
        meta = run.pod.metadata
        self._runs[run.stand_in_id] = run
        wanted = {
            "id": run.stand_in_id,
            "pod": meta.name,
            "namespace": meta.namespace,
            "node": run.node,
            "container": run.container.name,
            "hostname": entrance.hostname,
            "netns": run.netns,
            "folder": str(run.folder),
            "listeners": listeners(run.pod, run.container),
        }
        try:
            await self._control.add(wanted)
        except StandInError as error:
            self._runs.pop(run.stand_in_id, None)
            raise StartError("RunContainerError", str(error)) from error

    async def stop(self, run: Run, grace: float) -> None:
        """Close its ports."""
        if self._runs.pop(run.stand_in_id, None) is not None:
            await self._control.remove(run.stand_in_id)
            run.on_exit(0)

    async def execute(
        self, run: Run, entrance: Entrance, argv: Sequence[str], limit: float
    ) -> tuple[int, str]:
        """Succeed without running anything: the image's programs are not on this machine."""
        return 0, ""

    def exited(self, stand_in_id: str, code: int) -> None:
        """Somebody called /exit."""
        run = self._runs.pop(stand_in_id, None)
        if run is not None:
            run.on_exit(code)


def completes_at_once(pod: Pod, container: Container) -> bool:
    """A stand-in that has nothing to wait for: an init container, or a Job's that has no port."""
    if container in pod.spec.inits:
        return not container.is_sidecar
    return pod.owner("Job") and not listeners(pod, container)


class _Processes:
    """What builtins and programs share: a child that is watched and stopped."""

    def __init__(self) -> None:
        self._children: dict[str, tuple[process.Process, asyncio.Task[None]]] = {}

    async def stop(self, run: Run, grace: float) -> None:
        """SIGTERM, then SIGKILL to its whole session."""
        if run.id not in self._children:
            return
        child, watching = self._children[run.id]
        child.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(max(grace, 0.0)):
                await child.wait()
        except TimeoutError:
            kill_group(child.pid)
            child.kill()
            await child.wait()
        await asyncio.shield(watching)

    async def execute(
        self, run: Run, entrance: Entrance, argv: Sequence[str], limit: float
    ) -> tuple[int, str]:
        """Run a command in the pod, as exec probes and hooks do."""
        try:
            code, output = await captured(entrance, argv, limit, kill_rest=True)
        except TimeoutError:
            raise
        except OSError as error:
            return 126, str(error)
        return code if code >= 0 else 128 - code, output.decode("utf-8", "replace")

    def _watch(self, run: Run, child: process.Process) -> None:
        task = asyncio.get_running_loop().create_task(self._until_end(run, child))
        self._children[run.id] = child, task

    async def _until_end(self, run: Run, child: process.Process) -> None:
        code = await child.wait()
        kill_group(child.pid)
        self._children.pop(run.id, None)
        run.on_exit(code if code >= 0 else 128 - code)


class ProgramRuntime(_Processes):
    """Programs of this machine, by a map image -> command."""

    image_id = PROGRAM_IMAGE
    scheme = "kubewire-program"
    needs_environment = True

    async def start(self, run: Run, entrance: Entrance) -> None:
        """Execute ``entrance.argv`` in the pod."""
        container, environment = run.container, entrance.environment
        if container.tty:
            environment = terminal.ENVIRONMENT | environment

        def prepare() -> None:
            entrance.prepare(is_main=True)
            if container.tty:
                terminal.take()

        with run.output.pipes(stdin=container.stdin, tty=container.tty) as (fed, out, err):
            try:
                child = process.spawn(
                    entrance.argv,
                    netns=run.netns,
                    env=environment,
                    stdin=fed,
                    stdout=out,
                    stderr=err,
                    prepare=prepare,
                )
            except OSError as error:
                raise StartError("RunContainerError", str(error)) from error
        self._watch(run, child)


class BuiltinRuntime(_Processes):
    """Parts of kubewire itself, forked from the agent: their imports are already paid for."""

    image_id = BUILTIN_IMAGE
    scheme = "kubewire-builtin"
    needs_environment = True

    def __init__(self, builtins: Mapping[str, Builtin]) -> None:
        super().__init__()
        self._builtins = builtins

    async def start(self, run: Run, entrance: Entrance) -> None:
        """Fork."""
        builtin = self._builtins[run.container.image]
        meta = run.pod.metadata
        own = own_folder(run)

        def body() -> None:
            # Held open: the pod's mounts may hide where it lies.
            held = os.open(own, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            entrance.prepare()
            os.environ.update(entrance.environment)
            told = BuiltinPod(
                meta.namespace,
                meta.name,
                run.node,
                run.ips,
                tuple(entrance.argv),
                entrance.environment,
                Path(f"/proc/self/fd/{held}"),
            )
            builtin(told)

        with run.output.pipes() as (_, out, err):
            try:
                child = process.fork_into(
                    body, netns=run.netns, name=run.container.name, stdout=out, stderr=err
                )
            except OSError as error:
                raise StartError("RunContainerError", str(error)) from error
        self._watch(run, child)


class Runtimes:
    """Chooses the runtime of a container."""

    def __init__(
        self,
        stand_in: StandInRuntime,
        builtins: Mapping[str, Builtin],
        images: Mapping[str, Sequence[str]],
    ) -> None:
        self.stand_in = stand_in
        self.builtin = BuiltinRuntime(builtins)
        self.program = ProgramRuntime()
        self._builtins = builtins
        self._images = {image: tuple(command) for image, command in images.items()}

    def of(self, container: Container) -> Runtime:
        """The runtime of a container, by its image."""
        if self.command(container.image) is not None:
            return self.program
        if container.image in self._builtins:
            return self.builtin
        return self.stand_in

    def command(self, image: str) -> tuple[str, ...] | None:
        """The command that an image maps to: by its whole name, else without tag and digest."""
        found = self._images.get(image)
        return self._images.get(untagged(image)) if found is None else found


def untagged(image: str) -> str:
    """An image without ``:TAG`` and ``@DIGEST``."""
    name = image.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return head + slash + last.partition(":")[0]


def own_folder(run: Run) -> Path:
    """A new, empty folder of a container's own; what the run before left in it is gone."""
    path = run.folder / "containers" / run.container.name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def log_path(folder: Path, container: str) -> Path:
    """Where a container's output goes (see ``output``)."""
    return folder / "logs" / f"{container}.log"
