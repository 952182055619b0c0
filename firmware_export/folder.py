"""Named files on disk as one folder, which is there in full or not at all."""

import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path


def write_whole(files: Mapping[str, bytes], folder: Path) -> None:
    """Write files (relative path -> content); what `folder` held gives way only once all of them are on disk.

    Raises: OSError where the disk refuses; then `folder` is as it was.
    """
    folder = folder.resolve()
    fresh = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _write_files(files, fresh)
        _replace(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _write_files(files: Mapping[str, bytes], folder: Path) -> None:
    folder.mkdir()
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    for directory in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        _sync_directory(directory)


def _replace(fresh: Path, folder: Path) -> None:
    """Put the new folder in the old one's place; should that fail, the old one comes back."""
    old = fresh.with_suffix(".old")
    replaces = folder.is_dir()
    if replaces:
        folder.rename(old)
    try:
        fresh.rename(folder)
    except OSError:
        if replaces:
            old.rename(folder)
        raise
    _sync_directory(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
