"""``kubewire dns --node-local``: find cluster DNS, put the cache in place, serve, take it away."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

from kubewire.api.errors import InputError, StatusError
from kubewire.api.resources import SERVICES
from kubewire.client.kubeconfig import SERVICE_ACCOUNT
from kubewire.client.rest import Client
from kubewire.dns import run as server
from kubewire.dns.http import split_address
from kubewire.dns.nodelocal.agent import Agent
from kubewire.dns.nodelocal.metrics import Page, book
from kubewire.dns.nodelocal.plan import NodeLocal


def run(
    plan: NodeLocal,
    upstream_service: str,
    *,
    interface: str,
    template: Path | None,
    kubeconfig: str,
    context: str,
    agent: str,
    quiet: bool,
    interval: float,
    stays: bool,
    metrics: str,
) -> int:
    """Serve until SIGTERM; gives the exit status."""
    if not plan.local_ips:
        raise InputError("--localip: at least one address is needed")
    if not plan.upstream:
        plan = replace(plan, upstream=_upstream(upstream_service, kubeconfig, context))
    server.set_up_logging()

    def corefile() -> str:
        return plan.filled(template.read_text()) if template else plan.corefile()

    counters = book()
    page = Page(split_address(metrics) if metrics else None, counters)
    placed = Agent(plan, interface=interface, interval=interval, stays=stays, counters=counters)
    with placed, page:
        return server.run(
            template, text=corefile, kubeconfig=kubeconfig, context=context, agent=agent,
            quiet=quiet,
        )  # fmt: skip


def _upstream(service: str, kubeconfig: str, context: str) -> tuple[str, ...]:
    """ClusterIPs of the Service: as a pod's environment names them, else as the API does."""
    variable = service.upper().replace("-", "_") + "_SERVICE_HOST"
    if found := os.environ.get(variable):
        return (found,)
    try:
        return asyncio.run(_ask(service, kubeconfig, context))
    except StatusError as error:
        raise InputError(f"--upstreamsvc {service}: {error}") from error


async def _ask(service: str, kubeconfig: str, context: str) -> tuple[str, ...]:
    inside = not kubeconfig and not context and (SERVICE_ACCOUNT / "token").exists()
    opened = (
        Client.in_cluster()
        if inside
        else Client.from_kubeconfig(kubeconfig or None, context or None)
    )
    async with opened as client:
        spec = (await client.get(SERVICES, service, "kube-system"))["spec"]
    found = spec.get("clusterIPs") or [spec.get("clusterIP", "")]
    ips = tuple(ip for ip in found if ip not in ("", "None"))
    if not ips:
        raise InputError(f"--upstreamsvc {service}: Service kube-system/{service} has no clusterIP")
    return ips
