from typing import Any

import pytest

from kubewire.api.policyvalidation import cluster_network_policy_errors, network_policy_errors

JSON = dict[str, Any]


def np(spec: JSON) -> JSON:
    return {"metadata": {"name": "p", "namespace": "x"}, "spec": spec}


def ingress(**rule: Any) -> JSON:
    return {"podSelector": {}, "ingress": [rule]}


def port(**fields: Any) -> JSON:
    return ingress(ports=[fields])


def peer(**fields: Any) -> JSON:
    return ingress(**{"from": [fields]})


PORT = "spec.ingress[0].ports[0]"
FROM = "spec.ingress[0].from[0]"

WRONG = [
    (port(protocol="tcp"), f"{PORT}.protocol", 'Unsupported value: "tcp": supported values: "SCTP", "TCP", "UDP"'),
    (port(port=0), f"{PORT}.port", "Invalid value: 0: must be between 1 and 65535, inclusive"),
    (port(port=70000), f"{PORT}.port", "Invalid value: 70000: must be between 1 and 65535, inclusive"),
    (port(port="a--b"), f"{PORT}.port", 'Invalid value: "a--b": must not contain consecutive hyphens'),
    (port(port=80, endPort=79), f"{PORT}.endPort", "Invalid value: 79: must be greater than or equal to `port`"),
    (port(port="http", endPort=90), f"{PORT}.endPort", "Invalid value: 90: may not be specified when `port` is non-numeric"),
    (port(endPort=90), f"{PORT}.endPort", "Invalid value: 90: may not be specified when `port` is not specified"),
    (peer(), FROM, "Required value: must specify a peer"),
    (peer(ipBlock={"cidr": "10.0.0.0/8"}, podSelector={}), FROM, "Forbidden: may not specify both ipBlock and another peer"),
    (peer(ipBlock={}), f"{FROM}.ipBlock.cidr", "Required value"),
    (peer(ipBlock={"cidr": "10.0.0.1"}), f"{FROM}.ipBlock.cidr", 'Invalid value: "10.0.0.1": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)'),
    (peer(ipBlock={"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}), f"{FROM}.ipBlock.except[0]", 'Invalid value: "11.0.0.0/16": must be a strict subset of `cidr`'),
    (peer(ipBlock={"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}), f"{FROM}.ipBlock.except[0]", 'Invalid value: "10.0.0.0/8": must be a strict subset of `cidr`'),
    (peer(podSelector={"matchExpressions": [{"key": "", "operator": "Exists"}]}), f"{FROM}.podSelector.matchExpressions[0].key", 'Invalid value: "": name part must be non-empty'),
    (peer(podSelector={"matchExpressions": [{"key": "a", "operator": "In"}]}), f"{FROM}.podSelector.matchExpressions[0].values", "Required value: must be specified when `operator` is 'In' or 'NotIn'"),
    (peer(podSelector={"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}), f"{FROM}.podSelector.matchExpressions[0].values", "Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
    (peer(podSelector={"matchExpressions": [{"key": "a", "operator": "Near"}]}), f"{FROM}.podSelector.matchExpressions[0].operator", 'Invalid value: "Near": not a valid selector operator'),
    ({"policyTypes": ["Sideways"]}, "spec.policyTypes[0]", 'Unsupported value: "Sideways": supported values: "Egress", "Ingress"'),
    ({"policyTypes": ["Ingress", "Egress", "Ingress"]}, "spec.policyTypes", 'Invalid value: ["Ingress", "Egress", "Ingress"]: may not specify more than two policyTypes'),
    ({"ingress": {}}, "spec.ingress", 'Invalid value: "object": must be of type array: "object"'),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "field", "message"), WRONG)
def test_what_upstream_refuses(spec: JSON, field: str, message: str) -> None:
    causes = network_policy_errors(np(spec))
    assert (field, message) in [(c.field, c.message) for c in causes]


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"podSelector": {}, "ingress": None, "egress": [], "policyTypes": []},
        port(port=80, endPort=80),
        port(port="http"),
        port(),
        peer(ipBlock={"cidr": "10.1.2.3/8", "except": ["10.0.0.0/9"]}),
        peer(ipBlock={"cidr": "fd00::/8", "except": ["fd00::/16"]}),
        peer(podSelector={"matchLabels": {"a.b/c": ""}}),
        ingress(**{"from": [], "ports": []}),
    ],
)
def test_what_upstream_accepts(spec: JSON) -> None:
    assert network_policy_errors(np(spec), strict=True) == []


def test_strict_names_unknown_fields() -> None:
    policy = np(peer(podSelecter={}, namespaceSelector={}))
    assert network_policy_errors(policy) == []
    assert [c.message for c in network_policy_errors(policy, strict=True)] == [
        f'unknown field "{FROM}.podSelecter"'
    ]


def cnp(**spec: Any) -> JSON:
    base = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}}
    return {"metadata": {"name": "p"}, "spec": {**base, **spec}}


def deny(**fields: Any) -> JSON:
    return {"ingress": [{"action": "Deny", "from": [{"namespaces": {}}], **fields}]}


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"tier": "Top"}, "spec.tier"),
        ({"priority": 1001}, "spec.priority"),
        ({"priority": -1}, "spec.priority"),
        ({"subject": {}}, "spec.subject"),
        ({"subject": {"namespaces": {}, "pods": {"podSelector": {}}}}, "spec.subject"),
        (deny(action="Drop"), "spec.ingress[0].action"),
        (deny(**{"from": []}), "spec.ingress[0].from"),
        (deny(**{"from": [{"networks": ["10.0.0.0/8"]}]}), "spec.ingress[0].from[0]"),
        (deny(protocols=[{}]), "spec.ingress[0].protocols[0]"),
        (deny(protocols=[]), "spec.ingress[0].protocols"),
        (deny(protocols=[{"tcp": {}}]), "spec.ingress[0].protocols[0].tcp"),
        (
            deny(protocols=[{"udp": {"destinationPort": {"number": 1}}}] * 26),
            "spec.ingress[0].protocols",
        ),
        (
            {"egress": [{"action": "Deny", "to": [{"networks": []}]}]},
            "spec.egress[0].to[0].networks",
        ),
        (
            {"egress": [{"action": "Deny", "to": [{"networks": ["::/0", "::/0"]}]}]},
            "spec.egress[0].to[0].networks[1]",
        ),
        (
            deny(protocols=[{"tcp": {"destinationPort": {"range": {"start": 9, "end": 9}}}}]),
            "spec.ingress[0].protocols[0].tcp.destinationPort.range",
        ),
        (
            {"egress": [{"action": "Deny", "to": [{"networks": ["10.0.0.0"]}]}]},
            "spec.egress[0].to[0].networks[0]",
        ),
        (
            {"egress": [{"action": "Accept", "to": [{"domainNames": ["a b"]}]}]},
            "spec.egress[0].to[0].domainNames[0]",
        ),
        (
            {
                "egress": [
                    {
                        "action": "Deny",
                        "to": [{"nodes": {"matchLabels": {"a": "b"}}}],
                        "protocols": [{"destinationNamedPort": "http"}],
                    }
                ]
            },
            "spec.egress[0]",
        ),
    ],
)
def test_what_the_crd_refuses(spec: JSON, field: str) -> None:
    assert field in [c.field for c in cluster_network_policy_errors(cnp(**spec))]


def test_what_the_crd_accepts() -> None:
    assert cluster_network_policy_errors(cnp(**deny())) == []
    unknown = cnp(**deny(**{"from": [{"galaxies": {}}]}))
    assert cluster_network_policy_errors(unknown) != []
    assert cluster_network_policy_errors(unknown, lenient_peers=True) == []
