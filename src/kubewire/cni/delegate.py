"""Executes another CNI plugin (``host-local``, ``dhcp``, ``static``) as our IPAM."""

import asyncio
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from kubewire.api.meta import JSON
from kubewire.cni.spec import (
    FAILED,
    INVALID_CONFIG,
    INVALID_ENVIRONMENT,
    TRY_AGAIN_LATER,
    CniError,
    Request,
    Result,
    parse_result,
)

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


async def call(request: Request, command: str, config: JSON | None = None) -> Result:
    """Run the plugin that ``ipam.type`` names with our own request; returns what ADD answers."""
    plugin = find(str(request.config.get("ipam", {}).get("type", "")), request.path)
    answer = await _run(plugin, _environment(request, command), config or request.config)
    if command != "ADD":
        return Result()
    return parse_result(answer, f"result of {plugin.name}")


async def supports(request: Request, version: str) -> bool:
    """Ask the plugin for its versions: most know neither GC nor STATUS."""
    plugin = find(str(request.config.get("ipam", {}).get("type", "")), request.path)
    question: JSON = {"cniVersion": "0.4.0"}
    answer = await _run(plugin, _environment(request, "VERSION"), question)
    return version in (answer.get("supportedVersions") or ())


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
    patience = PATIENCE.get(env["CNI_COMMAND"], LITTLE_PATIENCE)
    process = await asyncio.create_subprocess_exec(
        plugin,
        env=env,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(patience):
            out, err = await process.communicate(msgspec.json.encode(config))
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise CniError(
            TRY_AGAIN_LATER, f"{plugin.name}: no answer within {patience:.0f} s"
        ) from None
    return _answer(plugin.name, process.returncode or 0, out, err)


def _answer(name: str, status: int, out: bytes, err: bytes) -> JSON:
    try:
        answer = msgspec.json.decode(out) if out.strip() else {}
    except msgspec.DecodeError:
        answer = {}
    if status == 0:
        return answer if isinstance(answer, dict) else {}
    code = int(answer.get("code") or FAILED)
    text = answer.get("msg") or err.decode(errors="replace").strip() or f"exit status {status}"
    raise CniError(code, f"{name}: {text}", str(answer.get("details") or ""))
