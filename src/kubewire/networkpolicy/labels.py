"""How the kernel's rules and log records name who decided, in the room that the kernel has."""

import hashlib

from kubewire.networkpolicy.program import Label

LOG_GROUP = 0x6B77
"""NFLOG group of denied packets."""
QUEUE = 0x6B77
"""NFQUEUE number of DNS answers."""
ANSWERS = "DNS answers wait until their addresses are known"
AUDIT = "audit "
"""How log records of a rehearsal begin."""
PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132, "ICMP": 1, "ICMPv6": 58}
UNKNOWN = "a pod whose policies are not in force yet"
CUT = "a connection that was cut"


def label_text(label: Label, most: int = 250) -> str:
    """Policy, rule and direction in at most so many bytes."""
    rest = f"|{label.rule}|{label.direction}"
    return abbreviated(label.policy, most - len(rest)) + rest


def log_prefix(label: Label, *, audit: bool, most: int) -> str:
    """What log records begin with."""
    start = AUDIT if audit else ""
    return start + label_text(label, most - len(start))


def abbreviated(policy: str, most: int) -> str:
    """The id of a policy, or as much of it as there is room for and a digest."""
    if len(policy) <= most:
        return policy
    return f"{policy[: most - 17]}~{_digest(policy)}"


def stands_for(text: str, policy: str) -> bool:
    """Tell whether a text is the id of a policy or an abbreviation of it."""
    return text == policy or text.rpartition("~")[2] == _digest(policy)


def _digest(policy: str) -> str:
    return hashlib.sha256(policy.encode()).hexdigest()[:16]
