"""Puts the plugins and a network configuration where a runtime looks for them.

The plugins only pass calls on to the agent, and a runtime starts one for every call, so they must
start fast: they are compiled where there is a C compiler (1 ms), and a Perl script elsewhere (4 ms;
Python would take 10 at least). With ``standalone`` they are Python and do the work themselves.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import msgspec

import kubewire
from kubewire.api.meta import JSON
from kubewire.cni.config import LOOPBACK, MAIN, parse
from kubewire.cni.plugin import PROGRAMS
from kubewire.cni.spec import VERSIONS, parse_request

CONFIG_NAME = "10-kubewire.conflist"
_CONFIG_SUFFIXES = (".conf", ".conflist", ".json")
_MARK = b"kubewire cni install"
_PERL = "/usr/bin/perl"
_CHAINABLE = {"portmap": "portMappings", "bandwidth": "bandwidth"}


class InstallError(Exception):
    """The plugins cannot be made on this machine."""


def check_socket(path: Path) -> None:
    """InstallError unless the agent can listen there (beside it at first) and the programs can name it."""
    if len(os.fsencode(path)) > 103 or any(c in str(path) for c in "'\"\\\n"):
        raise InstallError(f"socket {path}: the path is too long or has quotes in it")


def check_config(config: JSON) -> None:
    """CniError that names the field, as the plugin would say it to a runtime."""
    main = config["plugins"][0] | {"name": config["name"], "cniVersion": config["cniVersion"]}
    env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "x", "CNI_NETNS": "x", "CNI_IFNAME": "x"}
    parse(parse_request(env, msgspec.json.encode(main)), ["192.0.2.0/24"])


def install_programs(
    folder: Path, *, socket: Path, standalone: bool = False, compiler: str | None = None
) -> list[Path]:
    """Write the plugins; a ``loopback`` that somebody else has put there is left alone.

    ``compiler`` None means ``cc`` if there is one; "" means none.
    """
    check_socket(socket)
    _ensure_folder(folder)
    compiler = shutil.which("cc") if compiler is None else compiler
    data = _program(folder, socket, standalone, compiler)
    written = []
    for program in PROGRAMS:
        path = folder / program
        if program == LOOPBACK and path.exists() and _MARK not in path.read_bytes():
            continue
        _replace(path, data, 0o755)
        written.append(path)
    return written


def install_config(folder: Path, config: JSON) -> Path:
    """Write the network configuration."""
    _ensure_folder(folder)
    path = folder / CONFIG_NAME
    data = msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n"
    _replace(path, data, 0o644)
    return path


def preferred(folder: Path) -> list[str]:
    """Other configurations there that a runtime which takes the first one would take."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in _CONFIG_SUFFIXES)
    return names[: names.index(CONFIG_NAME)]


def network_config(
    name: str,
    *,
    subnets: Sequence[str] = (),
    mtu: int = 0,
    data_dir: Path | None = None,
    chained: Sequence[str] = (),
    masquerade: bool = False,
    not_masqueraded: Sequence[str] = (),
) -> JSON:
    """A list that containerd 1.6 takes too: 1.0.0, with the other versions offered beside.

    Without subnets the agent's podCIDRs are used.
    """
    ipam: JSON = {"type": "kubewire-ipam"}
    if subnets:
        ipam["ranges"] = [[{"subnet": subnet}] for subnet in subnets]
    if data_dir:
        ipam["dataDir"] = str(data_dir)
    main: JSON = {
        "type": MAIN,
        "ipam": ipam,
        "capabilities": {"ips": True, "mac": True, "dns": True},
    }
    if mtu:
        main["mtu"] = mtu
    if masquerade:
        main["ipMasq"] = True
    if not_masqueraded:
        main["nonMasqueradeCIDRs"] = list(not_masqueraded)
    plugins = [main]
    # Who has a capability gets what the runtime asks for: ours, unless another plugin is to do it.
    for kind, capability in _CHAINABLE.items():
        if kind in chained:
            plugins.append({"type": kind, "capabilities": {capability: True}})
        else:
            main["capabilities"][capability] = True
    offered = [v for v in VERSIONS if v >= "0.3.1"]
    return {"cniVersion": "1.0.0", "cniVersions": offered, "name": name, "plugins": plugins}


def _program(folder: Path, socket: Path, standalone: bool, compiler: str | None) -> bytes:
    values = {
        "@SOCKET@": str(socket),
        "@VERSIONS@": ",".join(f'"{version}"' for version in VERSIONS),
        "@PYTHON@": sys.executable,
        "@ROOT@": str(Path(kubewire.__file__).parent.parent),
    }
    if not standalone and compiler:
        return _compiled(folder, compiler, values) + _MARK
    if not standalone and not Path(_PERL).exists():
        raise InstallError(f"neither a C compiler (cc) nor {_PERL} is here: use --standalone")
    text = _source("alone.in" if standalone else "client.pl.in")
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text.encode()


def _compiled(folder: Path, compiler: str, values: dict[str, str]) -> bytes:
    macros = [
        f"-DSOCKET={_c_string(values['@SOCKET@'])}",
        f"-DVERSIONS={_c_string(values['@VERSIONS@'])}",
    ]
    # Not in a folder for temporary files: a kill would leave it there.
    target = folder / ".client.new"
    # Static where the C library allows: it starts in half the time and needs nothing there.
    for linking in (["-static"], []):
        command = [compiler, "-O2", *linking, *macros, "-pipe", "-x", "c", "-", "-o", str(target)]
        made = subprocess.run(
            command, input=_source("client.c").encode(), capture_output=True, check=False
        )
        try:
            if made.returncode == 0:
                return target.read_bytes()
        finally:
            target.unlink(missing_ok=True)
    lines = made.stderr.decode(errors="replace").splitlines() or [f"exit status {made.returncode}"]
    raise InstallError(f"{compiler}: {lines[0]}")


def _source(name: str) -> str:
    return (resources.files("kubewire.cni") / name).read_text()


def _c_string(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'


def _ensure_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InstallError(f"{folder}: is not a folder") from None
    except OSError as error:
        raise InstallError(f"{folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InstallError(f"{folder}: cannot be written to")


def _replace(path: Path, data: bytes, mode: int) -> None:
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.write_bytes(data)
        beside.chmod(mode)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise InstallError(f"{path}: {error.strerror}") from None
