"""A bootstrap written by hand (examples/envoy/edge.yaml) against the xDS server, with a real Envoy."""

import asyncio
import contextlib
from ipaddress import ip_interface
from pathlib import Path

import aiohttp
import pytest

from kubewire.kernel import routes
from kubewire.kernel.envoy import start
from kubewire.kernel.rtnetlink import RtNetlink
from kubewire.kubeproxy.backends.envoy import server as serving
from kubewire.kubeproxy.backends.envoy.server import XdsServer
from kubewire.lang.xds.model import JSON, Cluster
from tests.kubeproxy.rows import service, slice_

pytestmark = pytest.mark.kernel

EDGE = Path(__file__).parents[4] / "examples" / "envoy" / "edge.yaml"


def edge(folder: Path) -> Path:
    """The example, for the Service of these tests."""
    found = folder / "edge.yaml"
    found.write_text(EDGE.read_text().replace("shop/cart:80", "ns/s:p"))
    return found


PORTS = [{"name": "p", "port": 80, "appProtocol": "http"}]


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    body = writer.get_extra_info("sockname")[0].encode()
    writer.write(
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    await writer.drain()
    writer.close()


async def get(port: int, host: str) -> str:
    """Body of a request; "" while nobody is there."""
    async with aiohttp.ClientSession() as session:
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get(f"http://127.0.0.1:{port}/", headers={"Host": host}) as found:
                return await found.text() if found.status == 200 else ""
    return ""


async def until(expected: str, port: int, host: str = "s.ns") -> None:
    while True:
        if await get(port, host) == expected:
            return
        await asyncio.sleep(0.01)


async def said(text: str, caplog: pytest.LogCaptureFixture) -> None:
    while True:
        if text in caplog.text:
            return
        await asyncio.sleep(0.01)


ONE, TWO = "10.244.0.1", "10.244.0.2"


async def test_an_edge_follows_the_services(tmp_path: Path) -> None:
    with RtNetlink() as netlink:
        netlink.transact([routes.add_address(1, ip_interface(f"{ip}/32")) for ip in (ONE, TWO)])
    ends = [await asyncio.start_server(answer, ip, 8080) for ip in (ONE, TWO)]
    server, one = XdsServer(), service(ports=PORTS)
    server.show([one], [slice_(ONE)])
    with (tmp_path / "log").open("wb") as log:
        async with server.serving("127.0.0.1", 18000):
            envoy = start(edge(tmp_path), log=log.fileno())
            try:
                for port in (10080, 10081):
                    await until(ONE, port)
                server.show([one], [slice_(TWO)])
                for port in (10080, 10081):
                    await until(TWO, port)
                more = service("t", "10.96.0.12", ports=[{**PORTS[0], "port": 81}])
                server.show([one, more], [slice_(TWO), slice_(ONE, of="t")])
                await until(ONE, 10080, "t.ns.svc.cluster.local:81")
            finally:
                envoy.kill()
                envoy.wait_blocking()
    for end in ends:
        end.close()


async def test_what_envoy_refuses_is_logged_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> list[JSON]:
        # Right for all that is checked, and still nothing that Envoy takes.
        bad = Cluster("ns/bad:p", dns=("x.test", 80)).to_json() | {"connect_timeout": "-1s"}
        return [Cluster("ns/good:p", dns=("x.test", 80)).to_json(), bad]

    server = XdsServer()
    server.show([], [])
    with (tmp_path / "log").open("wb") as log:
        async with server.serving("127.0.0.1", 18000):
            envoy = start(edge(tmp_path), log=log.fileno())
            try:
                await until("", 10080)
                monkeypatch.setattr(serving, "resources", refused)
                server.show([], [])
                await said("refuses Cluster", caplog)
                assert "ns/bad:p" in caplog.text
            finally:
                envoy.kill()
                envoy.wait_blocking()


async def test_bad_questions_and_what_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    server = XdsServer()
    twice = service("S", ports=[{"name": "p", "port": 80}, {"name": "p", "port": 81}])
    server.show([twice], [])
    assert "not told: Cluster ns/S:p: told twice" in caplog.text
    async with server.serving("127.0.0.1", 0) as (host, port), aiohttp.ClientSession() as session:
        url = f"http://{host}:{port}/v3/discovery:"
        async with session.post(f"{url}secrets", json={"node": {"id": "x"}}) as found:
            assert (found.status, "nobody tells secrets" in await found.text()) == (400, True)
        question = {"node": {"id": "x"}, "resource_names": ["services"]}
        async with session.post(f"{url}routes", json=question) as found:
            told = await found.json()
        assert [r["name"] for r in told["resources"]] == ["services"]
        question["version_info"] = told["version_info"]
        async with session.post(f"{url}routes", json=question) as found:
            assert found.status == 304
