"""Names, labels, ports and addresses: each check returns what is wrong, in upstream's words."""

import ipaddress
import re
from typing import Any

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_LABEL_RE = re.compile(rf"{_LABEL}\Z")
_SUBDOMAIN_RE = re.compile(rf"{_SUBDOMAIN}\Z")
_1035_RE = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?\Z")
_WILDCARD_RE = re.compile(rf"\*\.{_SUBDOMAIN}\Z")
_QUALIFIED_RE = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]\Z")
_VALUE_RE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?\Z")
_CONFIG_KEY_RE = re.compile(r"[-._a-zA-Z0-9]+\Z")
_PERCENT_RE = re.compile(r"[0-9]+%\Z")
_QUANTITY_RE = re.compile(r"([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)\Z")

IP_TEXT = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
CIDR_TEXT = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
PORT_TEXT = "must be between 1 and 65535, inclusive"


def _too_long(text: str, limit: int) -> list[str]:
    return [f"must be no more than {limit} characters"] if len(text) > limit else []


def label(text: str) -> list[str]:
    """An RFC 1123 label."""
    errors = _too_long(text, 63)
    if not _LABEL_RE.match(text):
        errors.append(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', "
            "and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', "
            f"regex used for validation is '{_LABEL}')"
        )
    return errors


def subdomain(text: str) -> list[str]:
    """An RFC 1123 subdomain."""
    errors = _too_long(text, 253)
    if not _SUBDOMAIN_RE.match(text):
        errors.append(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' "
            "or '.', and must start and end with an alphanumeric character (e.g. 'example.com', "
            f"regex used for validation is '{_SUBDOMAIN}')"
        )
    return errors


def label_1035(text: str) -> list[str]:
    """A DNS-1035 label (names of Services)."""
    errors = _too_long(text, 63)
    if not _1035_RE.match(text):
        errors.append(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with "
            "an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or "
            "'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
        )
    return errors


def wildcard_subdomain(text: str) -> list[str]:
    """A host such as ``*.example.com``."""
    errors = _too_long(text, 253)
    if not _WILDCARD_RE.match(text):
        errors.append(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, "
            "which must consist of lower case alphanumeric characters, '-' or '.' and end with an "
            "alphanumeric character (e.g. '*.example.com', regex used for validation is "
            rf"'\*\.{_SUBDOMAIN}')"
        )
    return errors


def path_segment(text: str) -> list[str]:
    """A name that only has to fit into a URL."""
    if text in (".", ".."):
        return [f"may not be '{text}'"]
    return [f"may not contain '{bad}'" for bad in ("/", "%") if bad in text]


def qualified(text: str) -> list[str]:
    """A label or annotation key."""
    prefix, slash, name = text.rpartition("/")
    errors: list[str] = []
    if slash:
        if not prefix:
            errors.append("prefix part must be non-empty")
        else:
            errors += [f"prefix part {e}" for e in subdomain(prefix)]
    if not name:
        errors.append("name part must be non-empty")
    elif len(name) > 63:
        errors.append("name part must be no more than 63 characters")
    if not _QUALIFIED_RE.match(name):
        errors.append(
            "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and "
            "end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex "
            "used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
        )
    return errors


def label_value(text: str) -> list[str]:
    """A label's value."""
    errors = _too_long(text, 63)
    if not _VALUE_RE.match(text):
        errors.append(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' "
            "or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or "
            "'my_value',  or '12345', regex used for validation is "
            "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
        )
    return errors


def config_key(text: str) -> list[str]:
    """A key of a ConfigMap or a Secret."""
    errors = _too_long(text, 253)
    if not _CONFIG_KEY_RE.match(text):
        errors.append(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. "
            "'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is "
            "'[-._a-zA-Z0-9]+')"
        )
    elif text in (".", "..") or text.startswith(".."):
        errors.append(
            f"must not be '{text}'" if text in (".", "..") else "must not start with '..'"
        )
    return errors


def port_name(text: str) -> list[str]:
    """An IANA service name."""
    errors = _too_long(text, 15)
    if not re.fullmatch(r"[-a-z0-9]+", text):
        errors.append("must contain only alphanumeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search(r"[a-z]", text):
        errors.append("must contain at least one letter (a-z)")
    if "--" in text:
        errors.append("must not contain consecutive hyphens")
    if text[:1] == "-" or text[-1:] == "-":
        errors.append("must not begin or end with a hyphen")
    return errors


def port_number(value: Any) -> list[str]:
    """A port."""
    return [] if isinstance(value, int) and 1 <= value <= 65535 else [PORT_TEXT]


def port(value: Any) -> list[str]:
    """A port, by number or by name."""
    return port_name(value) if isinstance(value, str) else port_number(value)


def ip(text: str) -> list[str]:
    """An address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return [IP_TEXT]
    return []


def cidr(text: str) -> list[str]:
    """A range of addresses."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return [CIDR_TEXT]
    return [] if "/" in text else [CIDR_TEXT]


def percent(text: str) -> list[str]:
    """A percentage."""
    if _PERCENT_RE.match(text):
        return []
    return [
        "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or "
        "'93%', regex used for validation is '[0-9]+%')"
    ]


_SUFFIX = {
    "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
    "E": 1e18, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip


def quantity(text: str) -> float:
    """The value of a quantity; ValueError if it is none."""
    match = re.fullmatch(r"([+-]?[0-9.]+)([A-Za-z]*)", text)
    if match and match[2] in _SUFFIX:
        return float(match[1]) * _SUFFIX[match[2]]
    return float(text)
