"""The proxy subresource: HTTP to a Service, a pod or a node through the API server.

``[SCHEME:]NAME[:PORT]`` names the target; a Service's port is one of its own, and a ready endpoint
is chosen at random. Redirects and links in pages are rewritten so that they lead through the proxy.
"""

import random
import re
import ssl
from pathlib import Path
from typing import NamedTuple

from aiohttp import ClientSession, ClientTimeout, TCPConnector, web
from yarl import URL

from kubewire.api.errors import StatusError
from kubewire.api.meta import JSON, Key
from kubewire.apiserver.app import Api
from kubewire.apiserver.call import Call
from kubewire.apiserver.store import Store
from kubewire.client.forward import UnreachableError, Upstream, forward

KUBELET_PORT = 10250


class Target(NamedTuple):
    """Where a request goes."""

    scheme: str
    host: str
    port: int

    @property
    def url(self) -> str:
        """Scheme and authority."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def split(text: str) -> tuple[str, str, str]:
    """``https:web:443`` -> (scheme, name, port); ValueError if it has another form."""
    parts = text.split(":")
    match parts:
        case [name] if name:
            return "", name, ""
        case [name, port] if name:
            return "", name, port
        case [scheme, name, port] if name and scheme in ("http", "https"):
            return scheme, name, port
    raise ValueError(text)


def service_target(store: Store, namespace: str, text: str) -> Target:
    """A ready endpoint of a Service."""
    try:
        scheme, name, port = split(text)
    except ValueError:
        raise StatusError("BadRequest", f'invalid service request "{text}"') from None
    found = store.get("services", Key(namespace, name))
    if found is None:
        raise StatusError("NotFound", f'services "{name}" not found', kind="services", name=name)
    if port.isdigit():
        ports = (found.obj.get("spec") or {}).get("ports") or ()
        names = [p.get("name", "") for p in ports if p["port"] == int(port)]
        if not names:
            why = f'no service port {port} found for service "{name}"'
            raise StatusError("ServiceUnavailable", why)
        port = names[0]
    ready = list(_endpoints(store, namespace, name, port))
    if not ready:
        raise StatusError("ServiceUnavailable", f'no endpoints available for service "{name}"')
    host, number = random.choice(ready)
    return Target(scheme or "http", host, number)


def _endpoints(store: Store, namespace: str, service: str, port: str) -> list[tuple[str, int]]:
    """(address, port) of everything ready, from the EndpointSlices or else the Endpoints."""
    out = []
    for key, revision in store.collection("endpointslices.discovery.k8s.io").objects.items():
        labels = revision.obj["metadata"].get("labels") or {}
        if key.namespace == namespace and labels.get("kubernetes.io/service-name") == service:
            out += _of_slice(revision.obj, port)
    if out:
        return out
    found = store.get("endpoints", Key(namespace, service))
    for subset in (found.obj.get("subsets") or ()) if found else ():
        numbers = [p["port"] for p in subset.get("ports") or () if p.get("name", "") == port]
        out += [(a["ip"], n) for a in subset.get("addresses") or () for n in numbers]
    return out


def _of_slice(piece: JSON, port: str) -> list[tuple[str, int]]:
    numbers = [p["port"] for p in piece.get("ports") or () if p.get("name", "") == port and p.get("port")]  # fmt: skip
    return [
        (address, number)
        for endpoint in piece.get("endpoints") or ()
        if (endpoint.get("conditions") or {}).get("ready", True)
        for address in endpoint["addresses"][:1]
        for number in numbers
    ]


def pod_target(store: Store, namespace: str, text: str) -> Target:
    """A pod's address; without a port the first that its containers declare."""
    try:
        scheme, name, port = split(text)
    except ValueError:
        raise StatusError("BadRequest", f'invalid pod request "{text}"') from None
    found = store.get("pods", Key(namespace, name))
    if found is None:
        raise StatusError("NotFound", f'pods "{name}" not found', kind="pods", name=name)
    spec = found.obj["spec"]
    declared = [p for c in spec.get("containers") or () for p in c.get("ports") or ()]
    by_name = {p["name"]: p["containerPort"] for p in declared if p.get("name")}
    number = int(port) if port.isdigit() else by_name.get(port, 0)
    if not port and declared:
        number = declared[0]["containerPort"]
    host = (found.obj.get("status") or {}).get("podIP")
    if not host:
        raise StatusError("ServiceUnavailable", f'pod "{name}" has no address yet')
    return Target(scheme or "http", host, number or 80)


def node_target(store: Store, text: str) -> Target:
    """A node's kubelet, or another port of the node."""
    try:
        scheme, name, port = split(text)
    except ValueError:
        raise StatusError("BadRequest", f'invalid node request "{text}"') from None
    found = store.get("nodes", Key("", name))
    if found is None:
        raise StatusError("NotFound", f'nodes "{name}" not found', kind="nodes", name=name)
    status = found.obj.get("status") or {}
    addresses = [a["address"] for a in status.get("addresses") or () if a["type"] == "InternalIP"]
    if not addresses:
        raise StatusError("ServiceUnavailable", f'no address known for node "{name}"')
    endpoint = (status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}
    kubelet = int(endpoint.get("Port") or KUBELET_PORT)
    number = int(port) if port.isdigit() else kubelet
    return Target(scheme or ("https" if number == kubelet else "http"), addresses[0], number)


class Proxy:
    """The handler of the proxy subresource."""

    def __init__(self, api: Api, own: tuple[Path, Path]) -> None:
        """``own``: certificate and key by which kubelets know the API server."""
        self._api = api
        self._session: ClientSession | None = None
        self._tls = _trusting()
        self.to_kubelets = _trusting()
        self.to_kubelets.load_cert_chain(*own)

    async def handle(self, call: Call) -> web.StreamResponse:
        """Pass one request on."""
        request = call.request
        target = self._target(call)
        raw, question, query = request.raw_path.partition("?")
        prefix, found, rest = raw.partition("/proxy/")
        prefix = (prefix if found else raw.removesuffix("/proxy")) + "/proxy"
        if not found and request.method in ("GET", "HEAD"):
            return web.Response(status=301, headers={"Location": f"{raw}/{question}{query}"})
        url = URL(f"{target.url}/{rest}{question}{query}", encoded=True)
        upstream = Upstream(
            self.session(),
            url,
            self.to_kubelets if call.served.storage == "nodes" else self._tls,
            headers={
                "X-Forwarded-Uri": f"{prefix}/{rest}",
                "X-Forwarded-Host": request.headers.get("Host", ""),
                "X-Forwarded-Proto": "https",
                "Accept-Encoding": "identity",
            },
            relocate=lambda location: relocate(location, target, prefix),
            rewrite_html=lambda page: rewrite_html(page, prefix),
        )
        try:
            return await forward(request, upstream)
        except UnreachableError as error:
            text = f"Error trying to reach service: '{error}'"
            return web.Response(status=503, text=text)

    async def close(self) -> None:
        """Close idle connections."""
        if self._session is not None:
            await self._session.close()

    def _target(self, call: Call) -> Target:
        store = self._api.store
        match call.served.storage:
            case "services":
                return service_target(store, call.namespace, call.name)
            case "pods":
                return pod_target(store, call.namespace, call.name)
        return node_target(store, call.name)

    def session(self) -> ClientSession:
        """The connections to pods and kubelets."""
        if self._session is None:
            timeout = ClientTimeout(total=None, sock_connect=30)
            connector = TCPConnector(limit=0)
            self._session = ClientSession(
                connector=connector, timeout=timeout, auto_decompress=False
            )
        return self._session


def _trusting() -> ssl.SSLContext:
    """Pods' and kubelets' certificates are their own: upstream does not verify them either."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def relocate(location: str, target: Target, prefix: str) -> str:
    """A redirect within the target leads through the proxy; one elsewhere stays."""
    if location.startswith(target.url):
        location = location.removeprefix(target.url) or "/"
    if location.startswith("/") and not location.startswith("//"):
        return prefix + location
    return location


_LINK = re.compile(
    rb"""(?P<head>\s(?:href|src|action|formaction|poster|data|cite|background|longdesc|usemap)\s*=\s*)"""
    rb"""(?P<quote>["'])(?P<path>/(?!/)[^"']*)""",
    re.IGNORECASE,
)


def rewrite_html(page: bytes, prefix: str) -> bytes:
    """Links to absolute paths lead through the proxy."""
    start = prefix.encode()
    return _LINK.sub(lambda m: m["head"] + m["quote"] + start + m["path"], page)
