from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from kubewire.api.errors import InputError
from kubewire.cli.proxy import proxy
from tests.kubeproxy.table import CONFIG


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
