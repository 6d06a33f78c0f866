"""A node that goes, comes back or has foreign ranges is followed by the others, who talk on."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from kubewire.api.meta import JSON
from kubewire.api.resources import NODES
from kubewire.client.rest import Client
from tests.e2e.conftest import POD, Kubewire

TALK = """
import select, socket, sys
streams = []
for ip in sys.argv[1:]:
    made = socket.create_connection((ip, 80), 10)
    streams.append(made.makefile("rwb"))
asked = 0
while True:
    for stream in streams:
        stream.write(b"GET /echo?msg=x HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
        stream.flush()
        head = b""
        while not head.endswith(b"\\r\\n\\r\\n"):
            head += stream.readline() or sys.exit("closed")
        assert stream.read(1) == b"x"
    asked += 1
    if asked == 1:
        print("talking", flush=True)
    if select.select([sys.stdin], [], [], 0.02)[0]:
        break
print(asked)
"""


@contextmanager
def talking(kubewire: Kubewire, source: str, ips: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A pod asks another over kept connections, one for each address, as fast as it can."""
    with kubewire.beside("exec", source, "--", sys.executable, "-c", TALK, *ips) as talk:
        assert talk.stdout
        assert talk.stdout.readline() == "talking\n"
        yield talk


async def replace_node(client: Client, node: JSON, ranges: list[str]) -> None:
    """Delete a Node, with ranges make it anew with them, and wait until all agents have followed."""
    await client.delete(NODES, "node-3")
    if ranges:
        metadata = {"name": "node-3", "labels": node["metadata"]["labels"]}
        spec = {"podCIDR": ranges[0], "podCIDRs": ranges}
        await client.create(NODES, {**node, "metadata": metadata, "spec": spec})
        await client.patch(NODES, "node-3", {"status": node["status"]}, subresource="status")
    await client.request("POST", "/kubewire/v1/sync", params={"timeoutSeconds": 60})


def test_routes_follow_the_nodes_while_others_talk(kubewire: Kubewire) -> None:
    flags = ["--nodes", "3", "--ip-family", "dual", "--pod-network", "vxlan"]
    kubewire("up", *flags, "-f", "-", "--detach", text=POD % (1, 1) + POD % (2, 2))
    node = kubewire.api("/api/v1/nodes/node-3")
    first = node["spec"]["podCIDRs"]

    def routes() -> str:
        show = ("sh", "-c", "ip -4 route; ip -6 route")
        return kubewire("node-exec", "node-1", "--", *show).stdout

    def has(found: str, ranges: list[str]) -> list[bool]:
        return [f"{cidr} " in found for cidr in ranges]

    def change(ranges: list[str]) -> str:
        kubewire.ask(lambda client: replace_node(client, node, ranges))
        return routes()

    assert has(routes(), first) == [True, True]
    second, foreign = ["10.244.77.0/24", "fd00:10:244:77::/64"], ["10.97.7.0/24", "fd00:10:244:78::/64"]  # fmt: skip
    with talking(kubewire, "p1", kubewire.pod_ips("p2")) as talk:
        found = change(second)
        assert (has(found, first), has(found, second)) == ([False, False], [True, True])
        found = change(foreign)
        assert (has(found, second), has(found, foreign)) == ([False, False], [False, True])
        found = change([])
        assert has(found, foreign) == [False, False]
        answer, _ = talk.communicate("end\n", timeout=30)
    assert int(answer) > 1
    events = kubewire.api("/api/v1/events")["items"]
    text = "spec.podCIDRs[0]: 10.97.7.0/24 is outside the cluster CIDR 10.244.0.0/16,fd00:10:244::/56"  # fmt: skip
    assert text in {event["message"] for event in events}
