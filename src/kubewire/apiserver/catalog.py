"""What is served: every resource by group, version and plural, the built-in and the custom ones."""

from collections.abc import Iterable

import msgspec

from kubewire.api import resources
from kubewire.api.meta import JSON, Wire
from kubewire.api.resources import Resource
from kubewire.apiserver import models, policyschema

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
_STATUS = ("status",)


class Served(Wire, frozen=True, kw_only=True):
    """One resource at one version."""

    resource: Resource
    storage: str
    """Name of the collection; two versions of one kind share it."""
    verbs: tuple[str, ...] = ALL_VERBS
    converted: bool = False
    """Whether objects are stored at another version and converted."""
    custom: JSON | None = None
    """The version entry of the CustomResourceDefinition that declares it."""

    @property
    def struct(self) -> models.Struct | None:
        """The type of a built-in kind; None for a custom one."""
        if self.custom is not None:
            return None
        return models.kind_struct(self.resource.group, self.resource.version, self.resource.kind)

    @property
    def declared(self) -> JSON | None:
        """A version entry with a schema: a custom kind's, or of the built-in one that has no type."""
        if self.custom is None and self.resource == resources.CLUSTER_NETWORK_POLICIES:
            return policyschema.version()
        return self.custom

    @property
    def has_status(self) -> bool:
        """Whether status is written only through the status subresource."""
        return "status" in self.resource.subresources


def _more(
    group: str, version: str, *kinds: tuple[str, str, bool, tuple[str, ...]]
) -> list[Resource]:
    return [
        Resource(
            group=group, version=version, plural=plural, kind=kind, singular=kind.lower(),
            namespaced=namespaced, subresources=sub,
        )
        for plural, kind, namespaced, sub in kinds
    ]  # fmt: skip


STORED_ONLY: tuple[Resource, ...] = (
    *_more("", "v1", ("podtemplates", "PodTemplate", True, ())),
    *_more("node.k8s.io", "v1", ("runtimeclasses", "RuntimeClass", False, ())),
    *_more(
        "storage.k8s.io", "v1",
        ("csidrivers", "CSIDriver", False, ()),
        ("csinodes", "CSINode", False, ()),
        ("csistoragecapacities", "CSIStorageCapacity", True, ()),
        ("volumeattachments", "VolumeAttachment", False, _STATUS),
        ("volumeattributesclasses", "VolumeAttributesClass", False, ()),
    ),
    *_more(
        "admissionregistration.k8s.io", "v1",
        ("mutatingwebhookconfigurations", "MutatingWebhookConfiguration", False, ()),
        ("validatingwebhookconfigurations", "ValidatingWebhookConfiguration", False, ()),
        ("validatingadmissionpolicies", "ValidatingAdmissionPolicy", False, _STATUS),
        ("validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", False, ()),
    ),
    *_more("apiregistration.k8s.io", "v1", ("apiservices", "APIService", False, _STATUS)),
    *_more(
        "certificates.k8s.io", "v1",
        ("certificatesigningrequests", "CertificateSigningRequest", False, ("status", "approval")),
    ),
    *_more(
        "flowcontrol.apiserver.k8s.io", "v1",
        ("flowschemas", "FlowSchema", False, _STATUS),
        ("prioritylevelconfigurations", "PriorityLevelConfiguration", False, _STATUS),
    ),
    *_more(
        "networking.k8s.io", "v1",
        ("ipaddresses", "IPAddress", False, ()),
        ("servicecidrs", "ServiceCIDR", False, _STATUS),
    ),
    *_more(
        "resource.k8s.io", "v1",
        ("deviceclasses", "DeviceClass", False, ()),
        ("resourceclaims", "ResourceClaim", True, _STATUS),
        ("resourceclaimtemplates", "ResourceClaimTemplate", True, ()),
        ("resourceslices", "ResourceSlice", False, ()),
    ),
)  # fmt: skip
"""Kinds of Kubernetes itself that nothing in kubewire acts on."""

ALIASES: tuple[tuple[Resource, str], ...] = (
    (
        Resource(
            group="events.k8s.io", version="v1", plural="events", kind="Event",
            singular="event", short_names=("ev",),
        ),
        "events",
    ),
    (
        Resource(
            group="autoscaling", version="v1", plural="horizontalpodautoscalers",
            kind="HorizontalPodAutoscaler", singular="horizontalpodautoscaler",
            short_names=("hpa",), categories=("all",), subresources=_STATUS,
        ),
        "horizontalpodautoscalers.autoscaling",
    ),
)  # fmt: skip
"""Second versions of kinds, and the collection that they share."""

REVIEWS: tuple[Resource, ...] = (
    *_more("authentication.k8s.io", "v1",
        ("tokenreviews", "TokenReview", False, ()),
        ("selfsubjectreviews", "SelfSubjectReview", False, ()),
    ),
    *_more("authorization.k8s.io", "v1",
        ("subjectaccessreviews", "SubjectAccessReview", False, ()),
        ("selfsubjectaccessreviews", "SelfSubjectAccessReview", False, ()),
        ("selfsubjectrulesreviews", "SelfSubjectRulesReview", False, ()),
        ("localsubjectaccessreviews", "LocalSubjectAccessReview", True, ()),
    ),
    *_more("", "v1", ("bindings", "Binding", True, ())),
)  # fmt: skip
"""Questions that are answered, never stored."""

GROUP_ORDER = (
    "", "apiregistration.k8s.io", "apps", "events.k8s.io", "authentication.k8s.io",
    "authorization.k8s.io", "autoscaling", "batch", "certificates.k8s.io", "networking.k8s.io",
    "policy", "rbac.authorization.k8s.io", "storage.k8s.io", "admissionregistration.k8s.io",
    "apiextensions.k8s.io", "scheduling.k8s.io", "coordination.k8s.io", "node.k8s.io",
    "discovery.k8s.io", "flowcontrol.apiserver.k8s.io",
)  # fmt: skip
"""Groups as discovery lists them; kubectl resolves a bare name to the first that has it."""


class Catalog:
    """The served resources; custom ones come and go with their definitions."""

    def __init__(self) -> None:
        self._custom: dict[str, list[Served]] = {}
        self._builtin = list(_builtin())
        self._index: dict[tuple[str, str, str], Served] = {}
        self.generation = 0
        self._rebuild()

    def find(self, group: str, version: str, plural: str) -> Served | None:
        """The resource at a URL."""
        return self._index.get((group, version, plural))

    def all(self) -> Iterable[Served]:
        """Everything served."""
        return self._index.values()

    def groups(self) -> dict[str, dict[str, list[Served]]]:
        """Group -> version -> resources, in the order of discovery."""
        out: dict[str, dict[str, list[Served]]] = {}
        for served in self.all():
            r = served.resource
            out.setdefault(r.group, {}).setdefault(r.version, []).append(served)
        rank = {group: index for index, group in enumerate(GROUP_ORDER)}
        ordered = sorted(out.items(), key=lambda item: rank.get(item[0], len(rank)))
        return {
            group: dict(sorted(versions.items(), key=lambda v: version_rank(v[0])))
            for group, versions in ordered
        }

    def define(self, name: str, definition: JSON | None) -> None:
        """Serve, change or (None) stop serving the resources of one CustomResourceDefinition."""
        self._custom.pop(name, None)
        if definition is not None:
            self._custom[name] = list(_of_definition(definition))
        self._rebuild()

    def _rebuild(self) -> None:
        every = [*self._builtin, *(s for group in self._custom.values() for s in group)]
        self._index = {(s.resource.group, s.resource.version, s.resource.plural): s for s in every}
        self.generation += 1


def version_rank(version: str) -> tuple[int, int, int]:
    """Kubernetes' version order: v2, v1, v1beta2, v1beta1, v1alpha1, then the rest."""
    number, _, rest = version.removeprefix("v").partition("beta")
    if number.isdigit():
        return (1, -int(number), -int(rest)) if rest.isdigit() else (0, -int(number), 0)
    number, _, rest = version.removeprefix("v").partition("alpha")
    if number.isdigit() and rest.isdigit():
        return (2, -int(number), -int(rest))
    return (3, 0, 0)


def _builtin() -> Iterable[Served]:
    for r in (*resources.BUILTIN, *STORED_ONLY):
        yield Served(resource=r, storage=r.group_resource)
    for r, storage in ALIASES:
        yield Served(resource=r, storage=storage, converted=True)
    for r in REVIEWS:
        yield Served(resource=r, storage=r.group_resource, verbs=("create",))


def _of_definition(definition: JSON) -> Iterable[Served]:
    spec = definition["spec"]
    names = spec["names"]
    for version in spec["versions"]:
        if not version.get("served"):
            continue
        yield Served(
            resource=Resource(
                group=spec["group"],
                version=version["name"],
                plural=names["plural"],
                kind=names["kind"],
                namespaced=spec.get("scope") == "Namespaced",
                singular=names.get("singular") or names["kind"].lower(),
                short_names=tuple(names.get("shortNames") or ()),
                categories=tuple(names.get("categories") or ()),
                subresources=tuple(sorted(version.get("subresources") or ())),
            ),
            storage=f"{names['plural']}.{spec['group']}",
            custom=msgspec.json.decode(msgspec.json.encode(version)),
        )
