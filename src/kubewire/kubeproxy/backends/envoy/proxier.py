"""Keeps the node's Envoy and the kernel's way to it equal to the Services.

Order matters: Envoy knows a cluster before the kernel sends anybody to it, and the kernel sends
nobody before Envoy forgets it. Endpoints of a known frontend are one small file.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import msgspec

from kubewire.api.meta import Key
from kubewire.kernel import netns
from kubewire.kernel.envoy import ConfigFiles
from kubewire.kernel.netlink import NetlinkError
from kubewire.kernel.nfnetlink import Nfnetlink
from kubewire.kubeproxy import backends
from kubewire.kubeproxy.backends.envoy import loop
from kubewire.kubeproxy.backends.envoy.compile import (
    Compiled,
    assignment_file,
    bootstrap,
    clusters_file,
    compile_frontend,
    kernel_config,
)
from kubewire.kubeproxy.backends.envoy.process import Envoy
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.plan import Frontend
from kubewire.kubeproxy.proxier import Dump
from kubewire.kubeproxy.table import Change
from kubewire.lang.nftables.model import Table, Transaction, difference
from kubewire.lang.nftables.model import replace as replace_table
from kubewire.lang.nftables.readback import KernelRule, meant
from kubewire.lang.xds.model import Cluster, response

NAME = "kubewire-envoy"
"""The table with the way to Envoy, and with everything that is not Envoy's."""
CLUSTERS = "cds.json"

CLUSTER_IPS = dict[Key, tuple[str, ...]]


class EnvoyProxier:
    """Envoy, its files, the rules that lead to it and those that lead from it."""

    def __init__(self, config: Config, service_cidrs: Iterable[str] = ()) -> None:
        self._config = config
        self._directory = Path(config.run_dir or _place())
        self._rules = backends.proxier(kernel_config(config), service_cidrs, name=NAME)
        self._netlink = Nfnetlink()
        self._envoy = Envoy(self._directory)
        self._files = ConfigFiles(self._directory)
        self._clusters: dict[str, msgspec.Raw] = {}
        self._own: Counter[str] = Counter()
        """Endpoints on this node, and how many frontends have each."""
        self._table: Table | None = None
        self._table_rules: dict[str, list[KernelRule]] = {}
        """Of the loop, as the kernel lists them."""
        self._version = time.time_ns()

    def sync(self, changes: Iterable[Change], cluster_ips: CLUSTER_IPS) -> None:
        """Envoy and the kernel's way to it, whatever there is."""
        compiled = [compile_frontend(c.new, str(self._directory)) for c in changes if c.new]
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._clusters = {n: _encode(c) for x in compiled for n, c in x.clusters.items()}
        self._own = Counter(ip for x in compiled for ip in x.own)
        self._files = ConfigFiles(self._directory)
        self._files.write(_assignments(compiled))
        self._write_clusters()
        loop.make(self._config)
        self._commit_loop(whole=True)
        versions = loop.versions()
        self._envoy.ensure(bootstrap(str(self._directory), NAME, versions, self._config))
        self._envoy.taken(str(self._version))
        self._rules.sync([Change(x.kernel.key, None, x.kernel) for x in compiled], cluster_ips)
        self._sweep()

    def apply(self, changes: Iterable[Change], cluster_ips: CLUSTER_IPS) -> None:
        """Commit what changed."""
        pairs = [(self._compiled(c.old), self._compiled(c.new), c.key) for c in changes]
        news = [new for _, new, _ in pairs if new]
        self._files.write(_assignments(news))
        changed = {n: _encode(c) for x in news for n, c in x.clusters.items()}
        changed = {n: raw for n, raw in changed.items() if self._clusters.get(n) != raw}
        if changed:
            self._clusters |= changed
            self._write_clusters()
        self._count(pairs)
        self._commit_loop()
        if changed:
            self._envoy.taken(str(self._version))
        elif news:
            self._envoy.settle()
        kernel = [
            Change(key, old.kernel if old else None, new.kernel if new else None)
            for old, new, key in pairs
        ]
        self._rules.apply([c for c in kernel if c.old != c.new], cluster_ips)
        self._forget(
            {n for old, _, _ in pairs if old for n in old.clusters}
            - {n for x in news for n in x.clusters}
        )

    def heal(self) -> bool:
        """Put back what is gone: Envoy, the loop, its rules, the way to Envoy."""
        started = self._envoy.ensure(
            bootstrap(str(self._directory), NAME, loop.versions(), self._config)
        )
        broken = not loop.intact() or self._loop_lines() != self._loop_actual()
        if broken:
            loop.make(self._config)
            self._commit_loop(whole=True)
        return self._rules.heal() or started or broken

    def dump(self) -> Dump:
        """The kernel's part, and Envoy's clusters with their endpoints."""
        kernel = self._rules.dump()
        return Dump(
            [*kernel.desired, *self._loop_lines(), *sorted(self._wanted())],
            [*kernel.actual, *self._loop_actual(), *sorted(self._actual())],
        )

    def clear(self) -> None:
        """End Envoy, remove the rules, devices, routes and files."""
        self._rules.clear()
        self._envoy.stop()
        if loop.NAME in self._netlink.tables():
            gone = Transaction("inet")
            gone.delete_table(loop.NAME)
            self._netlink.commit(gone)
        loop.remove(self._config)
        self._clusters, self._table = {}, None
        if self._directory.is_dir():
            for path in self._directory.iterdir():
                path.unlink()
            self._directory.rmdir()

    def close(self) -> None:
        """Give up the sockets; Envoy and the rules stay."""
        self._rules.close()
        self._netlink.close()
        self._envoy.close()

    def _compiled(self, frontend: Frontend | None) -> Compiled | None:
        return compile_frontend(frontend, str(self._directory)) if frontend else None

    def _write_clusters(self) -> None:
        self._version += 1
        content = clusters_file(self._clusters.values(), str(self._version))
        self._files.write({CLUSTERS: content})

    def _forget(self, names: set[str]) -> None:
        if names:
            for name in names:
                del self._clusters[name]
            self._write_clusters()
            self._files.remove(assignment_file(n) for n in names)

    def _count(self, pairs: Iterable[tuple[Compiled | None, Compiled | None, object]]) -> None:
        for old, new, _ in pairs:
            self._own.update(new.own if new else ())
            self._own.subtract(old.own if old else ())
        self._own = +self._own

    def _commit_loop(self, *, whole: bool = False) -> None:
        table = loop.table(self._config, self._own)
        if whole or self._table is None:
            self._netlink.commit(replace_table(table))
        else:
            self._netlink.commit(difference(self._table, table))
        self._table = table
        self._table_rules = self._netlink.rules(loop.NAME)

    def _loop_lines(self) -> list[str]:
        return meant(self._table, self._table_rules).lines() if self._table else []

    def _loop_actual(self) -> list[str]:
        try:
            return self._netlink.read(loop.NAME).lines()
        except NetlinkError:  # There is none.
            return []

    def _sweep(self) -> None:
        """Remove endpoint files of an earlier run."""
        for path in self._directory.glob("eds-*.json"):
            if path.name not in self._files.written:
                path.unlink()

    def _wanted(self) -> Iterable[str]:
        for name in self._clusters:
            body = msgspec.json.decode(self._files.written[assignment_file(name)])
            found = body["resources"][0]["endpoints"][0]["lb_endpoints"]
            yield _line(name, (e["endpoint"]["address"] for e in found))

    def _actual(self) -> Iterable[str]:
        try:
            found = msgspec.json.decode(self._envoy.clusters())["cluster_statuses"]
        except OSError:  # Nobody is there to ask.
            return
        for status in found:
            if not status["name"].startswith("admin"):
                yield _line(status["name"], (h["address"] for h in status.get("host_statuses", ())))


def _assignments(compiled: Iterable[Compiled]) -> dict[str, bytes]:
    return {
        assignment_file(name): response([one.to_json()])
        for x in compiled
        for name, one in x.assignments.items()
    }


def _encode(cluster: Cluster) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(cluster.to_json()))


def _line(name: str, addresses: Iterable[dict[str, dict[str, object]]]) -> str:
    places = sorted(
        f"{a['socket_address']['address']} {a['socket_address']['port_value']}" for a in addresses
    )
    return f"envoy cluster {name}: {', '.join(places) or 'no endpoint'}"


def _place() -> str:
    """A folder for this network namespace."""
    with netns.opened(netns.current()) as fd:
        number = netns.inode(fd)[1]
    base = "/run" if os.access("/run", os.W_OK) else tempfile.gettempdir()
    return f"{base}/kubewire-envoy-{number}"
