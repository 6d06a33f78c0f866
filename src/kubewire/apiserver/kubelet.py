"""Subresources of a pod that its kubelet answers: log, exec, attach, portforward.

The API server only finds the node and passes the request on, upgrades (WebSocket, SPDY) included;
the paths and queries are those of the kubelet's own API on port 10250.
"""

from collections.abc import Mapping
from functools import partial
from urllib.parse import urlencode

from aiohttp import web
from yarl import URL

from kubewire.api.errors import Cause, StatusError
from kubewire.api.meta import JSON
from kubewire.apiserver.app import Api
from kubewire.apiserver.call import Call
from kubewire.apiserver.faults import Faults
from kubewire.apiserver.proxy import Proxy, Target, node_target
from kubewire.client.forward import UnreachableError, Upstream, forward

_STREAMS = {"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"}
_LOG_STREAMS = ("All", "Stderr", "Stdout")
_LOG_OPTIONS = (
    "follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream",
)  # fmt: skip


def check_log_options(query: Mapping[str, str], pod: str) -> None:
    """Refuse what PodLogOptions cannot be, with upstream's texts."""
    faults = Faults()
    numbers = {n: _number(query, n) for n in ("tailLines", "limitBytes", "sinceSeconds")}
    tail, limit, since = numbers.values()
    stream = query.get("stream") or "All"
    if tail is not None and tail < 0:
        faults.invalid("tailLines", tail, "must be greater than or equal to 0")
    if limit is not None and limit < 1:
        faults.invalid("limitBytes", limit, "must be greater than 0")
    if since is not None and query.get("sinceTime"):
        faults.forbidden("", "at most one of `sinceTime` or `sinceSeconds` may be specified")
    elif since is not None and since < 1:
        faults.invalid("sinceSeconds", since, "must be greater than 0")
    if stream not in _LOG_STREAMS:
        faults.unsupported("stream", stream, _LOG_STREAMS)
    elif tail is not None and stream != "All":
        faults.forbidden("", "`tailLines` and specific `stream` are mutually exclusive for now")
    if faults.causes:
        raise faults.error("", "PodLogOptions", pod)


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise StatusError("BadRequest", f'strconv.ParseInt: parsing "{text}": invalid syntax') from None  # fmt: skip


def refusal(name: str, status: int, text: str) -> StatusError:
    """What the API server says when a kubelet has no log."""
    if status == 400:
        return StatusError("BadRequest", text)
    if status == 404:
        words = f"the server could not find the requested resource ( pods {name})"
        cause = Cause(reason="UnexpectedServerResponse", message=text)
        return StatusError("NotFound", words, kind="pods", name=name, causes=[cause])
    return StatusError("InternalError", f"Internal error occurred: {text}")


def container_of(pod: JSON, name: str) -> str:
    """The container that is meant; BadRequest if that is not clear."""
    spec, pod_name = pod["spec"], pod["metadata"]["name"]
    main = [c["name"] for c in spec.get("containers") or ()]
    others = [
        c["name"] for k in ("initContainers", "ephemeralContainers") for c in spec.get(k) or ()
    ]
    if name:
        if name not in (*main, *others):
            raise StatusError("BadRequest", f"container {name} is not valid for pod {pod_name}")
        return name
    if len(main) == 1:
        return str(main[0])
    choice = f"choose one of: [{' '.join(main)}]"
    if others:
        choice += f" or one of the init containers: [{' '.join(others)}]"
    text = f"a container name must be specified for pod {pod_name}, {choice}"
    raise StatusError("BadRequest", text)


def location(call: Call, pod: JSON) -> str:
    """Path and query on the kubelet."""
    query, where = call.query, f"{call.namespace}/{call.name}"
    if call.sub == "portforward":
        ports = [("port", p) for text in query.getall("ports", []) for p in text.split(",")]
        return f"/portForward/{where}" + (f"?{urlencode(ports)}" if ports else "")
    container = container_of(pod, query.get("container", ""))
    if call.sub == "log":
        wanted = [(k, query[k]) for k in _LOG_OPTIONS if k in query]
        return f"/containerLogs/{where}/{container}?{urlencode(wanted)}"
    wanted = [("command", c) for c in query.getall("command", [])]
    wanted += [(v, "1") for k, v in _STREAMS.items() if query.get(k) in ("true", "1")]
    return f"/{call.sub}/{where}/{container}?{urlencode(wanted)}"


class Kubelets:
    """The handler of these subresources."""

    def __init__(self, api: Api, proxy: Proxy) -> None:
        self._api = api
        self._proxy = proxy

    async def handle(self, call: Call) -> web.StreamResponse:
        """Pass one request on to the pod's node."""
        pod = self._api.rest.get(call.served, call.namespace, call.name).obj
        if call.sub == "log":
            check_log_options(call.query, call.name)
        path = location(call, pod)
        node = pod["spec"].get("nodeName")
        if not node and call.sub == "log":
            return web.Response(body=b"", content_type="text/plain")
        if not node:
            raise StatusError("BadRequest", f"pod {call.name} does not have a host assigned")
        target: Target = node_target(self._api.store, node)
        url = URL(target.url + path, encoded=True)
        upstream = Upstream(
            self._proxy.session(),
            url,
            self._proxy.to_kubelets,
            refusal=partial(refusal, call.name) if call.sub == "log" else None,
        )
        try:
            return await forward(call.request, upstream)
        except UnreachableError as error:
            text = f'{call.request.method} "{url}": {error}'
            raise StatusError("InternalError", text) from error
