"""What is done with denied packets: an Event on the pod and, for those who ask, a log line.

Both at a bounded rate: the same flow is reported once a minute, and a pod that is scanned gets a few
Events a minute, not thousands.
"""

import logging
from collections import OrderedDict
from typing import TypeVar

from kubewire.api.meta import Key
from kubewire.client.events import Recorder
from kubewire.networkpolicy.droplog import Drop
from kubewire.networkpolicy.labels import stands_for
from kubewire.networkpolicy.plan import Plan, PodFacts

log = logging.getLogger("kubewire.networkpolicy")

QUIET = 60.0
"""Seconds for which the same flow (whatever its source port) is not reported again."""
MOST = 4096
BURST = 25
"""Events of one pod within ``QUIET`` seconds."""
K = TypeVar("K")
V = TypeVar("V")


class Reporter:
    """Reports drops of one node; ``log_drops``: log every policy's, not only those that ask."""

    def __init__(self, recorder: Recorder, plan: Plan, *, log_drops: bool = False) -> None:
        self._recorder = recorder
        self._plan = plan
        self._log_drops = log_drops
        self._seen: OrderedDict[Drop, float] = OrderedDict()
        self._events: OrderedDict[Key, tuple[float, int]] = OrderedDict()

    def report(self, drop: Drop, now: float) -> bool:
        """Report a drop, unless the same one was reported lately."""
        named = self._named(drop)
        if now - self._seen.get(named, -QUIET) < QUIET:
            return False
        self._seen[named] = now
        _newest(self._seen, named)
        if self._log_drops or self._asks(named.policy):
            log.warning("%s", named)
        own = named.source if named.direction == "egress" else named.target
        namespace, slash, name = own.partition("/")
        pod = self._plan.pods.get(Key(namespace, name)) if slash else None
        if pod is not None and self._may_say(pod.key, now):
            self._event(named, pod)
        return True

    def _named(self, drop: Drop) -> Drop:
        named = drop.named(self._plan)
        if "~" not in named.policy:
            return named
        ids = (p.id for p in self._plan.policies.values())
        return named.of(next((i for i in ids if stands_for(named.policy, i)), named.policy))

    def _asks(self, policy: str) -> bool:
        kind, _, key = policy.partition(" ")
        namespace, slash, name = key.rpartition("/")
        found = self._plan.policies.get((kind, Key(namespace if slash else "", name)))
        return found is not None and found.log

    def _may_say(self, pod: Key, now: float) -> bool:
        since, said = self._events.get(pod, (now, 0))
        if now - since >= QUIET:
            since, said = now, 0
        self._events[pod] = (since, said + 1)
        _newest(self._events, pod)
        return said < BURST

    def _event(self, drop: Drop, pod: PodFacts) -> None:
        meta = {"name": pod.key.name, "namespace": pod.key.namespace, "uid": pod.uid}
        about = {"apiVersion": "v1", "kind": "Pod", "metadata": meta}
        if drop.audit:
            self._recorder.event(about, "Normal", "NetworkPolicyAudit", str(drop))
        else:
            self._recorder.event(about, "Warning", "NetworkPolicyDenied", str(drop))


def _newest(seen: OrderedDict[K, V], key: K) -> None:
    seen.move_to_end(key)
    if len(seen) > MOST:
        seen.popitem(last=False)
