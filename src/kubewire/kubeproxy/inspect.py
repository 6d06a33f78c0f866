"""What a namespace's kernel holds of a back end, and what it should hold.

A kernel lists rules in its own words, so what should be there is loaded into a scratch namespace
and listed by the same kernel: the two lists differ exactly where the rules do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

from kubewire.api.errors import InputError
from kubewire.api.meta import JSON
from kubewire.kernel.namespaces import CLONE_NEWNET, unshare
from kubewire.kubeproxy import backends
from kubewire.kubeproxy.config import Config
from kubewire.kubeproxy.table import Change
from kubewire.kubeproxy.trace import Tracer
from kubewire.lang.ipvs.connections import Connection
from kubewire.lang.ipvs.model import address_text


@runtime_checkable
class KeepsConnections(Protocol):
    """A back end with a connection table of its own."""

    def connections(self) -> list[Connection]:
        """Every entry."""


def actual(config: Config) -> list[str]:
    """What the current network namespace holds of the configured mode."""
    proxier = backends.proxier(config)
    try:
        return proxier.dump().actual
    finally:
        proxier.close()


def connection_table(config: Config) -> list[JSON]:
    """The connections that the configured mode keeps itself; InputError where conntrack alone does."""
    proxier = backends.proxier(config)
    try:
        if not isinstance(proxier, KeepsConnections):
            raise InputError(
                f"mode {config.mode} has no connection table of its own; conntrack has it"
            )
        return [
            {
                "protocol": c.protocol,
                "client": address_text(c.client, c.client_port),
                "virtual": address_text(c.virtual, c.virtual_port),
                "destination": address_text(c.destination, c.destination_port),
                "state": c.state,
                "expires": c.expires,
            }
            for c in proxier.connections()
        ]
    finally:
        proxier.close()


def desired(tracer: Tracer, found: Iterable[str]) -> list[str]:
    """What should be where that was ``found``; leaves the calling process in a scratch namespace."""
    unshare(CLONE_NEWNET)
    proxier = backends.proxier(tracer.config, tracer.service_cidrs)
    plan = tracer.plan
    try:
        changes = [Change(key, None, frontend) for key, frontend in plan.frontends.items()]
        proxier.sync(changes, plan.addresses)
        dump = proxier.dump()
        used = {line.partition(": ")[0] for line in found}
        return [*dump.actual, *(x for x in dump.on_demand if x.partition(": ")[0] in used)]
    finally:
        # A process that a back end started would outlive the namespace's only user.
        proxier.clear()
        proxier.close()


def differences(wanted: list[str], found: list[str]) -> Iterator[str]:
    """``-line`` that is missing, ``+line`` that should not be there."""
    for line in difflib.unified_diff(wanted, found, "desired", "actual", lineterm="", n=0):
        if not line.startswith(("---", "+++", "@@")):
            yield line
