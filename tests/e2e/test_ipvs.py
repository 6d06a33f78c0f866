"""A whole cluster whose Services are virtual servers; `make test-vm` runs it, with patience."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.e2e.conftest import Kubewire

pytestmark = [pytest.mark.ipvs, pytest.mark.tool("iptables", "ipset"), pytest.mark.timeout(600)]

PATIENCE = 240.0
"""Seconds: the machine is emulated, and others use what it runs on."""
OBJECTS = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: web
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 60, timeoutSeconds: 30}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.7.7, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"""
CLIENT = """
import http.client, json, sys
def get(connection):
    connection.request("GET", "/")
    return json.loads(connection.getresponse().read())["pod"]
def fresh():
    connection = http.client.HTTPConnection("10.96.7.7", 80, timeout=60)
    name = get(connection)
    connection.close()
    return name
held = http.client.HTTPConnection("10.96.7.7", 80, timeout=60)
for line in sys.stdin:
    print(json.dumps({"held": get(held), "fresh": [fresh() for _ in range(6)]}), flush=True)
"""


def ask(client: subprocess.Popen[str]) -> tuple[str, set[str]]:
    """Who answers a process of the node on the connection that it holds, and on new ones."""
    assert client.stdin and client.stdout
    client.stdin.write("\n")
    client.stdin.flush()
    found: dict[str, Any] = json.loads(client.stdout.readline())
    return found["held"], set(found["fresh"])


def test_a_destination_drains(kubewire: Kubewire) -> None:
    kubewire.patience = int(PATIENCE)
    arguments = ("--proxy-mode", "ipvs", "--nodes", "1", "--wait-timeout", str(PATIENCE))
    kubewire("up", *arguments, "--detach", "-f", "-", text=OBJECTS)
    program = ("--", sys.executable, "-c", CLIENT)
    with kubewire.beside("node-exec", "node-1", *program) as client:
        held, fresh = ask(client)
        assert len(fresh) == 2
        kubewire("fail", held, "--probe", "readiness")
        kubewire("sync", "--timeout", "60")
        assert ask(client) == (held, fresh - {held})
        shown = kubewire("proxy connections").stdout
        [ip] = kubewire.pod_ips(held)
        assert f"-> 10.96.7.7:80 -> {ip}:8080 ESTABLISHED" in shown
