"""Bytes out of plain, .gz and .xz files, folders and tar archives; damage is reported with the file's name."""

import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from datasets.errors import DatasetError

_OPEN: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".xz": lzma.open}
_DAMAGE = (EOFError, OSError, lzma.LZMAError, zlib.error, tarfile.TarError)


def find(folder: Path, name: str) -> Path:
    """Find the file `name` in `folder`, plain or compressed. Raises: DatasetError where there is none."""
    for suffix in ("", ".gz", ".xz"):
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return path
    raise DatasetError(f"{folder}: no file {name} (nor {name}.gz or {name}.xz)")


def read(path: Path) -> bytes:
    """Read and decompress a file. Raises: DatasetError for one that is truncated, corrupt or unreadable."""
    opener = _OPEN.get(path.suffix, lambda p: p.open("rb"))
    try:
        with opener(path) as file:
            content: bytes = file.read()
    except _DAMAGE as exc:
        raise DatasetError(f"{path}: cannot be read, truncated or corrupt ({exc}); fetch it again") from exc
    return content


def read_members(place: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Read the named files of a folder or of a tar archive, whatever folder the archive holds them in.

    Raises: DatasetError where one is missing or damaged.
    """
    if place.is_dir():
        paths = [find(place, name) for name in names]
        with ThreadPoolExecutor() as pool:  # decompression frees the interpreter lock
            return dict(zip(names, pool.map(read, paths), strict=True))
    found = _read_tar(place, set(names))
    missing = [name for name in names if name not in found]
    if missing:
        raise DatasetError(f"{place}: has no {', '.join(missing)}; expected {', '.join(names)}")
    return found


def _read_tar(path: Path, names: set[str]) -> dict[str, bytes]:
    """One pass over the archive, because a compressed one cannot seek."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:*") as tar:
            for member in tar:
                name = PurePosixPath(member.name).name
                file = tar.extractfile(member) if name in names else None
                if file is not None:
                    found[name] = file.read()
    except _DAMAGE as exc:
        raise DatasetError(f"{path}: cannot be read, truncated or corrupt ({exc}); fetch it again") from exc
    return found
