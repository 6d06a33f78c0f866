"""Names that stand for pods: workloads, by the owners that pods name, and Services, by their selector.

The pods' own metadata says it all: a ReplicaSet of a Deployment has the Deployment's name and the hash
that its pods carry as a label, a Job of a CronJob the CronJob's name and a number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kubewire.api.meta import Key
from kubewire.api.selectors import as_selector

if TYPE_CHECKING:
    from kubewire.api.core import Pod
    from kubewire.networkpolicy.objects import Objects

HASH_LABEL = "pod-template-hash"


def pods_of(objects: Objects) -> dict[Key, list[Key]]:
    """Workload or Service -> its pods that have not finished (all, if all have); both may have one name."""
    running = [p for p in objects.pods if not p.finished]
    finished = [p for p in objects.pods if p.finished]
    found: dict[Key, list[Key]] = {}
    for pods in (running, finished):
        fresh: dict[Key, list[Key]] = {}
        for pod in pods:
            for name in sorted(set(owners(pod))):
                fresh.setdefault(Key(pod.metadata.namespace, name), []).append(pod.key)
        found = fresh | found
    for service in objects.services:
        selector = as_selector(service.spec.selector)
        if selector is None or service.key in found or not service.spec.selector:
            continue
        space = service.metadata.namespace
        chosen = [
            p.key for p in running if p.metadata.namespace == space and selector.matches(p.labels)
        ]
        if chosen:
            found[service.key] = chosen
    return found


def owners(pod: Pod) -> Iterator[str]:
    """Names of the workloads that a pod belongs to."""
    for owner in pod.metadata.owner_references or ():
        yield owner.name
        if owner.kind == "ReplicaSet" and (digest := pod.labels.get(HASH_LABEL)):
            yield owner.name.removesuffix(f"-{digest}")
        elif owner.kind == "Job" and (numbered := re.fullmatch(r"(.+)-\d+", owner.name)):
            yield numbered[1]
