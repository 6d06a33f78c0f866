"""``kubewire sync`` and ``kubewire controller-manager``: flags, exit statuses, messages."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner

from kubewire.api.errors import InputError, StatusError
from kubewire.cli.connect import Seconds
from kubewire.cli.controller_manager import _options, controller_manager
from kubewire.cli.sync import sync
from kubewire.client.kubeconfig import Connection


@contextmanager
def server(status: int, answer: Any, seen: list[str]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=httpd.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}"
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def kubeconfig(folder: Path, url: str) -> str:
    path = folder / "kubeconfig"
    named = {"name": "x"}
    config = {
        "clusters": [named | {"cluster": {"server": url}}],
        "contexts": [named | {"context": {"cluster": "x"}}],
        "current-context": "x",
    }
    path.write_text(json.dumps(config))
    return str(path)


def test_sync_waits_as_long_as_told(tmp_path: Path) -> None:
    seen: list[str] = []
    with server(200, {"resourceVersion": "7"}, seen) as url:
        args = ["--kubeconfig", kubeconfig(tmp_path, url), "--timeout", "1m30s"]
        result = CliRunner().invoke(sync, args, catch_exceptions=False)
    assert result.exit_code == 0
    assert seen == ["/kubewire/v1/sync?timeoutSeconds=90"]


def test_sync_names_who_lags(tmp_path: Path) -> None:
    late = StatusError("Timeout", "not applied within 1s: waiting for node-1/kube-proxy (at 5)")
    with server(504, late.to_wire(), []) as url:
        result = CliRunner().invoke(sync, ["--kubeconfig", kubeconfig(tmp_path, url)])
    # The entry point turns a StatusError into one line and exit status 1.
    assert isinstance(result.exception, StatusError)
    assert "node-1/kube-proxy" in str(result.exception)


def test_a_cluster_that_does_not_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBEWIRE_HOME", str(tmp_path))
    result = CliRunner().invoke(sync, ["--name", "other"])
    assert isinstance(result.exception, InputError)
    assert 'no cluster "other"' in str(result.exception)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10s", 10.0), ("1m30s", 90.0), ("500ms", 0.5), ("1h", 3600.0), ("7", 7.0), ("1.5s", 1.5)],
)
def test_durations(text: str, seconds: float) -> None:
    assert Seconds().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "s", "10x", "1s2", "-1s"])
def test_bad_durations(text: str) -> None:
    assert CliRunner().invoke(sync, ["--timeout", text]).exit_code == 2


def flags(**more: Any) -> dict[str, Any]:
    return {
        "controllers": "*",
        "cluster_cidr": "",
        "allocate_node_cidrs": True,
        "node_cidr_mask_size": 0,
        "node_cidr_mask_size_ipv4": 24,
        "node_cidr_mask_size_ipv6": 64,
        "node_monitor_grace_period": 40.0,
        "root_ca_file": None,
        "lb_pool": "",
        **more,
    }


def test_flags_become_options() -> None:
    found = Connection(server="https://x", ca=b"PEM")
    options = _options(found, flags(cluster_cidr="10.0.0.0/16,fd00::/48", lb_pool="1.1.1.1, ::1"))
    assert options.cluster_cidrs == ("10.0.0.0/16", "fd00::/48")
    assert options.lb_pool == ("1.1.1.1", "::1")
    assert options.root_ca == "PEM"
    none = _options(found, flags(cluster_cidr="10.0.0.0/16", allocate_node_cidrs=False))
    assert none.cluster_cidrs == ()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"cluster_cidr": "x"}, "--cluster-cidr"),
        ({"cluster_cidr": "10.0.0.0/16", "node_cidr_mask_size": 8}, "--node-cidr-mask-size 8: is larger than --cluster-cidr 10.0.0.0/16"),
        ({"cluster_cidr": "10.0.0.0/24", "node_cidr_mask_size": 33}, "--node-cidr-mask-size 33: a node would have no address"),
        ({"cluster_cidr": "fd00::/40"}, "--node-cidr-mask-size-ipv6 64: more than 2\\^16 node ranges in --cluster-cidr fd00::/40"),
        ({"cluster_cidr": "10.0.0.0/16,10.1.0.0/16"}, "--cluster-cidr 10.0.0.0/16,10.1.0.0/16: has two ranges of one family"),
        ({"cluster_cidr": "10.0.0.0/16,fd00::/48", "node_cidr_mask_size": 26}, "--node-cidr-mask-size 26: of one family only"),
        ({"controllers": "*,-none"}, '"-none" is not in the list'),
        ({"lb_pool": "10.0.0.1-x"}, "--lb-pool"),
    ],
)  # fmt: skip
def test_bad_flags(more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _options(Connection(server="https://x"), flags(**more))


def test_help_names_upstreams_flags() -> None:
    text = CliRunner().invoke(controller_manager, ["--help"]).output
    for flag in ("--cluster-cidr", "--node-cidr-mask-size", "--controllers", "--leader-elect"):
        assert flag in text
