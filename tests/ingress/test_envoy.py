"""The compiled resources in a real Envoy: hosts, paths, certificates, and a change of endpoints."""

import asyncio
import datetime
import http.client
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kubewire.api.ingress import Ingress, IngressClass
from kubewire.api.meta import Key
from kubewire.api.service import EndpointSlice, Service
from kubewire.ingress.certificates import self_signed
from kubewire.ingress.compile import XDS, Certificate, bootstrap, compile_resources
from kubewire.ingress.feed import Feed
from kubewire.ingress.plan import CONTROLLER, plan
from kubewire.kernel.envoy import start

pytestmark = pytest.mark.kernel

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
FALLBACK = self_signed("fallback.test", datetime.datetime.now(datetime.UTC))
SHOP = self_signed("shop.test", datetime.datetime.now(datetime.UTC))


def path(service: str, where: str, kind: str = "Prefix") -> dict[str, Any]:
    return {
        "path": where,
        "pathType": kind,
        "backend": {"service": {"name": service, "port": {"name": "http"}}},
    }


INGRESS = msgspec.convert(
    {
        "metadata": {"name": "i", "namespace": "n"},
        "spec": {
            "tls": [
                {"hosts": ["shop.test"], "secretName": "shop"},
                {"hosts": ["bad.test"], "secretName": "missing"},
            ],
            "rules": [
                {
                    "host": "shop.test",
                    "http": {
                        "paths": [
                            path("web", "/"),
                            path("api", "/api"),
                            path("web", "/api", "Exact"),
                        ]
                    },
                },
                {"host": "*.wild.test", "http": {"paths": [path("api", "/")]}},
                {"host": "gone.test", "http": {"paths": [path("none", "/")]}},
            ],
        },
    },
    Ingress,
)
MANY = [f"s{i}" for i in range(500)]


def many(names: list[str]) -> Ingress:
    """An Ingress with a host and a backend for each."""
    rules = [{"host": f"{n}.test", "http": {"paths": [path(n, "/")]}} for n in names]
    spec = {"rules": rules}
    return msgspec.convert({"metadata": {"name": "i", "namespace": "n"}, "spec": spec}, Ingress)


CLASS = msgspec.convert(
    {
        "metadata": {
            "name": "k",
            "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"},
        },
        "spec": {"controller": CONTROLLER},
    },
    IngressClass,
)


def service(name: str, app_protocol: str = "") -> Service:
    return msgspec.convert(
        {
            "metadata": {"name": name, "namespace": "n"},
            "spec": {
                "clusterIP": "10.96.0.9",
                "ports": [{"name": "http", "port": 80, "appProtocol": app_protocol}],
            },
        },
        Service,
    )


def endpoints(name: str, *addresses: str) -> EndpointSlice:
    obj = {
        "metadata": {
            "name": name,
            "namespace": "n",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [a]} for a in addresses],
        "ports": [{"name": "http", "port": 8080}],
    }
    return msgspec.convert(obj, EndpointSlice)


class Front:
    """An Envoy that is told what is compiled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.feed = Feed(folder / XDS)
        self.app_protocol: dict[str, str] = {}

    async def show(self, *slices: EndpointSlice, ingress: Ingress = INGRESS) -> None:
        names = ("web", "api", *MANY)
        services = {s.key: s for s in (service(n, self.app_protocol.get(n, "")) for n in names)}
        certificates: dict[Key, Certificate] = {Key("n", "shop"): SHOP}
        await self.feed.replace(
            compile_resources(plan([ingress], [CLASS]), services, slices, certificates, FALLBACK)
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        (self.folder / "boot.json").write_bytes(bootstrap("test"))
        log = (self.folder / "log").open("wb")
        envoy = start(Path("boot.json"), cwd=self.folder, log=log.fileno())
        try:
            yield
        finally:
            envoy.kill()
            envoy.wait_blocking()
            log.close()
            self.feed.close()


async def backend(address: str) -> asyncio.Server:
    """A server that answers with its own address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        body = f"{address} {head.split()[1].decode()}".encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body)
        )
        await writer.drain()
        writer.close()

    return await asyncio.start_server(answer, address, 8080)


def get(host: str, target: str, *, tls: str | None = None, connect: int = 80) -> tuple[int, str]:
    """Status and body of one request to Envoy."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", 443 if tls is not None else connect, timeout=10
    )
    connection.connect()
    if tls is not None:
        context = ssl._create_unverified_context()
        connection.sock = context.wrap_socket(connection.sock, server_hostname=tls or None)
    connection.request("GET", target, headers={"Host": host})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


def certificate(name: str) -> bytes | None:
    context = ssl._create_unverified_context()
    connection = http.client.HTTPConnection("127.0.0.1", 443, timeout=10)
    connection.connect()
    with context.wrap_socket(connection.sock, server_hostname=name) as secured:
        return secured.getpeercert(binary_form=True)


async def until(status: int, *arguments: Any) -> str:
    """Ask until the answer has that status (Envoy takes its first configuration by itself); the test's timeout bounds it."""
    while True:
        try:
            found = await asyncio.to_thread(get, *arguments)
        except OSError:
            await asyncio.sleep(0.01)
            continue
        if found[0] == status:
            return found[1]
        await asyncio.sleep(0.01)


async def test_hosts_paths_and_certificates(tmp_path: Path) -> None:
    front = Front(tmp_path)
    await front.show(endpoints("web", "127.0.0.2"), endpoints("api", "127.0.0.3"))
    servers = [await backend("127.0.0.2"), await backend("127.0.0.3")]
    with front.running():
        await until(200, "shop.test", "/")
        table = [
            ("shop.test", "/", 200, "127.0.0.2 /"),
            ("shop.test:80", "/x?y=1", 200, "127.0.0.2 /x?y=1"),
            ("shop.test", "/api", 200, "127.0.0.2 /api"),
            ("shop.test", "/api/", 200, "127.0.0.3 /api/"),
            ("shop.test", "/apis", 200, "127.0.0.2 /apis"),
            ("shop.test", "/x/../api/1", 200, "127.0.0.3 /api/1"),
            ("a.wild.test", "/", 200, "127.0.0.3 /"),
            ("A.Wild.TEST", "/", 200, "127.0.0.3 /"),
            ("SHOP.test", "/api/", 200, "127.0.0.3 /api/"),
            ("shop.test", "/API", 200, "127.0.0.2 /API"),
            ("a.b.wild.test", "/", 404, ""),
            ("wild.test", "/", 404, ""),
            ("other.test", "/", 404, ""),
            ("gone.test", "/", 503, "Service n/none or its port http does not exist\n"),
        ]
        for host, target, status, body in table:
            assert await asyncio.to_thread(get, host, target) == (status, body), (host, target)
        assert (await asyncio.to_thread(lambda: get("shop.test", "/", tls="shop.test")))[0] == 200
        shown = {
            name: await asyncio.to_thread(certificate, name)
            for name in ("shop.test", "bad.test", "x.test")
        }
        assert shown["shop.test"] == ssl.PEM_cert_to_DER_cert(SHOP.chain.decode())
        assert (
            shown["bad.test"]
            == shown["x.test"]
            == ssl.PEM_cert_to_DER_cert(FALLBACK.chain.decode())
        )
    for server in servers:
        server.close()


def ask_10(host: str) -> bytes:
    """A request as ancient clients and simple health checks make it."""
    with socket.create_connection(("127.0.0.1", 80), 10) as connection:
        connection.sendall(f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        return b"".join(iter(lambda: connection.recv(65536), b""))


async def test_old_clients_and_new_backends(tmp_path: Path) -> None:
    front = Front(tmp_path)
    first_bytes: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first_bytes.set_result(await reader.readexactly(14))
        writer.close()

    servers = [
        await backend("127.0.0.2"),
        await asyncio.start_server(listen, "127.0.0.3", 8080),
    ]
    front.app_protocol["api"] = "kubernetes.io/h2c"
    await front.show(endpoints("web", "127.0.0.2"), endpoints("api", "127.0.0.3"))
    with front.running():
        await until(200, "shop.test", "/")
        answer = await asyncio.to_thread(ask_10, "shop.test")
        assert answer.startswith(b"HTTP/1.0 200 OK")
        assert answer.endswith(b"127.0.0.2 /")
        await asyncio.to_thread(get, "shop.test", "/api/x")
        assert await first_bytes == b"PRI * HTTP/2.0"
    for server in servers:
        server.close()


async def test_a_change_of_endpoints_is_followed(tmp_path: Path) -> None:
    front = Front(tmp_path)
    await front.show(endpoints("web"))
    server = await backend("127.0.0.4")
    with front.running():
        await until(503, "shop.test", "/")
        await front.show(endpoints("web", "127.0.0.4"))
        assert await until(200, "shop.test", "/") == "127.0.0.4 /"
        await front.show(endpoints("web"))
        await until(503, "shop.test", "/")
    server.close()


async def test_five_hundred_backends_come_and_go(tmp_path: Path) -> None:
    front = Front(tmp_path)
    server = await backend("127.0.0.5")
    slices = [endpoints(name, "127.0.0.5") for name in MANY]
    await front.show(*slices[:250], ingress=many(MANY[:250]))
    with front.running():
        await until(200, "s249.test", "/")
        for count in (500, 499):
            await front.show(*slices[:count], ingress=many(MANY[:count]))
            for name in (MANY[0], MANY[count - 1]):
                assert await until(200, f"{name}.test", "/") == "127.0.0.5 /"
        await until(404, "s499.test", "/")
    server.close()
