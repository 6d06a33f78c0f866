"""Peers by domain name on a real kernel: a server answers, the pod connects at once."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from kubewire.kernel import netns
from kubewire.lang.dns import codes, record
from kubewire.lang.dns.message import Message, Question, encode, parse
from kubewire.networkpolicy import answers
from kubewire.networkpolicy.backends import enforcer
from kubewire.networkpolicy.controller import PolicyAgent
from kubewire.testing.fakeapi import FakeApi
from networkpolicy.fixture import F, cluster, fixture, pod
from networkpolicy.fixture import P as Pod
from networkpolicy.lab import Lab

pytestmark = pytest.mark.kernel

XA, DNS, SITE = Pod("x", "a"), Pod("z", "a"), Pod("y", "b")
ALLOW = cluster(
    "names",
    "Admin",
    1,
    subject={"namespaces": {"matchLabels": {"ns": "x"}}},
    egress=[
        {"action": "Accept", "to": [{"domainNames": ["*.example.com"]}]},
        {"action": "Accept", "to": [{"pods": {"podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}}]},
        {"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]},
    ],
)  # fmt: skip
BACKENDS = [
    "nftables",
    pytest.param("iptables", marks=pytest.mark.tool("iptables", "ip6tables", "ipset")),
]


def world() -> Iterator[dict[str, Any]]:
    for manifest in fixture():
        if manifest["metadata"].get("uid") != f"uid-{DNS.index}":
            yield manifest
    server = pod(DNS)
    server["metadata"] |= {"namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}}
    yield server


def answer(query: bytes, ttl: int) -> bytes:
    asked = parse(query)
    assert asked.question is not None
    name = asked.question.name
    asked.flags, asked.answer = 0x8180, [record.address(name, ttl, SITE.ip)]
    return bytes(encode(asked))


@contextlib.asynccontextmanager
async def running(lab: Lab, backend: str) -> AsyncIterator[PolicyAgent]:
    api = FakeApi(*world(), ALLOW)
    with enforcer(backend, lab.node_paths["node-0"]) as kernel:
        agent = PolicyAgent(api.client(), "node-0", kernel)
        task = asyncio.create_task(agent.run())
        while agent.name not in api.agents:
            api.sync()
            await asyncio.sleep(0)
        try:
            yield agent
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def resolve(stack: ExitStack, lab: Lab, name: str, ttl: int = 30) -> None:
    """Ask the server as a pod does; returns as soon as the pod has the answer."""
    loop = asyncio.get_running_loop()
    ends = []
    for where in (DNS, XA):
        kind = (socket.AF_INET, socket.SOCK_DGRAM)
        end = stack.enter_context(netns.socket_in(lab.pod_paths[where], *kind))
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        ends.append(end)
    server, client = ends
    server.bind(("", 53))
    query = Message(id=1, flags=0x0100, question=Question(name, codes.A))
    client.connect((DNS.ip, 53))
    client.send(bytes(encode(query)))
    async with asyncio.timeout(10):
        data, peer = await loop.sock_recvfrom(server, 512)
        server.sendto(answer(data, ttl), peer)
        await loop.sock_recv(client, 512)
    server.close()


FLOW = F(XA, SITE, 80, "UDP")


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_pod_that_has_an_answer_can_connect_at_once(backend: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        lab = stack.enter_context(closing(Lab(tmp_path)))
        async with running(lab, backend):
            assert lab.reach([FLOW], set()) == set()
            await resolve(stack, lab, "www.other.com.")
            assert lab.reach([FLOW], set()) == set()
            await resolve(stack, lab, "WWW.example.com.")
            assert lab.reach([FLOW], {FLOW}) == {FLOW}
        # The agent is gone: what it has learned stays, and answers pass without it.
        await resolve(stack, lab, "www.example.com.")
        assert lab.reach([FLOW], {FLOW}) == {FLOW}
        async with running(lab, backend):
            assert lab.reach([FLOW], {FLOW}) == {FLOW}, "the next agent goes on with it"


async def test_an_address_ends_with_its_ttl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "LEAST", 0.3)
    monkeypatch.setattr(answers, "GRACE", 0.0)
    with ExitStack() as stack:
        lab = stack.enter_context(closing(Lab(tmp_path)))
        async with running(lab, "nftables") as agent:
            await resolve(stack, lab, "www.example.com.", ttl=0)
            assert lab.reach([FLOW], {FLOW}) == {FLOW}
            async with asyncio.timeout(10):
                while agent.plan.domains or agent.program is None:
                    await agent._next_apply()
            assert lab.reach([FLOW], set()) == set()
