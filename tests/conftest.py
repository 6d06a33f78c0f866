"""Tests marked ``kernel`` run in a sandbox of their own.

    @pytest.mark.kernel
    def test_something(tmp_path): ...

The whole test, with its fixtures, runs in a forked child that has fresh user, mount, network, UTS,
IPC and pid namespaces: it is root there, whoever started pytest, and whatever it makes (devices,
rules, mounts, processes) is gone when it ends. There, ``lo`` is up, ``/run`` is an empty tmpfs with
``/run/netns``, and nothing but the loopback can be reached. Async tests work as everywhere. Set
``pytestmark = pytest.mark.kernel`` for a whole module. Fixtures of a wider scope than the function
are made anew in every child and are not torn down there: the end of the namespaces does it.

Tests marked ``tool("nft")`` need that program. Where it is missing they are left out, and the end
of the run names program and number.

Tests marked ``ipvs`` are kernel tests for a kernel that has IPVS, and for the machine's root: older
kernels keep IPVS for that one. Elsewhere they are left out likewise; ``make test-ipvs`` runs them
in a virtual machine.
"""

import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from _pytest.reports import TestReport
from _pytest.runner import runtestprotocol
from hypothesis import settings

from kubewire.kernel import sandbox

# No test may depend on the machine's speed.
settings.register_profile("kubewire", deadline=None)
settings.load_profile("kubewire")

SEARCH = os.pathsep.join(
    (str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", "/sbin")
)
IPVS = "ip_vs (make test-vm runs them)"
WIREGUARD = "WireGuard in the kernel (make test-vm runs them)"
_missing: Counter[str] = Counter()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests whose programs this machine does not have."""
    kept, left_out = [], []
    for item in items:
        wanted = [name for mark in item.iter_markers("tool") for name in mark.args]
        absent = [name for name in wanted if shutil.which(name, path=SEARCH) is None]
        if item.get_closest_marker("ipvs") and not _has_ipvs():
            absent.append(IPVS)
        if item.get_closest_marker("wireguard") and not Path("/sys/module/wireguard").exists():
            absent.append(WIREGUARD)
        _missing.update(absent)
        (left_out if absent else kept).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def _has_ipvs() -> bool:
    return Path("/proc/net/ip_vs").exists() and os.geteuid() == 0


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which tests were left out for want of a program."""
    for name, count in sorted(_missing.items()):
        terminalreporter.write_line(f"left out: {count} tests that need {name}")


def pytest_report_header() -> list[str]:
    """Name the missing programs also where the workers collect (xdist)."""
    known = ("nft", "iptables", "ipvsadm", "dig", "conntrack", "kubectl")
    return [
        "missing programs: "
        + (", ".join(n for n in known if shutil.which(n, path=SEARCH) is None) or "none")
    ]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a ``kernel`` or ``ipvs`` test in a sandbox and replay its reports here."""
    if not any(item.get_closest_marker(name) for name in ("kernel", "ipvs")):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _reports(item):
        item.ihook.pytest_runtest_logreport(report=report)
    # What an earlier test has set up out here and the next one does not need ends now.
    item.session._setupstate.teardown_exact(nextitem)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _reports(item: pytest.Item) -> list[TestReport]:
    def in_sandbox() -> list[dict[str, object]]:
        # The parent node as "next": what belongs to the function ends here, nothing wider does.
        reports = runtestprotocol(item, log=False, nextitem=item.parent)  # type: ignore[arg-type]
        return [report._to_json() for report in reports]

    try:
        as_user = item.get_closest_marker("ipvs") is None
        found = sandbox.run(in_sandbox, user_namespace=as_user)
    except (sandbox.SandboxError, pytest.fail.Exception) as error:
        return [_broken(item, str(error))]
    assert isinstance(found, list)
    return [TestReport._from_json(data) for data in found]


def _broken(item: pytest.Item, text: str) -> TestReport:
    return TestReport(
        item.nodeid, item.location, dict.fromkeys(item.keywords, 1), "failed", text, "call"
    )
