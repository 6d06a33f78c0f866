"""A cache beside kube-proxy's rules, asked by real packets."""

import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kubewire.kernel.conntrack import Conntrack
from kubewire.kernel.nfnetlink import Nfnetlink
from kubewire.kernel.rtnetlink import RtNetlink
from kubewire.lang.nftables import model

pytestmark = [pytest.mark.kernel, pytest.mark.tool("dig")]

CLUSTER = """cluster.local in-addr.arpa ip6.arpa {
  bind 127.0.0.2
  hosts {
    10.96.0.7 web.default.svc.cluster.local
  }
}
"""
LOCAL = ("169.254.20.10", "10.96.0.10")


@contextmanager
def serving(*args: str, lines: int) -> Iterator[subprocess.Popen[str]]:
    """A ``kubewire dns`` that has said what it serves, a line per zone and address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kubewire", "dns", *args], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        for _ in range(lines):
            assert process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def dig(server: str, *words: str) -> str:
    command = ["dig", "+short", "+tries=1", "+time=5", f"@{server}", *words]
    return subprocess.check_output(command, text=True).strip()


def test_cache_answers_at_its_addresses_and_leaves_nothing(tmp_path: Path) -> None:
    corefile = tmp_path / "Corefile"
    corefile.write_text(CLUSTER)
    local = ["--node-local", "--localip", ",".join(LOCAL), "--upstream", "127.0.0.2"]
    foreign = model.Transaction("inet")
    foreign.add_table("somebody")
    with Nfnetlink() as nft, RtNetlink() as netlink:
        nft.commit(foreign)
        with serving("--conf", str(corefile), lines=3), serving(*local, lines=8) as cache:
            for server in LOCAL:
                for how in ("+notcp", "+tcp"):
                    assert dig(server, how, "web.default.svc.cluster.local") == "10.96.0.7"
            with Conntrack() as conntrack:
                seen = {str(e.original.destination) for e in conntrack.entries()}
            # What is asked of the cluster's DNS may be tracked; what pods ask of the cache is not.
            assert not seen & set(LOCAL)
            assert nft.tables() == {"kubewire-nodelocal", "somebody"}
            page = urllib.request.urlopen("http://127.0.0.1:9353/metrics", timeout=5).read()
            assert b'coredns_nodecache_setup_errors_total{errortype="iptables"} 0' in page
            cache.send_signal(signal.SIGTERM)
            assert cache.wait() == 0
        assert nft.tables() == {"somebody"}
        assert not {str(a.address.ip) for a in netlink.addresses()} & set(LOCAL)
        assert "nodelocaldns" not in {link.name for link in netlink.links()}


TEMPLATE = """.:53 {
  bind __PILLAR__LOCAL__DNS__
  reload 2s 1s
  hosts {
    ADDRESS name.test
  }
}
"""


def test_a_template_is_filled_in_memory_and_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed, it leaves no folder behind."""
    base, scratch = tmp_path / "Corefile.base", tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    base.write_text(TEMPLATE.replace("ADDRESS", "192.0.2.1"))
    local = ["--node-local", "--localip", LOCAL[0], "--upstream", "127.0.0.2"]
    with serving(*local, "--conf", str(base), lines=1) as cache:
        assert dig(LOCAL[0], "name.test") == "192.0.2.1"
        base.write_text(TEMPLATE.replace("ADDRESS", "192.0.2.2"))
        assert cache.stdout
        assert any("Reloading complete" in line for line in cache.stdout)
        assert dig(LOCAL[0], "name.test") == "192.0.2.2"
        cache.kill()
        cache.wait()
    assert not list(scratch.iterdir())


def test_what_stays_is_taken_over() -> None:
    local = ["--node-local", "--localip", LOCAL[0], "--upstream", "127.0.0.2", "--skipteardown"]
    with Nfnetlink() as nft:
        for _ in range(2):
            with serving(*local, lines=4) as cache:
                cache.send_signal(signal.SIGTERM)
                assert cache.wait() == 0
            assert nft.tables() == {"kubewire-nodelocal"}


def test_rules_that_somebody_flushed_come_back() -> None:
    from kubewire.dns.nodelocal.agent import Agent
    from kubewire.dns.nodelocal.plan import TABLE, NodeLocal

    agent = Agent(NodeLocal(LOCAL, upstream=("127.0.0.2",)))
    with Nfnetlink() as nft:
        agent.ensure()
        flush = model.Transaction("inet")
        flush.delete_table(TABLE)
        nft.commit(flush)
        agent.ensure()
        assert TABLE in nft.tables()
        agent.remove()
        agent.remove()
        assert TABLE not in nft.tables()
