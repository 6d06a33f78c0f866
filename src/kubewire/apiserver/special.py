"""Everything that is not a resource: discovery, OpenAPI, health, metrics, convergence."""

from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from kubewire.api.errors import Cause, StatusError
from kubewire.api.meta import JSON
from kubewire.apiserver import answers, body, discovery

if TYPE_CHECKING:
    from kubewire.apiserver.app import Api

_encode = msgspec.json.Encoder().encode


class Special:
    """The handler of these paths."""

    def __init__(self, api: "Api") -> None:
        self._api = api

    async def respond(self, request: web.BaseRequest, parts: list[str]) -> web.StreamResponse:
        """Answer a request by its path."""
        accept = request.headers.get("Accept", "")
        match parts:
            case ["api" | "apis"] if "as=APIGroupDiscoveryList" in accept:
                version = "v2" if "v=v2;" in accept or "v=v2," in accept or accept.endswith("v=v2") or "v=v2;as" in accept else "v2beta1"  # fmt: skip
                found: JSON | None = discovery.aggregated(
                    self._api.catalog, parts[0] == "api", version
                )
                content = (
                    f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
                )
                return answers.etagged(request, _encode(found), content)
            case ["api"]:
                found = discovery.core_versions(self._api.address)
            case ["apis"]:
                found = discovery.group_list(self._api.catalog)
            case ["api", version]:
                found = discovery.resource_list(self._api.catalog, "", version)
            case ["apis", group]:
                found = discovery.group(self._api.catalog, group)
            case ["apis", group, version]:
                found = discovery.resource_list(self._api.catalog, group, version)
            case ["version"]:
                found = discovery.VERSION
            case [("healthz" | "livez" | "readyz") as name, *_]:
                verbose = f"[+]ping ok\n{name} check passed\n"
                return web.Response(text=verbose if "verbose" in request.query else "ok")
            case ["metrics"]:
                return web.Response(body=self._api.metrics.render(self._api.store, self._api.convergence), content_type="text/plain")  # fmt: skip
            case ["openapi", *rest]:
                return self._api.openapi.respond(request, rest)
            case ["kubewire", "v1", *rest]:
                return await self._converge(request, rest)
            case [""]:
                found = {"paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]}  # fmt: skip
            case _:
                found = None
        if found is None:
            raise answers.no_such_path()
        return answers.respond(_encode(found))

    async def _converge(self, request: web.BaseRequest, rest: list[str]) -> web.StreamResponse:
        if rest[:1] == ["agents"] and len(rest) > 1 and request.method == "PUT":
            report = body.parse_json(await body.read(request))
            try:
                self._api.convergence.report("/".join(rest[1:]), int(report["resourceVersion"]))
            except (KeyError, TypeError, ValueError) as error:
                raise StatusError("BadRequest", "resourceVersion: must be a number as a string") from error  # fmt: skip
            return web.Response(status=204)
        if rest == ["agents"] and request.method == "GET":
            live = {a: str(self._api.convergence.applied.get(a, 0)) for a in sorted(self._api.convergence.live())}  # fmt: skip
            return answers.respond(
                _encode({"resourceVersion": str(self._api.store.rv), "agents": live})
            )
        if rest == ["sync"] and request.method == "POST":
            seconds = float(request.query.get("timeoutSeconds") or 10)
            reached, lagging = await self._api.convergence.sync(seconds)
            if lagging:
                names = ", ".join(f"{a} (at {rv})" for a, rv in sorted(lagging.items()))
                causes = [Cause(reason="Lagging", message=f"has applied {rv}", field=a) for a, rv in sorted(lagging.items())]  # fmt: skip
                text = f"not applied within {seconds:g}s: version {reached}: waiting for {names}"
                raise StatusError("Timeout", text, causes=causes)
            return answers.respond(_encode({"resourceVersion": str(reached)}))
        raise answers.no_such_path()
