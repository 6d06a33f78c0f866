"""Names of chains and sets within the room that iptables (28 bytes) and ipset (31 bytes) have."""

import hashlib
from functools import lru_cache

PREFIX = "KWP-"
SET_PREFIX = "kwp"
EGRESS, INGRESS, EXEMPT = "KWP-EGRESS", "KWP-INGRESS", "KWP-EXEMPT"


def chain_name(name: str) -> str:
    """The name of a chain in the kernel."""
    return PREFIX + _digest(name)


def set_name(name: str, family: int) -> str:
    """The name of a set in the kernel."""
    return f"{SET_PREFIX}{family}-{_digest(name)}"


@lru_cache(maxsize=65536)
def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:20]
