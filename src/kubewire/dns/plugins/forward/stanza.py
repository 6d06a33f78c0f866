"""One ``forward`` line as it was read: which names, which upstreams, in which order."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from kubewire.dns.plugin import Response
from kubewire.dns.plugins.forward.upstream import READ_TIMEOUT, Manner, Upstream
from kubewire.lang.dns.name import within


@dataclass
class Stanza:
    """One ``forward`` line."""

    zone: str
    upstreams: list[Upstream] = field(default_factory=list)
    manner: Manner = field(default_factory=Manner)
    ignored: list[str] = field(default_factory=list)
    resolvers: list[str] = field(default_factory=list)
    policy: str = "random"
    max_fails: int = 2
    max_attempts: int | None = None
    """Of one question; 0: any number, None: twice as many as there are upstreams."""
    read_timeout: float = READ_TIMEOUT
    force_tcp: bool = False
    prefer_udp: bool = False
    max_concurrent: int = 0
    fail_fast: bool = False
    next_on: frozenset[int] = frozenset()
    next_on_nodata: bool = False
    failover: frozenset[int] = frozenset()
    busy: int = 0
    turn: int = 0

    def takes(self, name: str) -> bool:
        """Tell whether a name is ours."""
        if name == self.zone:
            return True
        return within(name, self.zone) and not any(within(name, zone) for zone in self.ignored)

    def hands_on(self, response: Response) -> bool:
        """Tell whether the next stanza is to be asked, too."""
        nodata = self.next_on_nodata and not response.rcode and not response.answer
        return response.written and (nodata or response.rcode in self.next_on)

    def order(self) -> list[Upstream]:
        """Upstreams in the order of the policy."""
        found = list(self.upstreams)
        if self.policy == "random":
            random.shuffle(found)
        elif self.policy == "round_robin" and found:
            self.turn = (self.turn + 1) % len(found)
            found = found[self.turn :] + found[: self.turn]
        return found
