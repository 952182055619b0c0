"""The narrator of the command line: sentences and progress bars."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from hybrid.progress import Advance


class Terminal:
    """Prints to standard output; bars move on a terminal and are one line each in a log."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print one sentence."""
        self._console.print(text, markup=False)

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Advance]:
        """Show a bar of `total` steps, the time it took and the time it still needs."""
        columns = (
            TextColumn("  {task.description:<34}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(label, total=total, note="")
            yield lambda steps, note: progress.update(task, advance=steps, note=note)

    def table(self, title: str, rows: Sequence[Sequence[str]], headings: Sequence[str] = ()) -> None:
        """Print a small table."""
        table = Table(title=title, title_justify="left", show_header=bool(headings))
        for index in range(len(rows[0]) if rows else 0):
            table.add_column(headings[index] if headings else "", justify="left" if index == 0 else "right")
        for row in rows:
            table.add_row(*row)
        self._console.print(table)
