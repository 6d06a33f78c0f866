import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from kubewire.kernel import netns
from kubewire.kubelet.standin import grpc, server
from kubewire.kubelet.standin.control import Control, StandInError
from kubewire.kubelet.standin.server import Server

pytestmark = pytest.mark.kernel


def wanted(tmp_path: Path, *listeners: tuple[int, str, bool, str], name: str = "web") -> Any:
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    pod = {"netns": str(tmp_path / "ns"), "hostname": name, "binds": [], "containers": {}}
    (folder / "pod.json").write_text(json.dumps(pod))
    return {
        "id": f"uid-{name}/main",
        "pod": name,
        "namespace": "default",
        "node": "node-1",
        "container": "main",
        "hostname": name,
        "netns": str(tmp_path / "ns"),
        "folder": str(folder),
        "listeners": [
            {"port": port, "protocol": protocol, "tls": tls, "mode": mode}
            for port, protocol, tls, mode in listeners
        ],
    }


@asynccontextmanager
async def playing(tmp_path: Path, *containers: Any) -> AsyncIterator[tuple[Control, list[Any]]]:
    netns.create(tmp_path / "ns")
    path = str(tmp_path / "control")
    exited: list[Any] = []
    control = Control(path, lambda id_, code: exited.append((id_, code)))
    tasks = [
        asyncio.create_task(Server(tmp_path).serve(path)),
        asyncio.create_task(control.run()),
    ]
    try:
        for container in containers:
            await control.add(container)
        yield control, exited
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def client(tmp_path: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    made = netns.socket_in(tmp_path / "ns", socket.AF_INET, kind)
    made.setblocking(False)
    return made


async def ask(tmp_path: Path, port: int, data: bytes, tls: bool = False) -> bytes:
    made = client(tmp_path)
    try:
        await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", port))
    except OSError:
        made.close()
        raise
    context = None
    if tls:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(
        sock=made, ssl=context, server_hostname="x" if tls else None
    )
    writer.write(data)
    if not tls:
        writer.write_eof()
    try:
        return await reader.read(-1)
    finally:
        writer.close()
        await writer.wait_closed()


async def get(tmp_path: Path, target: str, port: int = 80, tls: bool = False) -> tuple[int, bytes]:
    request = f"GET {target} HTTP/1.1\r\nHost: web\r\nX-A: 1\r\nConnection: close\r\n\r\n"
    head, _, body = (await ask(tmp_path, port, request.encode(), tls)).partition(b"\r\n\r\n")
    return int(head.split()[1]), body


async def test_json_says_who_answers(tmp_path: Path) -> None:
    async with playing(tmp_path, wanted(tmp_path, (80, "TCP", False, ""))):
        status, body = await get(tmp_path, "/some/path?q=1")
    said = json.loads(body)
    assert status == 200
    assert said["client"].startswith("127.0.0.1:")
    assert said["headers"] == {"Host": "web", "X-A": "1", "Connection": "close"}
    assert {k: said[k] for k in ("pod", "namespace", "node", "method", "path", "port")} == {
        "pod": "web", "namespace": "default", "node": "node-1",
        "method": "GET", "path": "/some/path?q=1", "port": 80,
    }  # fmt: skip


async def test_a_port_of_a_protocol_that_the_kernel_lacks_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No kernel has this number: what SCTP is to one that is built without it.
    monkeypatch.setitem(server._KINDS, "SCTP", (socket.SOCK_STREAM, 253))
    listeners = ((132, "SCTP", False, ""), (80, "TCP", False, ""))
    async with playing(tmp_path, wanted(tmp_path, *listeners)):
        assert (await get(tmp_path, "/hostname"))[1] == b"web"


@pytest.mark.parametrize(
    ("target", "status", "body"),
    [
        ("/hostname", 200, b"web"),
        ("/hostName", 200, b"web"),
        ("/echo?msg=hello%20you", 200, b"hello you"),
        ("/echo?msg=x&code=418", 418, b"x"),
        ("/echo?msg=x&code=y", 200, b"argument 'code' must be an integer or empty, got \"y\"\n"),
        ("/healthz", 200, b""),
        ("/header?key=x-a", 200, b"1"),
        ("/header", 200, b'{"Connection":["close"],"X-A":["1"]}'),
        ("/shell?cmd=echo%20hi", 200, b'{"output":"hi\\n"}'),
        ("/shell?shellCommand=exit%203", 200, b'{"error":"exit status 3"}'),
        ("/shell?cmd=hostname", 200, b'{"output":"web\\n"}'),
        ("/dial?host=127.0.0.1&port=80&request=hostname&tries=2", 200,
         b'{"responses":["web","web"]}'),
        ("/dial?host=127.0.0.1&port=53&protocol=udp&request=hostname", 200,
         b'{"responses":["web"]}'),
        ("/dial?host=127.0.0.1&port=53&protocol=udp&request=echo%20Hi", 200,
         b'{"responses":["hi"]}'),
        ("/dial?host=127.0.0.1&port=81&request=hostname", 200,
         b'{"errors":["Get \\"http://127.0.0.1:81/hostname\\": dial tcp 127.0.0.1:81: '
         b'connect: connection refused"]}'),
        ("/dial?host=127.0.0.1&port=80", 400, b"request parameter not specified. <nil>\n"),
        ("/dial?host=1.1.1.1&port=80&request=x&protocol=icmp", 400,
         b"unsupported protocol. icmp\n"),
        ("/redirect?location=/x&code=307", 307, b""),
    ],
)  # fmt: skip
async def test_netexec(tmp_path: Path, target: str, status: int, body: bytes) -> None:
    ports = ((80, "TCP", False, ""), (53, "UDP", False, ""))
    async with playing(tmp_path, wanted(tmp_path, *ports)):
        assert await get(tmp_path, target) == (status, body)


async def test_clientip_has_the_port(tmp_path: Path) -> None:
    async with playing(tmp_path, wanted(tmp_path, (80, "TCP", False, ""))):
        _, body = await get(tmp_path, "/clientip")
    address, _, port = body.decode().partition(":")
    assert address == "127.0.0.1"
    assert port.isdigit()


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"hello", b"hello"),
        (b"GE", b"GE"),
        (b"\x00\x01" * 100_000, b"\x00\x01" * 100_000),
    ],
)
async def test_what_is_not_http_is_echoed(tmp_path: Path, sent: bytes, answer: bytes) -> None:
    async with playing(tmp_path, wanted(tmp_path, (80, "TCP", False, ""))):
        assert await ask(tmp_path, 80, sent) == answer


async def test_keep_alive_and_pipelining_answer_in_order(tmp_path: Path) -> None:
    one = b"GET /shell?cmd=sleep+0.05;echo+1 HTTP/1.1\r\nHost: a\r\n\r\n"
    two = b"GET /hostname HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    async with playing(tmp_path, wanted(tmp_path, (80, "TCP", False, ""))):
        answer = await ask(tmp_path, 80, one + two)
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.index(b'"1\\n"') < answer.index(b"\r\n\r\nweb")


async def test_https_port(tmp_path: Path) -> None:
    async with playing(tmp_path, wanted(tmp_path, (443, "TCP", True, ""))):
        status, body = await get(tmp_path, "/hostname", 443, tls=True)
    assert (status, body) == (200, b"web")


async def test_grpc_health(tmp_path: Path) -> None:
    call = grpc.HealthCall("web:50051", "some.Service", "kube-probe/1.34")
    async with playing(tmp_path, wanted(tmp_path, (50051, "TCP", False, ""))):
        call.feed(await ask(tmp_path, 50051, call.request))
    assert call.status == "SERVING"


@pytest.mark.parametrize(
    ("sent", "answer"),
    [(b"hostname\n", b"web"), (b"echo Hi", b"hi"), (b"\x00raw", b"\x00raw"), (b"", b"")],
)
async def test_udp(tmp_path: Path, sent: bytes, answer: bytes) -> None:
    loop = asyncio.get_running_loop()
    async with playing(tmp_path, wanted(tmp_path, (53, "UDP", False, ""))):
        with client(tmp_path, socket.SOCK_DGRAM) as made:
            made.connect(("127.0.0.1", 53))
            made.send(sent)
            assert await loop.sock_recv(made, 100) == answer


async def test_udp_whoami(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with playing(tmp_path, wanted(tmp_path, (53, "UDP", False, ""))):
        with client(tmp_path, socket.SOCK_DGRAM) as made:
            made.connect(("127.0.0.1", 53))
            made.send(b"kubewire-whoami")
            said = json.loads(await loop.sock_recv(made, 1000))
    assert (said["pod"], said["namespace"], said["protocol"]) == ("web", "default", "UDP")


async def test_exit_tells_the_kubelet_and_closes_the_port(tmp_path: Path) -> None:
    async with playing(tmp_path, wanted(tmp_path, (80, "TCP", False, ""))) as (_, exited):
        await get(tmp_path, "/exit?code=7")
        with pytest.raises(ConnectionRefusedError):
            await get(tmp_path, "/")
        assert exited == [("uid-web/main", 7)]


async def test_a_port_in_use_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    first = wanted(tmp_path, (80, "TCP", False, ""))
    second = wanted(tmp_path, (81, "TCP", False, ""), (80, "TCP", False, ""), name="other")
    async with playing(tmp_path, first) as (control, _):
        with pytest.raises(StandInError, match="listen tcp :80: address already in use"):
            await control.add(second)
        with pytest.raises(ConnectionRefusedError):
            await get(tmp_path, "/", 81)
        await control.remove("uid-web/main")
        await control.add(second)
        assert (await get(tmp_path, "/hostname"))[1] == b"other"


async def test_listeners_outlive_the_kubelet_and_a_new_one_takes_over(tmp_path: Path) -> None:
    web = wanted(tmp_path, (80, "TCP", False, ""))
    stale = wanted(tmp_path, (81, "TCP", False, ""), name="stale")
    async with playing(tmp_path, web, stale):
        other = Control(str(tmp_path / "control"), lambda *_: None)
        task = asyncio.create_task(other.run(keep=[web["id"]]))
        await other.add(web)
        assert (await get(tmp_path, "/hostname"))[1] == b"web"
        with pytest.raises(ConnectionRefusedError):
            await get(tmp_path, "/", 81)
        task.cancel()


async def test_a_new_stand_in_process_is_told_everything_again(tmp_path: Path) -> None:
    netns.create(tmp_path / "ns")
    path = str(tmp_path / "control")
    control = Control(path, lambda *_: None)
    following = asyncio.create_task(control.run())
    for _ in range(2):
        server = asyncio.create_task(Server(tmp_path).serve(path))
        await control.add(wanted(tmp_path, (80, "TCP", False, "")))
        assert (await get(tmp_path, "/hostname"))[1] == b"web"
        server.cancel()
        with suppress(asyncio.CancelledError):
            await server
        (tmp_path / "control").unlink()
    following.cancel()
