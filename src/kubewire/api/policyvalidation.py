"""What upstream refuses in a NetworkPolicy or ClusterNetworkPolicy, field by field.

Reads raw JSON, so that the API server can ask before it decodes and the command line can name the
field. An empty list means: stored as it is. ``strict`` also refuses fields that the type does not
have, as ``kubectl apply`` does; without it they are ignored, as a plain request has it.
"""

import re
from typing import Any

from kubewire.api.errors import Cause
from kubewire.api.fielderrors import (
    BAD_CIDR,
    duplicate,
    each,
    forbidden,
    invalid,
    not_supported,
    parse_cidr,
    required,
    selector_errors,
    too_long,
    too_many,
    unknown_fields,
    valid_port,
    valid_port_name,
    valid_subdomain,
    wrong_type,
)
from kubewire.api.meta import JSON

PROTOCOLS = ("TCP", "UDP", "SCTP")


def network_policy_errors(obj: JSON, *, strict: bool = False) -> list[Cause]:
    """Every wrong field of a networking.k8s.io/v1 NetworkPolicy."""
    found = _metadata_errors(obj)
    spec = obj.get("spec") or {}
    if not isinstance(spec, dict):
        return [*found, wrong_type("spec", spec, "object")]
    found += unknown_fields(spec, ("podSelector", "policyTypes", "ingress", "egress"), "spec")
    if spec.get("podSelector") is not None:
        found += selector_errors(spec["podSelector"], "spec.podSelector")
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in each(spec, direction, "spec", found):
            found += _rule_errors(rule, peers, f"spec.{direction}[{index}]")
    found += _type_errors(spec.get("policyTypes"))
    return found if strict else [c for c in found if not c.message.startswith("unknown field")]


def _metadata_errors(obj: JSON) -> list[Cause]:
    metadata = obj.get("metadata")
    if not isinstance(metadata, dict) or not (metadata.get("name") or metadata.get("generateName")):
        return [required("metadata.name", "name or generateName is required")]
    name = metadata.get("name") or ""
    return [invalid("metadata.name", name, m) for m in valid_subdomain(str(name))] if name else []


def _type_errors(types: Any) -> list[Cause]:
    if types is None:
        return []
    if not isinstance(types, list):
        return [wrong_type("spec.policyTypes", types, "array")]
    if len(types) > 2:
        return [invalid("spec.policyTypes", types, "may not specify more than two policyTypes")]
    return [
        not_supported(f"spec.policyTypes[{i}]", t, ("Ingress", "Egress"))
        for i, t in enumerate(types)
        if t not in ("Ingress", "Egress")
    ]


def _rule_errors(rule: JSON, peers: str, field: str) -> list[Cause]:
    found = unknown_fields(rule, (peers, "ports"), field)
    for index, port in each(rule, "ports", field, found):
        found += _port_errors(port, f"{field}.ports[{index}]")
    for index, peer in each(rule, peers, field, found):
        found += _peer_errors(peer, f"{field}.{peers}[{index}]")
    return found


def _port_errors(port: JSON, field: str) -> list[Cause]:
    found = unknown_fields(port, ("protocol", "port", "endPort"), field)
    protocol, number, end = port.get("protocol"), port.get("port"), port.get("endPort")
    if protocol is not None and protocol not in PROTOCOLS:
        found.append(not_supported(f"{field}.protocol", protocol, PROTOCOLS))
    if end is not None and not _is_int(end):
        return [*found, wrong_type(f"{field}.endPort", end, "integer")]
    if number is None:
        if end is not None:
            text = "may not be specified when `port` is not specified"
            found.append(invalid(f"{field}.endPort", end, text))
    elif _is_int(number):
        found += [invalid(f"{field}.port", number, m) for m in valid_port(number)]
        if end is not None and end < number:
            text = "must be greater than or equal to `port`"
            found.append(invalid(f"{field}.endPort", end, text))
        if end is not None:
            found += [invalid(f"{field}.endPort", end, m) for m in valid_port(end)]
    elif isinstance(number, str):
        if end is not None:
            text = "may not be specified when `port` is non-numeric"
            found.append(invalid(f"{field}.endPort", end, text))
        found += [invalid(f"{field}.port", number, m) for m in valid_port_name(number)]
    else:
        found.append(wrong_type(f"{field}.port", number, "integer or string"))
    return found


def _peer_errors(peer: JSON, field: str) -> list[Cause]:
    names = ("podSelector", "namespaceSelector", "ipBlock")
    found = unknown_fields(peer, names, field)
    given = [n for n in names if peer.get(n) is not None]
    for name in given:
        if name == "ipBlock":
            found += _block_errors(peer[name], f"{field}.ipBlock")
        else:
            found += selector_errors(peer[name], f"{field}.{name}")
    if not given:
        found.append(required(field, "must specify a peer"))
    elif len(given) > 1 and "ipBlock" in given:
        found.append(forbidden(field, "may not specify both ipBlock and another peer"))
    return found


def _block_errors(block: Any, field: str) -> list[Cause]:
    if not isinstance(block, dict):
        return [wrong_type(field, block, "object")]
    found = unknown_fields(block, ("cidr", "except"), field)
    cidr, exceptions = block.get("cidr"), block.get("except") or []
    if not cidr:
        return [*found, required(f"{field}.cidr")]
    network = parse_cidr(str(cidr))
    if network is None:
        found.append(invalid(f"{field}.cidr", cidr, BAD_CIDR))
    if not isinstance(exceptions, list):
        return [*found, wrong_type(f"{field}.except", exceptions, "array")]
    for index, text in enumerate(exceptions):
        place = f"{field}.except[{index}]"
        exception = parse_cidr(str(text))
        if exception is None:
            if network is not None:
                found.append(invalid(place, text, BAD_CIDR))
        elif network is not None and not (
            exception.version == network.version
            and exception.network_address in network
            and exception.prefixlen > network.prefixlen
        ):
            found.append(invalid(place, text, "must be a strict subset of `cidr`"))
    return found


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_DOMAIN = re.compile(
    r"(\*\.)?([a-zA-z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.)+[a-zA-z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.?"
)
_INGRESS_PEERS = ("namespaces", "pods")
_EGRESS_PEERS = ("namespaces", "pods", "nodes", "networks", "domainNames")


def cluster_network_policy_errors(obj: JSON, *, lenient_peers: bool = False) -> list[Cause]:
    """Every wrong field of a v1alpha2 ClusterNetworkPolicy.

    ``lenient_peers``: a peer without any field that we know is no error (a newer version of the
    API may have written it; the plan fails closed).
    """
    found = _metadata_errors(obj)
    spec = obj.get("spec")
    if not isinstance(spec, dict):
        return [*found, required("spec")]
    if spec.get("tier") is None:
        found.append(required("spec.tier"))
    elif spec["tier"] not in ("Admin", "Baseline"):
        found.append(not_supported("spec.tier", spec["tier"], ("Admin", "Baseline")))
    found += _priority_errors(spec.get("priority"))
    found += _subject_errors(spec.get("subject"))
    for direction, peers, known in (
        ("ingress", "from", _INGRESS_PEERS),
        ("egress", "to", _EGRESS_PEERS),
    ):
        rules = each(spec, direction, "spec", found)
        if len(rules) > 25:
            found.append(too_many(f"spec.{direction}", len(rules), 25))
        for index, rule in rules:
            place = f"spec.{direction}[{index}]"
            found += _cluster_rule_errors(rule, peers, known, place, lenient_peers)
    return found


def _priority_errors(priority: Any) -> list[Cause]:
    if priority is None:
        return [required("spec.priority")]
    if not _is_int(priority):
        return [wrong_type("spec.priority", priority, "integer")]
    if priority < 0:
        text = "spec.priority in body should be greater than or equal to 0"
        return [invalid("spec.priority", priority, text)]
    if priority > 1000:
        text = "spec.priority in body should be less than or equal to 1000"
        return [invalid("spec.priority", priority, text)]
    return []


def _subject_errors(subject: Any) -> list[Cause]:
    if not isinstance(subject, dict):
        return [required("spec.subject")]
    return _one_of(subject, _INGRESS_PEERS, "spec.subject") + _pods_errors(subject, "spec.subject")


def _one_of(obj: JSON, names: tuple[str, ...], field: str) -> list[Cause]:
    given = [n for n in names if obj.get(n) is not None]
    if not given:
        return [invalid(field, 0, f"{field} in body should have at least 1 properties")]
    if len(given) > 1:
        return [invalid(field, len(given), f"{field} in body should have at most 1 properties")]
    return []


def _pods_errors(obj: JSON, field: str) -> list[Cause]:
    found: list[Cause] = []
    for name in ("namespaces", "nodes"):
        if obj.get(name) is not None:
            found += selector_errors(obj[name], f"{field}.{name}")
    pods = obj.get("pods")
    if pods is None:
        return found
    if not isinstance(pods, dict):
        return [*found, wrong_type(f"{field}.pods", pods, "object")]
    if pods.get("podSelector") is None:
        found.append(required(f"{field}.pods.podSelector"))
    for name in ("namespaceSelector", "podSelector"):
        if pods.get(name) is not None:
            found += selector_errors(pods[name], f"{field}.pods.{name}")
    return found


def _cluster_rule_errors(
    rule: JSON, peers: str, known: tuple[str, ...], field: str, lenient: bool
) -> list[Cause]:
    found: list[Cause] = []
    if rule.get("action") is None:
        found.append(required(f"{field}.action"))
    elif rule["action"] not in ("Accept", "Deny", "Pass"):
        found.append(not_supported(f"{field}.action", rule["action"], ("Accept", "Deny", "Pass")))
    if len(str(rule.get("name") or "")) > 100:
        found.append(too_long(f"{field}.name", 100))
    items = each(rule, peers, field, found)
    found += _size_errors(rule.get(peers) or [], f"{field}.{peers}")
    outside = False
    for index, peer in items:
        place = f"{field}.{peers}[{index}]"
        outside = outside or any(peer.get(n) for n in ("networks", "nodes", "domainNames"))
        if not (lenient and not any(peer.get(n) is not None for n in known)):
            found += _one_of(peer, known, place)
        found += _pods_errors(peer, place) + _network_errors(peer, place)
    protocols = each(rule, "protocols", field, found)
    if rule.get("protocols") is not None:
        found += _size_errors(rule["protocols"], f"{field}.protocols")
    for index, protocol in protocols:
        place = f"{field}.protocols[{index}]"
        found += _protocol_errors(protocol, place, lenient)
        if outside and protocol.get("destinationNamedPort"):
            text = "networks/nodes/domainNames peer cannot be set with namedPorts since there are no namedPorts for networks/nodes/domainNames"
            found.append(invalid(field, "object", text))
    return found


def _size_errors(items: Any, field: str) -> list[Cause]:
    if not isinstance(items, list):
        return []
    if not items:
        return [invalid(field, 0, f"{field} in body should have at least 1 items")]
    return [too_many(field, len(items), 25)] if len(items) > 25 else []


def _set_errors(items: Any, field: str) -> list[Cause]:
    """Of a list that is a set of 1 to 25 texts."""
    if not isinstance(items, list):
        return [wrong_type(field, items, "array")]
    found = _size_errors(items, field)
    for index, item in enumerate(items):
        if not isinstance(item, str):
            found.append(wrong_type(f"{field}[{index}]", item, "string"))
        elif item in items[:index]:
            found.append(duplicate(f"{field}[{index}]", item))
    return found


def _network_errors(peer: JSON, field: str) -> list[Cause]:
    found: list[Cause] = []
    for name in ("networks", "domainNames"):
        if peer.get(name) is not None:
            found += _set_errors(peer[name], f"{field}.{name}")
    if any(c.reason == "FieldValueTypeInvalid" for c in found):
        return found
    for index, cidr in enumerate(peer.get("networks") or ()):
        if len(str(cidr)) > 43:
            found.append(too_long(f"{field}.networks[{index}]", 43))
        elif parse_cidr(str(cidr)) is None:
            found.append(
                invalid(f"{field}.networks[{index}]", cidr, "Invalid CIDR format provided")
            )
    for index, name in enumerate(peer.get("domainNames") or ()):
        place = f"{field}.domainNames[{index}]"
        if not _DOMAIN.fullmatch(str(name)):
            text = f"{place} in body should match '^{_DOMAIN.pattern}$'"
            found.append(invalid(place, name, text))
    return found


def _protocol_errors(protocol: JSON, field: str, lenient: bool) -> list[Cause]:
    names = ("tcp", "udp", "sctp", "destinationNamedPort")
    if lenient and not any(protocol.get(n) for n in names):
        return []
    found = _one_of(protocol, names, field)
    for name in names[:3]:
        given = protocol.get(name)
        if given is None:
            continue
        if not isinstance(given, dict):
            found.append(wrong_type(f"{field}.{name}", given, "object"))
            continue
        port = given.get("destinationPort")
        if port is None and not lenient:
            text = f"{field}.{name} in body should have at least 1 properties"
            found.append(invalid(f"{field}.{name}", 0, text))
        if port is not None:
            found += _cluster_port_errors(port, f"{field}.{name}.destinationPort")
    return found


def _cluster_port_errors(port: Any, field: str) -> list[Cause]:
    if not isinstance(port, dict):
        return [wrong_type(field, port, "object")]
    found = _one_of(port, ("number", "range"), field)
    ends = [(f"{field}.number", port["number"])] if port.get("number") is not None else []
    span = port.get("range")
    if isinstance(span, dict):
        ends += [(f"{field}.range.{n}", span.get(n)) for n in ("start", "end")]
    for place, value in ends:
        if not _is_int(value):
            found.append(required(place) if value is None else wrong_type(place, value, "integer"))
        elif value < 1:
            found.append(
                invalid(place, value, f"{place} in body should be greater than or equal to 1")
            )
        elif value > 65535:
            found.append(
                invalid(place, value, f"{place} in body should be less than or equal to 65535")
            )
    if isinstance(span, dict) and all(_is_int(v) for _, v in ends) and span["start"] >= span["end"]:
        found.append(invalid(f"{field}.range", "object", "Start port must be less than End port"))
    return found
