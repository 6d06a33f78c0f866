"""Keys of etcd, over its HTTP gateway, as SkyDNS writes them."""

from __future__ import annotations

import base64
import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kubewire.lang.dns.name import split

if TYPE_CHECKING:
    import aiohttp

DEFAULT_TTL = 300
PRIORITY = 10
TIMEOUT = 5


class NoKeyError(KeyError):
    """Nothing is at or below a name."""


@dataclass(frozen=True)
class Item:
    """One key."""

    key: str
    host: str = ""
    port: int = 0
    priority: int = PRIORITY
    weight: int = 0
    text: str = ""
    mail: bool = False
    ttl: int = DEFAULT_TTL
    strip: int = 0
    """How many labels the name of a target loses."""
    group: str = ""

    @property
    def version(self) -> int:
        """4 or 6 if the host is an address, else 0."""
        try:
            return ipaddress.ip_address(self.host).version
        except ValueError:
            return 0


@dataclass
class Settings:
    """Where etcd is, and how its keys are read."""

    path: str = "skydns"
    endpoints: tuple[str, ...] = ("http://localhost:2379",)
    credentials: tuple[str, str] = ("", "")
    tls: tuple[str, ...] = ()
    least_lease: int = 30
    longest_lease: int = 86400
    """Bounds of a TTL that comes from a key's lease."""


class Store:
    """Asks etcd. Failures are OSError, TimeoutError or ValueError (what is no JSON)."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._token = ""

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def domain(self, key: str) -> str:
        """The name of a key."""
        parts = key.strip("/").split("/")[len(self._settings.path.split("/")) :]
        return ".".join(reversed(parts)) + "."

    async def items(self, name: str, *, exact: bool = False) -> list[Item]:
        """What is below a name, else at it; labels ``*`` and ``any`` fit every one. NoKeyError."""
        labels = list(reversed(split(name)))
        wild = next((i for i, x in enumerate(labels) if x in ("*", "any")), None)
        path = "/" + "/".join([self._settings.path, *labels[:wild]])
        pairs: list[dict[str, Any]] = []
        if not exact:
            pairs = await self._range(path + "/", prefix=True)
        if not pairs:
            pairs = await self._range(path)
        if not pairs:
            raise NoKeyError(name)
        found = [await self._item(pair) for pair in pairs]
        if wild is not None:
            found = [i for i in found if _fits(self.domain(i.key), labels)]
        return grouped(found)

    async def _range(self, key: str, *, prefix: bool = False) -> list[dict[str, Any]]:
        body: dict[str, Any] = {"key": _coded(key.encode())}
        if prefix:
            body["range_end"] = _coded(key.encode()[:-1] + bytes((key.encode()[-1] + 1,)))
        found = await self._post("/v3/kv/range", body)
        pairs: list[dict[str, Any]] = found.get("kvs") or []
        return pairs

    async def _item(self, pair: dict[str, Any]) -> Item:
        key = base64.b64decode(pair["key"]).decode()
        raw = json.loads(base64.b64decode(pair.get("value", "")))
        if not isinstance(raw, dict):
            raise ValueError(f"{key}: not an object")
        return Item(
            key=key,
            host=str(raw.get("host", "")),
            port=int(raw.get("port", 0)),
            priority=int(raw.get("priority", 0)) or PRIORITY,
            weight=int(raw.get("weight", 0)),
            text=str(raw.get("text", "")),
            mail=bool(raw.get("mail", False)),
            ttl=await self._ttl(int(raw.get("ttl", 0)), int(pair.get("lease", 0))),
            strip=int(raw.get("targetstrip", 0)),
            group=str(raw.get("group", "")),
        )

    async def _ttl(self, own: int, lease: int) -> int:
        """The smaller one of the key's own TTL and what is left of its lease."""
        found = [own] if own else []
        if lease:
            answer = await self._post("/v3/lease/timetolive", {"ID": str(lease)})
            if (left := int(answer.get("TTL", 0))) > 0:
                settings = self._settings
                found.append(min(max(left, settings.least_lease), settings.longest_lease))
        return min(found, default=DEFAULT_TTL)

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=TIMEOUT), connector=_connector(self._settings)
            )
        user, password = self._settings.credentials
        if user and not self._token and path != "/v3/auth/authenticate":
            answer = await self._post("/v3/auth/authenticate", {"name": user, "password": password})
            self._token = str(answer.get("token", ""))
        headers = {"Authorization": self._token} if self._token else {}
        error: Exception = OSError("no endpoint")
        for endpoint in self._settings.endpoints:
            try:
                async with self._session.post(endpoint + path, json=body, headers=headers) as reply:
                    found = await reply.json(content_type=None)
            except (aiohttp.ClientError, TimeoutError) as failed:
                error = OSError(str(failed) or type(failed).__name__)
                continue
            if not isinstance(found, dict):
                raise ValueError("etcd does not answer with an object")
            return found
        raise error


def grouped(items: list[Item]) -> list[Item]:
    """Items of one answer: the group of the shortest key, unless keys of its length disagree."""
    if not items:
        return items
    group, depth = items[0].group, items[0].key.count("/")
    for item in items:
        if item.key.count("/") < depth:
            if not item.group:
                break
            group, depth = item.group, item.key.count("/")
    if not group or any(i.group and i.group != group and i.key.count("/") == depth for i in items):
        return items
    return [i for i in items if i.group in ("", group)]


def _fits(name: str, labels: Iterable[str]) -> bool:
    own = list(reversed(split(name)))
    wanted = list(labels)
    return len(own) >= len(wanted) and all(
        w in ("*", "any") or w == o for w, o in zip(wanted, own, strict=False)
    )


def _coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _connector(settings: Settings) -> Any:
    import ssl

    import aiohttp

    tls = settings.tls
    if not tls:
        return aiohttp.TCPConnector()
    context = ssl.create_default_context(cafile=tls[-1] if len(tls) != 2 else None)
    if len(tls) >= 2:
        context.load_cert_chain(tls[0], tls[1])
    return aiohttp.TCPConnector(ssl=context)
