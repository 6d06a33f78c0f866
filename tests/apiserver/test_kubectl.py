"""Real kubectls against a real server: those of KUBEWIRE_KUBECTL (colons), else the wheel's."""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import started

pytestmark = pytest.mark.tool("kubectl")

BIN = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
KUBECTLS = (os.environ.get("KUBEWIRE_KUBECTL") or shutil.which("kubectl", path=BIN) or "").split(
    ":"
)

MANIFEST = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: c, image: "nginx:1", ports: [{containerPort: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, clusterIP: 10.96.5.5, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: p}
spec: {containers: [{name: c, image: nginx}]}
"""

LIST = """\
apiVersion: v1
kind: List
items:
- apiVersion: policy.networking.k8s.io/v1alpha2
  kind: ClusterNetworkPolicy
  metadata: {name: cnp}
  spec:
    tier: Admin
    priority: 1
    subject: {namespaces: {}}
    ingress: [{action: Deny, from: [{namespaces: {}}]}]
"""

WIDGETS = """\
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, kind: Widget}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        description: What turns.
        type: object
        properties:
          spec:
            type: object
            required: [size]
            properties:
              size: {type: integer, description: How large it is.}
              parts:
                type: array
                items:
                  type: object
                  properties: {colour: {type: string, enum: [red, blue]}}
"""

STEPS: list[tuple[str, str]] = [
    ("apply -f m.yaml", "deployment.apps/web created\nservice/web created\npod/p created"),
    ("apply -f m.yaml", "deployment.apps/web unchanged\nservice/web unchanged\npod/p unchanged"),
    ("get deploy web", "NAME   READY   UP-TO-DATE   AVAILABLE   AGE\nweb    0/2"),
    ("get svc web -o wide", "web    ClusterIP   10.96.5.5   <none>        80/TCP"),
    ("apply -f list.yaml", "clusternetworkpolicy.policy.networking.k8s.io/cnp created"),
    ("get pod p", "p      0/1     Pending   0"),
    ("get pods -o name", "pod/p"),
    ("get pod p -o jsonpath={.spec.containers[0].image}", "nginx"),
    ("describe deploy web", "StrategyType:           RollingUpdate"),
    ("describe pod p", "Status:"),
    ("explain deployment.spec.strategy", "rollingUpdate"),
    ("explain cnp.spec.ingress.from", "namespaces <Object> All pods of these namespaces."),
    (
        "explain cnp --recursive",
        "pods <Object> namespaceSelector <Object> matchExpressions <[]Object> key <string> -required-",
    ),
    ("get cnp", "NAME TIER PRIORITY AGE cnp Admin 1"),
    ("apply -f widgets.yaml", "widgets.example.com created"),
    ("explain widget", "What turns. FIELDS: apiVersion <string> APIVersion defines"),
    ("explain widget.spec", "size <integer> -required- How large it is."),
    ("explain widget --recursive", "parts <[]Object> colour <string> enum: red, blue"),
    ("scale deploy/web --replicas=5", "scaled"),
    ("set image deploy/web c=nginx:2", "image updated"),
    ("label pod p a=b", "labeled"),
    ("get pods -l a=b -o name", "pod/p"),
    ("annotate svc web a=b", "annotated"),
    ("apply --server-side --force-conflicts -f m.yaml", "serverside-applied"),
    ("create configmap c --from-literal=a=b", "configmap/c created"),
    ("get configmap c -o jsonpath={.data.a}", "b"),
    ("create secret generic s --from-literal=a=b", "secret/s created"),
    ("get secret s -o jsonpath={.data.a}", "Yg=="),
    ("create namespace n", "namespace/n created"),
    ("create deployment d --image=nginx --replicas=3", "deployment.apps/d created"),
    ("create job j --image=busybox -- true", "job.batch/j created"),
    ("create ingress i --rule=a.b/x*=web:80", "ingress.networking.k8s.io/i created"),
    ("get ingress i", "a.b"),
    ("create serviceaccount sa", "serviceaccount/sa created"),
    ("autoscale deploy d --max=3", "horizontalpodautoscaler.autoscaling/d autoscaled"),
    ("auth can-i get pods", "yes"),
    ("expose deploy d --port=80", "service/d exposed"),
    ("api-resources", "networkpolicies"),
    ("get all", "deployment.apps/web"),
    ("delete pod p --wait", 'pod "p" deleted'),
    ("delete -f m.yaml --ignore-not-found", 'deployment.apps "web" deleted'),
    ("get nothing", "the server doesn't have a resource type"),
    ("get pod none", 'Error from server (NotFound): pods "none" not found'),
]


async def run(kubectl: str, home: Path, *arguments: str) -> str:
    """Both outputs of one call."""
    environment = {
        "HOME": str(home),
        "KUBECONFIG": str(home / "config"),
        "PATH": os.environ["PATH"],
    }
    process = await asyncio.create_subprocess_exec(
        kubectl, *arguments, cwd=home, env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    return output.decode()


def _words(text: str) -> str:
    """Column widths differ from release to release."""
    return " ".join(text.split())


@pytest.fixture
async def home(pki_dir: Path, tmp_path: Path) -> AsyncIterator[Path]:
    (tmp_path / "m.yaml").write_text(MANIFEST)
    (tmp_path / "list.yaml").write_text(LIST)
    (tmp_path / "widgets.yaml").write_text(WIDGETS)
    async with started(pki_dir) as api:
        (tmp_path / "config").write_text(api.running.kubeconfig())
        yield tmp_path


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kubectl", KUBECTLS)
async def test_a_day_with_kubectl(kubectl: str, home: Path) -> None:
    for command, expected in STEPS:
        output = await run(kubectl, home, *command.split())
        assert _words(expected) in _words(output), f"kubectl {command}: {output}"


@pytest.mark.parametrize("kubectl", KUBECTLS)
async def test_watching(kubectl: str, home: Path) -> None:
    environment: dict[str, Any] = {"HOME": str(home), "KUBECONFIG": str(home / "config")}
    watcher = await asyncio.create_subprocess_exec(
        kubectl, "get", "configmaps", "-w", env=environment, stdout=asyncio.subprocess.PIPE
    )
    assert watcher.stdout is not None
    await run(kubectl, home, "create", "configmap", "a", "--from-literal=x=y")
    await run(kubectl, home, "create", "configmap", "b", "--from-literal=x=y")
    async with asyncio.timeout(60):
        lines = [(await watcher.stdout.readline()).decode() for _ in range(3)]
    watcher.terminate()
    await watcher.communicate()
    assert lines[0].split() == ["NAME", "DATA", "AGE"]
    assert [line.split()[:2] for line in lines[1:]] == [["a", "1"], ["b", "1"]]
