"""The rows with real packets through the real kernel."""

from collections.abc import Sequence

import pytest

from kubewire.kernel.iptables import VARIANTS
from kubewire.kubeproxy.backends.iptables.proxier import IptablesProxier
from kubewire.kubeproxy.config import Config
from tests.kubeproxy.lab import cases, judge

pytestmark = [pytest.mark.kernel, pytest.mark.tool("iptables-nft", "iptables-legacy")]


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows(variant: str) -> None:
    def make(config: Config, service_cidrs: Sequence[str]) -> IptablesProxier:
        return IptablesProxier(config, service_cidrs, variant=variant)

    faults = judge(cases("iptables"), make)
    assert not faults, "\n".join(faults)
