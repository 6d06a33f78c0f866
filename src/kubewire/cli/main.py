"""The ``kubewire`` command: a table of commands whose modules are imported only when they run.

``kubewire --help`` must answer in under 150 ms, so this module imports click and nothing else of
weight. Exit status: 0 yes or done, 1 no, 2 wrong use or bad input, 130 after Ctrl-C (CLI.md).
"""

import importlib
import os
import sys

import click

from kubewire import __version__

COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("kubewire.cli.up:up", "Start a cluster on this machine and apply manifests."),
    "down": ("kubewire.cli.down:down", "Stop a cluster and clean up all of it."),
    "status": ("kubewire.cli.status:status", "Show what runs and what nothing acts on."),
    "kubeconfig": (
        "kubewire.cli.kubeconfig:kubeconfig",
        "Print the path of the cluster's kubeconfig.",
    ),
    "sync": (
        "kubewire.cli.sync:sync",
        "Wait until every agent has applied what the API server holds.",
    ),
    "exec": ("kubewire.cli.exec:exec_", "Run a program of this machine inside a pod."),
    "node-exec": ("kubewire.cli.exec:node_exec", "Run a program of this machine inside a node."),
    "reach": (
        "kubewire.cli.reach:reach",
        "Try real connections between pods and Services, all at once.",
    ),
    "fail": ("kubewire.cli.fail:fail", "Rehearse a failing probe of a pod."),
    "apiserver": ("kubewire.cli.apiserver:apiserver", "Serve the Kubernetes API by itself."),
    "controller-manager": (
        "kubewire.cli.controller_manager:controller_manager",
        "Run the controllers.",
    ),
    "node": ("kubewire.cli.node:node", "Run the agent of one node."),
    "proxy": ("kubewire.cli.proxy:proxy", "Run the Service proxy of one node (kube-proxy)."),
    "xds": ("kubewire.cli.xds:xds", "Tell Services to Envoys that somebody else runs."),
    "netpol": ("kubewire.cli.netpol:netpol", "Enforce NetworkPolicy on one node."),
    "dns": ("kubewire.cli.dns:dns", "Serve DNS from a Corefile, or explain an answer."),
    "external-dns": (
        "kubewire.cli.external_dns:external_dns",
        "Publish names of Services and Ingresses to a DNS server (RFC 2136).",
    ),
    "ingress": ("kubewire.cli.ingress:ingress", "Run the Ingress controller, or explain a route."),
    "api-proxy": (
        "kubewire.cli.api_proxy:api_proxy",
        "Serve the API on localhost (kubectl proxy).",
    ),
    "cni": ("kubewire.cli.cni:cni", "Install the CNI plugins."),
    "service": ("kubewire.cli.service:service", "Ask where a packet to a Service goes, and why."),
    "policy": ("kubewire.cli.policy:policy", "Ask which NetworkPolicy decides, and why."),
}
"""Name -> (module:attribute, one line of help)."""


class LazyGroup(click.Group):
    """Lists the table above without importing the commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command whose module is there, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Render the list of commands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kubewire")
def cli() -> None:
    """Run a whole Kubernetes network on this machine, and ask it why."""


def _complaint(error: Exception) -> str:
    """The one line for what went wrong; raises what is nobody's fault but ours."""
    from kubewire.api.errors import InputError, StatusError

    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, StatusError):
        return f"Error: {error}"
    if isinstance(error, OSError) and error.filename and error.strerror:
        # A file or folder that somebody named, or the machine's own.
        return f"Error: {error.filename}: {error.strerror}"
    raise error


def main() -> None:
    """Entry point: maps every way to end onto the exit statuses of CLI.md."""
    try:
        status = cli.main(standalone_mode=False)
    except click.exceptions.Exit as ended:
        status = ended.exit_code
    except click.Abort:
        status = 130
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        # The reader went away (``| head``): nothing more can be said, and the flush at exit must
        # not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "kubewire"
        message = " ".join(error.format_message().split())
        click.echo(f"{path}: {message} (see {path} --help)", err=True)
        status = 2
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except Exception as error:
        from kubewire.api.errors import InputError

        click.echo(_complaint(error), err=True)
        status = 2 if isinstance(error, InputError) else 1
    sys.exit(status if isinstance(status, int) else 0)
