"""Names: presentation text against labels on the wire, suffix matching by label, reverse names."""

import ipaddress
import re

MAX_NAME = 255
MAX_LABEL = 63

_PLAIN = re.compile(rb"[0-9A-Za-z_\-*./+:]+")
_ESCAPED = frozenset(b". '@;()\"\\")
_NUMBER = re.compile(r"\\([0-9]{3})")


class BadNameError(ValueError):
    """A text that is no domain name."""


def is_plain(text: bytes | bytearray) -> bool:
    """Tell whether octets are their own presentation text, dots apart."""
    return _PLAIN.fullmatch(text) is not None


def join_labels(labels: list[bytes]) -> str:
    """Write labels as absolute presentation text, escaping what RFC 1035 asks for."""
    if not labels:
        return "."
    joined = b".".join(labels)
    if _PLAIN.fullmatch(joined) and joined.count(b".") == len(labels) - 1:
        return joined.decode("ascii") + "."
    return "".join(_escape(label) + "." for label in labels)


def _escape(label: bytes) -> str:
    out = []
    for byte in label:
        if byte in _ESCAPED:
            out.append("\\" + chr(byte))
        elif byte < 0x21 or byte > 0x7E:
            out.append(f"\\{byte:03d}")
        else:
            out.append(chr(byte))
    return "".join(out)


def split(name: str) -> list[str]:
    """Labels of a name as text, escapes kept; the root has none."""
    if name in ("", "."):
        return []
    if "\\" not in name:
        return name.rstrip(".").split(".")
    labels, current, i = [], "", 0
    while i < len(name):
        if name[i] == "\\":
            step = 4 if _NUMBER.match(name, i) else 2
            current += name[i : i + step]
            i += step
        elif name[i] == ".":
            labels.append(current)
            current, i = "", i + 1
        else:
            current += name[i]
            i += 1
    return [*labels, current] if current else labels


def label_bytes(label: str) -> bytes:
    """One label as it goes on the wire, without its length."""
    if "\\" in label:
        out, i = bytearray(), 0
        while i < len(label):
            if label[i] != "\\":
                out += label[i].encode()
                i += 1
            elif number := _NUMBER.match(label, i):
                if int(number[1]) > 255:
                    raise BadNameError(f"bad escape in label '{label}'")
                out.append(int(number[1]))
                i += 4
            else:
                out += label[i + 1 : i + 2].encode()
                i += 2
        raw = bytes(out)
    else:
        raw = label.encode()
    if not 0 < len(raw) <= MAX_LABEL:
        raise BadNameError(f"label '{label}' has {len(raw)} octets, 1 to {MAX_LABEL} are allowed")
    return raw


def to_wire(name: str) -> bytes:
    """A name uncompressed; BadNameError if it cannot be written."""
    out = b"".join(bytes((len(raw),)) + raw for raw in map(label_bytes, split(name))) + b"\0"
    if len(out) > MAX_NAME:
        raise BadNameError(f"name '{name}' has {len(out)} octets, {MAX_NAME} are allowed")
    return out


def absolute(name: str) -> str:
    """Add the final dot."""
    return name if name.endswith(".") and not name.endswith("\\.") else name + "."


def normalize(name: str) -> str:
    """Lower-case and absolute: how zones are compared."""
    return absolute(name.lower())


def within(name: str, zone: str) -> bool:
    """Tell whether a name is the zone or below it, label by label; both normalized."""
    if zone == ".":
        return True
    return name == zone or name.endswith("." + zone)


def longest_zone(name: str, zones: "list[str] | tuple[str, ...]") -> str:
    """The longest of the zones that holds the name; "" if none does."""
    best, longest = "", 0
    for zone in zones:
        # Cheap first: most questions are put to a few zones that do not fit.
        if name.endswith(zone) and (size := len(zone)) > longest:
            before = len(name) - size - 1
            if zone == "." or before < 0 or name[before] == ".":
                best, longest = zone, size
    return best


def relative(name: str, zone: str) -> str:
    """What stands before the zone, without its final dot; "" at the apex."""
    if zone == ".":
        return name[:-1]
    return name[: -len(zone) - 1] if len(name) > len(zone) else ""


def parent(name: str) -> str:
    """The name without its first label; the root for a single label."""
    labels = split(name)[1:]
    return ".".join(labels) + "."


def is_reverse(name: str) -> int:
    """4 below in-addr.arpa, 6 below ip6.arpa, else 0."""
    if not name.endswith(".arpa."):
        return 0
    if name.endswith(".in-addr.arpa.") or name == "in-addr.arpa.":
        return 4
    if name.endswith(".ip6.arpa.") or name == "ip6.arpa.":
        return 6
    return 0


def reverse_address(name: str) -> str:
    """The address of a full reverse name in its shortest spelling; "" if it is not one."""
    if name.endswith(".in-addr.arpa."):
        octets = name[:-14].split(".")
        if len(octets) != 4:
            return ""
        try:
            return str(ipaddress.IPv4Address(".".join(reversed(octets))))
        except ValueError:
            return ""
    if name.endswith(".ip6.arpa."):
        nibbles = name[:-10].split(".")
        if len(nibbles) != 32 or any(len(n) != 1 for n in nibbles):
            return ""
        try:
            return str(ipaddress.IPv6Address(int("".join(reversed(nibbles)), 16)))
        except ValueError:
            return ""
    return ""


def reverse_name(address: str) -> str:
    """``7.0.96.10.in-addr.arpa.`` for an address."""
    return ipaddress.ip_address(address).reverse_pointer + "."


def reverse_zones(cidr: str) -> list[str]:
    """Zones of a prefix, split at octets (IPv4) or nibbles (IPv6) as CoreDNS does."""
    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    network = ipaddress.ip_network(cidr, strict=False)
    step = 8 if network.version == 4 else 4
    bits = -(-network.prefixlen // step) * step
    subnets: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = [network]
    if bits != network.prefixlen:
        subnets = list(network.subnets(new_prefix=bits))
    keep = bits // step
    zones = []
    for subnet in subnets:
        pointer = subnet.network_address.reverse_pointer.split(".")
        zones.append(".".join(pointer[len(pointer) - 2 - keep :]) + ".")
    return zones
