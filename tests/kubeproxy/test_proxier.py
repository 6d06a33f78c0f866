import pytest

from kubewire.kubeproxy.backends.nftables.proxier import NftablesProxier
from kubewire.kubeproxy.config import read as read_config
from kubewire.kubeproxy.objects import read
from kubewire.kubeproxy.table import Change
from kubewire.kubeproxy.trace import Tracer
from tests.kubeproxy.table import CONFIG, FIXTURES, NODE, objects

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("fixture", FIXTURES)
def test_the_kernel_takes_the_rules_whole_and_change_by_change(fixture: str) -> None:
    config = read_config(CONFIG, "config")
    found = Tracer(read((o, str) for o in objects(fixture)), config, NODE).plan
    frontends = list(found.frontends.items())
    addresses = {service: (ip,) for ip, service in found.cluster_ips.items()}
    proxier = NftablesProxier(config, ["10.96.0.0/16"])
    try:
        proxier.sync([Change(k, None, f) for k, f in frontends], addresses)
        proxier.apply([Change(k, f, None) for k, f in frontends], dict.fromkeys(addresses, ()))
        proxier.apply([Change(k, None, f) for k, f in frontends], addresses)
        proxier.sync([Change(k, None, f) for k, f in frontends], addresses)
    finally:
        proxier.close()
