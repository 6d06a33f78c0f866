"""FakeApi: an API server in memory, for tests of controllers and agents without HTTP.

It speaks the transport seam of ``client``, so that the real Client, informers and loops run on
it unchanged: resourceVersions, watches that deliver events and bookmarks, 410 after ``compact``,
StatusErrors, status / binding / scale / finalize subresources, finalizers, graceful deletion of
pods. It validates nothing and defaults nothing; ownerReferences are data to it.
"""

import asyncio
import copy
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import msgspec

from kubewire.api.errors import StatusError
from kubewire.api.meta import JSON, Key
from kubewire.api.resources import BUILTIN, Resource
from kubewire.api.selectors import parse_field_selector, parse_selector
from kubewire.client.informer import AGENT_HEADER
from kubewire.client.rest import Client
from kubewire.testing.fakepatch import patched

_encode = msgspec.json.encode

NOW = "2026-01-01T00:00:00Z"


@dataclass(slots=True)
class _Watch:
    """One open watch; ``queue`` holds lines, None ends it."""

    resource: Resource
    matches: Callable[[JSON], bool]
    bookmarks: bool
    agent: str
    queue: "asyncio.Queue[bytes | None]" = field(default_factory=asyncio.Queue)


@dataclass(slots=True)
class Request:
    """One request, as ``FakeApi.requests`` remembers it."""

    method: str
    path: str
    body: Any


class FakeApi:
    """The server; ``client()`` gives clients of it."""

    def __init__(self, *objects: JSON, resources: tuple[Resource, ...] = BUILTIN) -> None:
        self.version = 100
        self.objects: dict[Resource, dict[Key, JSON]] = {r: {} for r in resources}
        self.agents: dict[str, int] = {}
        """resourceVersion that each agent has reported."""
        self.requests: list[Request] = []
        """Everything but reads, in order."""
        self.fail: Callable[[str, str], StatusError | None] = lambda method, path: None
        """Asked before each request (method, path); what it returns is raised."""
        self.now: Callable[[], str] = lambda: NOW
        self._history: list[tuple[int, str, Resource, JSON, JSON | None]] = []
        self._compacted = 0
        self._watches: list[_Watch] = []
        self._changed = asyncio.Event()
        self._by_path = {(r.group, r.version, r.plural): r for r in resources}
        for obj in objects:
            self.put(obj)

    def client(self) -> Client:
        """A client of this server."""
        return Client(self, server="fake://")

    def put(self, obj: JSON) -> JSON:
        """Create or replace an object directly, without defaulting, as if somebody had."""
        resource = self._resource_of(obj)
        obj = copy.deepcopy(obj)
        meta = obj.setdefault("metadata", {})
        key = Key(meta.get("namespace", "") if resource.namespaced else "", meta["name"])
        old = self.objects[resource].get(key)
        meta["uid"] = old["metadata"]["uid"] if old else meta.get("uid") or str(uuid.uuid4())
        meta.setdefault("creationTimestamp", self.now())
        return self._commit("MODIFIED" if old else "ADDED", resource, key, obj)

    def remove(self, resource: Resource, name: str, namespace: str = "") -> None:
        """Remove an object directly, whatever its finalizers."""
        key = Key(namespace, name)
        self._commit("DELETED", resource, key, self.objects[resource][key])

    def get(self, resource: Resource, name: str, namespace: str = "") -> JSON | None:
        """Look at an object; None if there is none. Do not change it."""
        return self.objects[resource].get(Key(namespace, name))

    def all(self, resource: Resource, namespace: str = "") -> list[JSON]:
        """Look at every object of a resource, by key."""
        found = self.objects[resource]
        return [found[k] for k in sorted(found) if not namespace or k.namespace == namespace]

    async def until(self, condition: Callable[[], Any], timeout: float = 10.0) -> Any:  # noqa: ASYNC109
        """Wait until a condition on this server is truthy; asked after every change."""
        async with asyncio.timeout(timeout):
            while not (value := condition()):
                self._changed.clear()
                await self._changed.wait()
        return value

    def sync(self) -> int:
        """Send a bookmark down every watch; gives its resourceVersion."""
        for watch in self._watches:
            if watch.bookmarks:
                watch.queue.put_nowait(self._bookmark(watch.resource))
        return self.version

    async def converge(self, timeout: float = 10.0) -> None:  # noqa: ASYNC109
        """Wait until every agent with a watch has reported what the server holds now."""
        version = self.sync()
        await self.until(
            lambda: all(self.agents.get(w.agent, 0) >= version for w in self._watches if w.agent),
            timeout,
        )

    def serve(self, resource: Resource) -> None:
        """Have one more kind from now on, as when a CRD is created."""
        self.objects[resource] = {}
        self._by_path[resource.group, resource.version, resource.plural] = resource

    def disconnect(self) -> None:
        """End every watch, as a server that restarts."""
        for watch in self._watches:
            watch.queue.put_nowait(None)

    def compact(self) -> None:
        """Forget the history: a watch from an older resourceVersion gets 410."""
        self._compacted = self.version
        self._history.clear()

    async def close(self) -> None:
        """End of a client: nothing to do."""

    async def send(
        self,
        method: str,
        path: str,
        params: Mapping[str, str],
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> bytes:
        """Answer one request."""
        await asyncio.sleep(0)
        if error := self.fail(method, path):
            raise error
        content_type = headers.get("Content-Type", "")
        parsed: Any = msgspec.json.decode(body) if body else None
        if method != "GET":
            self.requests.append(Request(method, path, parsed))
        if path.startswith("/kubewire/v1/agents/"):
            self.agents[unquote(path.removeprefix("/kubewire/v1/agents/"))] = int(
                parsed["resourceVersion"]
            )
            self._changed.set()
            return b""
        if method == "GET" and (found := self._discovery(path)):
            return _encode(found)
        resource, key, _ = target = self._route(path)
        if not key.name:
            return self._collection(method, resource, key.namespace, params, parsed)
        return _encode(self._single(method, target, parsed, content_type))

    async def stream(
        self, path: str, params: Mapping[str, str], headers: Mapping[str, str]
    ) -> AsyncGenerator[list[bytes], None]:
        """Answer one watch."""
        if error := self.fail("WATCH", path):
            raise error
        resource, key, _ = self._route(path)
        since = int(params.get("resourceVersion") or self.version)
        if since < self._compacted:
            raise StatusError("Expired", f"too old resource version: {since} ({self._compacted})")
        watch = _Watch(
            resource,
            _selector(key.namespace, params),
            params.get("allowWatchBookmarks") == "true",
            headers.get(AGENT_HEADER, ""),
        )
        for version, kind, of, obj, old in self._history:
            if version > since and of == resource:
                self._offer(watch, kind, obj, old)
        self._watches.append(watch)
        try:
            while (line := await watch.queue.get()) is not None:
                lines: list[bytes] = [line]
                ended = False
                while watch.queue.qsize() and not ended:
                    more = watch.queue.get_nowait()
                    ended = more is None
                    lines += [more] if more else []
                yield lines
                if ended:
                    return
        finally:
            self._watches.remove(watch)

    def _discovery(self, path: str) -> JSON | None:
        if path == "/apis":
            versions = sorted({(r.group, r.version) for r in self.objects if r.group})
            return {"groups": [{"name": g, "versions": [{"version": v}]} for g, v in versions]}
        match path.strip("/").split("/"):
            case ["api", version]:
                group = ""
            case ["apis", group, version]:
                pass
            case _:
                return None
        found = [r for r in self.objects if (r.group, r.version) == (group, version)]
        verbs = ["delete", "list"]
        return {
            "resources": [
                {"name": r.plural, "kind": r.kind, "namespaced": r.namespaced, "verbs": verbs}
                for r in found
            ]
        }

    def _collection(
        self, method: str, resource: Resource, namespace: str, params: Mapping[str, str], body: Any
    ) -> bytes:
        if method == "POST":
            return _encode(self._create(resource, namespace, body))
        matches = _selector(namespace, params)
        found = [o for o in self.all(resource) if matches(o)]
        if method == "DELETE":
            for obj in found:
                self._delete(resource, self._key(resource, obj), {})
            return b"{}"
        start, limit = int(params.get("continue") or 0), int(params.get("limit") or 0)
        page = found[start : start + limit] if limit else found
        meta = {"resourceVersion": str(self.version)}
        if limit and start + limit < len(found):
            meta["continue"] = str(start + limit)
        kind, version = f"{resource.kind}List", resource.api_version
        return _encode({"kind": kind, "apiVersion": version, "metadata": meta, "items": page})

    def _single(
        self,
        method: str,
        target: tuple[Resource, Key, str],
        body: Any,
        content_type: str,
    ) -> JSON:
        resource, key, subresource = target
        if method == "GET":
            return self._existing(resource, key)
        if method == "DELETE":
            return self._delete(resource, key, body or {})
        if subresource == "binding":
            return self._bind(resource, key, body)
        if subresource == "scale":
            body, subresource = {"spec": {"replicas": body["spec"]["replicas"]}}, ""
            content_type = "application/merge-patch+json"
        old = self._existing(resource, key)
        if method == "PATCH" or content_type.startswith("application/merge"):
            body = patched(old, body, content_type)
        return self._update(resource, key, old, body, subresource)

    def _create(self, resource: Resource, namespace: str, obj: JSON) -> JSON:
        meta = obj.setdefault("metadata", {})
        if namespace:
            meta["namespace"] = namespace
        if not meta.get("name"):
            meta["name"] = meta["generateName"] + uuid.uuid4().hex[:5]
        key = self._key(resource, obj)
        if key in self.objects[resource]:
            raise _error("AlreadyExists", resource, key.name, "already exists")
        meta |= {"uid": str(uuid.uuid4()), "creationTimestamp": self.now(), "generation": 1}
        if "status" in resource.subresources and resource.plural not in ("nodes", "namespaces"):
            obj["status"] = {"phase": "Pending"} if resource.plural == "pods" else {}
        return self._commit("ADDED", resource, key, obj)

    def _update(self, resource: Resource, key: Key, old: JSON, new: JSON, subresource: str) -> JSON:
        wanted = new["metadata"].get("resourceVersion")
        if wanted and wanted != old["metadata"]["resourceVersion"]:
            raise _error("Conflict", resource, key.name, "the object has been modified")
        result = copy.deepcopy(old)
        if subresource == "status":
            result["status"] = new.get("status", {})
        else:
            keep = result.get("status") if "status" in resource.subresources else None
            meta = {**new["metadata"]}
            for name in ("uid", "creationTimestamp", "deletionTimestamp", "generation"):
                if name in old["metadata"]:
                    meta[name] = old["metadata"][name]
            result = {**new, "metadata": meta}
            if keep is not None:
                result["status"] = keep
            if result.get("spec") != old.get("spec"):
                meta["generation"] = old["metadata"].get("generation", 1) + 1
        if {**result, "metadata": {**result["metadata"], "resourceVersion": ""}} == {
            **old,
            "metadata": {**old["metadata"], "resourceVersion": ""},
        }:
            return old
        finished = result["metadata"].get("deletionTimestamp") and not _finalizers(result)
        if finished and resource.plural != "pods":
            return self._commit("DELETED", resource, key, result)
        return self._commit("MODIFIED", resource, key, result)

    def _delete(self, resource: Resource, key: Key, options: JSON) -> JSON:
        obj = copy.deepcopy(self._existing(resource, key))
        meta = obj["metadata"]
        conditions = options.get("preconditions") or {}
        if conditions.get("uid", meta["uid"]) != meta["uid"]:
            raise _error("Conflict", resource, key.name, "the UID in the precondition differs")
        policy = {"Foreground": ["foregroundDeletion"], "Orphan": ["orphan"]}
        wanted = policy.get(options.get("propagationPolicy", ""), [])
        grace = options.get("gracePeriodSeconds")
        waits = resource.plural == "pods" and grace != 0 and bool(obj["spec"].get("nodeName"))
        if wanted:
            meta["finalizers"] = sorted({*meta.get("finalizers", ()), *wanted})
        if not (waits or _finalizers(obj)):
            return self._commit("DELETED", resource, key, obj)
        if meta.get("deletionTimestamp"):
            return obj
        meta["deletionTimestamp"] = self.now()
        meta["deletionGracePeriodSeconds"] = 30 if grace is None else grace
        if resource.plural == "namespaces":
            obj.setdefault("status", {})["phase"] = "Terminating"
        return self._commit("MODIFIED", resource, key, obj)

    def _bind(self, resource: Resource, key: Key, body: JSON) -> JSON:
        obj = copy.deepcopy(self._existing(resource, key))
        if obj["spec"].get("nodeName"):
            raise _error("Conflict", resource, key.name, "is already assigned to a node")
        obj["spec"]["nodeName"] = body["target"]["name"]
        conditions = obj.setdefault("status", {}).setdefault("conditions", [])
        conditions[:] = [c for c in conditions if c["type"] != "PodScheduled"]
        conditions.append(
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": self.now()}
        )
        self._commit("MODIFIED", resource, key, obj)
        return {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def _commit(self, kind: str, resource: Resource, key: Key, obj: JSON) -> JSON:
        self.version += 1
        obj = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.version)}}
        old = self.objects[resource].get(key)
        if kind == "DELETED":
            del self.objects[resource][key]
        else:
            self.objects[resource][key] = obj
        self._history.append((self.version, kind, resource, obj, old))
        for watch in self._watches:
            if watch.resource == resource:
                self._offer(watch, kind, obj, old)
        self._changed.set()
        return obj

    @staticmethod
    def _offer(watch: _Watch, kind: str, obj: JSON, old: JSON | None) -> None:
        now, before = watch.matches(obj), old is not None and watch.matches(old)
        if kind == "MODIFIED" and now != before:
            kind = "ADDED" if now else "DELETED"
        if now or before:
            watch.queue.put_nowait(_encode({"type": kind, "object": obj}))

    def _bookmark(self, resource: Resource) -> bytes:
        meta = {"resourceVersion": str(self.version), "creationTimestamp": None}
        obj = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": meta}
        return _encode({"type": "BOOKMARK", "object": obj})

    def _existing(self, resource: Resource, key: Key) -> JSON:
        found = self.objects[resource].get(key)
        if found is None:
            raise _error("NotFound", resource, key.name, "not found")
        return found

    def _resource_of(self, obj: JSON) -> Resource:
        for resource in self.objects:
            if (resource.api_version, resource.kind) == (obj["apiVersion"], obj["kind"]):
                return resource
        raise ValueError(f"FakeApi does not know {obj['apiVersion']} {obj['kind']}")

    @staticmethod
    def _key(resource: Resource, obj: JSON) -> Key:
        meta = obj["metadata"]
        return Key(meta.get("namespace", "") if resource.namespaced else "", meta["name"])

    def _route(self, path: str) -> tuple[Resource, Key, str]:
        parts = [unquote(p) for p in path.strip("/").split("/")]
        group, version, rest = ("", parts[1], parts[2:])
        if parts[0] == "apis":
            group, version, rest = parts[1], parts[2], parts[3:]
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("finalize", "status"):
            namespace, rest = rest[1], rest[2:]
        resource = self._by_path.get((group, version, rest[0]))
        if resource is None:
            raise StatusError("NotFound", "the server could not find the requested resource")
        name, subresource = (*rest[1:3], "", "")[:2]
        return resource, Key(namespace, name), subresource


def _finalizers(obj: JSON) -> list[str]:
    named = list(obj["metadata"].get("finalizers") or ())
    return named + list((obj.get("spec") or {}).get("finalizers") or ())


def _error(reason: str, resource: Resource, name: str, what: str) -> StatusError:
    text = f'{resource.group_resource} "{name}" {what}'
    return StatusError(reason, text, group=resource.group, kind=resource.plural, name=name)


def _selector(namespace: str, params: Mapping[str, str]) -> Callable[[JSON], bool]:
    labels = parse_selector(params.get("labelSelector", ""))
    fields = parse_field_selector(params.get("fieldSelector", ""))

    def matches(obj: JSON) -> bool:
        meta = obj["metadata"]
        return (
            (not namespace or meta.get("namespace") == namespace)
            and labels.matches(meta.get("labels") or {})
            and all((_field(obj, path) == value) == equal for path, equal, value in fields)
        )

    return matches


def _field(obj: JSON, path: str) -> str:
    value: Any = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return str(value or "")
