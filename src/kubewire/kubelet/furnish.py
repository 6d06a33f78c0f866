"""Volumes, environment and command of a container, from the API and the pod's folder."""

import logging
from pathlib import Path

from kubewire.api.meta import JSON
from kubewire.kubelet import lastwords
from kubewire.kubelet.enter import Bind, Entrance
from kubewire.kubelet.environment import (
    ConfigError,
    Source,
    arguments,
    decoded,
    environment,
    references,
    service_variables,
)
from kubewire.kubelet.pod import Container, Pod
from kubewire.kubelet.runtime import Runtimes
from kubewire.kubelet.sandbox import Sandbox
from kubewire.kubelet.sources import Sources
from kubewire.kubelet.volumes import (
    Volume,
    audiences,
    binds,
    contents,
    is_service_account,
    prune,
    source_folder,
    volume_references,
    write,
)

log = logging.getLogger(__name__)

SYSTEM_VARIABLES = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


class Furnisher:
    """Prepares containers of one node."""

    def __init__(self, sources: Sources, runtimes: Runtimes) -> None:
        self._sources = sources
        self._runtimes = runtimes

    async def entrance(self, sandbox: Sandbox, container: Container) -> Entrance:
        """All that the container needs to run. ConfigError, StatusError or OSError if it is not there."""
        is_real = self._runtimes.of(container).needs_environment
        folders = await self._volumes(sandbox, container, is_real=is_real)
        own = binds(container, folders)
        variables: dict[str, str] = {}
        words: list[str] = []
        if is_real:
            variables = await self._environment(sandbox, container)
            mapped = self._runtimes.command(container.image) or ()
            words = arguments(container, mapped, variables)
            variables = SYSTEM_VARIABLES | {"HOSTNAME": sandbox.hostname} | variables
        if own or variables:
            sandbox.describe(container.name, own, variables, container.working_dir)
        return Entrance(
            str(sandbox.netns),
            sandbox.hostname,
            (*sandbox.binds, *own),
            variables,
            container.working_dir,
            tuple(words),
            self._message(sandbox, container),
        )

    def _message(self, sandbox: Sandbox, container: Container) -> tuple[Bind, ...]:
        """Where a program leaves its last words."""
        is_program = self._runtimes.of(container) is self._runtimes.program
        if not is_program or not container.termination_message_path:
            return ()
        return (lastwords.place(sandbox.folder, container),)

    async def _environment(self, sandbox: Sandbox, container: Container) -> dict[str, str]:
        pod = sandbox.pod
        namespace = pod.metadata.namespace
        objects = await self._objects(namespace, set(references(container)))
        data = {source: decoded(obj) for source, obj in objects.items()}
        services = await self._sources.services(namespace)
        if not pod.spec.enable_service_links:
            services = [s for s in services if s["metadata"]["name"] == "kubernetes"]
        links = service_variables(services, namespace)
        return environment(pod, container, data, links, sandbox.ips, sandbox.host.ips)

    async def _objects(self, namespace: str, wanted: set[Source]) -> dict[Source, JSON]:
        found = {source: await self._sources.get(source, namespace) for source in wanted}
        return {source: {**obj, "kind": source[0]} for source, obj in found.items() if obj}

    async def _volumes(
        self, sandbox: Sandbox, container: Container, *, is_real: bool
    ) -> dict[str, Path]:
        """Folders of the volumes that the container mounts, each written if it is not there yet."""
        mounted = {m.name for m in container.volume_mounts or ()}
        folders: dict[str, Path] = {}
        for volume in sandbox.pod.spec.volumes or ():
            if volume["name"] not in mounted or (is_service_account(volume) and not is_real):
                continue
            claims = sandbox.host.run_dir / "claims"
            namespace = sandbox.pod.metadata.namespace
            folder = source_folder(volume, sandbox.folder, claims, namespace)
            try:
                if not folder.exists():
                    await self._fill(sandbox, volume, folder)
            except ConfigError:
                if is_real:
                    raise
                continue  # Nothing runs that could read it: a stand-in starts without.
            folders[str(volume["name"])] = folder
        return folders

    async def _fill(self, sandbox: Sandbox, volume: Volume, folder: Path) -> None:
        if "hostPath" in volume:
            raise ConfigError(f"hostPath {folder} is not on this machine")
        pod = sandbox.pod
        wanted = {source for source, _ in volume_references(volume)}
        objects = await self._objects(pod.metadata.namespace, wanted)
        tokens = {a: await self._sources.token(pod, a) for a in audiences(volume)}
        files = contents(pod, volume, objects, tokens, sandbox.ips)
        write(folder, files)
        prune(folder, files)

    async def refresh(self, sandbox: Sandbox, source: Source) -> None:
        """Bring the volumes that show a ConfigMap or Secret up to date, if they are there.

        Keys that a volume names and the object has lost leave the volume as it was, as upstream.
        """
        for volume in sandbox.pod.spec.volumes or ():
            folder = sandbox.folder / "volumes" / str(volume["name"])
            if source in dict(volume_references(volume)) and folder.exists():
                self._sources.forget(source, sandbox.pod.metadata.namespace)
                try:
                    await self._fill(sandbox, volume, folder)
                except ConfigError as error:
                    log.warning("pod %s: volume %s: %s", sandbox.pod.key, volume["name"], error)


def stand_in_note(pod: Pod, runtimes: Runtimes) -> str:
    """Plain text for status.message: which containers are played, and what that means."""
    played = [c for c in pod.spec.everything if runtimes.of(c) is runtimes.stand_in]
    if not played:
        return ""
    names = ", ".join(f"{c.name} ({c.image})" for c in played)
    text = f"kubewire stand-in answers for: {names}; no image was pulled"
    if any(p.exec_ is not None for c in played for p in c.probes.values()):
        text += "; exec probes of a stand-in succeed without running anything"
    return text
