"""Read manifests as ``kubectl apply -f`` does: files, folders, standard input, Lists.

Every object keeps the place it came from, so that a later complaint can name file and document.
YAML follows YAML 1.1 without timestamps (sigs.k8s.io/yaml turns YAML into JSON, which has none);
a key written twice is an error, as in the API server's strict decoding.
"""

import json
import sys
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml

from kubewire.api.errors import InputError, system_text
from kubewire.api.meta import JSON
from kubewire.api.resources import BY_KIND

EXTENSIONS = (".yaml", ".yml", ".json")


class Manifest(msgspec.Struct, frozen=True):
    """One object and where it was written; ``document`` counts from 1."""

    source: str
    document: int
    obj: JSON
    namespace: str = "default"
    """Of an object that says none."""

    @property
    def kind(self) -> str:
        """The object's kind."""
        return str(self.obj.get("kind", ""))

    def where(self, field: str = "") -> str:
        """``FILE[document N] kind ns/name: field`` for error lines."""
        parts = (f"{self.source}[document {self.document}]", self.kind, self._name)
        place = " ".join(p for p in parts if p)
        return f"{place}: {field}" if field else place

    @property
    def _name(self) -> str:
        """``ns/name``, or ``name`` where there is no namespace (or nobody knows)."""
        meta = self.obj.get("metadata")
        if not isinstance(meta, dict) or not meta.get("name"):
            return ""
        resource = BY_KIND.get((str(self.obj.get("apiVersion")), self.kind))
        usual = self.namespace if resource is not None and resource.namespaced else ""
        is_clusters = resource is not None and not resource.namespaced
        namespace = "" if is_clusters else meta.get("namespace") or usual
        return "/".join(str(p) for p in (namespace, meta["name"]) if p)


def load(
    paths: Iterable[str], *, recursive: bool = True, namespace: str = "default"
) -> list[Manifest]:
    """Read every object below the paths; "-" is standard input. Raises InputError."""
    files = [file for path in paths for file in _files(path, recursive)]
    return [m for file in files for m in _read(file, namespace)]


def parse(text: str, source: str, namespace: str = "default") -> list[Manifest]:
    """Read the objects of one YAML or JSON text; Lists are unpacked. Raises InputError."""
    try:
        documents = list(yaml.load_all(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        before = text[: mark.index] if mark and mark.index is not None else ""
        document = 1 + sum(
            1 for x in before.splitlines() if x.startswith("---") and before.strip() != x
        )
        raise InputError(
            f"{source}[document {document}]:{line} error parsing YAML: {error.problem}"
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{source}: error parsing YAML: {error}") from error
    found: list[Manifest] = []
    for number, document in enumerate((d for d in documents if d is not None), 1):
        found.extend(_objects(document, source, number, namespace))
    return found


def _files(path: str, recursive: bool) -> Iterator[str]:
    if path == "-":
        yield path
        return
    place = Path(path)
    if place.is_dir():
        pattern = "**/*" if recursive else "*"
        files = sorted(p for p in place.glob(pattern) if p.suffix in EXTENSIONS and p.is_file())
        if not files:
            raise InputError(
                f"error reading [{path}]: recognized file extensions are [{' '.join(EXTENSIONS)}]"
            )
        yield from map(str, files)
    elif place.exists():
        yield path
    else:
        raise InputError(f'the path "{path}" does not exist')


def _read(path: str, namespace: str) -> list[Manifest]:
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {system_text(error)}") from error
    return parse(text, "STDIN" if path == "-" else path, namespace)


def _objects(document: Any, source: str, number: int, namespace: str) -> Iterator[Manifest]:
    if not isinstance(document, dict):
        raise InputError(
            f"{source}[document {number}]: an object is expected, not {type(document).__name__}"
        )
    manifest = Manifest(source, number, document, namespace)
    kind = document.get("kind")
    if not isinstance(kind, str) or not kind:
        raise InputError(f"{manifest.where('kind')}: Object 'Kind' is missing")
    if not isinstance(document.get("apiVersion"), str) or not document["apiVersion"]:
        raise InputError(f"{manifest.where('apiVersion')}: Object 'apiVersion' is missing")
    if kind.endswith("List") and isinstance(document.get("items"), list):
        # The API server's own lists leave the kind of their items out.
        common = {"kind": kind.removesuffix("List"), "apiVersion": document["apiVersion"]}
        for item in document["items"]:
            whole = common | item if isinstance(item, dict) and common["kind"] else item
            yield from _objects(whole, source, number, namespace)
        return
    yield manifest


class _Loader(yaml.CSafeLoader):
    """CSafeLoader without timestamps, refusing a key written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None,
                        None,
                        f"key {json.dumps(str(key))} already set in map",
                        key_node.start_mark,
                    )
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
