"""The verbs on resources: from a checked request to ``rest`` and back."""

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from kubewire.api.errors import Cause, StatusError
from kubewire.api.meta import JSON
from kubewire.apiserver import answers, auth, body, conversion, fieldmanager, patch, subresources
from kubewire.apiserver.call import Call
from kubewire.apiserver.catalog import Catalog
from kubewire.apiserver.eviction import evict
from kubewire.apiserver.fieldselect import predicate
from kubewire.apiserver.listing import ListOptions, collect
from kubewire.apiserver.patching import must_be_object, patcher
from kubewire.apiserver.rest import RETURNS_DELETED, DeleteOptions, Rest
from kubewire.apiserver.store import Revision, Store
from kubewire.apiserver.views import View, negotiate
from kubewire.apiserver.watching import Watching

_encode = msgspec.json.Encoder().encode

STREAMS = frozenset({"log", "exec", "attach", "portforward", "proxy"})

Stream = Callable[[Call], Awaitable[web.StreamResponse]]


class Verbs:
    """Answers every request for a resource."""

    def __init__(
        self, store: Store, catalog: Catalog, rest: Rest, tokens: auth.Tokens, watching: Watching
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._rest = rest
        self._tokens = tokens
        self.watching = watching
        self.streams: dict[str, Stream] = {}

    async def serve(self, call: Call) -> web.StreamResponse:
        """Answer one request."""
        if call.sub in STREAMS:
            handler = self.streams.get(call.sub)
            if handler is None:
                raise answers.no_such_path()
            return await handler(call)
        if call.sub:
            return await self._subresource(call)
        if not call.name:
            return await self._collection(call)
        match call.verb:
            case "get" if call.query.get("watch") in ("true", "1"):
                return await self.watching.serve(call)
            case "get":
                revision = self._rest.get(call.served, call.namespace, call.name)
                return self._object(call, revision)
            case "update":
                return await self._update(call)
            case "patch":
                return await self._patch(call)
            case "delete":
                return await self._delete(call)
        raise answers.not_allowed()

    async def _collection(self, call: Call) -> web.StreamResponse:
        match call.verb:
            case "get" if "list" not in call.served.verbs:
                raise answers.not_allowed()
            case "get" if call.query.get("watch") in ("true", "1"):
                return await self.watching.serve(call)
            case "get":
                return await self._list(call)
            case "create":
                return await self._create(call)
            case "delete" if "deletecollection" in call.served.verbs:
                return await self._delete_collection(call)
        raise answers.not_allowed()

    async def _list(self, call: Call) -> web.StreamResponse:
        media, shape = negotiate(call.accept)
        options = ListOptions.of(call.query)
        await self._wait_for(options.resource_version)
        test = predicate(call.served, options.label_selector, options.field_selector)
        collection = self._store.collection(call.served.storage)
        found, meta = collect(collection, self._store.rv, call.namespace, test, options)
        view = View(call.served, shape, call.query.get("includeObject", ""))
        return answers.respond(view.many(found, meta), media)

    async def _wait_for(self, version: str) -> None:
        """A version that does not exist yet may be about to; wait a little, then 504."""
        if not version:
            return
        if not version.isdigit():
            raise StatusError("BadRequest", f'resourceVersion: Invalid value: "{version}": strconv.ParseUint: parsing "{version}": invalid syntax')  # fmt: skip
        if int(version) > self._store.rv:
            cause = Cause(reason="ResourceVersionTooLarge", message="Too large resource version")
            text = f"Too large resource version: {version}, current: {self._store.rv}"
            raise StatusError("Timeout", f"Timeout: {text}", causes=[cause], retry_after=1)

    async def _create(self, call: Call) -> web.StreamResponse:
        served = call.served
        options = call.write_options()
        obj = body.parse(await body.read(call.request), call.content_type)
        if "list" not in served.verbs:
            return await self._answer_review(call, obj)
        body.check_kind(served, obj)
        obj = body.checked(served, obj, call.field_validation, call.warnings)
        call.advise(obj)
        obj = conversion.stored(served.resource, obj)
        namespace = call.namespace
        if served.resource.namespaced and not namespace:
            raise answers.not_allowed()
        return self._object(call, self._rest.create(served, namespace, obj, options), 201)

    async def _answer_review(self, call: Call, obj: JSON) -> web.StreamResponse:
        kind = call.served.resource.kind
        if kind == "Binding":
            name = (obj.get("metadata") or {}).get("name", "")
            return self._bind(call, name, obj)
        answer = subresources.review(kind, obj, call.user, self._tokens)
        answer["apiVersion"] = call.served.resource.api_version
        return answers.respond(_encode(answer), status=201)

    async def _update(self, call: Call) -> web.StreamResponse:
        served = call.served
        options = call.write_options()
        obj = body.parse(await body.read(call.request), call.content_type)
        body.check_kind(served, obj)
        obj = body.checked(served, obj, call.field_validation, call.warnings)
        call.advise(obj)
        obj = conversion.stored(served.resource, obj)
        revision = self._rest.update(
            served, call.namespace, call.name, lambda _: obj, options, call.sub
        )
        return self._object(call, revision)

    async def _patch(self, call: Call) -> web.StreamResponse:
        data = await body.read(call.request)
        media = call.content_type.partition(";")[0].strip()
        if media == "application/apply-patch+yaml":
            return self._apply(call, data)
        change = patcher(call, media, data)
        options = call.write_options()
        revision = self._rest.update(
            call.served, call.namespace, call.name, change, options, call.sub
        )
        return self._object(call, revision)

    def _apply(self, call: Call, data: bytes) -> web.StreamResponse:
        """Server-side apply: create or merge by field ownership."""
        served = call.served
        options = msgspec.structs.replace(call.write_options(), applied=True)
        manager = call.query.get("fieldManager")
        if not manager:
            raise StatusError(
                "Invalid",
                'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch',
                group="meta.k8s.io", kind="PatchOptions",
                causes=[Cause(reason="FieldValueRequired", message="Required value: is required for apply patch", field="fieldManager")],
            )  # fmt: skip
        applied = body.parse_yaml(data)
        must_be_object(applied)
        body.check_kind(served, applied)
        if (applied.get("metadata") or {}).get("managedFields"):
            raise StatusError("BadRequest", "metadata.managedFields must be nil")
        applied = body.checked(served, applied, call.field_validation, call.warnings)
        exists = self._store.get(served.storage, call.key) is not None
        if not exists:
            if call.sub:
                self._rest.get(served, call.namespace, call.name)
            applied.setdefault("metadata", {})["name"] = call.name
            first = fieldmanager.first_apply(served, applied, manager)
            revision = self._rest.create(served, call.namespace, first, options)
            return self._object(call, revision, 201)

        def change(obj: JSON) -> JSON:
            return fieldmanager.apply(
                served, obj, applied, manager, force=options.force, subresource=call.sub
            )

        revision = self._rest.update(served, call.namespace, call.name, change, options, call.sub)
        return self._object(call, revision)

    async def _delete_options(self, call: Call) -> tuple[DeleteOptions, bool]:
        data = await body.read(call.request)
        options = DeleteOptions()
        if data:
            raw = body.parse(data, call.content_type)
            try:
                options = msgspec.convert(raw, DeleteOptions)
            except msgspec.ValidationError as error:
                raise StatusError("BadRequest", f"DeleteOptions: {error}") from error
        q = call.query
        grace, policy = q.get("gracePeriodSeconds"), q.get("propagationPolicy")
        if (
            grace is not None
            and grace.lstrip("-").isdigit()
            and options.grace_period_seconds is None
        ):
            options = msgspec.structs.replace(options, grace_period_seconds=int(grace))
        if policy and options.propagation_policy is None:
            options = msgspec.structs.replace(options, propagation_policy=policy)
        if options.propagation_policy not in (None, "Orphan", "Background", "Foreground"):
            text = f'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value: "{options.propagation_policy}": supported values: "Foreground", "Background", "Orphan", "nil"'
            raise StatusError("Invalid", text, group="meta.k8s.io", kind="DeleteOptions")
        return options, bool(options.dry_run) or call.write_options().dry_run

    async def _delete(self, call: Call) -> web.StreamResponse:
        options, dry_run = await self._delete_options(call)
        served = call.served
        revision, gone = self._rest.delete(served, call.namespace, call.name, options, dry_run)
        if not gone or served.storage in RETURNS_DELETED:
            return self._object(call, revision)
        r, meta = served.resource, revision.obj["metadata"]
        details = {"name": call.name, "kind": r.plural, "uid": meta["uid"]}
        if r.group:
            details["group"] = r.group
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}  # fmt: skip
        return answers.respond(_encode(status))

    async def _delete_collection(self, call: Call) -> web.StreamResponse:
        options, dry_run = await self._delete_options(call)
        listing = ListOptions.of(call.query)
        test = predicate(call.served, listing.label_selector, listing.field_selector)
        collection = self._store.collection(call.served.storage)
        found, meta = collect(collection, self._store.rv, call.namespace, test, listing)
        deleted = []
        for revision in found:
            m = revision.obj["metadata"]
            done, _ = self._rest.delete(
                call.served, m.get("namespace", ""), m["name"], options, dry_run
            )
            deleted.append(done)
        media, shape = negotiate(call.accept)
        return answers.respond(View(call.served, shape).many(deleted, meta), media)

    async def _subresource(self, call: Call) -> web.StreamResponse:
        match call.sub, call.verb:
            case (("status" | "ephemeralcontainers" | "resize" | "approval"), "get"):
                return self._object(call, self._rest.get(call.served, call.namespace, call.name))
            case (
                ("status" | "finalize" | "ephemeralcontainers" | "resize" | "approval"),
                "update",
            ):
                return await self._update(call)
            case (("status" | "ephemeralcontainers" | "resize" | "approval"), "patch"):
                return await self._patch(call)
            case "scale", "get":
                revision = self._rest.get(call.served, call.namespace, call.name)
                return answers.respond(_encode(subresources.scale_of(call.served, revision.obj)))
            case "scale", ("update" | "patch"):
                return await self._scale(call)
            case (("binding" | "eviction" | "token"), "create"):
                data = await body.read(call.request)
                obj = body.parse(data, call.content_type)
                return self._act(call, obj)
        raise answers.not_allowed()

    async def _scale(self, call: Call) -> web.StreamResponse:
        data = await body.read(call.request)
        media = call.content_type
        options = call.write_options()

        def change(obj: JSON) -> JSON:
            current = subresources.scale_of(call.served, obj)
            if call.verb == "update":
                wanted = body.parse(data, media)
            elif media.startswith("application/json-patch+json"):
                wanted = patch.json_patch(current, body.parse_json(data))
            else:
                wanted = patch.merge(current, body.parse_yaml(data))
            return subresources.set_scale(call.served, obj, wanted)

        revision = self._rest.update(
            call.served, call.namespace, call.name, change, options, "scale"
        )
        return answers.respond(_encode(subresources.scale_of(call.served, revision.obj)))

    def _act(self, call: Call, obj: JSON) -> web.StreamResponse:
        if call.sub == "binding":
            return self._bind(call, call.name, obj)
        if call.sub == "eviction":
            dry = call.write_options().dry_run
            evict(self._rest, self._catalog, call.served, call.namespace, call.name, obj, dry)
            return answers.respond(_encode(answers.success()), status=201)
        account = self._rest.get(call.served, call.namespace, call.name)
        answer = subresources.token_request(self._tokens, account, obj)
        return answers.respond(_encode(answer), status=201)

    def _bind(self, call: Call, name: str, obj: JSON) -> web.StreamResponse:
        pods = self._catalog.find("", "v1", "pods")
        assert pods is not None
        subresources.bind(self._rest, pods, call.namespace, name, obj, call.write_options())
        return answers.respond(_encode(answers.success()), status=201)

    def _object(self, call: Call, revision: Revision, status: int = 200) -> web.Response:
        media, shape = negotiate(call.accept)
        data = View(call.served, shape, call.query.get("includeObject", "")).one(revision)
        return answers.respond(data, media, status)
