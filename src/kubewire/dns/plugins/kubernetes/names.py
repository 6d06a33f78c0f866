"""Names taken apart, and the labels that stand for addresses.

ZONE, svc.ZONE, pod.ZONE, ns.svc.ZONE      exist, hold nothing
svc.ns.svc.ZONE                            the Service
host.svc.ns.svc.ZONE                       one endpoint, by host name or dashed address
_port._proto.svc.ns.svc.ZONE               its SRV records
host.cluster.svc.ns.svc.ZONE               one endpoint of an imported Service
area.pin|prefer._zone.svc.ns.svc.ZONE      endpoints of one topology zone (option zonal)
1-2-3-4.ns.pod.ZONE                        a pod
dns-version.ZONE, ns.dns.ZONE              the schema, the server
4.3.2.1.in-addr.arpa, ... .ip6.arpa        addresses of Services, else of endpoints
"""

from typing import NamedTuple

from kubewire.dns.plugins.kubernetes.cluster import canonical
from kubewire.lang.dns.name import relative, split


class Ask(NamedTuple):
    """A name taken apart."""

    kind: str = ""
    """svc, pod, or "" for a name that is there but holds nothing."""
    namespace: str = ""
    service: str = ""
    endpoint: str = ""
    port: str = ""
    protocol: str = ""
    cluster: str = ""
    area: str = ""
    prefer: bool = False
    valid: bool = True


def parse(name: str, zone: str, *, multicluster: bool = False, zonal: bool = False) -> Ask:
    """Take a lower-case name below a zone apart."""
    labels = split(relative(name, zone))
    if not labels:
        return Ask()
    kind = labels.pop()
    if kind not in ("svc", "pod"):
        return Ask(valid=False)
    if not labels:
        return Ask()
    namespace = labels.pop()
    if not labels:
        return Ask(kind, namespace)
    service = labels.pop()
    match labels:
        case []:
            return Ask(kind, namespace, service)
        case [endpoint]:
            return Ask(kind, namespace, service, endpoint)
        case [first, second] if multicluster and not (first[0] == "_" or second[0] == "_"):
            return Ask(kind, namespace, service, first, cluster=second)
        case [port, protocol]:
            return Ask(
                kind, namespace, service,
                port=port.removeprefix("_"), protocol=protocol.removeprefix("_"),
            )  # fmt: skip
        case [*area, ("pin" | "prefer") as how, "_zone"] if zonal and not multicluster and area:
            if kind == "svc":
                return Ask(kind, namespace, service, area=".".join(area), prefer=how == "prefer")
    return Ask(valid=False)


def dashed(ip: str) -> str:
    """The label that stands for an address."""
    label = ip.replace(".", "-") if "." in ip else ip.replace(":", "-")
    return label + "0" if label.endswith("-") else label


def dashed_address(label: str) -> str:
    """The address that a label stands for; "" if it stands for none."""
    if "." in label:
        return ""
    text = label.replace("-", "." if label.count("-") == 3 and "--" not in label else ":")
    return canonical(text) if is_address(text) else ""


def is_address(text: str) -> bool:
    """An address where a name is expected."""
    import socket

    try:
        socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, ValueError):
        return False
    return True
