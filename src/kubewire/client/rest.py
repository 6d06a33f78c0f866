"""Client: the verbs of the Kubernetes API over one connection.

Every failure is a StatusError: what the server said, or ServiceUnavailable / Timeout when it
could not be reached. Objects are plain dicts; typed structs are the informers' business.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import msgspec

from kubewire.api.meta import JSON
from kubewire.api.resources import Resource
from kubewire.client import kubeconfig
from kubewire.client.transport import HttpTransport, Transport

PatchKind = Literal["merge", "strategic", "json", "apply"]
PATCH_TYPES: dict[PatchKind, str] = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
}
PAGE = 500
Objects = list[JSON]

_encode = msgspec.json.Encoder().encode


class Client:
    """An API server as one user sees it. Use as a context manager, or call ``close``."""

    def __init__(
        self, transport: Transport, *, namespace: str = "default", server: str = ""
    ) -> None:
        self.transport = transport
        self.namespace = namespace
        """Default namespace of the context."""
        self.server = server
        """URL of the server, for messages."""

    @classmethod
    def from_connection(cls, connection: kubeconfig.Connection) -> "Client":
        """Make a client of a resolved connection; nothing is opened yet."""
        return cls(
            HttpTransport(connection), namespace=connection.namespace, server=connection.server
        )

    @classmethod
    def from_kubeconfig(
        cls, path: str | Path | None = None, context: str | None = None, *, address: str = ""
    ) -> "Client":
        """Read a kubeconfig (default: kubectl's rules); ``address`` replaces where to connect."""
        found = kubeconfig.connection(kubeconfig.load(path), context)
        return cls.from_connection(replace(found, address=address))

    @classmethod
    def in_cluster(cls) -> "Client":
        """Use the service account of the pod that this process runs in."""
        return cls.from_connection(kubeconfig.in_cluster())

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        await self.transport.close()

    async def raw(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """One request to any path; ``body`` is JSON-encoded unless it is bytes."""
        wanted = {"Accept": "application/json"}
        payload: bytes | None = None
        if body is not None:
            payload = body if isinstance(body, bytes) else _encode(body)
            wanted["Content-Type"] = content_type
        if headers:
            wanted |= headers
        return await self.transport.send(method, path, _clean(params), payload, wanted)

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Like ``raw``, with the answer parsed as JSON (None if it is empty)."""
        answer = await self.raw(
            method, path, params=params, body=body, content_type=content_type, headers=headers
        )
        return msgspec.json.decode(answer) if answer else None

    def stream(
        self,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[list[bytes], None]:
        """GET an answer of endless lines (watch, log); each item holds what one read completed.

        The first one is empty: the server has begun to answer.
        """
        return self.transport.stream(
            path, _clean(params), {"Accept": "application/json", **(headers or {})}
        )

    async def get(
        self, resource: Resource, name: str, namespace: str = "", *, subresource: str = ""
    ) -> JSON:
        """Read one object."""
        return await self._object("GET", resource.path(namespace, name, subresource))

    async def list(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
    ) -> Objects:
        """Read every object (of a namespace, or of all), page by page."""
        found: Objects = []
        params = {
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
            "limit": PAGE,
            "continue": "",
        }
        while True:
            page = await self._object("GET", resource.path(namespace), params=params)
            found += page.get("items") or ()
            params["continue"] = (page.get("metadata") or {}).get("continue", "")
            if not params["continue"]:
                return [_with_kind(o, resource) for o in found]

    async def create(
        self,
        resource: Resource,
        obj: JSON,
        namespace: str = "",
        *,
        name: str = "",
        subresource: str = "",
        params: Mapping[str, Any] | None = None,
    ) -> JSON:
        """POST an object, or with ``name`` and ``subresource`` a binding, an eviction, ..."""
        space = namespace or _namespace(obj)
        path = resource.path(space, name, subresource)
        return await self._object("POST", path, body=obj, params=params)

    async def update(self, resource: Resource, obj: JSON, *, subresource: str = "") -> JSON:
        """PUT an object; a resourceVersion in it makes it conditional."""
        path = resource.path(_namespace(obj), obj["metadata"]["name"], subresource)
        return await self._object("PUT", path, body=obj)

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Any,
        namespace: str = "",
        *,
        kind: PatchKind = "merge",
        subresource: str = "",
        field_manager: str = "",
        force: bool = False,
    ) -> JSON:
        """PATCH an object; ``kind`` says how the patch is meant."""
        params: dict[str, Any] = {"fieldManager": field_manager}
        if force:
            params["force"] = "true"
        return await self._object(
            "PATCH",
            resource.path(namespace, name, subresource),
            body=patch,
            params=params,
            content_type=PATCH_TYPES[kind],
        )

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str = "",
        *,
        propagation: str = "",
        uid: str = "",
        resource_version: str = "",
        grace_seconds: int | None = None,
    ) -> JSON:
        """DELETE an object; ``uid`` and ``resource_version`` are preconditions."""
        options: JSON = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if propagation:
            options["propagationPolicy"] = propagation
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        if uid or resource_version:
            conditions = {"uid": uid, "resourceVersion": resource_version}
            options["preconditions"] = {k: v for k, v in conditions.items() if v}
        return await self._object("DELETE", resource.path(namespace, name), body=options)

    async def delete_collection(
        self, resource: Resource, namespace: str = "", *, label_selector: str = ""
    ) -> None:
        """DELETE every object that matches."""
        params = {"labelSelector": label_selector}
        await self.raw("DELETE", resource.path(namespace), params=params)

    async def _object(self, method: str, path: str, **options: Any) -> JSON:
        answer = await self.request(method, path, **options)
        return answer if isinstance(answer, dict) else {}


def _clean(params: Mapping[str, Any] | None) -> dict[str, str]:
    return {k: str(v) for k, v in (params or {}).items() if v not in ("", None)}


def _namespace(obj: JSON) -> str:
    return str((obj.get("metadata") or {}).get("namespace") or "")


def _with_kind(obj: JSON, resource: Resource) -> JSON:
    # Items of a list carry neither kind nor apiVersion; a lone object needs both.
    obj.setdefault("kind", resource.kind)
    obj.setdefault("apiVersion", resource.api_version)
    return obj
