"""Addresses of LoadBalancer Services, from a pool of this cluster.

An address is shared by Services whose ports do not clash, when they ask for it by name
(``spec.loadBalancerIP``, an annotation) or for company by a common sharing key; else each Service
gets one of its own, and keeps it.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
    summarize_address_range,
)

from kubewire.api.errors import InputError
from kubewire.api.meta import JSON
from kubewire.api.resources import SERVICES
from kubewire.client.loop import Changes, Loop
from kubewire.controllermanager import objects, slices
from kubewire.controllermanager.actions import Action, Event, Plan
from kubewire.controllermanager.context import Context, set_status

Network = IPv4Network | IPv6Network
CLASS = "kubewire.dev/pool"
"""spec.loadBalancerClass that means this pool, as an empty one does."""


SHARING = "kubewire.dev/allow-shared-ip"
"""Annotation: Services with the same value here may get one address, on different ports."""
ADDRESSES = "kubewire.dev/load-balancer-ips"
"""Annotation: addresses that a Service asks for (commas), also of both families."""


class Pool:
    """Addresses in order; an entry is an address, a range ``A-B`` or a network."""

    def __init__(self, entries: Iterable[str]) -> None:
        self._networks = [n for entry in entries for n in _networks(entry)]

    def __contains__(self, address: str) -> bool:
        found = ip_address(address)
        return any(found in n for n in self._networks)

    def addresses(self, family: str) -> Iterator[str]:
        """Every address of one family."""
        version = 6 if family == "IPv6" else 4
        for network in self._networks:
            if network.version == version:
                whole = network.num_addresses == 1 or network.prefixlen >= network.max_prefixlen - 1
                yield from map(str, network if whole else network.hosts())


def _networks(entry: str) -> list[Network]:
    first, dash, last = entry.partition("-")
    try:
        if not dash:
            return [ip_network(entry)]
        low, high = ip_address(first), ip_address(last)
        if isinstance(low, IPv4Address) and isinstance(high, IPv4Address):
            return list(summarize_address_range(low, high))
        return list(summarize_address_range(IPv6Address(first), IPv6Address(last)))
    except (ValueError, TypeError) as error:
        raise InputError(f"--lb-pool: {entry}: {error}") from error


def plan(services: Iterable[JSON], pool: Pool) -> Plan:
    """Give addresses to Services that want one, take them from those that no longer do."""
    ordered = sorted(services, key=lambda s: (objects.created(s), objects.key(s)))
    users: defaultdict[str, list[JSON]] = defaultdict(list)
    for service in ordered:
        if wants(service):
            for address in addresses(service):
                users[address].append(service)
    actions: list[Action] = []
    for service in ordered:
        held = addresses(service)
        if not wants(service):
            mine = [a for a in held if a in pool]
            if mine and objects.spec(service).get("type") != "LoadBalancer":
                actions += _set(service, [])
            continue
        kept = _kept(service, held)
        for address in set(held) - set(kept):
            users[address].remove(service)
        chosen, why = _choose(service, kept, pool, users)
        if why:
            actions.append(Event(service, "Warning", "AllocationFailed", why))
        for address in set(chosen) - set(kept):
            users[address].append(service)
        if chosen != held:
            actions += _set(service, chosen)
            if chosen:
                text = f"Assigned IP {', '.join(chosen)}"
                actions.append(Event(service, "Normal", "IPAllocated", text))
    return Plan(actions)


def _kept(service: JSON, held: list[str]) -> list[str]:
    """What a Service has and may keep: of its families, and what it asks for, if it asks."""
    families = slices.families(service)
    asked = requested(service)
    return [a for a in held if _family(a) in families and (not asked or a in asked)]


def wants(service: JSON) -> bool:
    """Type LoadBalancer, of our class or none."""
    spec = objects.spec(service)
    ours = spec.get("loadBalancerClass") in (None, "", CLASS)
    return spec.get("type") == "LoadBalancer" and ours and not objects.deleted(service)


def addresses(service: JSON) -> list[str]:
    """status.loadBalancer.ingress[].ip."""
    ingress = (objects.status(service).get("loadBalancer") or {}).get("ingress") or ()
    return [i["ip"] for i in ingress if i.get("ip")]


def _ports(service: JSON) -> set[tuple[str, int]]:
    ports = objects.spec(service).get("ports") or ()
    return {(p.get("protocol") or "TCP", p["port"]) for p in ports}


def requested(service: JSON) -> list[str]:
    """Addresses that a Service asks for by name, one per family at most."""
    text = objects.annotations(service).get(ADDRESSES) or ""
    asked = [a.strip() for a in text.split(",") if a.strip()]
    one = objects.spec(service).get("loadBalancerIP")
    return asked or ([one] if one else [])


def _choose(
    service: JSON, kept: list[str], pool: Pool, users: dict[str, list[JSON]]
) -> tuple[list[str], str]:
    """(every address of a Service, what it cannot have)."""
    chosen, asked = list(kept), requested(service)
    missing = [f for f in slices.families(service) if f not in map(_family, kept)]
    for family in missing:
        if asked:
            named = [a for a in asked if _is_address(a) and _family(a) == family]
            if not named:
                if not any(map(_is_address, asked)):
                    return chosen, f"{', '.join(asked)} is not an IP address"
                continue
            if why := _refusal(service, named[0], pool, users):
                return chosen, why
            chosen.append(named[0])
            continue
        free = _free(service, family, pool, users)
        if free is None:
            return chosen, f"no free {family} address in the pool"
        chosen.append(free)
    return chosen, ""


def _refusal(service: JSON, asked: str, pool: Pool, users: dict[str, list[JSON]]) -> str:
    if asked not in pool:
        return f"{asked} is not in the pool"
    for other in users.get(asked) or ():
        if clash := _ports(service) & _ports(other):
            protocol, port = min(clash)
            return f"{asked}: port {port}/{protocol} is taken by Service {objects.key(other)}"
    return ""


def _free(service: JSON, family: str, pool: Pool, users: dict[str, list[JSON]]) -> str | None:
    """An address that the Service may share with those of its sharing key, else one of its own."""
    key = objects.annotations(service).get(SHARING)
    if key:
        for address, others in users.items():
            if others and _family(address) == family and _shareable(service, key, others):
                return address
    return next((a for a in pool.addresses(family) if not users.get(a)), None)


def _shareable(service: JSON, key: str, others: list[JSON]) -> bool:
    """As MetalLB has it: the same key, other ports, and traffic that is the same for every node."""
    for other in others:
        if objects.annotations(other).get(SHARING) != key or _ports(service) & _ports(other):
            return False
        local = "Local" in (_policy(service), _policy(other))
        if local and objects.spec(service).get("selector") != objects.spec(other).get("selector"):
            return False
    return True


def _policy(service: JSON) -> str:
    return objects.spec(service).get("externalTrafficPolicy") or "Cluster"


def _family(address: str) -> str:
    return "IPv6" if ":" in address else "IPv4"


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _set(service: JSON, chosen: list[str]) -> list[Action]:
    ingress = [{"ip": a, "ipMode": "VIP"} for a in chosen]
    balancer = {"ingress": ingress} if ingress else {}
    return set_status(SERVICES, service, objects.status(service) | {"loadBalancer": balancer})


def loop(context: Context, entries: tuple[str, ...]) -> Loop:
    """The control loop of the pool."""
    services, pool = context.informer(SERVICES), Pool(entries)

    async def reconcile(changes: Changes) -> None:
        await context.apply(plan(services.store.values(), pool))

    name = "controller-manager/load-balancer"
    return Loop(name, [services], reconcile, reporter=context.reporter)
