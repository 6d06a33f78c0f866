"""What an agent that runs by itself tells who started it: what it enforces, and what hinders it.

One line each time something of it changes. The agents of a whole cluster stay silent: there the kubelet
makes the Node, and ``kubewire status`` says what runs.
"""

import logging
from collections import Counter
from collections.abc import Iterable

from kubewire.api import resources
from kubewire.api.errors import StatusError
from kubewire.client.rest import Client
from kubewire.networkpolicy.plan import Plan

log = logging.getLogger("kubewire.networkpolicy")
SHOWN = 5
"""Names of Nodes that are listed."""
PLURALS = {
    "NetworkPolicy": "NetworkPolicies",
    "ClusterNetworkPolicy": "ClusterNetworkPolicies",
}


class Notices:
    """Speaks for the agent of one node."""

    def __init__(self, node: str) -> None:
        self.node = node
        self._there = True
        self._away = False

    def waiting(self, kinds: Iterable[str]) -> None:
        """There is nothing to enforce."""
        names = " and no ".join(kinds)
        log.info("node %s: running; no %s exists, so it needs no rules yet", self.node, names)

    def enforcing(self, plan: Plan) -> None:
        """Everything is in the kernel."""
        kinds = Counter(kind for kind, _ in plan.policies)
        counted = " and ".join(_counted(n, k) for k, n in sorted(kinds.items(), reverse=True))
        pods = [p.key for p in plan.pods.values() if p.node == self.node and p.selectable]
        selected = sum(1 for p in pods if plan.profile(p, "ingress") or plan.profile(p, "egress"))
        log.info(
            "node %s: enforcing %s on %d of its %d pods",
            self.node,
            counted or "no policy",
            selected,
            len(pods),
        )

    async def look(self, client: Client) -> None:
        """Ask whether the Node exists."""
        try:
            found = await client.list(
                resources.NODES, field_selector=f"metadata.name={self.node}"
            ) or await client.list(resources.NODES)
        except StatusError:
            # Those who follow the server say what is wrong with it.
            return
        self.nodes(o["metadata"]["name"] for o in found)

    def nodes(self, names: Iterable[str]) -> None:
        """Say so when the Node is missing, and when it has come."""
        known = list(names)
        there = self.node in known
        if there and not self._there:
            log.info("node %s: it exists now", self.node)
        elif self._there and not there:
            listed = ", ".join(sorted(known)[:SHOWN]) or "none"
            log.warning(
                "node %s: no Node has this name (there: %s), so no pod is taken for one of this node "
                "and nothing is enforced; --node says which Node this is",
                self.node,
                listed,
            )
        self._there = there

    def failed(self, error: StatusError) -> None:
        """The server cannot be followed."""
        if not self._away and error.code != 410:
            log.warning(
                "node %s: the API server cannot be followed; the rules stay as they are until it is "
                "back: %s",
                self.node,
                error.message,
            )
            self._away = True

    def heard(self, _: object = None) -> None:
        """The server has sent something."""
        if self._away:
            log.info("node %s: the API server is back", self.node)
            self._away = False


def _counted(number: int, kind: str) -> str:
    return f"{number} {kind if number == 1 else PLURALS[kind]}"
