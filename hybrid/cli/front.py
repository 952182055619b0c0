"""All commands in one place, and how a process ends that ran one."""

import os
import sys
import warnings
from typing import NoReturn

import click

from hybrid.cli.bundles import emulate, serve, verify
from hybrid.cli.devices import devices
from hybrid.cli.models import compile_model
from hybrid.cli.runs import data, export, quantize, report, run, search, sweep, train
from hybrid.errors import USER_ERRORS, MismatchError, WorkerDoneError
from hybrid.version import project_version

COMMANDS: tuple[click.Command, ...] = (
    *(run, data, search, train, quantize, sweep, export, report),
    *(verify, emulate, serve),
    compile_model,
    devices,
)
"""In the order of the story."""


class InOrder(click.Group):
    """Lists its commands in the order of the story, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of their definition."""
        return list(self.commands)


@click.group(
    cls=InOrder,
    commands=COMMANDS,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(project_version())
@click.pass_context
def cli(ctx: click.Context) -> None:
    """A tiny int8 net for your microcontroller, a router that knows when to ask, and the cloud that it asks.

    A first run, in minutes: hybrid run --out runs/first. Each command does what it needs and keeps it in the run
    folder; the same command goes on where an interrupted one was.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """Run the command; exit 2 with one line for an error that a user can act on, 1 for outputs that differ."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore")
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        sys.exit(cli.main(prog_name="hybrid", standalone_mode=False))
    except click.UsageError as exc:
        where = exc.ctx.command_path if exc.ctx else "hybrid"
        _refuse(f"{exc.format_message().rstrip('.')}; see {where} --help")
    except WorkerDoneError as exc:
        click.echo(str(exc))
        sys.exit(0)
    except MismatchError as exc:
        _refuse(str(exc), code=1)
    except USER_ERRORS as exc:
        _refuse(str(exc))
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; run the same command again to go on", err=True)
        sys.exit(130)


def _refuse(message: str, code: int = 2) -> NoReturn:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(code)
