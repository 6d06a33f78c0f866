"""kubeconfig files: find, merge, choose a context, and write one.

Merging follows kubectl: the files of ``$KUBECONFIG`` in order, the first one that names a cluster,
user, context or current-context wins, and relative paths are relative to the file that holds them.
"""

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubewire.api.errors import InputError, system_text
from kubewire.api.meta import JSON

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class ExecPlugin:
    """users[].user.exec: a program that prints an ExecCredential."""

    command: str
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    api_version: str = "client.authentication.k8s.io/v1"
    install_hint: str = ""
    cluster_info: JSON | None = None


@dataclass(frozen=True, slots=True)
class Connection:
    """All that is needed to reach one API server as one user."""

    server: str
    namespace: str = "default"
    ca: bytes | None = None
    insecure: bool = False
    tls_server_name: str = ""
    certificate: bytes | None = None
    key: bytes | None = None
    token: str = ""
    token_file: Path | None = None
    username: str = ""
    password: str = ""
    exec_plugin: ExecPlugin | None = None
    proxy_url: str = ""
    address: str = ""
    """Connect here instead of to the server's host: ``HOST:PORT`` or ``unix:PATH``."""
    headers: Mapping[str, str] = field(default_factory=dict)


def default_paths() -> list[Path]:
    """$KUBECONFIG's files, else ~/.kube/config."""
    if listed := os.environ.get("KUBECONFIG"):
        return [Path(p) for p in listed.split(os.pathsep) if p]
    return [Path.home() / ".kube" / "config"]


def load(path: str | Path | None = None) -> JSON:
    """Read one file, or merge the default ones; InputError if there is none or it is broken."""
    if path is not None:
        return _merge([_read(Path(path))])
    found = [p for p in default_paths() if p.exists()]
    if not found:
        looked = ", ".join(map(str, default_paths()))
        raise InputError(f"no kubeconfig found (looked for {looked}): give --kubeconfig")
    return _merge([_read(p) for p in found])


def connection(config: JSON, context: str | None = None) -> Connection:
    """Choose a context of a loaded config; InputError names what is missing."""
    chosen = context or config.get("current-context") or ""
    if not chosen:
        raise InputError("kubeconfig: current-context is not set: give --context")
    entry = _named(config, "contexts", "context", chosen)
    cluster = _named(config, "clusters", "cluster", str(entry.get("cluster", "")))
    user = _named(config, "users", "user", str(entry["user"])) if entry.get("user") else {}
    if not cluster.get("server"):
        raise InputError(f'kubeconfig: clusters["{entry.get("cluster")}"].server: required')
    token_file = user.get("tokenFile")
    return Connection(
        server=str(cluster["server"]).rstrip("/"),
        namespace=entry.get("namespace") or "default",
        ca=_data(cluster, "certificate-authority"),
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
        tls_server_name=cluster.get("tls-server-name") or "",
        certificate=_data(user, "client-certificate"),
        key=_data(user, "client-key"),
        token=user.get("token") or "",
        token_file=Path(token_file) if token_file else None,
        username=user.get("username") or "",
        password=user.get("password") or "",
        exec_plugin=_plugin(user.get("exec"), cluster),
        proxy_url=cluster.get("proxy-url") or "",
        headers=_impersonation(user),
    )


def in_cluster() -> Connection:
    """The service account of the pod that this process runs in."""
    host, port = (
        os.environ.get("KUBERNETES_SERVICE_HOST"),
        os.environ.get("KUBERNETES_SERVICE_PORT", "443"),
    )
    token = SERVICE_ACCOUNT / "token"
    if not host or not token.exists():
        raise InputError(
            "not in a cluster: KUBERNETES_SERVICE_HOST or the service account's token is missing"
        )
    namespace = SERVICE_ACCOUNT / "namespace"
    return Connection(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        namespace=namespace.read_text().strip() if namespace.exists() else "default",
        ca=(SERVICE_ACCOUNT / "ca.crt").read_bytes(),
        token_file=token,
    )


def write(
    path: str | Path,
    *,
    server: str,
    ca: bytes,
    certificate: bytes = b"",
    key: bytes = b"",
    token: str = "",
    name: str = "kubewire",
    user: str = "admin",
    namespace: str = "",
) -> None:
    """Write a self-contained kubeconfig of one context, readable by its owner only."""
    import yaml

    secrets: JSON = {"token": token} if token else {}
    if certificate:
        secrets |= {
            "client-certificate-data": base64.b64encode(certificate).decode(),
            "client-key-data": base64.b64encode(key).decode(),
        }
    context = {"cluster": name, "user": user} | ({"namespace": namespace} if namespace else {})
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": name,
                "cluster": {
                    "server": server,
                    "certificate-authority-data": base64.b64encode(ca).decode(),
                },
            }
        ],
        "users": [{"name": user, "user": secrets}],
        "contexts": [{"name": name, "context": context}],
        "current-context": name,
    }
    target = Path(path)
    temporary = target.with_name(target.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        yaml.safe_dump(config, file, sort_keys=False)
    temporary.rename(target)


def _read(path: Path) -> JSON:
    import yaml

    try:
        config = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"kubeconfig {path}: cannot be read: {system_text(error)}") from error
    except yaml.YAMLError as error:
        raise InputError(
            f"kubeconfig {path}: error parsing YAML: {' '.join(str(error).split())}"
        ) from error
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise InputError(f"kubeconfig {path}: a mapping is expected")
    for section, inner in (("clusters", "cluster"), ("users", "user")):
        for entry in config.get(section) or ():
            _absolute(entry.get(inner) or {}, path.parent)
    return config


def _absolute(entry: JSON, folder: Path) -> None:
    for key in ("certificate-authority", "client-certificate", "client-key", "tokenFile"):
        if entry.get(key):
            entry[key] = str(folder / entry[key])
    plugin = entry.get("exec")
    if isinstance(plugin, dict) and "/" in str(plugin.get("command", "")):
        plugin["command"] = str(folder / plugin["command"])


def _merge(configs: list[JSON]) -> JSON:
    merged: JSON = {"clusters": [], "users": [], "contexts": [], "current-context": ""}
    for config in configs:
        merged["current-context"] = merged["current-context"] or config.get("current-context", "")
        for section in ("clusters", "users", "contexts"):
            known = {e.get("name") for e in merged[section]}
            merged[section] += [e for e in config.get(section) or () if e.get("name") not in known]
    return merged


def _named(config: JSON, section: str, inner: str, name: str) -> JSON:
    for entry in config[section]:
        if entry.get("name") == name:
            found = entry.get(inner) or {}
            if isinstance(found, dict):
                return found
    raise InputError(f'kubeconfig: {inner} "{name}" does not exist')


def _data(entry: JSON, key: str) -> bytes | None:
    if inline := entry.get(f"{key}-data"):
        try:
            return base64.b64decode(inline, validate=False)
        except (binascii.Error, ValueError) as error:
            raise InputError(f"kubeconfig: {key}-data: not base64: {error}") from error
    if path := entry.get(key):
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"kubeconfig: {key}: cannot read {path}: {error.strerror}") from error
    return None


def _plugin(entry: JSON | None, cluster: JSON) -> ExecPlugin | None:
    if not entry:
        return None
    env = tuple((e["name"], e["value"]) for e in entry.get("env") or ())
    known: dict[str, Any] = {
        key: cluster[key]
        for key in ("server", "certificate-authority-data", "insecure-skip-tls-verify")
        if key in cluster
    }
    return ExecPlugin(
        command=str(entry.get("command", "")),
        args=tuple(map(str, entry.get("args") or ())),
        env=env,
        api_version=entry.get("apiVersion") or "client.authentication.k8s.io/v1",
        install_hint=entry.get("installHint") or "",
        cluster_info=known if entry.get("provideClusterInfo") else None,
    )


def _impersonation(user: JSON) -> dict[str, str]:
    return {"Impersonate-User": user["as"]} if user.get("as") else {}
