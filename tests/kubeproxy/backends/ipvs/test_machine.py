import pytest

from kubewire.api.errors import InputError
from kubewire.kubeproxy import backends
from kubewire.kubeproxy.backends.ipvs.proxier import lacking
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.inspect import connection_table


def test_a_machine_without_ipvs_is_refused_in_one_line_with_the_fix() -> None:
    why = lacking()
    if not why:
        backends.require_machine("ipvs", "--proxy-mode ipvs")
        return
    with pytest.raises(InputError) as caught:
        backends.require_machine("ipvs", "--proxy-mode ipvs")
    assert str(caught.value) == f"--proxy-mode ipvs: {why}"
    assert "\n" not in why
    with pytest.raises(InputError, match="mode ipvs: "):
        backends.proxier(Config("ipvs"))


@pytest.mark.kernel
def test_only_ipvs_has_a_connection_table_of_its_own() -> None:
    with pytest.raises(InputError, match="mode nftables has no connection table of its own"):
        connection_table(Config("nftables"))
