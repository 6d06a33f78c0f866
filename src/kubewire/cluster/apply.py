"""Bring manifests into the API server as ``kubectl apply`` would, and say what nothing acts on.

Namespaces and CustomResourceDefinitions go first, whatever the order of the files. A kind that the
server does not know gets a definition without a schema, so that it is stored and shown, never dropped.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Sequence

from kubewire.api.errors import InputError, StatusError
from kubewire.api.meta import JSON
from kubewire.api.resources import (
    BY_KIND,
    CUSTOM_RESOURCE_DEFINITIONS,
    NAMESPACES,
    Resource,
)
from kubewire.client.manifests import Manifest
from kubewire.client.rest import Client

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
AT_ONCE = 4
FIRST = ("Namespace", "CustomResourceDefinition", "ServiceAccount", "ConfigMap", "Secret")


class RefusedError(InputError):
    """The API server refused objects; ``lines`` has one complaint each."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


async def apply(client: Client, manifests: Iterable[Manifest], namespace: str = "default") -> None:
    """Create or update every object; raises RefusedError with every complaint at once."""
    wanted = list(manifests)
    resources = await _resources(client, wanted)
    groups: dict[int, list[Manifest]] = {}
    for manifest in wanted:
        groups.setdefault(_rank(manifest), []).append(manifest)
    complaints: list[str] = []
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(manifest: Manifest) -> None:
        async with limit:
            try:
                await _apply(
                    client,
                    resources[manifest.obj["apiVersion"], manifest.kind],
                    manifest,
                    namespace,
                )
            except StatusError as error:
                complaints.extend(_complaints(manifest, error))

    for rank in sorted(groups):
        await asyncio.gather(*(one(m) for m in groups[rank]))
    if complaints:
        raise RefusedError(complaints)


def _rank(manifest: Manifest) -> int:
    return FIRST.index(manifest.kind) if manifest.kind in FIRST else len(FIRST)


async def _apply(client: Client, resource: Resource, manifest: Manifest, namespace: str) -> None:
    meta = dict(manifest.obj.get("metadata") or {})
    if resource.namespaced:
        meta.setdefault("namespace", namespace)
    obj = with_last_applied(manifest.obj | {"metadata": meta})
    params = {"fieldManager": "kubewire", "fieldValidation": "Strict"}
    space = meta.get("namespace", "") if resource.namespaced else ""
    try:
        await client.request("POST", resource.path(space), params=params, body=obj)
    except StatusError as error:
        if error.reason != "AlreadyExists":
            raise
        await client.patch(
            resource, meta["name"], obj, space, kind="merge", field_manager="kubewire"
        )


def with_last_applied(obj: JSON) -> JSON:
    """A copy that ``kubectl apply`` will recognise as applied before."""
    meta = dict(obj.get("metadata") or {})
    annotations = dict(meta.get("annotations") or {})
    # kubectl compares texts, and it writes an empty map of annotations.
    kept = {k: v for k, v in meta.items() if k != "creationTimestamp"}
    plain = obj | {"metadata": kept | {"annotations": dict(annotations)}}
    if "generateName" not in meta:
        annotations[LAST_APPLIED] = json.dumps(plain, separators=(",", ":"), sort_keys=True) + "\n"
    meta["annotations"] = annotations
    return obj | {"metadata": meta}


def _complaints(manifest: Manifest, error: StatusError) -> list[str]:
    if error.causes:
        return [f"{manifest.where(c.field)}: {c.message}" for c in error.causes]
    unknown = re.findall(r'(unknown|duplicate) field "([^"]+)"', error.message)
    if unknown:
        return [f"{manifest.where(field)}: {kind} field" for kind, field in unknown]
    return [f"{manifest.where()}: {error.message}"]


async def _resources(
    client: Client, manifests: Sequence[Manifest]
) -> dict[tuple[str, str], Resource]:
    """The resource of every kind that occurs; unknown kinds are defined on the way."""
    known = dict(BY_KIND)
    for manifest in manifests:
        if manifest.kind == "CustomResourceDefinition":
            known |= _defined(manifest.obj)
    for manifest in manifests:
        pair = manifest.obj["apiVersion"], manifest.kind
        if pair not in known:
            known[pair] = await _define(client, *pair)
    return known


def _defined(definition: JSON) -> dict[tuple[str, str], Resource]:
    spec = definition.get("spec") or {}
    names = spec.get("names") or {}
    found = (
        Resource(
            group=spec.get("group", ""),
            version=version.get("name", ""),
            plural=names.get("plural", ""),
            kind=names.get("kind", ""),
            namespaced=spec.get("scope") != "Cluster",
        )
        for version in spec.get("versions") or ()
    )
    return {(r.api_version, r.kind): r for r in found}


async def _define(client: Client, api_version: str, kind: str) -> Resource:
    found = await _discovered(client, api_version, kind)
    if found:
        return found
    group, _, version = api_version.rpartition("/")
    if not group:
        raise InputError(f'no matches for kind "{kind}" in version "{api_version}"')
    resource = Resource(
        group=group,
        version=version,
        plural=_plural(kind),
        kind=kind,
        namespaced=not kind.startswith("Cluster"),
    )
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    annotations = {"kubewire.dev/inert": "made for a manifest of an unknown kind"}
    if group.endswith(".k8s.io"):
        annotations["api-approved.kubernetes.io"] = "unapproved, stored only"
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{resource.plural}.{group}",
            "annotations": annotations,
        },
        "spec": {
            "group": group,
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "names": {
                "plural": resource.plural,
                "singular": kind.lower(),
                "kind": kind,
                "listKind": f"{kind}List",
            },
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }
    await client.create(CUSTOM_RESOURCE_DEFINITIONS, definition)
    return resource


async def _discovered(client: Client, api_version: str, kind: str) -> Resource | None:
    root = "/apis/" if "/" in api_version else "/api/"
    try:
        listing = await client.request("GET", root + api_version)
    except StatusError as error:
        if error.code == 404:
            return None
        raise
    group, _, version = api_version.rpartition("/")
    for entry in listing.get("resources") or ():
        if entry["kind"] == kind and "/" not in entry["name"]:
            return Resource(
                group=group,
                version=version,
                plural=entry["name"],
                kind=kind,
                namespaced=entry["namespaced"],
            )
    return None


def _plural(kind: str) -> str:
    name = kind.lower()
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return name[:-1] + "ies"
    return name + ("es" if name.endswith(("s", "x", "ch", "sh")) else "s")


async def ensure_namespace(client: Client, name: str) -> None:
    """Create a namespace unless it exists."""
    try:
        await client.create(
            NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        )
    except StatusError as error:
        if error.reason != "AlreadyExists":
            raise
