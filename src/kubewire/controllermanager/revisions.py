"""ControllerRevisions: the templates that a StatefulSet or a DaemonSet has had, oldest first.

``kubectl rollout history`` shows them, ``kubectl rollout undo`` patches one of them back in. A template
that comes back is the same revision with the next number.
"""

from collections.abc import Iterable

from kubewire.api.meta import JSON
from kubewire.api.resources import CONTROLLER_REVISIONS, Resource
from kubewire.controllermanager import objects, pods
from kubewire.controllermanager.actions import Action, Create, Delete, Patch
from kubewire.controllermanager.deployment import template_hash

LABEL = "controller-revision-hash"
"""Of pods and revisions."""
PRIVATE = ("kubectl.kubernetes.io/last-applied-configuration",)


def name_of(owner: JSON) -> str:
    """Name of the revision of the template as it is now."""
    return f"{owner['metadata']['name']}-{hash_of(owner)}"


def hash_of(owner: JSON) -> str:
    """What tells the template as it is now from others."""
    return template_hash(objects.spec(owner).get("template") or {})


def template_of(revision: JSON) -> JSON:
    """The template that a revision holds."""
    kept = revision["data"]["spec"]["template"]
    return {name: value for name, value in kept.items() if name != "$patch"}


def plan(
    owner: JSON,
    resource: Resource,
    owned: Iterable[JSON],
    orphans: Iterable[JSON],
    live: Iterable[str],
) -> list[Action]:
    """Have the current template as the newest revision; ``live`` names those that pods still have."""
    mine, actions = pods.claim(owner, resource, owned, orphans, CONTROLLER_REVISIONS)
    if actions or objects.deleted(owner):
        return actions
    name = name_of(owner)
    newest = max((r["revision"] for r in mine), default=0)
    found = next((r for r in mine if r["metadata"]["name"] == name), None)
    if found is None:
        made = _revision(owner, resource, newest + 1)
        actions.append(Create(CONTROLLER_REVISIONS, made, tolerate=True))
    elif found["revision"] < newest:
        change = {"revision": newest + 1}
        actions.append(_patch(found, change))
    return actions + _clean(owner, mine, {name, *live})


def _revision(owner: JSON, resource: Resource, number: int) -> JSON:
    template = objects.spec(owner).get("template") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    about = {k: v for k, v in objects.annotations(owner).items() if k not in PRIVATE}
    return {
        "apiVersion": CONTROLLER_REVISIONS.api_version,
        "kind": CONTROLLER_REVISIONS.kind,
        "metadata": {
            "name": name_of(owner),
            "namespace": owner["metadata"]["namespace"],
            "labels": {**labels, LABEL: hash_of(owner)},
            **({"annotations": about} if about else {}),
            "ownerReferences": [objects.owner_reference(owner, resource)],
        },
        "data": {"spec": {"template": {**template, "$patch": "replace"}}},
        "revision": number,
    }


def _patch(revision: JSON, change: JSON) -> Patch:
    key, uid = objects.key(revision), revision["metadata"]["uid"]
    return Patch(CONTROLLER_REVISIONS, key, change, uid)


def _clean(owner: JSON, mine: list[JSON], live: set[str]) -> list[Action]:
    """Remove the oldest of those that nothing has any more, beyond revisionHistoryLimit."""
    limit = objects.spec(owner).get("revisionHistoryLimit", 10)
    idle = sorted(
        (r for r in mine if r["metadata"]["name"] not in live), key=lambda r: int(r["revision"])
    )
    return [
        Delete(CONTROLLER_REVISIONS, objects.key(r), r["metadata"]["uid"])
        for r in idle[: max(0, len(idle) - limit)]
    ]
