"""Port-forward by clients other than kubectl: streams in a tunnel, and channels of a WebSocket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import aiohttp
import pytest
from aiohttp import web
from tests.lang.spdy_client import SpdyClient, data

from kubewire.kubelet.serving import portforward
from kubewire.kubelet.worker import PodWorker
from kubewire.lang import spdy

pytestmark = pytest.mark.kernel

POD = cast(
    PodWorker,
    SimpleNamespace(
        netns=Path("/proc/self/ns/net"),
        record=SimpleNamespace(has_sandbox=True),
        pod=SimpleNamespace(metadata=SimpleNamespace(uid="u", name="p")),
    ),
)
"""A pod that is here."""
REFUSED = (
    "error forwarding port 9 to pod u, uid : failed to connect to localhost:9 inside the pod: "
    "dial tcp4 127.0.0.1:9: connect: connection refused, "
    "dial tcp6 [::1]:9: connect: connection refused"
)


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers in capitals when the client has said all."""
    writer.write((await reader.read()).upper())
    writer.close()


@asynccontextmanager
async def forwarding(
    protocol: str, host: str = "127.0.0.1", ports: tuple[int, ...] = ()
) -> AsyncIterator[tuple[aiohttp.ClientWebSocketResponse, int]]:
    """A WebSocket to the kubelet's end, and the port of a server in the pod."""
    pod = await asyncio.start_server(shout, host)
    port = pod.sockets[0].getsockname()[1]
    runner = web.ServerRunner(web.Server(lambda request: portforward.answer(request, POD)))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    query = "&".join(f"port={number or port}" for number in ports)
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/portForward/default/p?{query}"
    async with (
        asyncio.timeout(30),
        aiohttp.ClientSession() as session,
        session.ws_connect(url, protocols=[protocol]) as ws,
    ):
        assert ws.protocol == protocol
        yield ws, port
    pod.close()
    await runner.cleanup()


async def take(
    ws: aiohttp.ClientWebSocketResponse, known: spdy.Connection, ended: set[int]
) -> dict[int, bytes]:
    """What streams bring until these have ended."""
    got: dict[int, bytes] = {}
    while ended:
        for event in known.feed(await ws.receive_bytes()):
            if isinstance(event, spdy.Data):
                got[event.stream] = got.get(event.stream, b"") + event.data
            elif isinstance(event, spdy.Finished):
                ended.discard(event.stream)
    return got


def pair(client: SpdyClient, first: int, port: int) -> bytes:
    """Streams for errors and data of one connection, as kubectl opens them."""
    headers = {"port": str(port), "requestid": str(first)}
    error = client.open(first, headers | {"streamtype": "error"}, spdy.FIN)
    return error + client.open(first + 2, headers | {"streamtype": "data"})


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_streams_of_several_connections(host: str) -> None:
    async with forwarding(portforward.TUNNEL, host=host) as (ws, port):
        client, answers = SpdyClient(), spdy.Connection()
        sent = pair(client, 1, port) + pair(client, 5, port) + pair(client, 9, 9)
        sent += data(3, b"one", last=True) + data(7, b"t") + data(7, b"wo", last=True)
        for at in range(0, len(sent), 7):
            await ws.send_bytes(sent[at : at + 7])
        got = await take(ws, answers, {1, 3, 5, 7, 9, 11})
    assert got == {3: b"ONE", 7: b"TWO", 9: REFUSED.encode()}


async def test_who_waits_for_a_connection_that_ends_goes_on() -> None:
    pipe = portforward.Pipe()
    for _ in range(portforward.BACKLOG):
        await pipe.put(b"x")
    waiting = asyncio.create_task(pipe.put(b"x"))
    await asyncio.sleep(0)
    assert not waiting.done()
    pipe.close()
    await asyncio.wait_for(waiting, 20)
    for _ in range(portforward.BACKLOG * 2):
        await asyncio.wait_for(pipe.put(b"x"), 20)


async def test_channels() -> None:
    async with forwarding("v5.channel.k8s.io", ports=(0, 9)) as (ws, port):
        got: dict[int, bytes] = {}
        await ws.send_bytes(b"\x00hel")
        await ws.send_bytes(b"\x00lo")
        await ws.send_bytes(b"\xff\x00")
        while len(got.get(0, b"")) < 7 or len(got.get(3, b"")) < len(REFUSED) + 2:
            message = await ws.receive_bytes()
            got[message[0]] = got.get(message[0], b"") + message[1:]
    number = port.to_bytes(2, "little")
    assert got == {
        0: number + b"HELLO",
        1: number,
        2: b"\x09\x00",
        3: b"\x09\x00" + REFUSED.encode(),
    }
