"""Request bodies: from bytes in one of several media types to a checked object of a kind."""

from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from kubewire.api.errors import StatusError
from kubewire.api.meta import JSON
from kubewire.apiserver import customresource
from kubewire.apiserver.catalog import Served
from kubewire.apiserver.decode import WrongTypeError, conform
from kubewire.apiserver.models import Struct

if TYPE_CHECKING:
    from aiohttp.web import BaseRequest

_decode = msgspec.json.Decoder().decode

JSON_TYPES = ("", "application/json", "*/*")
PROTOBUF = "application/vnd.kubernetes.protobuf"
YAML_TYPES = ("application/yaml", "text/yaml", "application/x-yaml")


LIMIT = 3 << 20
"""Bytes of a request body."""


async def read(request: "BaseRequest") -> bytes:
    """A whole body; 413 if it is too large."""
    if not request.can_read_body:
        return b""
    data = b"" if (request.content_length or 0) > LIMIT else await request.content.read()
    if len(data) > LIMIT or (request.content_length or 0) > LIMIT:
        text = f"Request entity too large: limit is {LIMIT}"
        raise StatusError("RequestEntityTooLarge", text)
    return data


def parse(data: bytes, content_type: str) -> JSON:
    """Decode a body; 415 for a type that is not known, 400 for one that does not parse."""
    media = content_type.partition(";")[0].strip().lower()
    if media in JSON_TYPES:
        value = parse_json(data)
    elif media in YAML_TYPES:
        value = parse_yaml(data)
    elif media == PROTOBUF:
        from kubewire.apiserver import protobuf

        value = protobuf.decode(data)
    else:
        raise unsupported(("application/json", "application/yaml", PROTOBUF))
    if not isinstance(value, dict):
        raise StatusError("BadRequest", "the object provided is unrecognized (must be an object)")
    return value


def parse_json(data: bytes) -> Any:
    """Decode JSON."""
    try:
        return _decode(data)
    except msgspec.DecodeError as error:
        raise StatusError("BadRequest", f"invalid JSON: {error}") from error


def parse_yaml(data: bytes) -> Any:
    """Decode YAML (server-side apply sends it)."""
    import yaml

    if data.lstrip()[:1] == b"{":
        return parse_json(data)
    try:
        return yaml.load(data, Loader=_yaml_loader())
    except yaml.YAMLError as error:
        raise StatusError("BadRequest", f"error converting YAML to JSON: {error}") from error


@cache
def _yaml_loader() -> Any:
    """A safe loader that leaves timestamps as text."""
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loader = type("Loader", (base,), {})
    loader.yaml_implicit_resolvers = {  # type: ignore[attr-defined]
        first: [(tag, regexp) for tag, regexp in pairs if tag != "tag:yaml.org,2002:timestamp"]
        for first, pairs in base.yaml_implicit_resolvers.items()
    }
    return loader


def unsupported(known: tuple[str, ...]) -> StatusError:
    """415."""
    text = f"the body of the request was in an unknown format - accepted media types include: {', '.join(known)}"
    return StatusError("UnsupportedMediaType", text)


def check_kind(served: Served, obj: JSON) -> None:
    """Refuse a body of another kind; fill in what it left out."""
    r = served.resource
    kind, version = obj.setdefault("kind", r.kind), obj.setdefault("apiVersion", r.api_version)
    if kind != r.kind or version != r.api_version:
        raise StatusError(
            "BadRequest",
            f"the API version in the data ({version}) does not match the expected API version ({r.api_version})"
            if version != r.api_version
            else f'{kind} in version "{r.version}" cannot be handled as a {r.kind}: the kind does not match',
        )


def checked(served: Served, obj: JSON, validation: str, warnings: list[str]) -> JSON:
    """Drop or complain about fields that the kind does not have, as ``fieldValidation`` says."""
    struct = served.struct
    if struct is None:
        unknown = customresource.prune(served, obj) if served.declared is not None else []
    else:
        obj, unknown = _conform(served, struct, obj)
    if unknown and validation == "Strict":
        r = served.resource
        faults = ", ".join(f'unknown field "{path}"' for path in unknown)
        raise StatusError(
            "BadRequest",
            f'{r.kind} in version "{r.version}" cannot be handled as a {r.kind}: strict decoding error: {faults}',
        )
    if validation == "Warn":
        warnings += [f'unknown field "{path}"' for path in unknown]
    return obj


def _conform(served: Served, struct: Struct, obj: JSON) -> tuple[JSON, list[str]]:
    try:
        return conform(obj, struct)
    except WrongTypeError as error:
        r = served.resource
        raise StatusError(
            "BadRequest",
            f'{r.kind} in version "{r.version}" cannot be handled as a {r.kind}: {error}',
            causes=[error.cause],
        ) from error
