"""A look-up of a name outside the cluster, by the resolver of glibc: what autopath spares."""

import asyncio
import logging
import subprocess
import sys
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from kubewire.kernel import routes
from kubewire.kernel.rtnetlink import RtNetlink
from kubewire.testing.fakeapi import FakeApi

pytestmark = [pytest.mark.kernel, pytest.mark.tool("mount")]

POD = "10.244.0.9"
RESOLV = f"""nameserver {POD}
search default.svc.cluster.local svc.cluster.local cluster.local
options ndots:5
"""
COREFILE = """.:53 {
    log
    AUTOPATH
    kubernetes cluster.local {
        pods verified
    }
    file WORLD .
}
"""
WORLD = """$ORIGIN .
$TTL 60
@ IN SOA ns h 1 60 60 60 60
www.example.com IN A 192.0.2.80
"""
CLUSTER = [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}},
    {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client", "namespace": "default"},
        "status": {"phase": "Running", "podIP": POD, "podIPs": [{"ip": POD}]},
    },
    {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": [{"port": 80}]},
    },
]  # fmt: skip
LOOK_UP = """
import socket, sys
name, family = sys.argv[1], getattr(socket, sys.argv[2])
print(*sorted({a[4][0] for a in socket.getaddrinfo(name, 80, family)}))
"""


@pytest.fixture
def look_up(tmp_path: Path) -> Any:
    """The resolver of a pod: its address is the one by which it reaches its nameserver, itself."""
    with RtNetlink() as netlink:
        netlink.transact([routes.put_address(netlink.index("lo"), ip_interface(f"{POD}/32"))])
    (tmp_path / "resolv.conf").write_text(RESOLV)
    subprocess.check_call(["mount", "--bind", str(tmp_path / "resolv.conf"), "/etc/resolv.conf"])

    async def ask(name: str, family: str) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", LOOK_UP, name, family, stdout=subprocess.PIPE
        )
        found, _ = await process.communicate()
        return found.decode().strip()

    return ask


@pytest.mark.parametrize(
    ("directive", "family", "questions"),
    [
        ("", "AF_INET", 4),
        ("autopath RESOLV", "AF_INET", 1),
        ("autopath @kubernetes", "AF_INET", 1),
        ("", "AF_UNSPEC", 8),
        ("autopath @kubernetes", "AF_UNSPEC", 2),
    ],
)
async def test_a_look_up_costs(
    serve: Any, look_up: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    directive: str, family: str, questions: int,
) -> None:  # fmt: skip
    (tmp_path / "world").write_text(WORLD)
    caplog.set_level(logging.INFO, "kubewire.dns.plugin.log")
    text = COREFILE.replace("AUTOPATH", directive)
    for word, file in (("RESOLV", "resolv.conf"), ("WORLD", "world")):
        text = text.replace(word, str(tmp_path / file))
    async with serve(text, client=FakeApi(*CLUSTER).client, agent="dns/test"):
        assert await look_up("www.example.com", family) == "192.0.2.80"
        assert len([r for r in caplog.records if r.name == "kubewire.dns.plugin.log"]) == questions
        assert await look_up("web", "AF_INET") == "10.96.0.7"
