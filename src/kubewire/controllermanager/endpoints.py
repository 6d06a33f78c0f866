"""The older Endpoints objects: written for Services with a selector, mirrored to slices otherwise.

Nothing here reads them any more, but old clients do; and people write them by hand for Services
that lead out of the cluster.
"""

from collections import defaultdict
from collections.abc import Iterable

from kubewire.api.meta import JSON, Key
from kubewire.api.resources import ENDPOINT_SLICES, ENDPOINTS, PODS, SERVICES
from kubewire.api.service import TRIGGERED
from kubewire.controllermanager import objects, pods, slices
from kubewire.controllermanager.actions import Action, Create, Delete, Plan, Replace
from kubewire.controllermanager.context import Context, own
from kubewire.controllermanager.endpointslice import (
    selected,
    selects,
    service_key,
    service_of_slice,
    services_of,
)
from kubewire.controllermanager.keyed import Keyed
from kubewire.controllermanager.triggertime import TriggerTimes

INTERVAL = 0.05
MAXIMUM = 1000
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
MANAGED_BY = "endpoints.kubernetes.io/managed-by"
SKIP = "endpointslice.kubernetes.io/skip-mirror"
LEADER = "control-plane.alpha.kubernetes.io/leader"
MIRROR = "endpointslicemirroring-controller.k8s.io"


def plan(
    service: JSON, found: Iterable[JSON], present: JSON | None, triggered: str = ""
) -> list[Action]:
    """Make the Endpoints of a Service with a selector what they should be.

    ``triggered``: what the annotation says if anything is written.
    """
    subsets, truncated = _subsets(service, found)
    labels = {k: v for k, v in objects.labels(service).items() if k != slices.HEADLESS}
    labels[MANAGED_BY] = "endpoint-controller"
    if objects.spec(service).get("clusterIP") == "None":
        labels[slices.HEADLESS] = ""
    notes = {OVER_CAPACITY: "truncated"} if truncated else {}
    when = {TRIGGERED: triggered} if triggered else {}
    meta = service["metadata"]
    if present is None:
        fresh = {"name": meta["name"], "namespace": meta["namespace"], "labels": labels}
        if when or notes:
            fresh["annotations"] = notes | when
        body = {"apiVersion": "v1", "kind": "Endpoints", "metadata": fresh, "subsets": subsets}
        return [Create(ENDPOINTS, body, tolerate=True)]
    others = {k: v for k, v in objects.annotations(present).items() if k != TRIGGERED}
    kept = {k: v for k, v in others.items() if k != OVER_CAPACITY} | notes
    if (
        (present.get("subsets") or []) == subsets
        and objects.labels(present) == labels
        and others == kept
    ):
        return []
    changed = present["metadata"] | {"labels": labels, "annotations": kept | when}
    return [Replace(ENDPOINTS, present | {"metadata": changed, "subsets": subsets})]


def _subsets(service: JSON, found: Iterable[JSON]) -> tuple[list[JSON], bool]:
    family = slices.families(service)[0]
    published = objects.spec(service).get("publishNotReadyAddresses")
    groups: defaultdict[tuple[slices.Port, ...], tuple[list[JSON], list[JSON]]]
    groups = defaultdict(lambda: ([], []))
    count = 0
    for pod in sorted(found, key=lambda p: str(p["metadata"]["name"])):
        if pods.phase(pod) in ("Succeeded", "Failed") or (objects.deleted(pod) and not published):
            continue
        addresses = [ip for ip in slices.pod_ips(pod) if (":" in ip) == (family == "IPv6")]
        if addresses and (count := count + 1) <= MAXIMUM:
            ready = published or pods.ready(pod)
            ports = slices.resolve_ports(service, pod)
            groups[ports][0 if ready else 1].append(_address(service, pod, addresses[0]))
    subsets = []
    for ports, (ready_ones, others) in sorted(groups.items(), key=lambda g: str(g[0])):
        listed = [_port(p) for p in ports]
        parts = {"addresses": ready_ones, "notReadyAddresses": others, "ports": listed}
        subsets.append({k: v for k, v in parts.items() if v})
    return subsets, count > MAXIMUM


def _address(service: JSON, pod: JSON, ip: str) -> JSON:
    meta, spec = pod["metadata"], objects.spec(pod)
    target = {"kind": "Pod", "name": meta["name"], "namespace": meta["namespace"]}
    address: JSON = {"ip": ip, "targetRef": target | {"uid": meta["uid"]}}
    if node := spec.get("nodeName"):
        address["nodeName"] = node
    if spec.get("hostname") and spec.get("subdomain") == service["metadata"]["name"]:
        address["hostname"] = spec["hostname"]
    return address


def _port(port: slices.Port) -> JSON:
    name, protocol, number, application = port
    found: JSON = {"port": number, "protocol": protocol}
    if name:
        found["name"] = name
    return found | ({"appProtocol": application} if application else {})


def mirrored(endpoints: JSON) -> slices.Wanted:
    """What slices of hand-written Endpoints should hold."""
    groups: slices.Wanted = {}
    for subset in endpoints.get("subsets") or ():
        ports = tuple(
            (p.get("name") or "", p.get("protocol") or "TCP", p["port"], p.get("appProtocol") or "")
            for p in subset.get("ports") or ()
        )
        for field, ready in (("addresses", True), ("notReadyAddresses", False)):
            for address in subset.get(field) or ():
                family = "IPv6" if ":" in address["ip"] else "IPv4"
                group = groups.setdefault(slices.Group(family, ports), [])
                if len(group) < MAXIMUM:
                    group.append(_mirrored(address, ready))
    return groups


def _mirrored(address: JSON, ready: bool) -> JSON:
    copied = {k: address[k] for k in ("hostname", "nodeName", "targetRef") if address.get(k)}
    return {"addresses": [address["ip"]], "conditions": {"ready": ready}, **copied}


def mirrors(endpoints: JSON | None, service: JSON | None) -> bool:
    """Hand-written Endpoints of a Service without a selector."""
    return (
        endpoints is not None
        and service is not None
        and not objects.spec(service).get("selector")
        and objects.labels(endpoints).get(SKIP) != "true"
        and LEADER not in objects.annotations(endpoints)
        and not objects.deleted(endpoints)
    )


def controller(context: Context) -> Keyed[Key]:
    """Writes Endpoints for Services with a selector."""
    services, present = context.informer(SERVICES), context.informer(ENDPOINTS)
    near = context.by_namespace(PODS)
    times = TriggerTimes()

    async def sync(key: Key) -> None:
        service, old = services.store.get(key), present.store.get(key)
        if service is None or objects.deleted(service):
            times.forget(key)
            if old is not None and objects.labels(old).get(MANAGED_BY):
                await context.apply(Plan([Delete(ENDPOINTS, key, old["metadata"]["uid"])]))
        elif selects(service):
            found = selected(service, near.get(key.namespace).values())
            triggered = times.changed(service, found)
            await context.apply(Plan(plan(service, found, old, triggered)))

    sources = [
        (services, own),
        (present, own),
        (context.informer(PODS), services_of(context)),
    ]
    return Keyed(context, "endpoints", sync, sources, min_interval=INTERVAL)


def mirror(context: Context) -> Keyed[Key]:
    """Mirrors hand-written Endpoints to slices."""
    services, endpoints = context.informer(SERVICES), context.informer(ENDPOINTS)
    made = context.index("service", ENDPOINT_SLICES, service_key)

    async def sync(key: Key) -> None:
        found, service = endpoints.store.get(key), services.store.get(key)
        mine = [
            s
            for s in made.get(key).values()
            if objects.labels(s).get(slices.MANAGED_BY) == MIRROR and not objects.deleted(s)
        ]
        if found is None or not mirrors(found, service):
            gone = [Delete(ENDPOINT_SLICES, objects.key(s), s["metadata"]["uid"]) for s in mine]
            await context.apply(Plan(list(gone)))
            return
        labels = slices.slice_labels(found, MIRROR)
        around = slices.Frame(found, objects.owner_reference(found, ENDPOINTS), labels)
        await context.apply(Plan(slices.diff(around, mine, mirrored(found))))

    sources = [
        (endpoints, own),
        (services, own),
        (context.informer(ENDPOINT_SLICES), service_of_slice),
    ]
    return Keyed(context, "endpointslice-mirroring", sync, sources)
