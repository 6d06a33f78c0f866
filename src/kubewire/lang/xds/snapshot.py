"""Resources that belong together, checked before anybody is served with them.

Envoy refuses an update that is wrong in itself, and waits in silence for what an update refers to
and nobody tells. Both are found here: an object with a fault is left out and named, the others are
served.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from kubewire.lang.xds.model import ASSIGNMENT, CLUSTER, JSON, LISTENER, ROUTES

KINDS = {"clusters": CLUSTER, "endpoints": ASSIGNMENT, "listeners": LISTENER, "routes": ROUTES}
"""Last part of a REST path -> type of the resources."""
_WORDS = {CLUSTER: "Cluster", ASSIGNMENT: "endpoints of", LISTENER: "Listener", ROUTES: "routes"}

Named = Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that is told at one moment."""

    resources: Mapping[str, Named] = field(default_factory=dict)
    """Type -> name -> resource."""
    faults: tuple[str, ...] = ()
    """What was left out, and why."""

    def of(self, kind: str, names: Iterable[str]) -> Named:
        """The resources of a type that an Envoy asks for; no name means all."""
        known = self.resources.get(kind, {})
        wanted = list(names)
        return {n: known[n] for n in wanted if n in known} if wanted else known


def checked(resources: Iterable[JSON]) -> Snapshot:
    """Sort by type and name; leave out what is wrong."""
    found: dict[str, dict[str, JSON]] = {kind: {} for kind in KINDS.values()}
    faults: list[str] = []
    for one in resources:
        kind = one["@type"]
        name = one["cluster_name"] if kind == ASSIGNMENT else one["name"]
        if name in found[kind]:
            faults.append(f"{_WORDS[kind]} {name}: told twice; the first one holds")
        else:
            found[kind][name] = one
    for kind, name, why in list(_faults(found)):
        faults.append(f"{_WORDS[kind]} {name}: {why}")
        found[kind].pop(name, None)
    return Snapshot(found, tuple(faults))


def _faults(found: Mapping[str, Named]) -> Iterator[tuple[str, str, str]]:
    for name, one in found[ASSIGNMENT].items():
        if why := _bad_address(one):
            yield ASSIGNMENT, name, why
    for name, one in found[CLUSTER].items():
        if one.get("type") == "EDS" and name not in found[ASSIGNMENT]:
            yield CLUSTER, name, "nobody tells its endpoints"
    for name, one in found[ROUTES].items():
        domains = [d for host in one.get("virtual_hosts", ()) for d in host["domains"]]
        twice = (
            sorted({d for d in domains if domains.count(d) > 1})
            if len(set(domains)) < len(domains)
            else []
        )
        if twice:
            yield ROUTES, name, f"two virtual hosts have the domain {twice[0]}"
    places: dict[str, str] = {}
    for name, one in found[LISTENER].items():
        place = msgspec.json.encode(one["address"]).decode()
        if places.setdefault(place, name) != name:
            yield LISTENER, name, f"{places[place]} has the same address"


def _bad_address(assignment: JSON) -> str:
    for group in assignment["endpoints"]:
        for one in group["lb_endpoints"]:
            place = one["endpoint"]["address"]["socket_address"]
            try:
                ipaddress.ip_address(place["address"])
            except ValueError:
                return f"{place['address']!r} is not an IP address"
            if not 0 < place["port_value"] < 65536:
                return f"port {place['port_value']} is not between 1 and 65535"
    return ""


def version(resources: Named) -> str:
    """A version that follows from the content: equal after a restart, equal on every server."""
    digest = hashlib.sha256()
    for name in sorted(resources):
        digest.update(msgspec.json.encode([name, resources[name]]))
    return digest.hexdigest()[:16]
