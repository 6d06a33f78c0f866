"""Informer: a local copy of one collection that follows the server, and tells who listens.

The decisions are in ``reflector``; this module sends its requests. Objects are decoded straight
from the bytes of the answer into ``type_``: a frozen struct that holds only what is acted on, or
``dict`` for controllers that write objects back.
"""

import asyncio
import contextlib
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from kubewire.api.errors import StatusError
from kubewire.api.meta import JSON, Key, Object
from kubewire.api.resources import Resource
from kubewire.client.reflector import Change, Reflector
from kubewire.client.rest import Client

__all__ = ["AGENT_HEADER", "Change", "Index", "Informer"]

AGENT_HEADER = "X-Kubewire-Agent"

T = TypeVar("T")
Listener = Callable[[Sequence[Change[T]]], None]

log = logging.getLogger(__name__)


class Informer(Generic[T]):
    """A live copy of one resource; ``T`` is a typed Object or dict."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        type_: type[T],
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        agent: str = "",
    ) -> None:
        self.client = client
        self.resource = resource
        self.namespace = namespace
        self.agent = agent
        """Sent as X-Kubewire-Agent: who has to apply what this informer brings."""
        self.last_error: StatusError | None = None
        self._type = type_
        self._selectors = {
            key: value
            for key, value in (("labelSelector", label_selector), ("fieldSelector", field_selector))
            if value
        }
        self._reflector: Reflector[T] = Reflector(
            self._decoder(), random=random.random, on_bad=self._complain
        )
        self._listeners: list[Listener[T]] = []
        self._failure_listeners: list[Callable[[StatusError], None]] = []
        self._synced = asyncio.Event()

    @property
    def store(self) -> dict[Key, T]:
        """Every object by key; read only."""
        return self._reflector.store

    @property
    def resource_version(self) -> int:
        """Of the last event, bookmark or list."""
        return self._reflector.resource_version

    @property
    def bookmark(self) -> int:
        """Of the last bookmark or list."""
        return self._reflector.bookmark

    @property
    def synced(self) -> bool:
        """The first list is in the store."""
        return self._reflector.synced

    async def wait_synced(self) -> None:
        """Return when the first list is in the store."""
        await self._synced.wait()

    def listen(self, listener: Listener[T]) -> None:
        """Call it with every batch of changes; empty if only a bookmark came, or a watch began."""
        self._listeners.append(listener)

    def listen_failures(self, listener: Callable[[StatusError], None]) -> None:
        """Call it with every request that failed; this informer tries again by itself."""
        self._failure_listeners.append(listener)

    def observe(self, obj: JSON, *, deleted: bool = False) -> None:
        """Show the answer to our own write at once, without waiting for its event."""
        meta = obj.get("metadata") or {}
        version = str(meta.get("resourceVersion", ""))
        if not version.isdigit():
            return
        key = Key(meta.get("namespace", ""), meta["name"])
        typed = None if deleted else msgspec.convert(obj, self._type)
        if change := self._reflector.observe(key, int(version), typed):
            self._publish([change])

    async def run(self) -> None:
        """Follow the server for ever."""
        headers = {AGENT_HEADER: self.agent} if self.agent else {}
        while True:
            ask = self._reflector.next()
            if ask.delay:
                await asyncio.sleep(ask.delay)
            params = ask.params | self._selectors
            try:
                if ask.kind == "list":
                    await self._list(params, headers)
                else:
                    await self._watch(params, headers)
                self.last_error = None
            except StatusError as error:
                self._log(error)
                self._reflector.failed(error)
                for listener in self._failure_listeners:
                    listener(error)

    async def _list(self, params: Mapping[str, str], headers: Mapping[str, str]) -> None:
        path = self.resource.path(self.namespace)
        page = await self.client.raw("GET", path, params=params, headers=headers)
        changes = self._reflector.listed(page)
        if self._reflector.synced:
            self._publish(changes)
            self._synced.set()

    async def _watch(self, params: Mapping[str, str], headers: Mapping[str, str]) -> None:
        path = self.resource.path(self.namespace)
        stream = self.client.stream(path, params=params, headers=headers)
        async with contextlib.aclosing(stream) as batches:
            async for lines in batches:
                self._publish(self._reflector.received(lines))
                if self._reflector.relist_wanted:
                    return
        self._reflector.closed()

    def _publish(self, changes: Sequence[Change[T]]) -> None:
        for listener in self._listeners:
            listener(changes)

    def _decoder(self) -> Callable[[msgspec.Raw], T]:
        decode = msgspec.json.Decoder(self._type).decode
        if self._type is not dict:
            return decode
        kind, api_version = self.resource.kind, self.resource.api_version

        def complete(raw: msgspec.Raw) -> T:
            obj: Any = decode(raw)
            obj.setdefault("kind", kind)
            obj.setdefault("apiVersion", api_version)
            return obj  # type: ignore[no-any-return]

        return complete

    def _complain(self, key: Key, why: str) -> None:
        log.error("%s %s is ignored: %s", self.resource.group_resource, key, why)

    def _log(self, error: StatusError) -> None:
        known = self.last_error
        if error.code != 410 and (known is None or known.message != error.message):
            log.warning("following %s: %s", self.resource.group_resource, error.message)
        self.last_error = error


class Index(Generic[T]):
    """Objects of an informer by something else than their key (owner uid, node, labels)."""

    def __init__(self, informer: Informer[T], keys: Callable[[T], Iterable[Hashable]]) -> None:
        self._keys = keys
        self._found: defaultdict[Hashable, dict[Key, T]] = defaultdict(dict)
        informer.listen(self._update)
        self._update([Change(key, None, obj) for key, obj in informer.store.items()])

    def get(self, key: Hashable) -> dict[Key, T]:
        """Every object under one index key; read only."""
        return self._found.get(key) or {}

    def _update(self, changes: Sequence[Change[T]]) -> None:
        for change in changes:
            before = set(self._keys(change.old)) if change.old is not None else set()
            after = set(self._keys(change.new)) if change.new is not None else set()
            for key in before - after:
                self._found[key].pop(change.key, None)
                if not self._found[key]:
                    del self._found[key]
            if change.new is not None:
                for key in after:
                    self._found[key][change.key] = change.new


def key_of(obj: JSON | Object) -> Key:
    """(namespace, name) of a typed or raw object."""
    if isinstance(obj, Object):
        return obj.key
    meta = obj["metadata"]
    return Key(meta.get("namespace", ""), meta["name"])
