"""A bundle: named files and a manifest that vouches for them; and its way to disk and back.

A folder either holds a whole bundle or is left as it was.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from firmware_export.folder import write_whole
from hybrid.errors import BundleError

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Bundle:
    """Files by relative path, `manifest.json` among them; it lists the SHA-256 and the size of every other."""

    files: Mapping[str, bytes]

    def __post_init__(self) -> None:
        for path in self.files:
            check_path(path, self.files)
        object.__setattr__(self, "files", MappingProxyType({path: self.files[path] for path in sorted(self.files)}))

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest's content. Raises: BundleError where it is missing or damaged."""
        if MANIFEST not in self.files:
            raise broken(MANIFEST, "a manifest", "no such file")
        try:
            manifest = json.loads(self.files[MANIFEST])
        except (ValueError, RecursionError) as exc:
            raise broken(MANIFEST, "JSON", str(exc)) from exc
        if not isinstance(manifest, dict):
            raise broken(MANIFEST, "a JSON object", type(manifest).__name__)
        return manifest

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, and through it of everything; 64 hex digits."""
        return sha256(self.files[MANIFEST])


def broken(file: str, expected: object, got: object) -> BundleError:
    """Make the error of every failed check."""
    return BundleError(f"{file}: expected {expected}, got {got}; export the bundle again or get an untouched copy")


def sha256(content: bytes) -> str:
    """SHA-256 as 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def file_entries(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """List what the manifest says of each file: `sha256` and `bytes`."""
    return {path: {"sha256": sha256(content), "bytes": len(content)} for path, content in sorted(files.items())}


def check_path(path: str, others: Mapping[str, bytes]) -> None:
    """Refuse a path that could leave the bundle's folder, or that another file needs as a folder."""
    pure = PurePosixPath(path)
    tidy = str(pure) == path and not pure.is_absolute() and "\\" not in path and "\0" not in path
    if not tidy or path == "." or ".." in pure.parts:
        raise BundleError(f"bundle path {path!r}: expected a plain relative path with / between folders")
    for parent in pure.parents:
        if parent.name and str(parent) in others:
            raise BundleError(f"bundle path {path!r}: {parent} is a file of this bundle; rename one")


def write(bundle: Bundle, folder: Path) -> None:
    """Write a bundle, replacing an older one in `folder` only when the new one is complete on disk.

    Raises: BundleError where the disk refuses, or where `folder` holds something that is no bundle.
    """
    _check_target(folder)
    try:
        write_whole(bundle.files, folder)
    except OSError as exc:
        raise BundleError(f"{folder}: cannot be written ({exc.strerror}); free space or choose another folder") from exc


def read(folder: Path) -> Bundle:
    """Read every file under `folder`; nothing is checked yet. Raises: BundleError where that is impossible."""
    if not folder.is_dir():
        raise BundleError(f"{folder}: expected a bundle's folder, got {'a file' if folder.exists() else 'nothing'}")
    try:
        return Bundle({path.relative_to(folder).as_posix(): path.read_bytes() for path in _regular_files(folder)})
    except OSError as exc:
        raise BundleError(f"{exc.filename}: cannot be read ({exc.strerror})") from exc


def _regular_files(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    for path in paths:
        if path.is_symlink() or not path.is_file():
            raise broken(path.relative_to(folder).as_posix(), "a regular file", "a link or device")
    return paths


def _check_target(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise BundleError(
            f"{folder}: holds files but no {MANIFEST}, so it is no bundle to replace; choose a new folder"
        )
    if folder.exists() and not folder.is_dir():
        raise BundleError(f"{folder}: is a file; choose another folder")
