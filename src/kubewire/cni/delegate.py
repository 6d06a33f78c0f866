"""Executes another CNI plugin (``host-local``, ``dhcp``, ``static``) as our IPAM.

What it gives to an attachment is written down: CHECK shows it its own answer (ours names another
next hop), GC takes back by DEL what a plugin that knows no GC has given, and only where something was
given must the plugin still be there for DEL.
"""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from kubewire.api.meta import JSON
from kubewire.cni.spec import (
    FAILED,
    INCOMPATIBLE_VERSION,
    INVALID_CONFIG,
    INVALID_ENVIRONMENT,
    LATEST,
    TRY_AGAIN_LATER,
    VERSIONS,
    CniError,
    Request,
    Result,
    parse_result,
)

NAME = "delegated"
"""Of the folder, within the network's."""
_NAME_LENGTH = 32

PATIENCE = {"ADD": 6.0}
LITTLE_PATIENCE = 2.0
"""Seconds for the plugin: ADD and the DEL after its failure fit into our client's 9."""


def find(kind: str, path: tuple[str, ...]) -> Path:
    """Look a plugin up in CNI_PATH."""
    if not kind or "/" in kind:
        raise CniError(INVALID_CONFIG, f"ipam.type {kind!r}: is not the name of a plugin")
    if not path:
        raise CniError(INVALID_ENVIRONMENT, "CNI_PATH: required environment variable is missing")
    for folder in path:
        candidate = Path(folder) / kind
        if candidate.is_file():
            return candidate
    raise CniError(
        INVALID_CONFIG, f"ipam.type {kind!r}: no such plugin in CNI_PATH {':'.join(path)}"
    )


class Given:
    """What the IPAM plugin of a network has given, by attachment; a file for each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / NAME

    def expect(self, owner: str) -> None:
        """Before the plugin is asked: a kill may come before its answer."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.put(owner, {})

    def put(self, owner: str, answer: JSON) -> None:
        """Keep its answer."""
        path = self._path(owner)
        beside = path.with_suffix(".new")
        beside.write_bytes(msgspec.json.encode(_Record(owner, answer)))
        beside.replace(path)

    def get(self, owner: str) -> JSON | None:
        """Its answer, {} if that is not known, or None if it was not asked."""
        record = _read(self._path(owner))
        return record.answer if record else None

    def forget(self, owner: str) -> None:
        """It has been taken back."""
        path = self._path(owner)
        path.with_suffix(".new").unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    def owners(self) -> Iterator[str]:
        """Everyone who may hold something."""
        for path in sorted(self._folder.glob("?" * _NAME_LENGTH)):
            if record := _read(path):
                yield record.owner

    def _path(self, owner: str) -> Path:
        return self._folder / hashlib.sha256(owner.encode()).hexdigest()[:_NAME_LENGTH]


class _Record(msgspec.Struct, frozen=True):
    owner: str
    answer: JSON


def _read(path: Path) -> _Record | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Record)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


class Delegate:
    """The IPAM plugin that a configuration names, for one call."""

    def __init__(self, request: Request, folder: Path, valid: frozenset[str]) -> None:
        self._request = request
        self._given = Given(folder)
        self._valid = valid
        """Attachments that GC leaves alone."""

    async def run(self, command: str) -> Result | None:
        """Pass a call on; returns what ADD answers."""
        match command:
            case "ADD":
                return await self._add()
            case "DEL":
                await self._delete(self._request)
            case "CHECK":
                await self._check()
            case "GC":
                await self._collect()
            case _ if await self._knows_all():
                await self._call(self._request, command)
        return None

    def _plugin(self) -> Path:
        kind = self._request.config.get("ipam", {}).get("type", "")
        return find(str(kind), self._request.path)

    async def _call(self, request: Request, command: str, config: JSON | None = None) -> JSON:
        plugin, env = self._plugin(), _environment(request, command)
        config = config or request.config
        patience = PATIENCE.get(command, LITTLE_PATIENCE)
        try:
            async with asyncio.timeout(patience):
                try:
                    return await _run(plugin, env, config)
                except CniError as error:
                    if error.code != INCOMPATIBLE_VERSION:
                        raise
                older = await self._in_its_version(config)
                return await _run(plugin, env, older)
        except TimeoutError:
            why = f"{plugin.name}: no answer within {patience:.0f} s"
            raise CniError(TRY_AGAIN_LATER, why) from None

    async def _in_its_version(self, config: JSON) -> JSON:
        """The same for a plugin that does not know our version: in the newest that it does know."""
        known = await self._versions()
        version = next((one for one in reversed(VERSIONS) if one in known), LATEST)
        older = config | {"cniVersion": version}
        if isinstance(previous := config.get("prevResult"), dict):
            older["prevResult"] = parse_result(previous).to_wire(version)
        return older

    async def _versions(self) -> Sequence[str]:
        """Ask the plugin for its versions."""
        question: JSON = {"cniVersion": "0.4.0"}
        answer = await _run(self._plugin(), _environment(self._request, "VERSION"), question)
        found = answer.get("supportedVersions")
        return found if isinstance(found, list) else ()

    async def _add(self) -> Result:
        plugin, owner = self._plugin(), self._request.owner
        self._given.expect(owner)
        answer = await self._call(self._request, "ADD")
        self._given.put(owner, answer)
        return parse_result(answer, f"result of {plugin.name}")

    async def _delete(self, request: Request) -> None:
        try:
            self._plugin()
        except CniError:
            if self._given.get(request.owner) is None:
                return
            raise
        await self._call(request, "DEL")
        self._given.forget(request.owner)

    async def _check(self) -> None:
        config = self._request.config
        if answer := self._given.get(self._request.owner):
            version = self._request.version
            config = config | {"prevResult": parse_result(answer).to_wire(version)}
        await self._call(self._request, "CHECK", config)

    async def _collect(self) -> None:
        errors = []
        for owner in self._given.owners():
            if owner not in self._valid:
                container, _, interface = owner.partition("/")
                stray = replace(self._request, container_id=container, interface=interface)
                try:
                    await self._delete(stray)
                except CniError as error:
                    errors.append(f"{owner}: {error}")
        if await self._knows_all():
            await self._call(self._request, "GC")
        if errors:
            raise CniError(FAILED, f"GC: {'; '.join(errors)}")

    async def _knows_all(self) -> bool:
        """Most know neither GC nor STATUS."""
        return LATEST in await self._versions()


def _environment(request: Request, command: str) -> dict[str, str]:
    variables = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": request.container_id,
        "CNI_NETNS": request.netns,
        "CNI_IFNAME": request.interface,
        "CNI_ARGS": ";".join(f"{k}={v}" for k, v in request.args.items()),
        "CNI_PATH": ":".join(request.path),
    }
    return {"PATH": os.environ.get("PATH", os.defpath)} | variables


async def _run(plugin: Path, env: Mapping[str, str], config: JSON) -> JSON:
    process = await asyncio.create_subprocess_exec(
        plugin,
        env=env,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await process.communicate(msgspec.json.encode(config))
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    return _answer(plugin.name, process.returncode or 0, out, err)


def _answer(name: str, status: int, out: bytes, err: bytes) -> JSON:
    try:
        answer = msgspec.json.decode(out, type=dict[str, Any]) if out.strip() else {}
    except msgspec.DecodeError:
        answer = {}
    if status == 0:
        return answer
    code = answer.get("code") or FAILED
    text = answer.get("msg") or err.decode(errors="replace").strip() or f"exit status {status}"
    raise CniError(
        code if isinstance(code, int) else FAILED,
        f"{name}: {text}",
        str(answer.get("details") or ""),
    )
