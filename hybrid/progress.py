"""How long work tells what it does, without knowing whether a terminal, a notebook or nobody listens."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int, str], None]
"""Called as ``advance(steps_done_since_last_call, note)``; `note` is a few words such as ``loss 0.31``."""


class Narrator(Protocol):
    """Listens to a run: sentences for a person, and progress of what lasts."""

    def say(self, text: str) -> None:
        """Pass on one plain sentence."""

    def track(self, label: str, total: int) -> AbstractContextManager[Advance]:
        """Announce `total` steps of work under `label`; the context yields an `Advance`."""


class Silent:
    """The narrator of tests and libraries: listens to nothing."""

    def say(self, text: str) -> None:
        """Drop the sentence."""

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Advance]:
        """Drop the progress."""
        yield lambda steps, note: None


SILENT = Silent()
