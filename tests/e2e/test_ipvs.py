"""A whole cluster whose Services are virtual servers; `make test-vm` runs it, with patience."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
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


class Client:
    """A process of the node that keeps one connection open, and opens others when it is asked."""

    def __init__(self, kubewire: Kubewire) -> None:
        argv = ["node-exec", "--name", kubewire.name, "node-1", "--", sys.executable, "-c", CLIENT]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kubewire", *argv],
            env=kubewire.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self) -> tuple[str, set[str]]:
        """Who answers on the connection that is held, and on new ones."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found["held"], set(found["fresh"])

    def close(self) -> None:
        self._process.communicate(timeout=PATIENCE)


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, "it does not come to pass"
        time.sleep(0.2)


def test_a_destination_drains(kubewire: Kubewire) -> None:
    kubewire.patience = int(PATIENCE)
    arguments = ("--proxy-mode", "ipvs", "--nodes", "1", "--wait-timeout", str(PATIENCE))
    kubewire("up", *arguments, "--detach", "-f", "-", text=OBJECTS)
    client = Client(kubewire)
    held, fresh = client.ask()
    assert len(fresh) == 2
    kubewire("fail", held, "--probe", "readiness")
    kubewire("sync", "--timeout", "60")
    ip = {p["metadata"]["name"]: p["status"]["podIP"] for p in kubewire.pods("default")}
    assert client.ask() == (held, fresh - {held})
    shown = kubewire("proxy connections").stdout
    assert f"-> 10.96.7.7:80 -> {ip[held]}:8080 ESTABLISHED" in shown
    client.close()
