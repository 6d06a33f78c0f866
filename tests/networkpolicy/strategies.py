"""Random policies over the labels and ports of the table's fixture."""

from typing import Any

from hypothesis import strategies as st

from networkpolicy.fixture import NAMESPACES, PORT_NAMES, PORTS, PROTOCOLS

JSON = dict[str, Any]
S = st.SearchStrategy[JSON]

_POD_LABELS = {"pod": ("a", "b", "c"), "extra": ("yes", "no"), "absent": ("x",)}
_NS_LABELS = {
    "ns": ("x", "y", "z"),
    "tier": ("front", "back"),
    "kubernetes.io/metadata.name": ("x", "y"),
}
CIDRS = (
    ("0.0.0.0/0", ("10.244.0.0/24", "10.244.1.0/24", "10.244.0.2/32")),
    ("10.244.0.0/16", ("10.244.0.0/30", "10.244.1.0/25", "10.244.1.3/32")),
    ("10.244.1.0/24", ("10.244.1.0/29",)),
    ("fd00::/16", ("fd00:10:244:1::/64", "fd00:10:244::2/127")),
    ("192.0.2.0/24", ()),
)


def selectors(known: dict[str, tuple[str, ...]]) -> S:
    @st.composite
    def one(draw: st.DrawFn) -> JSON:
        key = draw(st.sampled_from(sorted(known)))
        operator = draw(st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]))
        entry: JSON = {"key": key, "operator": operator}
        if operator.endswith("In"):
            values = st.lists(st.sampled_from(known[key]), min_size=1, unique=True)
            entry["values"] = draw(values)
        return entry

    @st.composite
    def equal(draw: st.DrawFn) -> JSON:
        key = draw(st.sampled_from(sorted(known)))
        return {"matchLabels": {key: draw(st.sampled_from(known[key]))}}

    return st.one_of(
        st.just({}),
        equal(),
        st.fixed_dictionaries({"matchExpressions": st.lists(one(), max_size=2)}),
    )


PODS = selectors(_POD_LABELS)
SPACES = selectors(_NS_LABELS)


@st.composite
def blocks(draw: st.DrawFn) -> JSON:
    cidr, inside = draw(st.sampled_from(CIDRS))
    excepts = draw(st.lists(st.sampled_from(inside), unique=True)) if inside else []
    return {"ipBlock": {"cidr": cidr, **({"except": excepts} if excepts else {})}}


PEERS = st.one_of(
    st.fixed_dictionaries({"podSelector": PODS}),
    st.fixed_dictionaries({"namespaceSelector": SPACES}, optional={"podSelector": PODS}),
    blocks(),
)
NUMBERS = st.fixed_dictionaries(
    {"port": st.sampled_from(PORTS)}, optional={"protocol": st.sampled_from(PROTOCOLS)}
)
RANGES = st.fixed_dictionaries(
    {"port": st.sampled_from([1, 80]), "endPort": st.sampled_from([80, 81, 65535])},
    optional={"protocol": st.sampled_from(PROTOCOLS)},
)
NAMED = st.fixed_dictionaries(
    {"port": st.sampled_from(sorted(PORT_NAMES.values()))},
    optional={"protocol": st.sampled_from(PROTOCOLS)},
)
PORT_ENTRIES = st.one_of(
    NUMBERS, RANGES, NAMED, st.fixed_dictionaries({"protocol": st.sampled_from(PROTOCOLS)})
)


def rules(field: str) -> st.SearchStrategy[list[JSON]]:
    return st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                field: st.lists(PEERS, max_size=2),
                "ports": st.lists(PORT_ENTRIES, max_size=2),
            },
        ),
        max_size=2,
    )


@st.composite
def network_policies(draw: st.DrawFn) -> JSON:
    spec = draw(
        st.fixed_dictionaries(
            {"podSelector": PODS},
            optional={
                "policyTypes": st.sampled_from([["Ingress"], ["Egress"], ["Ingress", "Egress"]]),
                "ingress": rules("from"),
                "egress": rules("to"),
            },
        )
    )
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": draw(st.sampled_from(NAMESPACES))},
        "spec": spec,
    }


POD_PEERS = st.one_of(
    st.fixed_dictionaries({"namespaces": SPACES}),
    st.fixed_dictionaries(
        {"pods": st.fixed_dictionaries({"namespaceSelector": SPACES, "podSelector": PODS})}
    ),
)
NETWORKS = st.fixed_dictionaries(
    {"networks": st.lists(st.sampled_from([c for c, _ in CIDRS]), min_size=1, unique=True)}
)
NUMBER = st.fixed_dictionaries({"number": st.sampled_from(PORTS)})
RANGE = st.just({"range": {"start": 80, "end": 81}})
PROTOCOL = st.one_of(
    *(
        st.fixed_dictionaries(
            {p.lower(): st.fixed_dictionaries({"destinationPort": st.one_of(NUMBER, RANGE)})}
        )
        for p in PROTOCOLS
    ),
    st.fixed_dictionaries({"destinationNamedPort": st.sampled_from(sorted(PORT_NAMES.values()))}),
)


def cluster_rules(field: str, peers: S) -> st.SearchStrategy[list[JSON]]:
    pods_only = field == "from"
    rule = st.fixed_dictionaries(
        {
            "action": st.sampled_from(["Accept", "Deny", "Pass"]),
            field: st.lists(peers, min_size=1, max_size=2),
        },
        # Named ports go with pods only.
        optional={
            "protocols": st.lists(PROTOCOL if pods_only else NUMBERED, min_size=1, max_size=2)
        },
    )
    return st.lists(rule, max_size=2)


NUMBERED = st.one_of(
    *(
        st.fixed_dictionaries(
            {p.lower(): st.fixed_dictionaries({"destinationPort": st.one_of(NUMBER, RANGE)})}
        )
        for p in PROTOCOLS
    )
)


@st.composite
def cluster_policies(draw: st.DrawFn) -> JSON:
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {},
        "spec": {
            "tier": draw(st.sampled_from(["Admin", "Baseline"])),
            "priority": draw(st.integers(0, 3)),
            "subject": draw(POD_PEERS),
            "ingress": draw(cluster_rules("from", POD_PEERS)),
            "egress": draw(cluster_rules("to", st.one_of(POD_PEERS, NETWORKS))),
        },
    }


@st.composite
def policy_lists(draw: st.DrawFn) -> list[JSON]:
    found = draw(st.lists(st.one_of(network_policies(), cluster_policies()), max_size=4))
    for number, policy in enumerate(found):
        policy["metadata"]["name"] = f"p{number}"
    return found
