"""The schema of ClusterNetworkPolicy: a built-in kind here, a CustomResourceDefinition upstream.

It has the fields and bounds of network-policy-api v0.2.0 (experimental channel) for ``kubectl
explain``, for fields that nobody knows, and for who owns which field. What it cannot say (CIDRs,
ranges, "exactly one of") is in ``api.policyvalidation``, which judges the objects.
"""

from functools import cache

from kubewire.api.meta import JSON

_MANY = 25
"""Most items of every list."""
_ACTIONS = ["Accept", "Deny", "Pass"]
_FQDN = (
    r"^(\*\.)?([a-zA-z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.)+"
    r"[a-zA-z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.?$"
)


@cache
def version() -> JSON:
    """The entry of v1alpha2 as a CustomResourceDefinition has it."""
    columns = [
        {"name": "Tier", "type": "string", "jsonPath": ".spec.tier"},
        {"name": "Priority", "type": "string", "jsonPath": ".spec.priority"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]
    return {
        "name": "v1alpha2",
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": columns,
        "schema": {"openAPIV3Schema": _policy()},
    }


def _policy() -> JSON:
    return _object(
        "Rules of the cluster's administrator for the traffic of pods, before (tier Admin) or after "
        "(tier Baseline) every NetworkPolicy.",
        {"spec": _spec(), "status": _status()},
        ("metadata", "spec"),
    )


def _spec() -> JSON:
    rules = (
        "the first that fits a connection decides; without one the next policy, in order of "
        "priority, is asked."
    )
    return _object(
        "What the policy is about and what it decides.",
        {
            "tier": _text(
                "Admin: asked before NetworkPolicies. Baseline: asked when no NetworkPolicy selects the pod.",
                enum=["Admin", "Baseline"],
            ),
            "priority": _number(
                "Order within the tier: 0 is asked first; equal ones in no certain order.", 0, 1000
            ),
            "subject": _some_of(
                "The pods that the policy is about; exactly one field is set. Host-network pods are "
                "never meant.",
                {**_namespaces("All pods of these namespaces."), **_pods()},
            ),
            "ingress": _rules(f"Connections to the subject: {rules}", "from", _ingress_peer()),
            "egress": _rules(f"Connections from the subject: {rules}", "to", _egress_peer()),
        },
        ("priority", "subject", "tier"),
    )


def _rules(description: str, peers: str, peer: JSON) -> JSON:
    properties = {
        "name": _text("A name for people: reports and counters show it.", maxLength=100),
        "action": _text(
            "Accept and Deny decide; Pass skips the rest of the tier, so that NetworkPolicies decide.",
            enum=_ACTIONS,
        ),
        peers: _list("The other end; any of these.", peer, minItems=1),
        "protocols": _list(
            "What the connection must be to fit: any of these; without the field, everything.",
            _protocol(),
            minItems=1,
        ),
    }
    rule = _object("One rule.", properties, ("action", peers))
    return _list(description, rule)


def _ingress_peer() -> JSON:
    found = {**_namespaces("All pods of these namespaces."), **_pods()}
    return _some_of("Where a connection comes from; exactly one field is set.", found)


def _egress_peer() -> JSON:
    domain = {"type": "string", "pattern": _FQDN}
    network = {"type": "string", "maxLength": 43}
    found = {
        **_namespaces("All pods of these namespaces."),
        **_pods(),
        "nodes": _selector("Nodes: their own addresses, not those of their pods."),
        "networks": _set(
            "Addresses as CIDRs, of either family; they may be those of pods or nodes.", network
        ),
        "domainNames": _set(
            "Names as the subject asks DNS for them, for rules that accept. *.example.com means every "
            "name below example.com, not that one itself.",
            domain,
        ),
    }
    return _some_of("Where a connection leads to; exactly one field is set.", found)


def _protocol() -> JSON:
    found = {
        name: _some_of(
            f"A connection over {name.upper()}.",
            {"destinationPort": _port()},
            most=None,
        )
        for name in ("tcp", "udp", "sctp")
    }
    named = _text(
        "A port of the receiving pod by its name, with the protocol that it has there. Not for "
        "nodes, networks and domain names."
    )
    return _some_of(
        "One kind of connection; exactly one field is set.",
        {**found, "destinationNamedPort": named},
    )


def _port() -> JSON:
    ends = {
        "start": _number("First port of the range.", 1, 65535),
        "end": _number("Last port of the range; greater than the first.", 1, 65535),
    }
    return _some_of(
        "Port of the receiver; exactly one field is set.",
        {
            "number": _number("One port.", 1, 65535),
            "range": _object("Ports from start to end.", ends, ("end", "start")),
        },
    )


def _status() -> JSON:
    condition = _object(
        "One thing that a controller has found out about the policy.",
        {
            "type": _text("What it is about.", maxLength=316),
            "status": _text("Whether it is so.", enum=["True", "False", "Unknown"]),
            "observedGeneration": {
                "type": "integer",
                "format": "int64",
                "minimum": 0,
                "description": "metadata.generation of the policy that this is about.",
            },
            "lastTransitionTime": _text("When the status became another.", format="date-time"),
            "reason": _text("Why, for programs.", minLength=1, maxLength=1024),
            "message": _text("Why, for people.", maxLength=32768),
        },
        ("lastTransitionTime", "message", "reason", "status", "type"),
    )
    conditions = {
        "type": "array",
        "items": condition,
        "description": "At most one of each type.",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    }
    return _object("What controllers say.", {"conditions": conditions}, ("conditions",))


def _namespaces(description: str) -> JSON:
    return {"namespaces": _selector(f"{description} An empty selector means every namespace.")}


def _pods() -> JSON:
    properties = {
        "namespaceSelector": _selector("Which namespaces; empty means all."),
        "podSelector": _selector("Which pods of them; empty means all."),
    }
    return {"pods": _object("Pods by labels of both kinds.", properties, ("podSelector",))}


def _selector(description: str) -> JSON:
    text = {"type": "string"}
    requirement = _object(
        "One condition on a label.",
        {
            "key": _text("The label."),
            "operator": _text("In, NotIn, Exists or DoesNotExist."),
            "values": _atomic("For In and NotIn; else none.", text),
        },
        ("key", "operator"),
    )
    labels = {
        "type": "object",
        "additionalProperties": text,
        "description": "Labels with exactly these values.",
    }
    properties = {
        "matchExpressions": _atomic("Every condition must hold.", requirement),
        "matchLabels": labels,
    }
    return _object(description, properties, ()) | {"x-kubernetes-map-type": "atomic"}


def _object(description: str, properties: JSON, required: tuple[str, ...]) -> JSON:
    found: JSON = {"type": "object", "description": description, "properties": properties}
    return found | {"required": list(required)} if required else found


def _some_of(description: str, properties: JSON, *, most: int | None = 1) -> JSON:
    found = _object(description, properties, ()) | {"minProperties": 1}
    return found if most is None else found | {"maxProperties": most}


def _list(description: str, items: JSON, **bounds: int) -> JSON:
    found: JSON = {"type": "array", "description": description, "items": items}
    return found | {"maxItems": _MANY} | bounds


def _set(description: str, items: JSON) -> JSON:
    return _list(description, items, minItems=1) | {"x-kubernetes-list-type": "set"}


def _atomic(description: str, items: JSON) -> JSON:
    found: JSON = {"type": "array", "description": description, "items": items}
    return found | {"x-kubernetes-list-type": "atomic"}


def _text(description: str, **more: object) -> JSON:
    return {"type": "string", "description": description, **more}


def _number(description: str, least: int, most: int) -> JSON:
    found: JSON = {"type": "integer", "format": "int32", "description": description}
    return found | {"minimum": least, "maximum": most}
