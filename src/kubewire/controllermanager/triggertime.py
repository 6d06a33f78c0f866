"""When the change happened that makes endpoints change: kube-proxy measures its delay from there.

The moment travels with the slice as an annotation. It is the earliest of what is new since the last
look at the Service: a pod's Ready condition that turned, or the Service itself. With no such moment
(labels changed, a pod went) there is no annotation: a wrong delay would be worse than none.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from kubewire.api.meta import JSON, Key
from kubewire.controllermanager import objects


class _Seen(NamedTuple):
    """The moments that were there when a Service was last looked at."""

    service: float
    pods: dict[str, float]
    """By uid."""


class TriggerTimes:
    """What one controller has seen of each Service."""

    def __init__(self) -> None:
        self._seen: dict[Key, _Seen] = {}

    def changed(self, service: JSON, pods: Iterable[JSON]) -> str:
        """The annotation's value for what has changed since the last call; "" for none."""
        key, created = objects.key(service), objects.created(service)
        moments = {p["metadata"]["uid"]: at for p in pods if (at := _turned(p))}
        before = self._seen.get(key)
        self._seen[key] = _Seen(created, moments)
        if before is None:
            return _stamp(created)
        new = [at for uid, at in moments.items() if at > before.pods.get(uid, 0.0)]
        if created > before.service:
            new.append(created)
        return _stamp(min(new, default=0.0))

    def forget(self, key: Key) -> None:
        """A Service has gone."""
        self._seen.pop(key, None)


def _turned(pod: JSON) -> float:
    """When its Ready condition last changed; 0 if it has none."""
    return objects.seconds((objects.condition(pod, "Ready") or {}).get("lastTransitionTime"))


def _stamp(moment: float) -> str:
    """RFC 3339; "" for no moment."""
    if not moment:
        return ""
    return datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")
