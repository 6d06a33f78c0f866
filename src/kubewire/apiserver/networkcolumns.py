"""Rows of Services and their endpoints, Ingresses and NetworkPolicies."""

from collections.abc import Iterable
from typing import Any

from kubewire.api.meta import JSON
from kubewire.apiserver.ages import age
from kubewire.apiserver.cells import Cells, labels_text, selector_text


def _service(obj: JSON) -> list[Any]:
    spec = obj.get("spec") or {}
    ports = []
    for port in spec.get("ports") or ():
        text = f"{port['port']}"
        if port.get("nodePort"):
            text += f":{port['nodePort']}"
        ports.append(f"{text}/{port.get('protocol', 'TCP')}")
    return [
        obj["metadata"]["name"],
        spec.get("type", ""),
        spec.get("clusterIP") or "<none>",
        _external(obj),
        ",".join(ports) or "<none>",
        age(obj),
        labels_text(spec.get("selector")),
    ]


def _external(obj: JSON) -> str:
    spec = obj.get("spec") or {}
    kind, given = spec.get("type"), spec.get("externalIPs") or []
    if kind == "ExternalName":
        return spec.get("externalName") or "<none>"
    if kind == "LoadBalancer":
        balancer = ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
        found = [i.get("ip") or i.get("hostname") or "" for i in balancer] + given
        return ",".join(found) or "<pending>"
    return ",".join(given) or "<none>"


def _endpoints(obj: JSON) -> list[Any]:
    found = []
    for subset in obj.get("subsets") or ():
        for address in subset.get("addresses") or ():
            ports = subset.get("ports") or [None]
            found += [_join(address["ip"], p["port"] if p else None) for p in ports]
    text = ",".join(found[:3]) or "<none>"
    if len(found) > 3:
        text += f" + {len(found) - 3} more..."
    return [obj["metadata"]["name"], text, age(obj)]


def _join(ip: str, port: int | None) -> str:
    if port is None:
        return ip
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _limited(values: Iterable[str]) -> str:
    found = list(values)
    more = f" + {len(found) - 3} more..." if len(found) > 3 else ""
    return (",".join(found[:3]) + more) or "<unset>"


def _endpoint_slice(obj: JSON) -> list[Any]:
    ports = (str(p["port"]) if p.get("port") is not None else "*" for p in obj.get("ports") or ())
    addresses = (a for e in obj.get("endpoints") or () for a in e.get("addresses") or ())
    return [
        obj["metadata"]["name"],
        obj.get("addressType", ""),
        _limited(ports),
        _limited(addresses),
        age(obj),
    ]


def _ingress(obj: JSON) -> list[Any]:
    spec = obj.get("spec") or {}
    hosts = [r["host"] for r in spec.get("rules") or () if r.get("host")]
    text = ",".join(hosts[:3]) or "*"
    if len(hosts) > 3:
        text += f" + {len(hosts) - 3} more..."
    balancer = ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    return [
        obj["metadata"]["name"],
        spec.get("ingressClassName") or "<none>",
        text,
        ",".join(i.get("ip") or i.get("hostname") or "" for i in balancer),
        "80, 443" if spec.get("tls") else "80",
        age(obj),
    ]


def _ingress_class(obj: JSON) -> list[Any]:
    spec = obj.get("spec") or {}
    parameters = spec.get("parameters")
    text = "<none>"
    if parameters:
        kind = parameters["kind"] + (f".{parameters['apiGroup']}" if parameters.get("apiGroup") else "")  # fmt: skip
        text = f"{kind}/{parameters['name']}"
    return [obj["metadata"]["name"], spec.get("controller", ""), text, age(obj)]


def _network_policy(obj: JSON) -> list[Any]:
    selector = (obj.get("spec") or {}).get("podSelector")
    return [obj["metadata"]["name"], selector_text(selector), age(obj)]


KINDS: dict[str, tuple[str, Cells]] = {
    "Service": ("Name|Type|Cluster-IP|External-IP|Port(s)|Age|*Selector", _service),
    "Endpoints": ("Name|Endpoints|Age", _endpoints),
    "EndpointSlice": ("Name|AddressType|Ports|Endpoints|Age", _endpoint_slice),
    "Ingress": ("Name|Class|Hosts|Address|Ports|Age", _ingress),
    "IngressClass": ("Name|Controller|Parameters|Age", _ingress_class),
    "NetworkPolicy": ("Name|Pod-Selector|Age", _network_policy),
}  # fmt: skip
"""Kind -> columns and the function that fills them."""
