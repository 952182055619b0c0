"""A run on disk: one folder a stage, made whole or not at all, made again only when what it depends on changed."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from hybrid.errors import HybridError
from hybrid.files import whole
from hybrid.locks import taken

STAMP = ".stage.json"


def digest(*parts: Any) -> str:
    """SHA-256 over plain data, dataclasses, strings and earlier digests; equal parts give an equal digest."""
    plain = [asdict(part) if is_dataclass(part) and not isinstance(part, type) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(path: str) -> str:
    """SHA-256 of what a file that the spec names holds now; empty where there is none to read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else ""
    except OSError:
        return ""  # whoever needs the file says so


class RunFolder:
    """The stages of one run under `root`."""

    def __init__(self, root: Path, made: Callable[[], None] = lambda: None) -> None:
        """`made` is called whenever a stage has been made."""
        self.root = root
        self.reused = False
        """Whether a stage was found finished or begun, so that this process did not do all of the work."""
        self._made: set[str] = set()
        self._tell = made
        self._locked = False

    def stage(self, name: str, key: str, make: Callable[[Path], None], *, keep: Path | None = None) -> Path:
        """The folder of stage `name`; `make` fills it, unless it stands there already with the same `key`.

        `make` works in a temporary folder that is renamed when it is done: a killed run leaves no half stage. The
        stage's scratch folders are then removed, all but `keep`.
        Raises: HybridError where the disk is full, the folder cannot be written, or another process makes a stage here.
        """
        done = self.root / name
        if self.is_done(name, key):
            self.reused |= name not in self._made
            return done
        work, start = self.root / f".{name}.partial", time.monotonic()
        begun = any(path.exists() for path in (self.scratch(name, key), keep) if path)
        self.reused |= begun
        try:
            with self._alone(), self._empty(work):
                make(work)
                stamp = {"key": key} | ({} if begun else {"seconds": round(time.monotonic() - start, 1)})
                (work / STAMP).write_text(json.dumps(stamp), encoding="utf-8")
                shutil.rmtree(done, ignore_errors=True)
                os.replace(work, done)
                self._made.add(name)
                self._tell()
                for left in {*self.root.glob(f".{name}-*.scratch")} - {keep}:
                    shutil.rmtree(left, ignore_errors=True)
        except (ConnectionError, TimeoutError):
            raise
        except OSError as exc:
            raise HybridError(
                f"{done}: cannot be written ({exc.strerror or exc}); free space or choose another --out, "
                "then run the same command again: finished stages are kept"
            ) from exc
        return done

    @staticmethod
    @contextmanager
    def _empty(folder: Path) -> Iterator[None]:
        """An empty folder, which is removed in the end if it is still there."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from making stages here; a stage may ask for others. Raises: HybridError."""
        if self._locked:
            yield
            return
        self.root.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.root, os.O_RDONLY)
        try:
            if not taken(folder):
                raise HybridError(f"{self.root}: another run is at work here; wait for it, or choose another --out")
            self._locked = True
            yield
        finally:
            self._locked = False
            os.close(folder)

    def is_done(self, name: str, key: str) -> bool:
        """Whether stage `name` was finished with this `key`."""
        return self._stamp(name).get("key") == key

    def stage_seconds(self, keys: Mapping[str, str]) -> dict[str, float]:
        """How long each stage took that is finished with its key; without those that were killed in between."""
        stamps = {name: self._stamp(name) for name in keys if self.is_done(name, keys[name])}
        return {name: stamp["seconds"] for name, stamp in stamps.items() if "seconds" in stamp}

    def _stamp(self, name: str) -> dict[str, Any]:
        """What a finished stage says of itself; nothing where there is none, or it is damaged."""
        try:
            stamp = json.loads((self.root / name / STAMP).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return stamp if isinstance(stamp, dict) else {}

    def scratch(self, name: str, key: str) -> Path:
        """A hidden folder for a stage that can go on in the middle; one for each key. It survives a killed run."""
        return self.root / f".{name}-{key[:12]}.scratch"

    def check(self) -> None:
        """Raise HybridError, before any work, where nothing can be written; what it tries is gone afterwards."""
        absent = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        try:
            self.write_text(".room", "room").unlink()
        finally:
            with suppress(OSError):  # never made, or another run has begun there
                for folder in absent:
                    folder.rmdir()

    def write_text(self, name: str, text: str) -> Path:
        """Write one file at the top of the run, whole or not at all."""
        path = self.root / name
        try:
            with whole(path) as work:
                work.write_text(text, encoding="utf-8")
        except OSError as exc:
            raise HybridError(
                f"{path}: cannot be written ({exc.strerror or exc}); free space or choose another --out"
            ) from exc
        return path
