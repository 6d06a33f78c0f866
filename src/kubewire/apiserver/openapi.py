"""OpenAPI v3 (per group and version) and v2, made on demand from the types and the catalog.

kubectl reads it for three things: whether a kind takes ``fieldValidation`` (the query parameter of
its PATCH), ``explain``, and, before 1.27, client-side validation and merge keys.
"""

import binascii
from typing import Any

import msgspec
from aiohttp import web

from kubewire.api.errors import StatusError
from kubewire.api.meta import JSON
from kubewire.api.release import VERSION
from kubewire.apiserver import customresource, models
from kubewire.apiserver.catalog import Catalog, Served
from kubewire.apiserver.mergekeys import LIST_MAP_KEYS, MERGE_KEYS, MERGED_SETS, RETAIN_KEYS

_encode = msgspec.json.Encoder().encode

_SCALARS: dict[str, JSON] = {
    "string": {"type": "string"},
    "int32": {"type": "integer", "format": "int32"},
    "int64": {"type": "integer", "format": "int64"},
    "float64": {"type": "number", "format": "double"},
    "bool": {"type": "boolean"},
    "intstr": {"type": "string", "format": "int-or-string"},
    "quantity": {"type": "string"},
    "time": {"type": "string", "format": "date-time"},
    "object": {"type": "object"},
    "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    "stringmap": {"type": "object", "additionalProperties": {"type": "string"}},
}
_V3_UNION = {"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"}
_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"


class OpenApi:
    """Documents, kept until the catalog changes."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._generation = -1
        self._documents: dict[str, bytes] = {}

    def respond(self, request: web.BaseRequest, rest: list[str]) -> web.Response:
        """Answer /openapi/..."""
        if self._generation != self._catalog.generation:
            self._documents.clear()
            self._generation = self._catalog.generation
        if rest == ["v2"]:
            return self._v2(request)
        if rest == ["v3"]:
            return _json(self._kept("v3", lambda: _encode({"paths": dict(self._index())})))
        if rest[:1] == ["v3"]:
            return self._v3(request, "/".join(rest[1:]))
        raise StatusError("NotFound", "the server could not find the requested resource")

    def _index(self) -> Any:
        for group, versions in self._catalog.groups().items():
            for version, found in versions.items():
                path = f"apis/{group}/{version}" if group else f"api/{version}"
                custom = [s.custom for s in found if s.custom is not None]
                names = _encode([sorted(s.resource.plural for s in found), custom])
                digest = f"{binascii.crc32(path.encode() + names):08X}"
                yield path, {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}

    def _v3(self, request: web.BaseRequest, path: str) -> web.Response:
        parts = path.split("/")
        group = parts[1] if parts[0] == "apis" and len(parts) > 1 else ""
        found = self._catalog.groups().get(group, {}).get(parts[-1])
        if not found:
            raise StatusError("NotFound", "the server could not find the requested resource")
        accept = request.headers.get("Accept", "")
        if "proto-openapi" in accept and "json" not in accept:
            raise StatusError("NotAcceptable", "only application/json is served here")
        return _json(self._kept(path, lambda: _encode(document_v3(found))))

    def _v2(self, request: web.BaseRequest) -> web.Response:
        if "com.github.proto-openapi.spec.v2" in request.headers.get("Accept", ""):
            from kubewire.apiserver import gnostic

            data = self._kept("v2.pb", lambda: gnostic.encode(document_v2(self._catalog)))
            # The media type that was asked for has an @ in it, which old clients cannot parse.
            kind = "application/octet-stream"
            return web.Response(body=data, headers={"Content-Type": kind})
        return _json(self._kept("v2", lambda: _encode(document_v2(self._catalog))))

    def _kept(self, name: str, make: Any) -> bytes:
        if name not in self._documents:
            self._documents[name] = make()
        return self._documents[name]


def _json(data: bytes) -> web.Response:
    return web.Response(body=data, headers={"Content-Type": "application/json"})


def document_v3(found: list[Served]) -> JSON:
    """The document of one group and version."""
    schemas: dict[str, JSON] = {}
    paths: dict[str, JSON] = {}
    for served in found:
        _add_schema(served, schemas, "#/components/schemas/", v3=True)
        for path, item in _paths(served, v3=True).items():
            paths[path] = item
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def document_v2(catalog: Catalog) -> JSON:
    """The whole API in one Swagger document."""
    definitions: dict[str, JSON] = {}
    paths: dict[str, JSON] = {}
    for served in catalog.all():
        _add_schema(served, definitions, "#/definitions/", v3=False)
        for path, item in _paths(served, v3=False).items():
            paths[path] = item
    return {
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": paths,
        "definitions": definitions,
    }


def definition_name(served: Served) -> str:
    """Name of a kind's definition."""
    struct = served.struct
    if struct is not None:
        return struct.definition
    r = served.resource
    return ".".join([*reversed(r.group.split(".")), r.version, r.kind])


def _gvk(served: Served) -> JSON:
    r = served.resource
    return {"group": r.group, "version": r.version, "kind": r.kind}


def _add_schema(served: Served, out: dict[str, JSON], prefix: str, v3: bool) -> None:
    name = definition_name(served)
    struct = served.struct
    if struct is None:
        out[name] = _custom(served, prefix, v3)
        meta = models.struct("meta_v1", "ObjectMeta")
        _add_struct(meta, out, prefix, v3)
    else:
        _add_struct(struct, out, prefix, v3)
    out[name]["x-kubernetes-group-version-kind"] = [_gvk(served)]
    if "list" in served.verbs:
        items = {"type": "array", "items": {"$ref": prefix + name}}
        text = {"type": "string"}
        _add_struct(models.struct("meta_v1", "ListMeta"), out, prefix, v3)
        ref = prefix + "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"
        metadata = {"allOf": [{"$ref": ref}]} if v3 else {"$ref": ref}
        properties = {"apiVersion": text, "kind": text, "items": items, "metadata": metadata}
        gvk = {**_gvk(served), "kind": served.resource.kind + "List"}
        out[name + "List"] = {
            "type": "object", "required": ["items"], "properties": properties,
            "x-kubernetes-group-version-kind": [gvk],
        }  # fmt: skip


def _custom(served: Served, prefix: str, v3: bool) -> JSON:
    schema = customresource.schema_of(served)
    ref: JSON = {"$ref": prefix + _META}
    common: JSON = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}
    common["metadata"] = {"allOf": [ref]} if v3 else ref
    # What is the same in every kind is described as in the built-in ones.
    _, texts = models.descriptions(models.struct("core_v1", "Namespace"))
    described = {name: {**value, "description": texts[name]} for name, value in common.items()}
    properties = {**(schema.get("properties") or {}), **described}
    out = {**schema, "type": "object", "properties": properties}
    if not schema or schema.get("x-kubernetes-preserve-unknown-fields"):
        out["x-kubernetes-preserve-unknown-fields"] = True
    return out if v3 else _plain(out)


def _plain(schema: Any) -> Any:
    """OpenAPI v2 has no oneOf, nullable and the like.

    Of an object that keeps unknown fields it lists none: kubectl would refuse all others.
    """
    if isinstance(schema, list):
        return [_plain(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    dropped = ["oneOf", "anyOf", "allOf", "not", "nullable", "default"]
    if schema.get("x-kubernetes-preserve-unknown-fields") is True:
        dropped += ["properties", "items", "required"]
    return {k: _plain(v) for k, v in schema.items() if k not in dropped}


def _add_struct(struct: models.Struct, out: dict[str, JSON], prefix: str, v3: bool) -> None:
    if struct.definition in out:
        return
    intro, texts = models.descriptions(struct)
    properties: dict[str, JSON] = {}
    schema: JSON = {"description": intro, "type": "object", "properties": properties}
    out[struct.definition] = schema
    required = [f.name for f in struct.fields.values() if f.required]
    if required:
        schema["required"] = required
    for field in struct.fields.values():
        properties[field.name] = _property(struct, field, texts, prefix, v3)
        if not field.scalar:
            _add_struct(field.struct, out, prefix, v3)


def _property(
    struct: models.Struct, field: models.Field, texts: dict[str, str], prefix: str, v3: bool
) -> JSON:
    if field.scalar:
        value = _V3_UNION if v3 and field.scalar == "intstr" else _SCALARS[field.scalar]
        base: JSON = dict(value)
    else:
        base = {"$ref": prefix + field.struct.definition}
    if field.repeated:
        base = {"type": "array", "items": base}
    elif v3 and "$ref" in base:
        base = {"allOf": [base], "default": {}}
    if texts.get(field.name):
        base["description"] = texts[field.name]
    return {**base, **_extensions((struct.name, field.name))}


def _extensions(place: tuple[str, str]) -> JSON:
    out: JSON = {}
    strategies = []
    if place in MERGE_KEYS:
        strategies.append("merge")
        out["x-kubernetes-patch-merge-key"] = MERGE_KEYS[place]
    if place in MERGED_SETS:
        strategies.append("merge")
        out["x-kubernetes-list-type"] = "set"
    if place in RETAIN_KEYS:
        strategies.append("retainKeys")
    if place in LIST_MAP_KEYS:
        out["x-kubernetes-list-type"] = "map"
        out["x-kubernetes-list-map-keys"] = list(LIST_MAP_KEYS[place])
    if strategies:
        out["x-kubernetes-patch-strategy"] = ",".join(strategies)
    return out


_PATCH_TYPES = (
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
)


def _paths(served: Served, v3: bool) -> dict[str, JSON]:
    if "list" not in served.verbs:
        return {}
    r = served.resource
    one = r.path("{namespace}" if r.namespaced else "", "{name}")
    collection = r.path("{namespace}" if r.namespaced else "")
    return {
        one: {
            verb: _operation(served, action, v3)
            for verb, action in (
                ("get", "get"), ("put", "put"), ("patch", "patch"), ("delete", "delete"),
            )
        },
        collection: {verb: _operation(served, action, v3) for verb, action in (("get", "list"), ("post", "post"))},
    }  # fmt: skip


def _operation(served: Served, action: str, v3: bool) -> JSON:
    writes = ("dryRun", "fieldManager", "fieldValidation")
    names = {"patch": (*writes, "force"), "post": writes, "put": writes, "delete": ("dryRun",)}.get(action, ())  # fmt: skip
    r = served.resource
    operation = f"{action}{r.group.title().replace('.', '')}{r.version.title()}{r.kind}"
    parameters = []
    for name in names:
        kind = {"type": "boolean" if name == "force" else "string"}
        entry: JSON = {"name": name, "in": "query"}
        parameters.append({**entry, "schema": kind} if v3 else {**entry, **kind})
    out: JSON = {
        "operationId": operation,
        "parameters": parameters,
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": _gvk(served),
    }
    if action == "patch" and v3:
        out["requestBody"] = {
            "content": {kind: {"schema": {"type": "object"}} for kind in _PATCH_TYPES}
        }
    elif action == "patch":
        out["consumes"] = list(_PATCH_TYPES)
    return out
