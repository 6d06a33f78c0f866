import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from kubewire.cli.xds import xds


@pytest.mark.kernel
def test_an_address_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    (tmp_path / "objects.yaml").write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n")
    with socket.create_server(("127.0.0.1", 18000)):
        result = CliRunner().invoke(xds, ["-f", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output.startswith("Error: --listen 127.0.0.1:18000: ")
    assert "address already in use" in result.output
