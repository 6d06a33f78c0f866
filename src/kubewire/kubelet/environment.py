"""A program's environment and arguments as the kubelet computes them. Pure.

ConfigMaps and Secrets are given as plain maps; ``references`` says which are needed.
"""

import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import Any

from kubewire.kubelet.pod import Container, EnvSource, KeyRef, Pod

Source = tuple[str, str]
"""("ConfigMap" or "Secret", name)."""

Sources = Mapping[Source, Mapping[str, str]]
"""Data of every source that exists."""


class ConfigError(Exception):
    """CreateContainerConfigError: what the spec refers to is not there."""


def references(container: Container) -> Iterator[Source]:
    """ConfigMaps and Secrets that the environment needs."""
    for source in container.env_from or ():
        if source.config_map_ref is not None:
            yield "ConfigMap", source.config_map_ref.name
        if source.secret_ref is not None:
            yield "Secret", source.secret_ref.name
    for variable in container.env or ():
        value = variable.value_from
        if value is not None and value.config_map_key_ref is not None:
            yield "ConfigMap", value.config_map_key_ref.name
        if value is not None and value.secret_key_ref is not None:
            yield "Secret", value.secret_key_ref.name


def decoded(obj: Mapping[str, Any]) -> dict[str, str]:
    """Data of a ConfigMap or Secret as text; bytes that are no UTF-8 keep their values."""
    data = dict(obj.get("data") or {})
    if obj.get("kind") == "Secret":
        data = {k: _text(v) for k, v in data.items()} | dict(obj.get("stringData") or {})
    for key, value in (obj.get("binaryData") or {}).items():
        data[key] = _text(value)
    return data


def _text(encoded: str) -> str:
    return b64decode(encoded).decode("utf-8", "surrogateescape")


def environment(
    pod: Pod,
    container: Container,
    sources: Sources,
    services: Mapping[str, str],
    ips: tuple[str, ...],
    host_ips: tuple[str, ...],
) -> dict[str, str]:
    """The variables, later ones over earlier: Services, envFrom, env. Raises ConfigError."""
    found = dict(services)
    for source in container.env_from or ():
        for kind, ref in (("ConfigMap", source.config_map_ref), ("Secret", source.secret_ref)):
            if ref is not None:
                data = _data(sources, kind, ref) or {}
                found.update({source.prefix + key: value for key, value in data.items()})
    for variable in container.env or ():
        if variable.value_from is None:
            found[variable.name] = expand(variable.value, found)
            continue
        value = _value(pod, container, variable.value_from, sources, ips, host_ips)
        if value is not None:
            found[variable.name] = value
    return found


def _data(sources: Sources, kind: str, ref: KeyRef) -> Mapping[str, str] | None:
    data = sources.get((kind, ref.name))
    if data is None and not ref.optional:
        raise ConfigError(f'{kind.lower()} "{ref.name}" not found')
    return data


def _value(
    pod: Pod,
    container: Container,
    source: EnvSource,
    sources: Sources,
    ips: tuple[str, ...],
    host_ips: tuple[str, ...],
) -> str | None:
    for kind, ref in (("ConfigMap", source.config_map_key_ref), ("Secret", source.secret_key_ref)):
        if ref is not None:
            data = _data(sources, kind, ref)
            if data is not None and ref.key not in data and not ref.optional:
                place = f"{pod.metadata.namespace}/{ref.name}"
                raise ConfigError(f"couldn't find key {ref.key} in {kind} {place}")
            return (data or {}).get(ref.key)
    if source.field_ref is not None:
        return field_value(pod, source.field_ref.field_path, ips, host_ips)
    if source.resource_field_ref is not None:
        return resource_value(pod, container, source.resource_field_ref.resource)
    return None


def field_value(
    pod: Pod, path: str, ips: tuple[str, ...] = (), host_ips: tuple[str, ...] = ()
) -> str:
    """Value of a downward API fieldPath. Raises ConfigError."""
    meta = pod.metadata
    simple = {
        "metadata.name": meta.name,
        "metadata.namespace": meta.namespace,
        "metadata.uid": meta.uid,
        "spec.nodeName": pod.spec.node_name,
        "spec.serviceAccountName": pod.spec.service_account_name or "default",
        "status.hostIP": host_ips[0] if host_ips else "",
        "status.hostIPs": ",".join(host_ips),
        "status.podIP": ips[0] if ips else "",
        "status.podIPs": ",".join(ips),
    }
    if path in simple:
        return simple[path]
    match = re.fullmatch(r"metadata\.(labels|annotations)(?:\['(.*)'\])?", path)
    if match is None:
        raise ConfigError(f"unsupported fieldPath: {path}")
    values = (meta.labels if match[1] == "labels" else meta.annotations) or {}
    if match[2] is not None:
        return values.get(match[2], "")
    quoted = (f'{k}="{v.replace(chr(92), chr(92) * 2)}"' for k, v in sorted(values.items()))
    return "\n".join(quoted)


def resource_value(pod: Pod, container: Container, resource: str) -> str:
    """Value of a resourceFieldRef: the quantity as it is written, in whole cores or bytes."""
    import math

    from kubewire.kubelet.qos import quantity

    kind, _, name = resource.partition(".")
    values = (container.resources or {}).get(kind) or {}
    return str(math.ceil(quantity(values.get(name, 0))))


def service_variables(services: list[dict[str, Any]], namespace: str) -> dict[str, str]:
    """{NAME}_SERVICE_HOST and friends of the namespace's Services, and of ``kubernetes``."""
    found: dict[str, str] = {}
    for service in services:
        meta, spec = service["metadata"], service.get("spec") or {}
        ip = spec.get("clusterIP") or ""
        master = (meta["name"], meta["namespace"]) == ("kubernetes", "default")
        if ip in ("", "None") or not (meta["namespace"] == namespace or master):
            continue
        name = meta["name"].upper().replace("-", "_")
        ports = spec.get("ports") or []
        if not ports:
            continue
        first = ports[0]
        found[f"{name}_SERVICE_HOST"] = ip
        found[f"{name}_SERVICE_PORT"] = str(first["port"])
        found[f"{name}_PORT"] = _link(first, ip)
        for port in ports:
            if port.get("name"):
                suffix = port["name"].upper().replace("-", "_")
                found[f"{name}_SERVICE_PORT_{suffix}"] = str(port["port"])
            protocol = port.get("protocol", "TCP")
            link = f"{name}_PORT_{port['port']}_{protocol}"
            found[link] = _link(port, ip)
            found[f"{link}_PROTO"] = protocol.lower()
            found[f"{link}_PORT"] = str(port["port"])
            found[f"{link}_ADDR"] = ip
    return found


def _link(port: dict[str, Any], ip: str) -> str:
    host = f"[{ip}]" if ":" in ip else ip
    return f"{port.get('protocol', 'TCP').lower()}://{host}:{port['port']}"


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace $(NAME); an unknown name stays as it is, $$ is a dollar."""

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return variables.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^()]*)\)", replace, text)


def probe_command(container: Container, command: tuple[str, ...]) -> tuple[str, ...]:
    """An exec probe's command, with the variables that the manifest spells out (as upstream)."""
    variables: dict[str, str] = {}
    for variable in container.env or ():
        if variable.value_from is None:
            variables[variable.name] = expand(variable.value, variables)
    return tuple(expand(word, variables) for word in command)


def arguments(
    container: Container, mapped: tuple[str, ...], variables: Mapping[str, str]
) -> list[str]:
    """What to execute: ``command`` replaces the mapped program, ``args`` follow either."""
    words = (*(container.command or mapped), *(container.args or ()))
    return [expand(word, variables) for word in words]
