"""Keeps the node's Envoy and the kernel's way to it equal to the Services.

Order matters: Envoy has a cluster and its endpoints before the kernel sends anybody there, and the
kernel sends nobody there before Envoy forgets it. What Envoy has, it has said itself.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kubewire.api.meta import Key
from kubewire.kernel import netns
from kubewire.kernel.netlink import NetlinkError
from kubewire.kernel.nfnetlink import Nfnetlink
from kubewire.kubeproxy import backends
from kubewire.kubeproxy.backends.envoy import loop
from kubewire.kubeproxy.backends.envoy.compile import (
    XDS,
    Compiled,
    bootstrap,
    compile_frontend,
    kernel_config,
)
from kubewire.kubeproxy.backends.envoy.process import Envoy
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.plan import Frontend
from kubewire.kubeproxy.proxier import Dump, Keeps, Recalls, Stay
from kubewire.kubeproxy.table import Change
from kubewire.lang.nftables.model import Table, Transaction, difference
from kubewire.lang.nftables.model import replace as replace_table
from kubewire.lang.nftables.readback import KernelRule, meant
from kubewire.lang.xds.delta import Resources
from kubewire.lang.xds.model import ASSIGNMENT, CLUSTER, Assignment

if TYPE_CHECKING:
    from kubewire.kernel.xds import XdsStreams

NAME = "kubewire-envoy"
"""The table with the way to Envoy, and with everything that is not Envoy's."""

DEMUX, ENDED = "tcp_early_demux", "ended"
"""Files: the setting as it was before, and when Envoy was ended for another mode."""

ClusterIPs = dict[Key, tuple[str, ...]]


class EnvoyProxier:
    """Envoy, what it is told, the rules that lead to it and those that lead from it."""

    def __init__(self, config: Config, service_cidrs: Iterable[str] = ()) -> None:
        self._config = config
        self._directory = Path(config.run_dir or _place())
        self._rules = backends.proxier(kernel_config(config), service_cidrs, name=NAME)
        self._netlink = Nfnetlink()
        self._envoy = Envoy(self._directory, self._turn)
        self._resources = Resources()
        self._streams: XdsStreams | None = None
        """Opened by the first sync: a look at what is there must not take Envoy's socket."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._assignments: dict[str, Assignment] = {}
        self._own: Counter[str] = Counter()
        """Endpoints on this node, and how many frontends have each."""
        self._table: Table | None = None
        self._table_rules: dict[str, list[KernelRule]] = {}
        """Of the loop, as the kernel lists them."""

    def sync(self, changes: Iterable[Change], cluster_ips: ClusterIPs) -> None:
        """Envoy and the kernel's way to it, whatever there is."""
        compiled = [compile_frontend(c.new) for c in changes if c.new]
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._directory / ENDED).unlink(missing_ok=True)
        self._serve()
        wanted = {name for one in compiled for name in one.clusters}
        self._put(compiled)
        self._own = Counter(ip for one in compiled for ip in one.own)
        loop.make(self._config, self._directory / DEMUX)
        self._commit_loop(whole=True)
        self._envoy.ensure(self._bootstrap())
        self._told()
        self._rules.sync([Change(x.kernel.key, None, x.kernel) for x in compiled], cluster_ips)
        self._drop(self._assignments.keys() - wanted)

    def apply(self, changes: Iterable[Change], cluster_ips: ClusterIPs) -> None:
        """Commit what changed."""
        pairs = [(_compiled(c.old), _compiled(c.new), c.key) for c in changes]
        news = [new for _, new, _ in pairs if new]
        told = self._put(news)
        self._count(pairs)
        self._commit_loop()
        if told:
            self._told()
        kernel = [
            Change(key, old.kernel if old else None, new.kernel if new else None)
            for old, new, key in pairs
        ]
        self._rules.apply([c for c in kernel if c.old != c.new], cluster_ips)
        before = {name for old, _, _ in pairs if old for name in old.clusters}
        self._drop(before - {name for one in news for name in one.clusters})

    def heal(self) -> bool:
        """Put back what is gone: Envoy, the loop, its rules, the way to Envoy."""
        started = self._envoy.ensure(self._bootstrap())
        broken = not loop.intact() or self._loop_lines() != self._loop_actual()
        if broken:
            loop.make(self._config, self._directory / DEMUX)
            self._commit_loop(whole=True)
        return self._rules.heal() or started or broken

    def stays(self) -> Iterable[Stay]:
        """Services with affinity are the kernel's."""
        return self._rules.stays() if isinstance(self._rules, Recalls) else ()

    def keep(self, stays: Iterable[Stay]) -> None:
        """Likewise."""
        if isinstance(self._rules, Keeps):
            self._rules.keep(stays)

    def intact(self) -> bool:
        """A quick look at the kernel's part; processes are looked after by ``heal``."""
        return self._rules.intact()

    def dump(self) -> Dump:
        """The kernel's part, and Envoy's clusters with their endpoints."""
        kernel = self._rules.dump()
        known = self._known()
        clusters = {n: _line(n, map(str, a.endpoints)) for n, a in self._assignments.items()}
        return Dump(
            [
                *kernel.desired,
                *self._loop_lines(),
                *sorted(clusters[n] for n in known if n in clusters),
            ],
            [*kernel.actual, *self._loop_actual(), *sorted(known.values())],
            tuple(sorted(clusters.values())),
        )

    def leave(self) -> bool:
        """Send nobody to Envoy any more; end it when the last of its connections has ended.

        A minute later, when its last socket is gone, nothing is left of it.
        """
        if self._directory.is_dir() and self._envoy.lingers():
            self._rules.clear()
            return False
        ended = self._directory / ENDED
        if self._directory.is_dir() and not ended.exists():
            self._end()
            ended.touch()
        if ended.exists() and time.time() < ended.stat().st_mtime + loop.TIME_WAIT:
            return False
        self.clear()
        return True

    def clear(self) -> None:
        """End Envoy, remove the rules, devices, routes and files."""
        self._end()
        loop.restore(self._directory / DEMUX)
        if self._directory.is_dir():
            for path in self._directory.iterdir():
                path.unlink()
            self._directory.rmdir()

    def _end(self) -> None:
        """All that others could meet goes; what the next run must know stays in the folder."""
        self._rules.clear()
        self._envoy.stop()
        self._deaf()
        if loop.NAME in self._netlink.tables():
            gone = Transaction("inet")
            gone.delete_table(loop.NAME)
            self._netlink.commit(gone)
        loop.remove(self._config)
        self._resources, self._assignments, self._table = Resources(), {}, None

    def close(self) -> None:
        """Give up the sockets; Envoy and the rules stay."""
        self._rules.close()
        self._netlink.close()
        self._envoy.close()
        self._deaf()

    def _bootstrap(self) -> bytes:
        return bootstrap(NAME, loop.versions(), self._config)

    # -- what Envoy is told -----------------------------------------------------------------------

    def _serve(self) -> None:
        """Open the stream's socket; an event loop, where there is one, turns it."""
        if self._streams is not None:
            return
        # HTTP/2 takes a while to import, and every other mode asks this one to clean up.
        from kubewire.kernel.xds import XdsStreams

        self._streams = XdsStreams(self._directory / XDS, self._resources)
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self._loop.add_reader(self._streams.fileno(), self.serve)

    def _deaf(self) -> None:
        if self._streams is not None:
            if self._loop is not None:
                self._loop.remove_reader(self._streams.fileno())
            self._streams.close()
        self._streams = self._loop = None

    def fileno(self) -> int:
        """After a sync: readable when Envoy asks something."""
        assert self._streams is not None
        return self._streams.fileno()

    def serve(self) -> None:
        """Answer Envoy; where there is an event loop, it does."""
        self._turn(0)

    def _turn(self, seconds: float) -> None:
        if self._streams is not None:
            self._streams.step(seconds)

    def _put(self, compiled: Iterable[Compiled]) -> bool:
        """Endpoints and clusters as they are wanted; True if any is new."""
        news = False
        for one in compiled:
            for name, assignment in one.assignments.items():
                if self._assignments.get(name) != assignment:
                    self._assignments[name] = assignment
                    news |= self._resources.put(ASSIGNMENT, name, assignment)
            for name, cluster in one.clusters.items():
                news |= self._resources.put(CLUSTER, name, cluster)
        return news

    def _drop(self, names: set[str]) -> None:
        for name in names:
            del self._assignments[name]
            self._resources.drop(CLUSTER, name)
            self._resources.drop(ASSIGNMENT, name)
        if names and self._streams is not None:
            self._streams.tell()

    def _told(self) -> None:
        """Tell Envoy, and wait until it has said that it has all of what it uses."""
        assert self._streams is not None
        self._streams.tell()
        self._envoy.wait("does not take its clusters", self._streams.settled)

    # -- the loop ---------------------------------------------------------------------------------

    def _count(self, pairs: Iterable[tuple[Compiled | None, Compiled | None, object]]) -> None:
        for old, new, _ in pairs:
            self._own.update(new.own if new else ())
            self._own.subtract(old.own if old else ())
        self._own = +self._own

    def _commit_loop(self, *, whole: bool = False) -> None:
        table = loop.table(self._config, self._own)
        if whole or self._table is None:
            self._netlink.commit(replace_table(table))
            self._table_rules = self._netlink.rules(loop.NAME)
        else:
            self._netlink.commit(difference(self._table, table))
        self._table = table

    def _loop_lines(self) -> list[str]:
        return meant(self._table, self._table_rules).lines() if self._table else []

    def _loop_actual(self) -> list[str]:
        try:
            return self._netlink.read(loop.NAME).lines()
        except NetlinkError:  # There is none.
            return []

    def _known(self) -> dict[str, str]:
        """The clusters that Envoy has asked for, each as a line."""
        try:
            found = msgspec.json.decode(self._envoy.clusters())["cluster_statuses"]
        except OSError:  # Nobody is there to ask.
            return {}
        return {
            status["name"]: _line(
                status["name"],
                (
                    _place_text(h["address"]["socket_address"])
                    for h in status.get("host_statuses", ())
                ),
            )
            for status in found
            if status.get("added_via_api")
        }


def _compiled(frontend: Frontend | None) -> Compiled | None:
    return compile_frontend(frontend) if frontend else None


def _line(name: str, endpoints: Iterable[str]) -> str:
    return f"envoy cluster {name}: {', '.join(sorted(endpoints)) or 'no endpoint'}"


def _place_text(address: dict[str, object]) -> str:
    host = str(address["address"])
    return f"[{host}]:{address['port_value']}" if ":" in host else f"{host}:{address['port_value']}"


def _place() -> str:
    """A folder for this network namespace."""
    with netns.opened(netns.current()) as fd:
        number = netns.inode(fd)[1]
        os.close(fd)
    base = "/run" if os.access("/run", os.W_OK) else tempfile.gettempdir()
    return f"{base}/kubewire-envoy-{number}"
