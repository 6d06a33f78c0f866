"""The whole way against bind9: objects in the API, records in the zone, others' left alone."""

import asyncio
import base64
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kubewire.api.errors import InputError
from kubewire.dns.externaldns.controller import ExternalDns
from kubewire.dns.externaldns.plan import Changes
from kubewire.dns.externaldns.registry import Registry
from kubewire.dns.externaldns.rfc2136 import ProviderError, Server, Zones
from kubewire.testing.fakeapi import FakeApi

PORT = 5300
SECRET = base64.b64encode(b"k" * 32).decode()
CONF = f"""
options {{ directory "DIR"; pid-file none; listen-on port {PORT} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
  recursion no; notify no; session-keyfile "DIR/session.key"; dnssec-validation no; }};
controls {{ }};
key "k" {{ algorithm hmac-sha256; secret "{SECRET}"; }};
zone "example.org" {{ type primary; file "DIR/zone"; allow-update {{ key "k"; }}; allow-transfer {{ key "k"; }}; }};
"""
ZONE = """$TTL 60
@ SOA ns.example.org. h.example.org. 1 3600 600 86400 60
@ NS ns.example.org.
ns A 127.0.0.1
mail A 192.0.2.99
"""
SERVER = Server(("127.0.0.1",), ("example.org",), PORT, "k", SECRET)


@contextmanager
def bind(folder: Path) -> Iterator[None]:
    (folder / "zone").write_text(ZONE)
    conf = folder / "named.conf"
    conf.write_text(CONF.replace("DIR", str(folder)))
    command = ["/usr/sbin/named", "-g", "-c", str(conf), "-n", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        log = []
        for line in process.stderr:
            log.append(line)
            if line.rstrip().endswith(" running"):
                break
        else:
            pytest.fail("".join(log[-5:]))
        yield
    finally:
        process.kill()
        process.communicate()


def lookup(name: str, kind: str) -> list[str]:
    command = ["dig", "+short", "@127.0.0.1", "-p", str(PORT), name, kind]
    return sorted(subprocess.check_output(command, text=True).split("\n"))[1:]


def service(name: str, host: str, *ips: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": "d",
            "annotations": {"external-dns.kubernetes.io/hostname": host},
        },
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.7", "ports": [{"port": 80}]},
        "status": {"loadBalancer": {"ingress": [{"ip": ip} for ip in ips]}},
    }


class Observed(Zones):
    """Tells when changes have been sent."""

    def __init__(self, server: Server, registry: Registry) -> None:
        super().__init__(server, registry)
        self.applied = threading.Event()

    def apply(self, changes: Changes) -> None:
        super().apply(changes)
        self.applied.set()


def publisher(api: FakeApi, server: Server = SERVER, owner: str = "me") -> ExternalDns:
    zones = Zones(server, Registry(owner))
    return ExternalDns(api.client(), zones, owner=owner, sources=["service"])


@pytest.mark.kernel
@pytest.mark.tool("named", "dig")
async def test_zone_follows_the_objects(tmp_path: Path) -> None:
    api = FakeApi(
        service("web", "www.example.org", "192.0.2.1", "2001:db8::1"),
        service("mail", "mail.example.org", "192.0.2.2"),
        service("far", "www.example.net", "192.0.2.3"),
    )
    with bind(tmp_path):
        await publisher(api).once()
        assert lookup("www.example.org", "A") == ["192.0.2.1"]
        assert lookup("www.example.org", "AAAA") == ["2001:db8::1"]
        assert lookup("a-www.example.org", "TXT") == [
            '"heritage=external-dns,external-dns/owner=me,external-dns/resource=service/d/web"'
        ]
        # Nobody's TXT record says that the mail record is ours.
        assert lookup("mail.example.org", "A") == ["192.0.2.99"]
        serial = lookup("example.org", "SOA")
        await publisher(api).once()
        assert lookup("example.org", "SOA") == serial

        api.put(service("web", "www.example.org", "192.0.2.4"))
        await publisher(api).once()
        assert lookup("www.example.org", "A") == ["192.0.2.4"]
        assert lookup("www.example.org", "AAAA") == []
        assert lookup("aaaa-www.example.org", "TXT") == []

        await publisher(FakeApi(), owner="somebody").once()
        assert lookup("www.example.org", "A") == ["192.0.2.4"]
        await publisher(FakeApi()).once()
        assert lookup("www.example.org", "A") == lookup("a-www.example.org", "TXT") == []
        assert lookup("mail.example.org", "A") == ["192.0.2.99"]


@pytest.mark.kernel
@pytest.mark.tool("named", "dig")
async def test_events_are_followed(tmp_path: Path) -> None:
    api = FakeApi()
    with bind(tmp_path):
        zones = Observed(SERVER, Registry("me"))
        running = ExternalDns(
            api.client(), zones, owner="me", sources=["service"], min_event_interval=0
        )
        task = asyncio.create_task(running.run())
        await running.loop.wait_applied()
        api.put(service("web", "www.example.org", "192.0.2.1"))
        async with asyncio.timeout(20):
            await asyncio.to_thread(zones.applied.wait)
        task.cancel()
        assert lookup("www.example.org", "A") == ["192.0.2.1"]


@pytest.mark.kernel
@pytest.mark.tool("named")
async def test_wrong_key_is_told(tmp_path: Path) -> None:
    wrong = Server(("127.0.0.1",), ("example.org",), PORT, "k", base64.b64encode(b"x").decode())
    with bind(tmp_path), pytest.raises(BaseExceptionGroup) as raised:
        await publisher(FakeApi(), wrong).once()
    assert raised.group_contains(ProviderError, match="zone example.org: cannot be transferred")


def test_server_that_is_away() -> None:
    away = Server(("127.0.0.1",), ("example.org",), 1)
    with pytest.raises(ProviderError, match=r"127\.0\.0\.1: .*refused"):
        Zones(away, None).records()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hosts": ()}, "--rfc2136-host: is required"),
        ({"zones": ()}, "--rfc2136-zone: is required"),
        ({"secret": "?"}, "--rfc2136-tsig-secret: not base64"),
    ],
)
def test_bad_options(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Server(**{"hosts": ("127.0.0.1",), "zones": ("example.org",), "key_name": "k", **given})
