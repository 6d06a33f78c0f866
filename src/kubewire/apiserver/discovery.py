"""Discovery: which groups, versions and resources there are, as plain lists and aggregated."""

from typing import Any

from kubewire.api.meta import JSON
from kubewire.api.release import MAJOR, MINOR
from kubewire.api.release import VERSION as RELEASE
from kubewire.apiserver.catalog import Catalog, Served
from kubewire.apiserver.subresources import KINDS

VERSION: JSON = {
    "major": str(MAJOR),
    "minor": str(MINOR),
    "emulationMajor": str(MAJOR),
    "emulationMinor": str(MINOR),
    "minCompatibilityMajor": str(MAJOR),
    "minCompatibilityMinor": str(MINOR - 1),
    "gitVersion": f"{RELEASE}+kubewire",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "2025-08-27T10:09:04Z",
    "goVersion": "go1.24.6",
    "compiler": "cpython",
    "platform": "linux/amd64",
}


def core_versions(address: str) -> JSON:
    """GET /api."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    }


def group_list(catalog: Catalog) -> JSON:
    """GET /apis."""
    groups = [_group(g, versions) for g, versions in catalog.groups().items() if g]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def group(catalog: Catalog, name: str) -> JSON | None:
    """GET /apis/GROUP."""
    versions = catalog.groups().get(name) if name else None
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name, versions)} if versions else None


def resource_list(catalog: Catalog, name: str, version: str) -> JSON | None:
    """GET /api/v1 and /apis/GROUP/VERSION."""
    found = catalog.groups().get(name, {}).get(version)
    if not found:
        return None
    resources = [entry for served in found for entry in _resources(served)]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{name}/{version}" if name else version,
        "resources": resources,
    }


def aggregated(catalog: Catalog, core: bool, version: str = "v2") -> JSON:
    """GET /api or /apis as APIGroupDiscoveryList."""
    items = []
    for name, versions in catalog.groups().items():
        if (name == "") is not core:
            continue
        entries = [
            {
                "version": v,
                "resources": [_aggregated(served) for served in found],
                "freshness": "Current",
            }
            for v, found in versions.items()
        ]
        meta = {"name": name, "creationTimestamp": None} if name else {"creationTimestamp": None}
        items.append({"metadata": meta, "versions": entries})
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version}",
        "metadata": {},
        "items": items,
    }


def _group(name: str, versions: dict[str, Any] | None) -> JSON:
    entries = [{"groupVersion": f"{name}/{v}", "version": v} for v in versions or ()]
    return {"name": name, "versions": entries, "preferredVersion": entries[0]}


def _resources(served: Served) -> list[JSON]:
    r = served.resource
    entry: JSON = {
        "name": r.plural,
        "singularName": r.singular,
        "namespaced": r.namespaced,
        "kind": r.kind,
        "verbs": list(served.verbs),
    }
    if r.short_names:
        entry["shortNames"] = list(r.short_names)
    if r.categories:
        entry["categories"] = list(r.categories)
    out = [entry]
    for sub in r.subresources:
        group_, version, kind, verbs = KINDS.get(sub, ("", "", r.kind, ("get", "patch", "update")))
        below: JSON = {
            "name": f"{r.plural}/{sub}",
            "singularName": "",
            "namespaced": r.namespaced,
            "kind": kind or r.kind,
            "verbs": list(verbs),
        }
        if version:
            below |= {"group": group_, "version": version} if group_ else {"version": version}
        out.append(below)
    return out


def _aggregated(served: Served) -> JSON:
    r = served.resource
    entry: JSON = {
        "resource": r.plural,
        "responseKind": {"group": r.group, "version": r.version, "kind": r.kind},
        "scope": "Namespaced" if r.namespaced else "Cluster",
        "singularResource": r.singular,
        "verbs": list(served.verbs),
    }
    if r.short_names:
        entry["shortNames"] = list(r.short_names)
    if r.categories:
        entry["categories"] = list(r.categories)
    subresources = []
    for sub in r.subresources:
        group_, version, kind, verbs = KINDS.get(sub, ("", "", r.kind, ("get", "patch", "update")))
        response = {"group": group_, "version": version or r.version, "kind": kind or r.kind}
        if not version:
            response["group"] = r.group
        subresources.append({"subresource": sub, "responseKind": response, "verbs": list(verbs)})
    if subresources:
        entry["subresources"] = subresources
    return entry
