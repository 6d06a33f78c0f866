"""One table of packets, whole: every oracle runs the same rows."""

from copy import deepcopy

from tests.kubeproxy import basics, wider
from tests.kubeproxy.basics import (
    BOTH_OUT,
    CONFIG,
    HERE_OUT,
    JSON,
    NODE,
    NODE_IP,
    OTHER,
    OTHER_IP,
    OUTSIDE,
    POD,
    Row,
    node,
)

__all__ = [
    "BOTH_OUT",
    "CONFIG",
    "FIXTURES",
    "HERE_OUT",
    "JSON",
    "NODE",
    "NODE_IP",
    "OTHER_IP",
    "OUTSIDE",
    "POD",
    "ROWS",
    "Row",
    "objects",
]

FIXTURES = basics.FIXTURES | wider.FIXTURES
ROWS = [*basics.ROWS, *wider.ROWS]


def objects(fixture: str) -> list[JSON]:
    nodes = [node(NODE, NODE_IP, "a", "192.168.9.2", "2001:db8::2"), node(OTHER, OTHER_IP, "b")]
    return deepcopy([*nodes, *FIXTURES[fixture]])
