"""The EndpointSlice controller: Services with a selector, their pods, and the nodes' zones."""

from collections.abc import Iterable

from kubewire.api.meta import JSON, Key
from kubewire.api.resources import ENDPOINT_SLICES, NODES, PODS, SERVICES
from kubewire.api.service import SERVICE_NAME, weight_of
from kubewire.client.informer import Change
from kubewire.controllermanager import objects, pods, slices
from kubewire.controllermanager.actions import Action, Delete, Plan
from kubewire.controllermanager.context import Context, Mapper, alive, own
from kubewire.controllermanager.keyed import Keyed
from kubewire.controllermanager.triggertime import TriggerTimes

INTERVAL = 0.05
"""At least so long between two passes: while many pods start, one write covers several."""


def selects(service: JSON) -> bool:
    """The Service's endpoints are found by labels."""
    spec = objects.spec(service)
    return bool(spec.get("selector")) and spec.get("type") != "ExternalName"


def selected(service: JSON, candidates: Iterable[JSON]) -> list[JSON]:
    """The pods that a Service selects."""
    wanted = objects.spec(service)["selector"].items()
    return [p for p in candidates if wanted <= objects.labels(p).items()]


def facts(pod: JSON) -> object:
    """What slices depend on in a pod; other changes are noise."""
    spec = objects.spec(pod)
    return (
        slices.pod_ips(pod),
        pods.ready(pod),
        objects.deleted(pod),
        pods.phase(pod) in ("Succeeded", "Failed"),
        spec.get("nodeName"),
        objects.labels(pod),
        weight_of(objects.annotations(pod)),
        pod["metadata"].get("uid"),
    )


def services_of(context: Context) -> Mapper:
    """The Services that a changed pod is or was an endpoint of."""
    near = context.index("selector", SERVICES, _selector_key)

    def matching(pod: JSON | None) -> list[Key]:
        if pod is None or not slices.pod_ips(pod):
            return []
        found, namespace = objects.labels(pod).items(), pod["metadata"]["namespace"]
        candidates = [s for k, v in found for s in near.get((namespace, k, v)).items()]
        return [key for key, s in candidates if objects.spec(s)["selector"].items() <= found]

    def mapper(change: Change[JSON]) -> Iterable[Key]:
        old, new = matching(change.old), matching(change.new)
        if old == new and (not new or _same(change)):
            return []
        return {*old, *new}

    return mapper


def _selector_key(service: JSON) -> Iterable[tuple[str, str, str]]:
    """One pair of the selector is enough to find candidates by a pod's labels."""
    if not selects(service):
        return []
    name, value = min(objects.spec(service)["selector"].items())
    return [(service["metadata"]["namespace"], name, value)]


def _same(change: Change[JSON]) -> bool:
    old, new = change.old, change.new
    return old is not None and new is not None and facts(old) == facts(new)


def service_of_slice(change: Change[JSON]) -> Iterable[Key]:
    """The Service that a slice belongs to."""
    for found in (change.old, change.new):
        if found is not None and (name := objects.labels(found).get(SERVICE_NAME)):
            yield Key(change.key.namespace, name)


def zones(context: Context) -> dict[str, str]:
    """Zone of each node that has one."""
    return {
        key.name: zone
        for key, node in context.objects(NODES).items()
        if (zone := objects.labels(node).get(slices.ZONE))
    }


def controller(context: Context) -> Keyed[Key]:
    """The controller of EndpointSlices."""
    services = context.informer(SERVICES)
    near = context.by_namespace(PODS)
    made = context.index("service", ENDPOINT_SLICES, service_key)
    times = TriggerTimes()

    def everything(change: Change[JSON]) -> Iterable[Key]:
        old = objects.labels(change.old).get(slices.ZONE) if change.old else None
        new = objects.labels(change.new).get(slices.ZONE) if change.new else None
        return list(services.store) if old != new else []

    async def sync(key: Key) -> None:
        service = services.store.get(key)
        mine = [s for s in alive(made.get(key).values()) if managed(s)]
        if service is None or objects.deleted(service):
            times.forget(key)
            # The garbage collector would do it, too, but not on a server that keeps slices.
            gone: list[Action] = [
                Delete(ENDPOINT_SLICES, objects.key(s), s["metadata"]["uid"]) for s in mine
            ]
            return await context.apply(Plan(gone))
        if not selects(service):
            return None
        found = selected(service, near.get(key.namespace).values())
        groups = slices.wanted(service, found, zones(context))
        around = slices.frame(service, times.changed(service, found))
        return await context.apply(Plan(slices.diff(around, mine, groups)))

    return Keyed(
        context,
        "endpointslice",
        sync,
        [
            (services, own),
            (context.informer(PODS), services_of(context)),
            (context.informer(ENDPOINT_SLICES), service_of_slice),
            (context.informer(NODES), everything),
        ],
        min_interval=INTERVAL,
    )


def managed(found: JSON) -> bool:
    """A slice that this controller made."""
    return objects.labels(found).get(slices.MANAGED_BY) == slices.MANAGER


def service_key(found: JSON) -> Iterable[Key]:
    """The Service of a slice, as an index key."""
    name = objects.labels(found).get(SERVICE_NAME)
    return (Key(found["metadata"]["namespace"], name),) if name else ()
