from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from kubewire.api.errors import InputError
from kubewire.cli.proxy import configured, connection_to, proxy
from kubewire.kernel.nfnetlink import Nfnetlink
from kubewire.kubeproxy.backends.nftables.proxier import NftablesProxier
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.config import read as read_config
from kubewire.kubeproxy.objects import read
from kubewire.kubeproxy.table import Change
from kubewire.kubeproxy.trace import Tracer
from tests.kubeproxy.table import CONFIG, NODE, objects


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"moode": "x"}, 'unknown field "moode"'),
        ({"mode": "userspace"}, "mode: "),
        ({"detectLocalMode": "Bridge"}, "detectLocalMode: "),
        ({"clusterCIDR": "x"}, "clusterCIDR: "),
    ],
)
def test_what_it_cannot_do_is_refused_by_field(
    tmp_path: Path, changes: dict[str, str], field: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, **changes}))
    result = CliRunner().invoke(proxy, ["--config", str(path)])
    assert isinstance(result.exception, InputError)
    assert field in str(result.exception)


def test_flags_go_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, "nftables": {"syncPeriod": "10s"}}))
    flags = {
        "nodeport_addresses": "primary, 10.0.0.0/8",
        "masquerade_all": True,
        "hostname_override": "Node-A",
        "cluster_cidr": "10.0.0.0/8",
    }
    config = configured(str(path), flags)
    assert config.node_port_addresses == ("primary", "10.0.0.0/8")
    assert (config.masquerade_all, config.sync_period) == (True, 10.0)
    assert (config.hostname_override, config.cluster_cidrs) == ("node-a", ("10.0.0.0/8",))


def test_a_master_needs_no_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert connection_to(None, None, "http://127.0.0.1:8001/").server == "http://127.0.0.1:8001"
    with pytest.raises(InputError, match="no kubeconfig found"):
        connection_to(None, None, "")
    cluster = {"name": "c", "cluster": {"server": "https://10.0.0.1"}}
    context = {"name": "x", "context": {"cluster": "c", "namespace": "n"}}
    file = {"current-context": "x", "clusters": [cluster], "contexts": [context]}
    (tmp_path / "none").write_text(yaml.safe_dump(file))
    found = connection_to(None, None, "http://127.0.0.1:8001")
    assert (found.server, found.namespace) == ("http://127.0.0.1:8001", "n")


@pytest.mark.kernel
def test_dump_shows_what_differs(tmp_path: Path) -> None:
    (tmp_path / "objects.yaml").write_text(yaml.safe_dump_all(objects("plain")))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    files = ["-f", str(tmp_path / "objects.yaml"), "--config", str(tmp_path / "config.yaml")]
    about = [*files, "--node", NODE]
    before = CliRunner().invoke(proxy, ["dump", "--diff", *about])
    assert before.exit_code == 1
    assert "-element services4: 10.96.0.41 . tcp . 80 : goto ipv4-c2-c2m-c2m" in before.stdout
    plan = Tracer(read((o, str) for o in objects("plain")), read_config(CONFIG, "c"), NODE)
    proxier = NftablesProxier(plan.config)
    proxier.sync([Change(k, None, f) for k, f in plan.plan.frontends.items()], plan.plan.addresses)
    proxier.close()
    after = CliRunner().invoke(proxy, ["dump", "--diff", *about])
    assert after.exit_code == 0, after.output


@pytest.mark.kernel
def test_cleanup_removes_the_rules() -> None:
    proxier = NftablesProxier(Config())
    proxier.sync([], {})
    proxier.close()
    assert CliRunner().invoke(proxy, ["--cleanup"]).exit_code == 0
    with Nfnetlink() as netlink:
        assert not netlink.tables()
