"""Volumes as folders of the pod's folder: what is in them (pure), and writing them.

ConfigMap, Secret, downwardAPI, projected (with a real service account token) and emptyDir; a
hostPath is the machine's own path; a claim is a folder that the pods of a node share.
"""

from base64 import b64decode
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from kubewire.kubelet.enter import Bind
from kubewire.kubelet.environment import ConfigError, Source, field_value, resource_value
from kubewire.kubelet.pod import Container, Pod

Volume = dict[str, Any]
Objects = Mapping[Source, dict[str, Any]]
"""ConfigMaps and Secrets as they are."""

Tokens = Mapping[str, str]
"""Audience -> service account token."""

TOKEN_SECONDS = 3607


def volume_references(volume: Volume) -> Iterator[tuple[Source, bool]]:
    """ConfigMaps and Secrets that a volume shows, and whether each is optional."""
    if source := volume.get("configMap"):
        yield ("ConfigMap", source.get("name", "")), bool(source.get("optional"))
    if source := volume.get("secret"):
        yield ("Secret", source.get("secretName", "")), bool(source.get("optional"))
    for part in (volume.get("projected") or {}).get("sources") or ():
        if source := part.get("configMap"):
            yield ("ConfigMap", source.get("name", "")), bool(source.get("optional"))
        if source := part.get("secret"):
            yield ("Secret", source.get("name", "")), bool(source.get("optional"))


def audiences(volume: Volume) -> list[str]:
    """Audiences of the tokens that a volume shows; "" is the API server's own."""
    sources = (volume.get("projected") or {}).get("sources") or ()
    return [
        s["serviceAccountToken"].get("audience", "") for s in sources if "serviceAccountToken" in s
    ]


def is_service_account(volume: Volume) -> bool:
    """Whether a volume shows a token: only programs need it, and it costs a request."""
    return bool(audiences(volume))


def contents(
    pod: Pod, volume: Volume, objects: Objects, tokens: Tokens, ips: tuple[str, ...]
) -> dict[str, bytes]:
    """Files of a volume by relative path. Raises ConfigError."""
    found: dict[str, bytes] = {}
    parts = [volume] if "projected" not in volume else volume["projected"].get("sources") or []
    for part in parts:
        if source := part.get("configMap"):
            found |= _keys("ConfigMap", source.get("name", ""), source, objects)
        if source := part.get("secret"):
            name = source.get("secretName") or source.get("name", "")
            found |= _keys("Secret", name, source, objects)
        if source := part.get("downwardAPI"):
            found |= _downward(pod, source.get("items") or [], ips)
        if source := part.get("serviceAccountToken"):
            found[source["path"]] = tokens[source.get("audience", "")].encode()
    return found


def _keys(kind: str, name: str, source: Volume, objects: Objects) -> dict[str, bytes]:
    obj = objects.get((kind, name))
    if obj is None:
        if source.get("optional"):
            return {}
        raise ConfigError(f'{kind.lower()} "{name}" not found')
    data = _bytes(obj)
    items = source.get("items")
    if items is None:
        return data
    missing = [i["key"] for i in items if i["key"] not in data]
    if missing and not source.get("optional"):
        raise ConfigError(f"{kind.lower()} references non-existent config key: {missing[0]}")
    return {i["path"]: data[i["key"]] for i in items if i["key"] in data}


def _bytes(obj: dict[str, Any]) -> dict[str, bytes]:
    plain = obj.get("data") or {}
    if obj.get("kind") == "Secret":
        return {k: b64decode(v) for k, v in plain.items()}
    encoded = obj.get("binaryData") or {}
    return {k: v.encode() for k, v in plain.items()} | {k: b64decode(v) for k, v in encoded.items()}


def _downward(pod: Pod, items: list[Volume], ips: tuple[str, ...]) -> dict[str, bytes]:
    found = {}
    for item in items:
        if ref := item.get("fieldRef"):
            found[item["path"]] = field_value(pod, ref["fieldPath"], ips).encode()
        elif ref := item.get("resourceFieldRef"):
            owner = next(
                (c for c in pod.spec.containers if c.name == ref.get("containerName")), Container()
            )
            found[item["path"]] = resource_value(pod, owner, ref["resource"]).encode()
    return found


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files below a folder; what points out of it is refused."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, data in files.items():
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise ConfigError(f"path {path!r} of a volume leaves the volume")
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists() and place.read_bytes() == data:
            continue
        # Whoever reads the volume meanwhile sees the old file or the new one, never a part.
        fresh = place.with_name(f"{place.name}.new")
        fresh.write_bytes(data)
        fresh.replace(place)


def prune(folder: Path, files: Mapping[str, bytes]) -> None:
    """Remove the files below a folder that it shall not have any more."""
    for place in [p for p in folder.rglob("*") if p.is_file()]:
        if str(place.relative_to(folder)) not in files:
            place.unlink()


def source_folder(volume: Volume, pod_folder: Path, claims: Path, namespace: str) -> Path:
    """Where the content of a volume lies on this machine."""
    if path := (volume.get("hostPath") or {}).get("path"):
        return Path(path)
    if claim := (volume.get("persistentVolumeClaim") or {}).get("claimName"):
        return claims / namespace / str(claim)
    return pod_folder / "volumes" / str(volume["name"])


def binds(container: Container, folders: Mapping[str, Path]) -> tuple[Bind, ...]:
    """What a container's volumeMounts bind; ``folders`` holds the volumes that are there."""
    found = []
    for mount in container.volume_mounts or ():
        folder = folders.get(mount.name)
        if folder is not None:
            source = folder / mount.sub_path if mount.sub_path else folder
            found.append(Bind(str(source), mount.mount_path, mount.read_only))
    return tuple(found)
