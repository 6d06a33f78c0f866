"""EndpointSlices of one Service: what they should hold, and the fewest writes to get there. Pure.

Endpoints with the same address family, resolved ports and weight share slices of at most 100. An
endpoint stays in the slice that it is in, so that one pod's change is one write; new endpoints
fill slices that are written anyway, then others with room, then new ones.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from kubewire.api.meta import JSON
from kubewire.api.resources import ENDPOINT_SLICES, SERVICES
from kubewire.api.service import SERVICE_NAME, TRIGGERED, WEIGHT, weight_of
from kubewire.controllermanager import objects, pods
from kubewire.controllermanager.actions import Action, Create, Delete, Replace

MAXIMUM = 100
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MANAGER = "endpointslice-controller.k8s.io"
HEADLESS = "service.kubernetes.io/headless"
ZONE = "topology.kubernetes.io/zone"

Port = tuple[str, str, int | None, str]
"""(name, protocol, number, appProtocol)."""


class Group(NamedTuple):
    """What endpoints of one slice have in common."""

    address_type: str
    ports: tuple[Port, ...]
    weight: int | None = None
    """What the pods' annotation asks for; the slice carries it on."""


Wanted = dict[Group, list[JSON]]


# --- what is meant ---------------------------------------------------------------------------


def wanted(service: JSON, found: Iterable[JSON], zones: Mapping[str, str]) -> Wanted:
    """Endpoints by group, from the pods that the Service selects; every family has a group."""
    groups: Wanted = {}
    for pod in found:
        if pods.phase(pod) in ("Succeeded", "Failed"):
            continue
        ports, weight = resolve_ports(service, pod), weight_of(objects.annotations(pod))
        for family in families(service):
            addresses = [ip for ip in pod_ips(pod) if (":" in ip) == (family == "IPv6")]
            if addresses:
                endpoint = _endpoint(service, pod, addresses[0], zones)
                groups.setdefault(Group(family, ports, weight), []).append(endpoint)
    for family in families(service):
        if not any(g.address_type == family for g in groups):
            groups[Group(family, ())] = []
    return groups


def families(service: JSON) -> list[str]:
    """IP families of a Service; IPv4 if nothing tells."""
    spec = objects.spec(service)
    if spec.get("ipFamilies"):
        return list(spec["ipFamilies"])
    ips = [ip for ip in spec.get("clusterIPs") or [spec.get("clusterIP")] if ip and ip != "None"]
    return ["IPv6" if ":" in ip else "IPv4" for ip in ips] or ["IPv4"]


def pod_ips(pod: JSON) -> list[str]:
    """Every address of a pod."""
    status = objects.status(pod)
    found = [p.get("ip") for p in status.get("podIPs") or ()] or [status.get("podIP")]
    return [ip for ip in found if ip]


def resolve_ports(service: JSON, pod: JSON) -> tuple[Port, ...]:
    """The Service's ports as numbers on this pod; a name that the pod lacks is left out."""
    ports = []
    for port in objects.spec(service).get("ports") or ():
        protocol = port.get("protocol") or "TCP"
        number = target_port(pod, port.get("targetPort") or port["port"], protocol)
        if number is not None:
            ports.append((port.get("name") or "", protocol, number, port.get("appProtocol") or ""))
    return tuple(ports)


def target_port(pod: JSON, target: int | str, protocol: str) -> int | None:
    """A targetPort on one pod."""
    if isinstance(target, int):
        return target
    spec = objects.spec(pod)
    sidecars = [c for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"]
    for container in [*(spec.get("containers") or ()), *sidecars]:
        for port in container.get("ports") or ():
            if port.get("name") == target and (port.get("protocol") or "TCP") == protocol:
                return int(port["containerPort"])
    return None


def _endpoint(service: JSON, pod: JSON, address: str, zones: Mapping[str, str]) -> JSON:
    meta, spec = pod["metadata"], objects.spec(pod)
    serving, terminating = pods.ready(pod), objects.deleted(pod)
    published = bool(objects.spec(service).get("publishNotReadyAddresses"))
    ready = published or (serving and not terminating)
    endpoint: JSON = {
        "addresses": [address],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "targetRef": {
            "kind": "Pod",
            "namespace": meta["namespace"],
            "name": meta["name"],
            "uid": meta["uid"],
        },
    }
    if node := spec.get("nodeName"):
        endpoint["nodeName"] = node
        if zone := zones.get(node):
            endpoint["zone"] = zone
    if spec.get("hostname") and spec.get("subdomain") == service["metadata"]["name"]:
        endpoint["hostname"] = spec["hostname"]
    if ready and (hints := _hints(service, endpoint)):
        endpoint["hints"] = hints
    return endpoint


def _hints(service: JSON, endpoint: JSON) -> JSON:
    preferred = objects.spec(service).get("trafficDistribution")
    hints: JSON = {}
    if preferred in ("PreferClose", "PreferSameZone", "PreferSameNode") and "zone" in endpoint:
        hints["forZones"] = [{"name": endpoint["zone"]}]
    if preferred == "PreferSameNode" and "nodeName" in endpoint:
        hints["forNodes"] = [{"name": endpoint["nodeName"]}]
    return hints


# --- the way there ---------------------------------------------------------------------------


class Frame(NamedTuple):
    """What all slices of one owner carry."""

    owner: JSON
    reference: JSON
    labels: dict[str, str]
    triggered: str = ""
    """When what is written now became true; "": not known."""


def frame(service: JSON, triggered: str = "") -> Frame:
    """The frame of a Service's slices."""
    labels = slice_labels(service, MANAGER)
    return Frame(service, objects.owner_reference(service, SERVICES), labels, triggered)


def diff(around: Frame, existing: Iterable[JSON], groups: Wanted) -> list[Action]:
    """The fewest writes that turn the existing slices into what is wanted."""
    present: defaultdict[Group, list[JSON]] = defaultdict(list)
    for found in sorted(existing, key=lambda s: s["metadata"]["name"]):
        present[group_of(found)].append(found)
    fresh: list[tuple[Group, list[JSON]]] = []
    unused: list[JSON] = []
    actions: list[Action] = []
    for group, endpoints in groups.items():
        contents, new = _pack(present.pop(group, []), endpoints, keep_one=not endpoints)
        fresh += [(group, content) for content in new]
        for found, content in contents:
            if content is None:
                unused.append(found)
            elif content != (found.get("endpoints") or []) or _outdated(around, found):
                actions.append(Replace(ENDPOINT_SLICES, _filled(around, found, group, content)))
    unused += [found for left in present.values() for found in left]
    for group, content in fresh:
        reused = next((s for s in unused if s["addressType"] == group.address_type), None)
        if reused is None:
            actions.append(Create(ENDPOINT_SLICES, _filled(around, None, group, content)))
        else:
            unused.remove(reused)
            actions.append(Replace(ENDPOINT_SLICES, _filled(around, reused, group, content)))
    actions += [Delete(ENDPOINT_SLICES, objects.key(s), s["metadata"]["uid"]) for s in unused]
    return actions


def group_of(found: JSON) -> Group:
    """The group that an existing slice belongs to."""
    ports = tuple(
        (
            p.get("name") or "",
            p.get("protocol") or "TCP",
            p.get("port"),
            p.get("appProtocol") or "",
        )
        for p in found.get("ports") or ()
    )
    weight = weight_of(objects.annotations(found))
    return Group(found.get("addressType", "IPv4"), ports, weight)


def _pack(
    present: list[JSON], endpoints: list[JSON], *, keep_one: bool
) -> tuple[list[tuple[JSON, list[JSON] | None]], list[list[JSON]]]:
    """New contents of the present slices (None: not needed), and contents of new ones."""
    left = {_identity(e): e for e in endpoints}
    contents: list[tuple[JSON, list[JSON]]] = []
    for found in present:
        old = found.get("endpoints") or []
        kept = [left.pop(i) for i in map(_identity, old) if i in left]
        contents.append((found, kept[:MAXIMUM]))
        left |= {_identity(e): e for e in kept[MAXIMUM:]}
    spare = list(left.values())
    for _, content in sorted(contents, key=_fill_first):
        room = MAXIMUM - len(content)
        content.extend(spare[:room])
        spare = spare[room:]
    new = [spare[i : i + MAXIMUM] for i in range(0, len(spare), MAXIMUM)]
    if keep_one and not contents:
        new = [[]]
    result: list[tuple[JSON, list[JSON] | None]] = []
    for position, (found, content) in enumerate(contents):
        needed = content or (keep_one and position == 0)
        result.append((found, content if needed else None))
    return result, new


def _fill_first(entry: tuple[JSON, list[JSON]]) -> tuple[bool, int]:
    """Slices that are written anyway come first, then the fullest."""
    found, content = entry
    return content == (found.get("endpoints") or []), -len(content)


def _identity(endpoint: JSON) -> tuple[str, str]:
    target = endpoint.get("targetRef") or {}
    return target.get("uid", ""), (endpoint.get("addresses") or [""])[0]


def slice_labels(service: JSON, manager: str) -> dict[str, str]:
    """Labels of slices: those of the Service (or Endpoints), and those that name it."""
    own = {k: v for k, v in objects.labels(service).items() if k not in (HEADLESS, MANAGED_BY)}
    own |= {SERVICE_NAME: service["metadata"]["name"], MANAGED_BY: manager}
    return own | ({HEADLESS: ""} if objects.spec(service).get("clusterIP") == "None" else {})


def _outdated(around: Frame, found: JSON) -> bool:
    refs = found["metadata"].get("ownerReferences") or ()
    owned = any(r.get("uid") == around.reference["uid"] for r in refs)
    return not owned or objects.labels(found) != around.labels


def _filled(around: Frame, found: JSON | None, group: Group, content: list[JSON]) -> JSON:
    meta: JSON = {"labels": around.labels, "ownerReferences": [around.reference]}
    if found is None:
        owner = around.owner["metadata"]
        meta |= {"generateName": f"{owner['name']}-", "namespace": owner["namespace"]}
    else:
        meta = found["metadata"] | meta
    own = {WEIGHT: group.weight, TRIGGERED: around.triggered or None}
    notes = {k: v for k, v in (meta.get("annotations") or {}).items() if k not in own}
    notes |= {k: str(v) for k, v in own.items() if v is not None}
    if notes or "annotations" in meta:
        meta["annotations"] = notes
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": meta,
        "addressType": group.address_type,
        "endpoints": content,
        "ports": [
            {"name": name, "protocol": protocol, "port": number}
            | ({"appProtocol": application} if application else {})
            for name, protocol, number, application in group.ports
        ],
    }
