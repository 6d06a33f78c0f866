"""10,000 Services x 10 endpoints as iptables rules, each figure against kube-proxy's way in this run.

Cold: our sync, Python and all, against one ``iptables-restore`` of the same rules from a text that
is ready. One change (a Service's endpoint is replaced by another): ours, from objects to the kernel,
against the restore of kube-proxy's partial sync (the shared chains whole and the changed Service's
own; the chain that is stale goes later), again from a text that is ready. ``one rule`` is what any
change costs by the program at least: legacy programs fetch the whole table, and the kernel exchanges
and checks it. ``after others`` is our change after somebody else has written: what is kept is fetched anew.

``iptables-nft-restore`` takes time by the square of what one COMMIT holds: the cold peer is ended
when it has taken a minute. An ordinary user's peer fails there for the length of its messages, so this
is to be run as root; it stays in namespaces of its own all the same.
"""

import itertools
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf
from statistics import median
from typing import Any

from bench.services import CONFIG, NODE, SERVICES, _service, _slice
from kubewire.kernel import sandbox
from kubewire.kernel.iptables import VARIANTS, Iptables, IptablesError, find
from kubewire.kubeproxy.backends.iptables.family import Family
from kubewire.kubeproxy.backends.iptables.listing import Listing
from kubewire.kubeproxy.backends.iptables.names import PREFIXES
from kubewire.kubeproxy.backends.iptables.proxier import IptablesProxier
from kubewire.kubeproxy.plan import ServicePlan, plan, plan_service
from kubewire.kubeproxy.table import Change

Chains = dict[tuple[str, str], list[str]]
CHANGES = 7
CONF = replace(CONFIG, mode="iptables")
ONE_RULE = ("*nat", ":BENCH - [0:0]", "-A BENCH -j RETURN", "COMMIT")
COUNTS = (SERVICES // 10, SERVICES)
PATIENCE = 60


def figures() -> Iterator[dict[str, Any]]:
    for variant in VARIANTS:
        for measure, count in itertools.product((_cold, _change), COUNTS):
            found = sandbox.run(lambda m=measure, v=variant, c=count: list(m(v, c)))  # type: ignore[misc]
            yield from found  # type: ignore[misc]


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _planned(count: int) -> ServicePlan:
    services, slices = [_service(i) for i in range(count)], [_slice(i) for i in range(count)]
    return plan(services, slices, NODE, CONF)


def _told(planned: ServicePlan) -> list[Change]:
    return [Change(key, None, frontend) for key, frontend in planned.frontends.items()]


def _family(planned: ServicePlan) -> Family:
    family = Family(4, CONF, liberal=False)
    family.take(planned.frontends.values(), liberal=False)
    return family


def _cold(variant: str, count: int) -> Iterator[dict[str, Any]]:
    planned, programs = _planned(count), Iptables(4, variant)
    text = [line for c in _family(planned).repair(Listing()) for line in c.lines()]
    proxier = IptablesProxier(CONF, variant=variant)
    try:
        peer = _timed(lambda: _restored(programs, text))
    except subprocess.TimeoutExpired:
        peer = inf
    except IptablesError as error:
        yield {"figure": f"{variant}: iptables-restore of {count} Services", "error": str(error)}
        return
    proxier.clear()
    ours = _timed(lambda: proxier.sync(_told(planned), {}))
    found = {
        "figure": f"{variant}: cold, {count} Services",
        "rules": len(text),
        "s": round(ours, 2),
    }
    if peer == inf:
        yield {**found, "iptables-restore s": f"not done after {PATIENCE}"}
    else:
        yield {**found, "iptables-restore s": round(peer, 2), "over it s": round(ours - peer, 2)}


def _restored(programs: Iptables, lines: list[str]) -> None:
    path = find(programs.program("restore"))
    assert path
    text = "".join(f"{line}\n" for line in lines).encode()
    done = subprocess.run(
        [path, "--noflush"], input=text, capture_output=True, check=False, timeout=PATIENCE
    )
    if done.returncode:
        raise IptablesError(done.stderr.decode())


def _change(variant: str, count: int) -> Iterator[dict[str, Any]]:
    planned, programs = _planned(count), Iptables(4, variant)
    proxier = IptablesProxier(CONF, variant=variant)
    cold = _timed(lambda: proxier.sync(_told(planned), {}))
    yield {"figure": f"{variant}: cold, {count} Services, no peer", "s": round(cold, 2)}
    family = _family(planned)
    for change in family.repair(Listing()):
        _ = list(change.lines())
    shared = {p: ls for p, ls in family.meant().chains.items() if not p[1].startswith(PREFIXES)}
    ours, theirs, least, anew = [], [], [], []
    for index in range(CHANGES):
        text = list(_partial_sync(shared, 2 * CHANGES + index))
        least.append(_timed(lambda: programs.restore(ONE_RULE)))
        theirs.append(_timed(lambda: programs.restore(text)))  # noqa: B023
        anew.append(_timed(lambda: _one_change(proxier, planned, 2 * index)))  # noqa: B023
        ours.append(_timed(lambda: _one_change(proxier, planned, 2 * index + 1)))  # noqa: B023
    yield {
        "figure": f"{variant}: one endpoint changed, {count} Services, p50",
        "ms": round(median(ours) * 1000),
        "partial sync ms": round(median(theirs) * 1000),
        "one rule ms": round(median(least) * 1000),
        "after others ms": round(median(anew) * 1000),
        "ratio": round(median(ours) / median(theirs), 2),
    }
    yield {"figure": f"{variant}: heal, {count} Services", "s": round(_healed(proxier), 2)}
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    yield {"figure": f"{variant}: peak memory", "MiB": usage}


def _healed(proxier: IptablesProxier) -> float:
    """After what is right has been found out: by the first time that finds no fault."""
    while proxier.heal():
        pass
    return _timed(proxier.heal)


def _one_change(proxier: IptablesProxier, planned: ServicePlan, index: int) -> None:
    frontends, _ = plan_service(_service(index), [_slice(index, 1)], NODE, CONF)
    proxier.apply([Change(f.key, planned.frontends[f.key], f) for f in frontends], {})


def _partial_sync(shared: Chains, index: int) -> Iterator[str]:
    """What kube-proxy writes when an endpoint of one Service changes."""
    frontends, _ = plan_service(_service(index), [_slice(index, 1)], NODE, CONF)
    own = _family(ServicePlan({f.key: f for f in frontends})).meant().chains
    chains = shared | {p: lines for p, lines in own.items() if p[1].startswith(PREFIXES)}
    for table in ("filter", "nat"):
        here = {name: lines for (t, name), lines in chains.items() if t == table}
        yield f"*{table}"
        yield from (f":{name} - [0:0]" for name in here)
        yield from (line for lines in here.values() for line in lines)
        yield "COMMIT"
