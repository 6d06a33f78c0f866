"""Ingress, IngressClass and NetworkPolicy."""

from kubewire.api.errors import Cause
from kubewire.api.ingress import CLASS_ANNOTATION
from kubewire.api.meta import JSON
from kubewire.api.policyvalidation import cluster_network_policy_errors, network_policy_errors
from kubewire.apiserver.faults import Faults
from kubewire.apiserver.validation import names
from kubewire.apiserver.validation.pods import check

_PATH_TYPES = ("Exact", "ImplementationSpecific", "Prefix")


def ingress(obj: JSON, faults: Faults) -> None:
    """An Ingress."""
    spec = obj.get("spec") or {}
    if not spec.get("rules") and spec.get("defaultBackend") is None:
        why = "either `defaultBackend` or `rules` must be specified"
        faults.invalid("spec", spec, why)
    if spec.get("defaultBackend") is not None:
        _backend(spec["defaultBackend"], "spec.defaultBackend", faults)
    for index, rule in enumerate(spec.get("rules") or ()):
        _rule(rule, f"spec.rules[{index}]", faults)
    for index, tls in enumerate(spec.get("tls") or ()):
        for number, host in enumerate(tls.get("hosts") or ()):
            _host(host, f"spec.tls[{index}].hosts[{number}]", faults)
    if spec.get("ingressClassName"):
        name = spec["ingressClassName"]
        check(faults, "spec.ingressClassName", name, names.subdomain(name))


def ingress_create(obj: JSON, faults: Faults) -> None:
    """A new Ingress: the old annotation and the field must not name different classes."""
    named = (obj["metadata"].get("annotations") or {}).get(CLASS_ANNOTATION)
    if named is not None and (obj.get("spec") or {}).get("ingressClassName", named) != named:
        why = "must match `ingressClassName` when both are specified"
        faults.invalid(f"annotations.{CLASS_ANNOTATION}", named, why)


def _rule(rule: JSON, path: str, faults: Faults) -> None:
    if rule.get("host"):
        _host(rule["host"], f"{path}.host", faults)
    http = rule.get("http")
    if http is None:
        return
    if not http.get("paths"):
        faults.required(f"{path}.http.paths")
    for index, entry in enumerate(http.get("paths") or ()):
        _path(entry, f"{path}.http.paths[{index}]", faults)


def _host(host: str, path: str, faults: Faults) -> None:
    if not names.ip(host):
        faults.invalid(path, host, "must be a DNS name, not an IP address")
    elif "*" in host:
        check(faults, path, host, names.wildcard_subdomain(host))
    else:
        check(faults, path, host, names.subdomain(host))


def _path(entry: JSON, path: str, faults: Faults) -> None:
    kind, text = entry.get("pathType"), entry.get("path") or ""
    if kind is None:
        faults.required(f"{path}.pathType", "pathType must be specified")
    elif kind not in _PATH_TYPES:
        faults.unsupported(f"{path}.pathType", kind, _PATH_TYPES)
    elif kind in ("Exact", "Prefix"):
        if not text.startswith("/"):
            faults.invalid(f"{path}.path", text, "must be an absolute path")
        for bad in ("//", "/./", "/../", "%2f", "%2F"):
            if bad in text:
                faults.invalid(f"{path}.path", text, f"must not contain '{bad}'")
        for bad in ("/..", "/."):
            if text.endswith(bad):
                faults.invalid(f"{path}.path", text, f"cannot end with '{bad}'")
    elif text and not text.startswith("/"):
        faults.invalid(f"{path}.path", text, "must be an absolute path")
    _backend(entry.get("backend") or {}, f"{path}.backend", faults)


def _backend(backend: JSON, path: str, faults: Faults) -> None:
    service, resource = backend.get("service"), backend.get("resource")
    if service is not None and resource is not None:
        faults.invalid(path, "", "cannot set both resource and service backends")
    elif resource is None and service is None:
        faults.required(path, "resource or service backend is required")
    elif service is not None:
        _service_backend(service, f"{path}.service", path, faults)


def _service_backend(service: JSON, path: str, parent: str, faults: Faults) -> None:
    name = service.get("name") or ""
    if not name:
        faults.required(f"{path}.name")
    else:
        check(faults, f"{path}.name", name, names.label_1035(name))
    port = service.get("port") or {}
    if port.get("name") and port.get("number"):
        faults.invalid(parent, "", "cannot set both port name & port number")
    elif port.get("name"):
        check(faults, f"{path}.port.name", port["name"], names.port_name(port["name"]))
    elif port.get("number"):
        check(faults, f"{path}.port.number", port["number"], names.port_number(port["number"]))
    else:
        faults.required(parent, "port name or number is required")


def ingress_class(obj: JSON, faults: Faults) -> None:
    """An IngressClass."""
    controller = (obj.get("spec") or {}).get("controller") or ""
    if not controller:
        faults.required("spec.controller")
    elif "/" not in controller:
        faults.invalid("spec.controller", controller, "must be a domain-prefixed path (such as \"acme.io/foo\")")  # fmt: skip


def network_policy(obj: JSON, faults: Faults) -> None:
    """A NetworkPolicy; the rules are those of ``kubewire policy``."""
    _policy(network_policy_errors(obj), faults)


def cluster_network_policy(obj: JSON, faults: Faults) -> None:
    """A ClusterNetworkPolicy."""
    _policy(cluster_network_policy_errors(obj), faults)


def _policy(found: list[Cause], faults: Faults) -> None:
    # Metadata has been checked for every kind alike.
    faults.causes += [c for c in found if not c.field.startswith("metadata")]
