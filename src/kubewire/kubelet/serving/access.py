"""Who may ask a kubelet: the holders of a client certificate of the cluster, or of its tokens.

Tokens are shown to the API server (TokenReview), as upstream's kubelet does, and its answers are
remembered for as long. Whoever is known may do everything, as with the API server itself.
"""

import time

from aiohttp import web

from kubewire.api.errors import StatusError
from kubewire.api.meta import JSON
from kubewire.client.rest import Client

KEEP = 120.0
"""Seconds that a token stays known."""
REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"


class Access:
    """Judges requests."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[str, float] = {}

    async def check(self, request: web.BaseRequest) -> None:
        """Raises Unauthorized for strangers."""
        transport = request.transport
        if transport is not None and transport.get_extra_info("peercert"):
            return
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not await self._is_good(token.strip()):
            raise StatusError("Unauthorized", "Unauthorized")

    async def _is_good(self, token: str) -> bool:
        now = time.monotonic()
        self._known = {t: end for t, end in self._known.items() if end > now}
        if token in self._known:
            return True
        review: JSON = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token},
        }
        try:
            answer = await self._client.request("POST", REVIEWS, body=review)
        except StatusError:
            return False
        good = bool((answer.get("status") or {}).get("authenticated"))
        if good:
            self._known[token] = now + KEEP
        return good
