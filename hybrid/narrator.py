"""The narrator of the command line: sentences, progress bars and small tables."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

from hybrid.progress import Advance

WORTH_A_LINE_S = 1.0
"""Work that took less leaves no line."""
LOG_WIDTH = 120
"""Columns of a table where there is no terminal to fit."""

_ANY_WIDTH = 1000


class Terminal:
    """Prints to standard output; a bar moves on a terminal, and what lasted leaves one line there and in a log."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        if not self._console.is_terminal:
            self._console.width = LOG_WIDTH

    def say(self, text: str) -> None:
        """Print one sentence."""
        self._console.print(text, markup=False)

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Advance]:
        """Show a bar of `total` steps, the time it took and the time it still needs."""
        start, last = time.monotonic(), ""

        def advance(steps: int, note: str) -> None:
            nonlocal last
            last = note
            progress.update(task, advance=steps, note=note)

        with _bar(self._console) as progress:
            task = progress.add_task(label, total=total, note="")
            yield advance
        seconds = time.monotonic() - start
        if seconds >= WORTH_A_LINE_S:
            self.say(f"  {label:<30}{_clock(seconds):>7}  {last}".rstrip())

    def table(self, title: str, rows: Sequence[Sequence[str]], headings: Sequence[str] = (), *, texts: int = 1) -> None:
        """Print a small table; the first `texts` columns are words, the others figures.

        On a terminal too narrow for it lines go on below rather than lose a figure.
        """
        table = Table(
            title=title,
            title_justify="left",
            show_header=bool(headings),
            box=SIMPLE_HEAD,
            show_edge=False,
            collapse_padding=True,
        )
        for index, cells in enumerate(zip(headings or [""] * len(rows[0] if rows else ()), *rows, strict=True)):
            _add_column(table, cells, wraps=index == texts - 1, is_text=index < texts)
        for row in rows:
            table.add_row(*row)
        needed = self._console.measure(table, options=self._console.options.update_width(_ANY_WIDTH)).minimum
        table.width = needed if needed > self._console.width else None
        self._console.print(table)


def _add_column(table: Table, cells: Sequence[str], *, wraps: bool, is_text: bool) -> None:
    """The first cell is the heading; what wraps does so between words."""
    parts = [word for cell in cells for word in cell.split()] if wraps else cells
    least = max(map(len, parts), default=0)
    table.add_column(cells[0], justify="left" if is_text else "right", no_wrap=not wraps, min_width=least)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("  {task.description:<30}", markup=False),
        BarColumn(bar_width=12),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
        console=console,
        transient=True,
        expand=True,
        disable=not console.is_terminal,
    )


def _clock(seconds: float) -> str:
    """Minutes and seconds.

    >>> _clock(71.6)
    '1:12'
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"
