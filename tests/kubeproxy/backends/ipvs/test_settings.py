import pytest

from kubewire.kubeproxy.backends.ipvs.settings import wanted
from kubewire.kubeproxy.ipvsoptions import IpvsOptions


@pytest.mark.parametrize(("release", "reuse"), [((5, 4), 0), ((5, 9), None), ((6, 1), None)])
def test_only_old_kernels_need_ports_not_to_be_reused(
    release: tuple[int, ...], reuse: int | None
) -> None:
    assert wanted(IpvsOptions(), release).get("net.ipv4.vs.conn_reuse_mode") == reuse


def test_strict_arp() -> None:
    more = (
        wanted(IpvsOptions(strict_arp=True), (6, 1)).items() - wanted(IpvsOptions(), (6, 1)).items()
    )
    assert dict(more) == {"net.ipv4.conf.all.arp_ignore": 1, "net.ipv4.conf.all.arp_announce": 2}
