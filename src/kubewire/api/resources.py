"""The resources (group, version, plural, kind) that kubewire knows by itself, and their URLs."""

from kubewire.api.meta import Wire


class Resource(Wire, frozen=True, kw_only=True):
    """One API resource, as discovery lists it."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    singular: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        """``v1`` or ``apps/v1``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def group_resource(self) -> str:
        """``pods`` or ``deployments.apps``, as error texts name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """URL path of the collection or of one object; an empty namespace means all of them."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root]
        if namespace and self.namespaced:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


def _core(
    plural: str, kind: str, *short: str, namespaced: bool = True, sub: tuple[str, ...] = ()
) -> Resource:
    categories = ("all",) if kind in ("Pod", "Service") else ()
    return Resource(
        group="", version="v1", plural=plural, kind=kind, singular=kind.lower(),
        short_names=short, namespaced=namespaced, categories=categories, subresources=sub,
    )  # fmt: skip


def _group(
    group: str,
    plural: str,
    kind: str,
    *short: str,
    version: str = "v1",
    namespaced: bool = True,
    sub: tuple[str, ...] = (),
) -> Resource:
    categories = ("all",) if group in ("apps", "batch") and sub else ()
    return Resource(
        group=group, version=version, plural=plural, kind=kind, singular=kind.lower(),
        short_names=short, namespaced=namespaced, categories=categories, subresources=sub,
    )  # fmt: skip


_STATUS = ("status",)
_SCALE = ("status", "scale")

NAMESPACES = _core("namespaces", "Namespace", "ns", namespaced=False, sub=("status", "finalize"))
NODES = _core("nodes", "Node", "no", namespaced=False, sub=("status", "proxy"))
PODS = _core(
    "pods", "Pod", "po",
    sub=("status", "log", "exec", "attach", "portforward", "proxy", "binding", "eviction", "ephemeralcontainers", "resize"),
)  # fmt: skip
SERVICES = _core("services", "Service", "svc", sub=("status", "proxy"))
ENDPOINTS = _core("endpoints", "Endpoints", "ep")
CONFIG_MAPS = _core("configmaps", "ConfigMap", "cm")
SECRETS = _core("secrets", "Secret")
SERVICE_ACCOUNTS = _core("serviceaccounts", "ServiceAccount", "sa", sub=("token",))
EVENTS = _core("events", "Event", "ev")
PERSISTENT_VOLUME_CLAIMS = _core(
    "persistentvolumeclaims", "PersistentVolumeClaim", "pvc", sub=_STATUS
)
PERSISTENT_VOLUMES = _core(
    "persistentvolumes", "PersistentVolume", "pv", namespaced=False, sub=_STATUS
)
REPLICATION_CONTROLLERS = _core("replicationcontrollers", "ReplicationController", "rc", sub=_SCALE)
LIMIT_RANGES = _core("limitranges", "LimitRange", "limits")
RESOURCE_QUOTAS = _core("resourcequotas", "ResourceQuota", "quota", sub=_STATUS)

DEPLOYMENTS = _group("apps", "deployments", "Deployment", "deploy", sub=_SCALE)
REPLICA_SETS = _group("apps", "replicasets", "ReplicaSet", "rs", sub=_SCALE)
STATEFUL_SETS = _group("apps", "statefulsets", "StatefulSet", "sts", sub=_SCALE)
DAEMON_SETS = _group("apps", "daemonsets", "DaemonSet", "ds", sub=_STATUS)
CONTROLLER_REVISIONS = _group("apps", "controllerrevisions", "ControllerRevision")
JOBS = _group("batch", "jobs", "Job", sub=_STATUS)
CRON_JOBS = _group("batch", "cronjobs", "CronJob", "cj", sub=_STATUS)
HORIZONTAL_POD_AUTOSCALERS = _group("autoscaling", "horizontalpodautoscalers", "HorizontalPodAutoscaler", "hpa", version="v2", sub=_STATUS)  # fmt: skip
POD_DISRUPTION_BUDGETS = _group("policy", "poddisruptionbudgets", "PodDisruptionBudget", "pdb", sub=_STATUS)  # fmt: skip
ENDPOINT_SLICES = _group("discovery.k8s.io", "endpointslices", "EndpointSlice")
INGRESSES = _group("networking.k8s.io", "ingresses", "Ingress", "ing", sub=_STATUS)
INGRESS_CLASSES = _group("networking.k8s.io", "ingressclasses", "IngressClass", namespaced=False)
NETWORK_POLICIES = _group("networking.k8s.io", "networkpolicies", "NetworkPolicy", "netpol")
LEASES = _group("coordination.k8s.io", "leases", "Lease")
ROLES = _group("rbac.authorization.k8s.io", "roles", "Role")
ROLE_BINDINGS = _group("rbac.authorization.k8s.io", "rolebindings", "RoleBinding")
CLUSTER_ROLES = _group("rbac.authorization.k8s.io", "clusterroles", "ClusterRole", namespaced=False)
CLUSTER_ROLE_BINDINGS = _group("rbac.authorization.k8s.io", "clusterrolebindings", "ClusterRoleBinding", namespaced=False)  # fmt: skip
STORAGE_CLASSES = _group("storage.k8s.io", "storageclasses", "StorageClass", "sc", namespaced=False)
PRIORITY_CLASSES = _group(
    "scheduling.k8s.io", "priorityclasses", "PriorityClass", "pc", namespaced=False
)
CUSTOM_RESOURCE_DEFINITIONS = _group("apiextensions.k8s.io", "customresourcedefinitions", "CustomResourceDefinition", "crd", "crds", namespaced=False, sub=_STATUS)  # fmt: skip
CLUSTER_NETWORK_POLICIES = _group("policy.networking.k8s.io", "clusternetworkpolicies", "ClusterNetworkPolicy", "cnp", version="v1alpha2", namespaced=False, sub=_STATUS)  # fmt: skip

BUILTIN: tuple[Resource, ...] = tuple(
    v for v in list(globals().values()) if isinstance(v, Resource)
)
"""Every resource above, in the order of declaration."""

BY_KIND: dict[tuple[str, str], Resource] = {(r.api_version, r.kind): r for r in BUILTIN}
"""(apiVersion, kind) -> resource."""

SERVICE_CIDRS = _group("networking.k8s.io", "servicecidrs", "ServiceCIDR", namespaced=False, sub=_STATUS)  # fmt: skip
"""Not among the built-in ones: an API server may well not have it (before 1.33)."""
