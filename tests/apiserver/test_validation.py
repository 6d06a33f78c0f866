"""Manifests that upstream refuses are refused with its words."""

import re
from typing import Any

import pytest

from .conftest import Raw
from .objects import (
    CONFIG_MAP,
    CRD,
    CRON_JOB,
    DEPLOYMENT,
    INGRESS,
    JOB,
    PATHS,
    POD,
    POLICY,
    SERVICE,
    SLICE,
    changed,
)  # fmt: skip

C = "spec.containers.0"
TC = "spec.template.spec.containers.0"

REFUSED: list[tuple[Any, str]] = [
    # pods
    (changed(POD, "spec.containers", []), 'Pod "p" is invalid: spec.containers: Required value'),
    (changed(POD, f"{C}.name"), "spec.containers[0].name: Required value"),
    (changed(POD, f"{C}.image"), "spec.containers[0].image: Required value"),
    (changed(POD, f"{C}.name", "A_b"), 'spec.containers[0].name: Invalid value: "A_b": a lowercase RFC 1123 label must consist'),
    (changed(POD, "spec.containers", [{"name": "c", "image": "x"}] * 2), 'spec.containers[1].name: Duplicate value: "c"'),
    (changed(POD, f"{C}.ports", [{"containerPort": 70000}]), "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"),
    (changed(POD, f"{C}.ports", [{"containerPort": 0}]), "spec.containers[0].ports[0].containerPort: Required value"),
    (changed(POD, f"{C}.ports", [{"containerPort": 80, "protocol": "X"}]), 'spec.containers[0].ports[0].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP"'),
    (changed(POD, f"{C}.ports", [{"containerPort": 80, "hostPort": 80}, {"containerPort": 81, "hostPort": 80}]), 'spec.containers[0].ports[1].hostPort: Duplicate value: "TCP//80"'),
    (changed(POD, f"{C}.ports", [{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]), 'spec.containers[0].ports[1].name: Duplicate value: "a"'),
    (changed(POD, f"{C}.volumeMounts", [{"name": "v", "mountPath": "/x"}]), 'spec.containers[0].volumeMounts[0].name: Not found: "v"'),
    (changed(POD, f"{C}.readinessProbe", {}), "spec.containers[0].readinessProbe: Required value: must specify a handler type"),
    (changed(POD, f"{C}.livenessProbe", {"tcpSocket": {"port": 1}, "successThreshold": 2}), "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"),
    (changed(POD, f"{C}.resources", {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}), 'spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1'),
    (changed(POD, "spec.restartPolicy", "Sometimes"), 'spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"'),
    (changed(POD, "spec.dnsPolicy", "None"), "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None"),
    (changed(POD, "spec.terminationGracePeriodSeconds", -5), "spec.terminationGracePeriodSeconds: Invalid value: -5: must be greater than or equal to 0"),
    (changed(POD, "metadata.labels", {"a b": "c"}), 'metadata.labels: Invalid value: "a b": name part must consist of'),
    (changed(POD, "metadata.name", "Web"), 'metadata.name: Invalid value: "Web": a lowercase RFC 1123 subdomain must consist'),
    # workloads
    (changed(DEPLOYMENT, "spec.selector"), 'Deployment.apps "web" is invalid: [spec.selector: Required value'),
    (changed(DEPLOYMENT, "spec.selector", {}), "spec.selector: Invalid value: {}: empty selector is invalid for deployment"),
    (changed(DEPLOYMENT, "spec.template.metadata.labels", {"app": "other"}), 'spec.template.metadata.labels: Invalid value: {"app":"other"}: `selector` does not match template `labels`'),
    (changed(DEPLOYMENT, "spec.replicas", -1), "spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
    (changed(DEPLOYMENT, "spec.template.spec.restartPolicy", "Never"), 'spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"'),
    (changed(DEPLOYMENT, "spec.strategy", {"type": "X"}), 'spec.strategy.type: Unsupported value: "X": supported values: "Recreate", "RollingUpdate"'),
    (changed(DEPLOYMENT, "spec.strategy", {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}), "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"),
    (changed(DEPLOYMENT, "spec.strategy", {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}), "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"),
    (changed(JOB, "spec.template.spec.restartPolicy"), 'spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"'),
    # services and endpoints
    (changed(SERVICE, "spec.ports", []), 'Service "web" is invalid: spec.ports: Required value'),
    (changed(SERVICE, "spec.ports", [{"port": 80}, {"port": 81}]), "spec.ports[0].name: Required value"),
    (changed(SERVICE, "spec.ports", [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]), 'spec.ports[1].name: Duplicate value: "a"'),
    (changed(SERVICE, "spec.ports", [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]), "spec.ports[1]: Duplicate value: {"),
    (changed(SERVICE, "spec.ports.0.port", 0), "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"),
    (changed(SERVICE, "spec.ports.0.targetPort", "HTTP_"), 'spec.ports[0].targetPort: Invalid value: "HTTP_": must contain only alphanumeric characters'),
    (changed(SERVICE, "spec.type", "X"), 'spec.type: Unsupported value: "X": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"'),
    (changed(SERVICE, "spec.clusterIP", "10.1.1.1.1"), 'spec.clusterIPs[0]: Invalid value: "10.1.1.1.1": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)'),
    (changed(SERVICE, "spec.clusterIP", "192.168.0.1"), "spec.clusterIPs: Invalid value: [\"192.168.0.1\"]: failed to allocate IP 192.168.0.1: the provided IP (192.168.0.1) is not in the valid range. The range of valid IPs is 10.96.0.0/16"),
    (changed(SERVICE, "spec.clusterIP", "10.96.0.1"), "failed to allocate IP 10.96.0.1: provided IP is already allocated"),
    (changed(SERVICE, "spec.externalTrafficPolicy", "Local"), 'spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services'),
    (changed(SERVICE, "spec.ipFamilyPolicy", "RequireDualStack"), 'spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services'),
    (changed(changed(SERVICE, "spec.type", "NodePort"), "spec.ports.0.nodePort", 80), "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"),
    (changed(changed(SERVICE, "spec.type", "ExternalName"), "spec.externalName", ""), "spec.externalName: Required value"),
    (changed(SERVICE, "metadata.name", "1web"), 'metadata.name: Invalid value: "1web": a DNS-1035 label must consist of'),
    (changed(SERVICE, "spec.sessionAffinity", "X"), 'spec.sessionAffinity: Unsupported value: "X": supported values: "ClientIP", "None"'),
    (changed(SLICE, "addressType"), "addressType: Required value"),
    (changed(SLICE, "endpoints.0.addresses", ["::1"]), 'endpoints[0].addresses[0]: Invalid value: "::1": must be an IPv4 address'),
    (changed(SLICE, "endpoints.0.addresses", []), "endpoints[0].addresses: Required value: must contain at least 1 address"),
    (changed(CRON_JOB, "spec.schedule", "61 * * * *"), 'spec.schedule: Invalid value: "61 * * * *": end of range (61) above maximum (59): 61'),
    (changed(CRON_JOB, "spec.schedule", "TZ=UTC 1 * * * *"), "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"),
    (changed(CRON_JOB, "spec.timeZone", "Nowhere/City"), 'spec.timeZone: Invalid value: "Nowhere/City": unknown time zone Nowhere/City'),
    # ingress and policies
    (changed(INGRESS, "spec", {}), "spec: Invalid value: {}: either `defaultBackend` or `rules` must be specified"),
    (changed(changed(INGRESS, "metadata.annotations", {"kubernetes.io/ingress.class": "a"}), "spec.ingressClassName", "b"), 'annotations.kubernetes.io/ingress.class: Invalid value: "a": must match `ingressClassName` when both are specified'),
    (changed(INGRESS, "spec.rules.0.host", "10.0.0.1"), 'spec.rules[0].host: Invalid value: "10.0.0.1": must be a DNS name, not an IP address'),
    (changed(INGRESS, "spec.rules.0.host", "*.*.a"), "a wildcard DNS-1123 subdomain must start with '*.'"),
    (changed(INGRESS, "spec.rules.0.http.paths.0.pathType"), "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified"),
    (changed(INGRESS, "spec.rules.0.http.paths.0.path", "x"), 'spec.rules[0].http.paths[0].path: Invalid value: "x": must be an absolute path'),
    (changed(INGRESS, "spec.rules.0.http.paths.0.backend.service.port", {}), "spec.rules[0].http.paths[0].backend: Required value: port name or number is required"),
    (changed(POLICY, "spec.policyTypes", ["X"]), 'spec.policyTypes[0]: Unsupported value: "X": supported values: "Egress", "Ingress"'),
    (changed(POLICY, "spec.ingress.0.from", [{}]), "spec.ingress[0].from[0]: Required value: must specify a peer"),
    (changed(POLICY, "spec.ingress.0.from.0.ipBlock.cidr", "10.0.0.0"), 'spec.ingress[0].from[0].ipBlock.cidr: Invalid value: "10.0.0.0": must be a valid CIDR value'),
    (changed(POLICY, "spec.ingress.0.from.0.ipBlock.except", ["11.0.0.0/8"]), 'ipBlock.except[0]: Invalid value: "11.0.0.0/8": must be a strict subset of `cidr`'),
    (changed(POLICY, "spec.ingress.0.from.0.podSelector", {}), "spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer"),
    (changed(POLICY, "spec.ingress.0.ports", [{"port": 80, "endPort": 70}]), "spec.ingress[0].ports[0].endPort: Invalid value: 70: must be greater than or equal to `port`"),
    (changed(POLICY, "spec.podSelector", {"matchExpressions": [{"key": "a", "operator": "In"}]}), "spec.podSelector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'"),
    # the rest
    (changed(CONFIG_MAP, "data", {"a/b": ""}), 'data[a/b]: Invalid value: "a/b": a valid config key must consist of'),
    (changed(CRD, "metadata.name", "x.example.com"), 'metadata.name: Invalid value: "x.example.com": must be spec.names.plural+"."+spec.group'),
    (changed(CRD, "spec.versions.0.storage", False), "must have exactly one version marked as storage version"),
]  # fmt: skip


@pytest.mark.parametrize(("obj", "message"), REFUSED, ids=[m[:60] for _, m in REFUSED])
async def test_invalid_objects_are_refused(api: Raw, obj: Any, message: str) -> None:
    status, answer = await api("POST", PATHS[obj["kind"]], obj)
    assert (status, answer["reason"]) == (422, "Invalid"), answer
    assert message in answer["message"]
    assert answer["details"]["causes"]
    assert answer["details"]["kind"] == obj["kind"]


UNDECODABLE: list[tuple[Any, str]] = [
    (changed(DEPLOYMENT, "spec.replicas", "2"), 'Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32'),
    (changed(DEPLOYMENT, f"{TC}.env", [{"name": "A", "value": 1}]), "json: cannot unmarshal number into Go struct field EnvVar.spec.template.spec.containers.env.value of type string"),
    (changed(SERVICE, "spec.ports", {}), "json: cannot unmarshal object into Go struct field ServiceSpec.spec.ports of type []v1.ServicePort"),
    (changed(POD, "metadata.labels", {"a": 1}), "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string"),
    (changed(POD, "spec.hostNetwork", "yes"), "json: cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type bool"),
]  # fmt: skip


@pytest.mark.parametrize(("obj", "message"), UNDECODABLE, ids=[m[-50:] for _, m in UNDECODABLE])
async def test_wrong_types_name_the_field(api: Raw, obj: Any, message: str) -> None:
    status, answer = await api("POST", PATHS[obj["kind"]], obj)
    assert (status, answer["reason"]) == (400, "BadRequest")
    assert message in answer["message"]


async def test_unknown_fields_follow_field_validation(api: Raw) -> None:
    obj = changed(changed(DEPLOYMENT, "spec.foo", 1), f"{TC}.bar", 2)
    path = PATHS["Deployment"]
    status, answer = await api("POST", f"{path}?fieldValidation=Strict", obj)
    assert status == 400
    assert answer["message"] == (
        'Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: '
        'unknown field "spec.foo", unknown field "spec.template.spec.containers[0].bar"'
    ) or set(re.findall(r'"(spec[^"]*)"', answer["message"])) == {
        "spec.foo",
        "spec.template.spec.containers[0].bar",
    }
    status, answer = await api("POST", f"{path}?fieldValidation=Warn&dryRun=All", obj)
    assert status == 201
    assert '299 - "unknown field \\"spec.foo\\""' in api.headers.getall("Warning")
    assert "foo" not in answer["spec"]
    await api.ok("POST", f"{path}?fieldValidation=Ignore", obj)
    assert "Warning" not in api.headers


IMMUTABLE: list[tuple[Any, Any, str]] = [
    (DEPLOYMENT, {"spec": {"selector": {"matchLabels": {"b": "c"}}, "template": {"metadata": {"labels": {"b": "c"}}}}}, 'spec.selector: Invalid value: {"matchLabels":{"app":"web","b":"c"}}: field is immutable'),
    (SERVICE, {"spec": {"clusterIP": "10.96.9.9", "clusterIPs": ["10.96.9.9"]}}, 'spec.clusterIPs[0]: Invalid value: ["10.96.9.9"]: may not change once set'),
    (JOB, {"spec": {"completions": 7}}, "spec.completions: Invalid value: 7: field is immutable"),
    (SLICE, {"addressType": "IPv6", "endpoints": [{"addresses": ["2001:db8::1"]}]}, 'addressType: Invalid value: "IPv6": field is immutable'),
    (changed(CONFIG_MAP, "immutable", True), {"data": {"x": "z"}}, "data: Forbidden: field is immutable when `immutable` is set"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("obj", "patch", "message"), IMMUTABLE, ids=[m[:40] for *_, m in IMMUTABLE]
)
async def test_what_may_not_change(api: Raw, obj: Any, patch: Any, message: str) -> None:
    path = PATHS[obj["kind"]]
    await api.ok("POST", path, obj)
    name = obj["metadata"]["name"]
    status, answer = await api("PATCH", f"{path}/{name}", patch, "application/merge-patch+json")
    assert (status, answer["reason"]) == (422, "Invalid")
    assert message in answer["message"]


async def test_a_claim_template_is_a_volume(api: Raw) -> None:
    obj = changed(DEPLOYMENT, "kind", "StatefulSet")
    obj = changed(obj, f"{TC}.volumeMounts", [{"name": "data", "mountPath": "/d"}])
    path = "/apis/apps/v1/namespaces/default/statefulsets"
    assert (await api("POST", path, obj))[0] == 422
    claim = {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}
    await api.ok("POST", path, changed(obj, "spec.volumeClaimTemplates", [claim]))


ADVICE: list[tuple[Any, str]] = [
    (changed(POD, f"{C}.ports", [{"containerPort": 80}, {"containerPort": 80, "name": "x"}]), "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]"),
    (changed(POD, f"{C}.ports", [{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}]), ""),
    (changed(DEPLOYMENT, f"{TC}.env", [{"name": "A"}, {"name": "A", "value": "1"}]), 'spec.template.spec.containers[0].env[1]: hides previous definition of \\"A\\", which may be dropped when using apply'),
    (changed(DEPLOYMENT, f"{TC}.env", [{"name": "A"}, {"name": "A", "value": "$(A)1"}]), ""),
]  # fmt: skip


@pytest.mark.parametrize(("obj", "warning"), ADVICE)
async def test_advice(api: Raw, obj: Any, warning: str) -> None:
    await api.ok("POST", PATHS[obj["kind"]], obj)
    assert api.headers.getall("Warning", []) == ([f'299 - "{warning}"'] if warning else [])
