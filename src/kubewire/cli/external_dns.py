"""``kubewire external-dns``: publish names of Services and Ingresses; flags as external-dns has them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from kubewire.cli.connect import Seconds

if TYPE_CHECKING:
    from kubewire.dns.externaldns.registry import Registry
    from kubewire.dns.externaldns.rfc2136 import Server


def _options(function: Any) -> Any:
    for option in reversed(
        (
            click.option("--kubeconfig", type=click.Path(), help="Default: in-cluster, else kubectl's rules."),
            click.option("--context", help="Context of the kubeconfig."),
            click.option("--source", "sources", type=click.Choice(["service", "ingress"]), required=True, help="What names come from (repeat).", multiple=True),
            click.option("--namespace", default="", help="Only objects of this namespace."),
            click.option("--label-filter", default="", help="Only objects with these labels."),
            click.option("--annotation-filter", default="", help="Only objects with these annotations."),
            click.option("--service-type-filter", "service_types", help="Only Services of these types (repeat).", multiple=True),
            click.option("--publish-internal-services", is_flag=True, help="Publish ClusterIPs too."),
            click.option("--ignore-hostname-annotation", is_flag=True),
            click.option("--ignore-ingress-tls-spec", is_flag=True),
            click.option("--ignore-ingress-rules-spec", is_flag=True),
            click.option("--domain-filter", "include", help="Only names in this domain (repeat).", multiple=True),
            click.option("--exclude-domains", "exclude", help="No names in this domain (repeat).", multiple=True),
            click.option("--managed-record-types", "types", type=click.Choice(["A", "AAAA", "CNAME", "SRV"]), default=("A", "AAAA", "CNAME"), show_default=True, multiple=True),
            click.option("--policy", type=click.Choice(["sync", "upsert-only", "create-only"]), default="sync", show_default=True, help="What may be changed and deleted."),
            click.option("--registry", type=click.Choice(["txt", "noop"]), default="txt", show_default=True, help="How ownership is kept."),
            click.option("--txt-owner-id", "owner", default="default", show_default=True),
            click.option("--txt-prefix", "prefix", default=""),
            click.option("--txt-suffix", "suffix", default=""),
            click.option("--txt-wildcard-replacement", "wildcard", default=""),
            click.option("--provider", type=click.Choice(["rfc2136"]), default="rfc2136", show_default=True),
            click.option("--rfc2136-host", "hosts", help="The DNS server; the next ones stand in for it (repeat).", multiple=True),
            click.option("--rfc2136-port", "port", type=int, default=53, show_default=True),
            click.option("--rfc2136-zone", "zones", help="A zone of it (repeat).", multiple=True),
            click.option("--rfc2136-tsig-keyname", "key_name", default=""),
            click.option("--rfc2136-tsig-secret", "secret", default="", help="Base64."),
            click.option("--rfc2136-tsig-secret-alg", "algorithm", type=click.Choice(["hmac-sha1", "hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512"]), default="hmac-sha256", show_default=True),
            click.option("--rfc2136-tsig-axfr/--no-rfc2136-tsig-axfr", "axfr", default=True, help="Zones are always read by AXFR."),
            click.option("--rfc2136-insecure", "insecure", is_flag=True, help="Do not sign."),
            click.option("--rfc2136-min-ttl", "min_ttl", type=Seconds(), default=0.0, help="Least TTL."),
            click.option("--rfc2136-batch-change-size", "batch", type=click.IntRange(min=1), default=50, show_default=True),
            click.option("--interval", type=Seconds(), default=60.0, help="Between whole comparisons.  [default: 1m]"),
            click.option("--min-event-sync-interval", "min_event_interval", type=Seconds(), default=5.0, help="Between changes that follow events.  [default: 5s]"),
            click.option("--once", is_flag=True, help="Compare once, change, end."),
            click.option("--dry-run", is_flag=True, help="Say what would change."),
        )
    ):  # fmt: skip
        function = option(function)
    return function


@click.command()
@_options
def external_dns(
    kubeconfig: str | None, context: str | None, once: bool, registry: str, **given: Any
) -> None:
    """Publish names of Services and Ingresses to a DNS server that takes dynamic updates.

    Only records with this owner's TXT record beside them are changed or deleted.
    """
    from kubewire.api.errors import InputError
    from kubewire.dns.externaldns.registry import Registry
    from kubewire.dns.externaldns.rfc2136 import ProviderError
    from kubewire.dns.run import set_up_logging

    names = ("owner", "prefix", "suffix", "wildcard")
    written = Registry(**{name: given.pop(name) for name in names})
    if not given["axfr"]:
        raise InputError("--no-rfc2136-tsig-axfr: ownership cannot be read without a transfer")
    server = _server(given)
    set_up_logging()
    try:
        asyncio.run(
            _run(kubeconfig, context, written if registry == "txt" else None, server, once, given)
        )
    except* ProviderError as group:
        raise click.ClickException(str(group.exceptions[0])) from group


def _server(given: dict[str, Any]) -> Server:
    from kubewire.api.errors import InputError
    from kubewire.dns.externaldns.rfc2136 import Server

    insecure, key_name, secret = (given.pop(n) for n in ("insecure", "key_name", "secret"))
    if not insecure and not (key_name and secret):
        raise InputError(
            "--rfc2136-tsig-keyname and --rfc2136-tsig-secret: are required unless --rfc2136-insecure"
        )
    names = ("hosts", "port", "zones", "algorithm", "batch")
    return Server(
        key_name=key_name,
        secret="" if insecure else secret,
        min_ttl=int(given.pop("min_ttl")),
        **{name: given.pop(name) for name in names},
    )


async def _run(
    kubeconfig: str | None,
    context: str | None,
    registry: Registry | None,
    server: Server,
    once: bool,
    given: dict[str, Any],
) -> None:
    from kubewire.client.kubeconfig import SERVICE_ACCOUNT
    from kubewire.client.rest import Client
    from kubewire.dns.externaldns.controller import ExternalDns
    from kubewire.dns.externaldns.plan import DomainFilter
    from kubewire.dns.externaldns.rfc2136 import Zones
    from kubewire.dns.externaldns.sources import Rules

    rules = Rules(
        publish_internal=given["publish_internal_services"],
        ignore_hostname_annotation=given["ignore_hostname_annotation"],
        ignore_ingress_tls=given["ignore_ingress_tls_spec"],
        ignore_ingress_rules=given["ignore_ingress_rules_spec"],
        service_types=frozenset(given["service_types"]),
    )
    kept = ("sources", "namespace", "label_filter", "annotation_filter", "policy", "types", "interval", "min_event_interval", "dry_run")  # fmt: skip
    in_cluster = kubeconfig is None and context is None and (SERVICE_ACCOUNT / "token").exists()
    opened = Client.in_cluster() if in_cluster else Client.from_kubeconfig(kubeconfig, context)
    async with opened as client:
        publisher = ExternalDns(
            client,
            Zones(server, registry),
            owner=registry.owner if registry else None,
            rules=rules,
            domains=DomainFilter(given["include"], given["exclude"]),
            **{name: given[name] for name in kept},
        )
        await (publisher.once() if once else publisher.run())
