"""The `hybrid` command: the only place that prints.

Each module holds commands of one kind; `hybrid.cli.front` lists them all. A command of a run builds a spec (preset,
TOML file, ``--set``), asks a `Run` for one of its steps, and shows the outcome in a few lines. Errors that a user can
act on are one line and exit code 2.
"""

from hybrid.cli.front import cli, main

__all__ = ["cli", "main"]
