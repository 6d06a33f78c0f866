"""Field errors with the texts and reasons of apimachinery ``field.Error``.

Every function returns one ``Cause``; validators collect them in lists. ``valid_*`` return the
messages that are wrong with one value.
"""

import json
import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

import msgspec

from kubewire.api.errors import Cause
from kubewire.api.meta import JSON

Network = IPv4Network | IPv6Network


def located(error: msgspec.ValidationError) -> tuple[str, str]:
    """What is wrong and in which field, of an object that cannot be decoded."""
    message, _, path = str(error).partition(" - at ")
    return message, path.strip("`").removeprefix("$").removeprefix(".")


def invalid(field: str, value: Any, message: str) -> Cause:
    """A value that cannot be accepted."""
    return Cause(
        reason="FieldValueInvalid", message=f"Invalid value: {_go(value)}: {message}", field=field
    )


def required(field: str, message: str = "") -> Cause:
    """A value that is missing."""
    text = f"Required value: {message}" if message else "Required value"
    return Cause(reason="FieldValueRequired", message=text, field=field)


def forbidden(field: str, message: str) -> Cause:
    """A value that may not be there."""
    return Cause(reason="FieldValueForbidden", message=f"Forbidden: {message}", field=field)


def not_supported(field: str, value: Any, supported: Sequence[str]) -> Cause:
    """A value outside an enumeration."""
    known = ", ".join(map(_go, sorted(supported)))
    return Cause(
        reason="FieldValueNotSupported",
        message=f"Unsupported value: {_go(value)}: supported values: {known}",
        field=field,
    )


def too_many(field: str, actual: int, most: int) -> Cause:
    """A list that is too long."""
    return Cause(
        reason="FieldValueTooMany",
        message=f"Too many: {actual}: must have at most {most} items",
        field=field,
    )


def too_long(field: str, most: int) -> Cause:
    """A string that is too long."""
    return Cause(
        reason="FieldValueTooLong",
        message=f"Too long: may not be more than {most} bytes",
        field=field,
    )


def duplicate(field: str, value: Any) -> Cause:
    """A value that a list may hold once."""
    return Cause(
        reason="FieldValueDuplicate", message=f"Duplicate value: {_go(value)}", field=field
    )


def wrong_type(field: str, value: Any, expected: str) -> Cause:
    """A value of another JSON type than the schema says."""
    kinds = {
        dict: "object",
        list: "array",
        str: "string",
        bool: "boolean",
        int: "integer",
        float: "number",
    }
    found = kinds.get(type(value), "null")
    return Cause(
        reason="FieldValueTypeInvalid",
        message=f'Invalid value: "{found}": must be of type {expected}: "{found}"',
        field=field,
    )


def unknown(field: str) -> Cause:
    """A field that the type does not have (strict decoding)."""
    return Cause(reason="FieldValueInvalid", message=f'unknown field "{field}"', field=field)


def _go(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


_PART = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_NAME_SHAPE = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
_SUBDOMAIN_SHAPE = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"


def valid_subdomain(value: str) -> list[str]:
    """RFC 1123 subdomain: the names of most objects."""
    found = ["must be no more than 253 bytes"] if len(value) > 253 else []
    return found if _SUBDOMAIN.fullmatch(value) else [*found, _SUBDOMAIN_SHAPE]


def valid_label_key(value: str) -> list[str]:
    """``[prefix/]name`` of a label."""
    found: list[str] = []
    prefix, slash, name = value.rpartition("/")
    if "/" in prefix:
        return [
            f"a qualified name {_NAME_SHAPE} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        ]
    if slash and not prefix:
        found.append("prefix part must be non-empty")
    elif slash:
        found += [f"prefix part {m}" for m in valid_subdomain(prefix)]
    if not name:
        found.append("name part must be non-empty")
    elif len(name) > 63:
        found.append("name part must be no more than 63 bytes")
    if not _PART.fullmatch(name):
        found.append(f"name part {_NAME_SHAPE}")
    return found


def valid_label_value(value: str) -> list[str]:
    """Value of a label."""
    found = ["must be no more than 63 bytes"] if len(value) > 63 else []
    if value and not _PART.fullmatch(value):
        found.append(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
        )
    return found


def valid_port(value: int) -> list[str]:
    """Port number."""
    return [] if 1 <= value <= 65535 else ["must be between 1 and 65535, inclusive"]


def valid_port_name(value: str) -> list[str]:
    """IANA service name, as container ports have it."""
    found = []
    if len(value) > 15:
        found.append("must be no more than 15 characters")
    if not re.fullmatch(r"[-a-z0-9]+", value):
        found.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search(r"[a-z]", value):
        found.append("must contain at least one letter (a-z)")
    if "--" in value:
        found.append("must not contain consecutive hyphens")
    if value and (value[0] == "-" or value[-1] == "-"):
        found.append("must not begin or end with a hyphen")
    return found


_LEADING_ZEROS = re.compile(r"\b0+(?=[0-9])")


def parse_cidr(value: str) -> Network | None:
    """Network of a CIDR; host bits are cut, leading zeros are decimal. None if it is not one."""
    address, slash, length = value.partition("/")
    if not slash or not length.isdecimal() or "%" in address:
        return None
    if ":" not in address:
        address = _LEADING_ZEROS.sub("", address)
    try:
        network = ip_network(f"{address}/{length}", strict=False)
    except ValueError:
        return None
    mapped = network.network_address.ipv4_mapped if network.version == 6 else None
    if mapped is not None and network.prefixlen >= 96:
        return ip_network(f"{mapped}/{network.prefixlen - 96}")
    return network


BAD_CIDR = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"


def selector_errors(selector: Any, field: str) -> list[Cause]:
    """Wrong fields of a metav1.LabelSelector in raw JSON."""
    if not isinstance(selector, dict):
        return [wrong_type(field, selector, "object")]
    found = unknown_fields(selector, ("matchLabels", "matchExpressions"), field)
    labels = selector.get("matchLabels") or {}
    if not isinstance(labels, dict):
        return [*found, wrong_type(f"{field}.matchLabels", labels, "object")]
    for key, value in labels.items():
        place = f"{field}.matchLabels"
        found += [invalid(place, key, m) for m in valid_label_key(str(key))]
        if isinstance(value, str):
            found += [invalid(place, value, m) for m in valid_label_value(value)]
        else:
            found.append(wrong_type(f"{place}.{key}", value, "string"))
    for index, item in each(selector, "matchExpressions", field, found):
        found += _requirement_errors(item, f"{field}.matchExpressions[{index}]")
    return found


def _requirement_errors(item: JSON, field: str) -> list[Cause]:
    found = unknown_fields(item, ("key", "operator", "values"), field)
    operator, values, key = item.get("operator"), item.get("values") or [], item.get("key", "")
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        found.append(wrong_type(f"{field}.values", values, "array of strings"))
    elif operator in ("In", "NotIn"):
        if not values:
            found.append(
                required(f"{field}.values", "must be specified when `operator` is 'In' or 'NotIn'")
            )
        for number, value in enumerate(values):
            found += [
                invalid(f"{field}.values[{number}]", value, m) for m in valid_label_value(value)
            ]
    elif operator in ("Exists", "DoesNotExist"):
        if values:
            found.append(
                forbidden(
                    f"{field}.values",
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                )
            )
    else:
        found.append(invalid(f"{field}.operator", operator or "", "not a valid selector operator"))
    if not isinstance(key, str):
        return [*found, wrong_type(f"{field}.key", key, "string")]
    return found + [invalid(f"{field}.key", key, m) for m in valid_label_key(key)]


def unknown_fields(obj: JSON, known: Sequence[str], field: str) -> list[Cause]:
    """Fields that strict decoding refuses."""
    return [unknown(f"{field}.{name}") for name in obj if name not in known]


def each(obj: JSON, name: str, field: str, found: list[Cause]) -> list[tuple[int, JSON]]:
    """Enumerate the objects of a list field; what is no list or object goes to ``found``."""
    items = obj.get(name)
    if items is None:
        return []
    if not isinstance(items, list):
        found.append(wrong_type(f"{field}.{name}", items, "array"))
        return []
    good: list[tuple[int, JSON]] = []
    for index, item in enumerate(items):
        if isinstance(item, dict):
            good.append((index, item))
        else:
            found.append(wrong_type(f"{field}.{name}[{index}]", item, "object"))
    return good
