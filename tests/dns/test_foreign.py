"""Other people's servers and resolvers: bind9 and knot transfer our zones and give us theirs, delv
validates our signatures, the resolvers of glibc and musl find names through a search path."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_interface
from pathlib import Path

import pytest

from kubewire.kernel import routes
from kubewire.kernel.rtnetlink import RtNetlink

pytestmark = pytest.mark.kernel

ZONE = """$TTL 60
@ IN SOA ns hostmaster 7 3600 600 86400 30
@ IN NS ns
ns IN A 192.0.2.53
www IN A 192.0.2.1
www IN AAAA 2001:db8::1
www IN TXT "one" "two"
alias IN CNAME www
lost IN CNAME gone
_s._tcp IN SRV 1 2 80 www
"""
NAMED = """
options {{ directory "{folder}"; pid-file none; listen-on {{ 127.0.0.2; }}; listen-on-v6 {{ none; }};
  recursion no; session-keyfile "{folder}/session.key"; dnssec-validation no; transfer-source 127.0.0.2; }};
controls {{ }};
zone "example.org" {{ {zone} }};
"""
KNOT = """
server:
    rundir: "{folder}"
    listen: 127.0.0.2@53
log:
  - target: stderr
    any: info
database:
    storage: "{folder}"
remote:
  - id: primary
    address: 127.0.0.1@53
    via: 127.0.0.2
acl:
  - id: notify
    address: 127.0.0.1
    action: notify
zone:
  - domain: example.org
    storage: "{folder}"
    master: primary
    acl: notify
"""
RESOLVE = r"""
#include <netdb.h>
#include <stdio.h>
#include <arpa/inet.h>
int main(int n, char **v) {
  struct addrinfo *r, *i, h = {.ai_socktype = SOCK_STREAM};
  int e = getaddrinfo(v[1], 0, &h, &r);
  if (e) { puts(gai_strerror(e)); return 1; }
  for (i = r; i; i = i->ai_next) {
    char t[64];
    void *a = i->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)i->ai_addr)->sin_addr
                                      : (void *)&((struct sockaddr_in6 *)i->ai_addr)->sin6_addr;
    puts(inet_ntop(i->ai_family, a, t, sizeof t));
  }
  return 0;
}
"""


@contextmanager
def started(command: list[str], *, until: str, errors: bool = False) -> Iterator[None]:
    """A server, once a line of its log (standard error if ``errors``) holds ``until``."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL if errors else subprocess.PIPE,
        stderr=subprocess.PIPE if errors else None,
        text=True,
    )
    stream = process.stderr if errors else process.stdout
    assert stream is not None
    try:
        log = []
        for line in stream:
            log.append(line)
            if until in line:
                break
        else:
            pytest.fail("".join(log[-8:]))
        yield
    finally:
        process.kill()
        process.communicate()


@contextmanager
def kubewire(folder: Path, corefile: str, until: str = "example.org.:53") -> Iterator[None]:
    (folder / "Corefile").write_text(corefile)
    (folder / "db").write_text(ZONE)
    command = [sys.executable, "-m", "kubewire", "dns", "--conf", str(folder / "Corefile")]
    with started(command, until=until):
        yield


def named(folder: Path, zone: str) -> list[str]:
    # It listens at addresses of devices only.
    with RtNetlink() as netlink:
        netlink.transact([routes.put_address(netlink.index("lo"), ip_interface("127.0.0.2/32"))])
    conf = folder / "named.conf"
    conf.write_text(NAMED.format(folder=folder, zone=zone))
    return ["/usr/sbin/named", "-g", "-c", str(conf), "-n", "1"]


def dig(server: str, *words: str) -> list[str]:
    command = ["dig", "+short", "+tries=1", "+time=5", f"@{server}", *words]
    return sorted(subprocess.check_output(command, text=True).splitlines())


def check_copy(server: str) -> None:
    """The zone as it was transferred."""
    assert dig(server, "www.example.org", "A") == ["192.0.2.1"]
    assert dig(server, "www.example.org", "AAAA") == ["2001:db8::1"]
    assert dig(server, "www.example.org", "TXT") == ['"one" "two"']
    assert dig(server, "_s._tcp.example.org", "SRV") == ["1 2 80 www.example.org."]
    assert dig(server, "alias.example.org", "CNAME") == ["www.example.org."]
    assert dig(server, "example.org", "SOA")[0].split()[2] == "7"


PRIMARY = """example.org {{
  bind 127.0.0.1
  file {folder}/db
  transfer {{
    to 127.0.0.2
  }}
}}
"""


@pytest.mark.tool("named", "dig")
def test_bind_as_secondary(tmp_path: Path) -> None:
    command = named(tmp_path, 'type secondary; primaries { 127.0.0.1; }; file "copy";')
    corefile = PRIMARY.format(folder=tmp_path)
    with kubewire(tmp_path, corefile), started(command, until="Transfer status", errors=True):
        check_copy("127.0.0.2")


@pytest.mark.tool("knotd", "dig")
def test_knot_as_secondary(tmp_path: Path) -> None:
    conf = tmp_path / "knot.conf"
    conf.write_text(KNOT.format(folder=tmp_path))
    command = [str(shutil.which("knotd", path="/usr/sbin")), "-c", str(conf)]
    corefile = PRIMARY.format(folder=tmp_path)
    with kubewire(tmp_path, corefile), started(command, until="zone updated", errors=True):
        check_copy("127.0.0.2")


@pytest.mark.tool("named", "dig")
def test_bind_as_primary(tmp_path: Path) -> None:
    (tmp_path / "zone").write_text(ZONE)
    command = named(tmp_path, 'type primary; file "zone"; allow-transfer { any; };')
    corefile = """example.org {
      bind 127.0.0.1
      secondary {
        transfer from 127.0.0.2
      }
    }
    """
    with (
        started(command, until=" running", errors=True),
        kubewire(tmp_path, corefile, until="Transferred: example.org."),
    ):
        check_copy("127.0.0.1")


@pytest.mark.tool("delv", "dnssec-keygen")
@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("www.example.org", "A", "fully validated"),
        ("alias.example.org", "A", "fully validated"),
        ("www.example.org", "MX", "negative response, fully validated"),
        ("nope.example.org", "A", "negative response, fully validated"),
        ("example.org", "DNSKEY", "fully validated"),
        ("example.org", "AAAA", "negative response, fully validated"),
        ("lost.example.org", "A", "fully validated"),
        ("www.example.org", "NSEC", "fully validated"),
    ],
)
def test_signatures_are_valid(tmp_path: Path, name: str, kind: str, expected: str) -> None:
    keygen = ["dnssec-keygen", "-K", str(tmp_path), "-a", "ECDSAP256SHA256", "-f", "KSK"]
    key = subprocess.check_output([*keygen, "example.org"], text=True, stderr=subprocess.DEVNULL)
    public = (tmp_path / f"{key.strip()}.key").read_text().splitlines()[-1].split("DNSKEY ")[1]
    flags, protocol, algorithm, *rest = public.split()
    anchor = tmp_path / "anchor"
    anchor.write_text(
        f'trust-anchors {{ example.org. static-key {flags} {protocol} {algorithm} "{"".join(rest)}"; }};'
    )
    corefile = f"""example.org {{
      bind 127.0.0.1
      file {tmp_path}/db
      dnssec {{
        key file {tmp_path / key.strip()}
      }}
    }}
    """
    with kubewire(tmp_path, corefile):
        command = ["delv", "@127.0.0.1", "-a", str(anchor), "+root=example.org", name, kind]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert f"; {expected}" in result.stdout, result.stdout + result.stderr


CLUSTER = """cluster.local {{
  bind 127.0.0.1
  file {folder}/cluster
}}
. {{
  bind 127.0.0.1
  file {folder}/world
}}
"""
CLUSTER_ZONE = """$TTL 5
@ IN SOA ns hostmaster 1 3600 600 86400 5
web.default.svc IN A 10.96.0.7
web.default.svc IN AAAA fd00::7
four.default.svc IN A 10.96.0.8
"""
WORLD_ZONE = """$TTL 5
@ IN SOA ns hostmaster 1 3600 600 86400 5
www.example.com. IN A 192.0.2.9
"""
RESOLV = """search default.svc.cluster.local svc.cluster.local cluster.local
nameserver 127.0.0.1
options ndots:5
"""
NAMES = [
    ("web", ["10.96.0.7", "fd00::7"]),
    ("web.default", ["10.96.0.7", "fd00::7"]),
    ("web.default.svc.cluster.local", ["10.96.0.7", "fd00::7"]),
    ("four", ["10.96.0.8"]),
    ("www.example.com", ["192.0.2.9"]),
    ("nope.example.com", []),
]


@pytest.mark.tool("mount", "cc", "musl-gcc")
@pytest.mark.parametrize("compiler", ["cc", "musl-gcc"])
def test_resolvers_find_names(tmp_path: Path, compiler: str) -> None:
    (tmp_path / "resolve.c").write_text(RESOLVE)
    (tmp_path / "resolv.conf").write_text(RESOLV)
    program = tmp_path / "resolve"
    subprocess.check_call([compiler, "-o", str(program), str(tmp_path / "resolve.c")])
    subprocess.check_call(["mount", "--bind", str(tmp_path / "resolv.conf"), "/etc/resolv.conf"])
    (tmp_path / "cluster").write_text(CLUSTER_ZONE)
    (tmp_path / "world").write_text(WORLD_ZONE)
    with kubewire(tmp_path, CLUSTER.format(folder=tmp_path), until=".:53 on"):
        for name, expected in NAMES:
            result = subprocess.run([program, name], capture_output=True, text=True, check=False)
            found = sorted(result.stdout.split()) if result.returncode == 0 else []
            assert found == sorted(expected), (name, result.stdout)
