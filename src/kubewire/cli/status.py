"""``kubewire status``: what runs, and what a manifest asked for that nothing acts on."""

from __future__ import annotations

import json
from typing import Any

import click

from kubewire.cli.options import echo_record, name_option, output_option


@click.command()
@name_option
@output_option
def status(name: str, output: str) -> None:
    """Show processes, nodes and pods, and every field or kind that nothing acts on.

    Exit status 1 when the cluster is not running, a process of it is down, or a node or pod is not
    Ready.
    """
    from kubewire.cluster import state
    from kubewire.cluster.status import status_of

    found = state.find(name)
    if found is None or not found.alive:
        text = "is dead: its supervisor ended" if found else "does not exist"
        if output == "table":
            click.echo(f'cluster "{name}" {text}')
        else:
            echo_record({"name": name, "running": False, "reason": text}, output)
        raise click.exceptions.Exit(1)
    report = status_of(found)
    if output == "table":
        _table(report)
    else:
        echo_record(report, output)
    if not report["healthy"]:
        raise click.exceptions.Exit(1)


def _table(report: dict[str, Any]) -> None:
    click.echo(f'cluster "{report["name"]}"  {report["server"]}')
    for title, key in (("pods", "podCIDRs"), ("Services", "serviceCIDRs")):
        click.echo(f"  {title:<9} {', '.join(report[key] or ())}")
    click.echo(f"  {'proxy':<9} {report['proxyMode']}")
    for note in report["proxyNotes"]:
        click.echo(f"  {'':<9} {note}")
    click.echo("\nPROCESS                  PID   RESTARTS  LAST EXIT")
    for row in report["processes"]:
        pid = row["pid"] or "down"
        click.echo(f"{row['name']:<22} {pid:>6}  {row['restarts']:>8}  {row['lastExit'] or '-'}")
    click.echo("\nNODE                 READY  PODS  ADDRESS")
    for row in report["nodes"]:
        click.echo(
            f"{row['name']:<20} {'yes' if row['ready'] else 'no':<6} {row['pods']:>4}"
            f"  {', '.join(row['addresses'])}"
        )
    for title, rows in (
        ("NOT READY", report["notReady"]),
        ("STORED, NOTHING ACTS ON IT", report["inert"]),
    ):
        if rows:
            click.echo(f"\n{title}")
            for row in rows:
                click.echo("  " + (row if isinstance(row, str) else json.dumps(row)))
