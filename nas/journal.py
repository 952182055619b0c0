"""The memory of a search: a file that only grows, one line of JSON for each net met, proposed or ended.

The first line names the question. A process that dies while it writes leaves a torn last line, which is cut off when
the file is opened again; whatever else is wrong with a line is refused with its number.
"""

import json
import os
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from hybrid.configure import structure
from hybrid.errors import SpecError
from hybrid.locks import taken
from nas.candidate import Candidate

JOURNAL_FILE = "journal.jsonl"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A net as it stood then; `trial` is None where it was met while looking for one that fits."""

    trial: int | None
    candidate: Candidate


@dataclass(frozen=True, kw_only=True)
class _Header:
    identity: str
    journal: int = 1


class Journal:
    """Entries of one search, kept in ``journal.jsonl`` of `folder`. One process at a time may have it open.

    Raises: SpecError where the file is damaged, of another search, in use, or cannot be written.
    """

    def __init__(self, folder: Path, *, identity: str) -> None:
        self.path = folder / JOURNAL_FILE
        self._file = self._open()
        try:
            lines = _lines(self._file)
            if lines:
                self._check(lines[0], identity)
            else:
                self._write(asdict(_Header(identity=identity)))
            self.entries = tuple(self._entry(text, number) for number, text in enumerate(lines[1:], start=2))
        except BaseException:
            self.close()
            raise

    def _open(self) -> FileIO:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = FileIO(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644), "r+")
        except OSError as exc:
            raise SpecError(f"{self.path}: cannot be opened ({exc.strerror}); choose another run folder") from exc
        if not taken(file):
            file.close()
            raise SpecError(f"{self.path}: another search is at work here; wait for it, or stop it")
        return file

    def _check(self, text: bytes, identity: str) -> None:
        if structure(self._json(text, 1), _Header, where=f"{self.path}, line 1").identity != identity:
            what = "holds the search of another space, data, device, seed, scoring, weights, probes or cloud answers"
            raise SpecError(f"{self.path}: {what}; choose another run folder, or delete {self.path.parent}")

    def _entry(self, text: bytes, number: int) -> Entry:
        return structure(self._json(text, number), Entry, where=f"{self.path}, line {number}")

    def _json(self, text: bytes, number: int) -> Any:
        try:
            return json.loads(text)
        except ValueError as exc:
            raise self.damaged(number, str(exc)) from exc

    def damaged(self, number: int, what: str) -> SpecError:
        """Return the error for a line that cannot be."""
        return SpecError(f"{self.path}, line {number}: damaged ({what}); delete {self.path.parent} to search anew")

    def append(self, *entries: Entry) -> None:
        """Add entries; they are in the file when this returns. Raises: SpecError where it cannot be written."""
        for entry in entries:
            self._write(asdict(entry))

    def _write(self, data: dict[str, Any]) -> None:
        line = memoryview((json.dumps(data) + "\n").encode())
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as exc:
            remedy = "make room, then give the same command again: what came before is kept"
            raise SpecError(f"{self.path}: cannot be written ({exc.strerror}); {remedy}") from exc

    def close(self) -> None:
        """Let others have the file."""
        self._file.close()


def _lines(file: FileIO) -> list[bytes]:
    """Read the whole lines, and cut off what a dying process left behind the last of them."""
    text = file.readall()
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        file.truncate(whole)
    return text[:whole].split(b"\n")[:-1]
