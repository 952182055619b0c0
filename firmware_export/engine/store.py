"""A product's way to disk: a folder of its own, whole or not at all, and never over what is someone else's."""

import json
import os
from pathlib import Path
from typing import Any

from firmware_export.bundle import sha256
from firmware_export.engine.figures import FIGURES, MADE_BY, product_files
from firmware_export.engine.product import Product
from firmware_export.folder import write_whole
from hybrid.errors import HybridError


def store(product: Product, folder: Path) -> None:
    """Write a product; an earlier one in `folder` gives way once this one is complete on disk.

    Raises: HybridError where `folder` holds anything else, or the disk refuses.
    """
    check_target(folder)
    try:
        write_whole(product_files(product), folder)
    except OSError as exc:
        raise _unwritable(folder, exc.strerror or str(exc)) from exc


def check_target(folder: Path) -> None:
    """Raise HybridError where `store` would refuse, as far as can be told before."""
    if folder.exists() and not folder.is_dir():
        raise HybridError(f"{folder}: is a file; choose another folder")
    there = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise _unwritable(folder, f"{there} takes no files")
    if folder.is_dir():
        _check_earlier(folder)


def _check_earlier(folder: Path) -> None:
    """Whatever is in the folder must be what an earlier product left there, unchanged."""
    paths = sorted(folder.iterdir())
    if not paths:
        return
    earlier = _earlier(folder)
    if earlier is None:
        raise HybridError(f"{folder}: holds files, but not those of an earlier {MADE_BY}; choose a new folder")
    for path in paths:
        if path.name == FIGURES:
            continue
        if path.name not in earlier:
            raise HybridError(f"{folder}: holds {path.name}, which is of no earlier {MADE_BY}; choose a new folder")
        if not path.is_file() or sha256(path.read_bytes()) != earlier[path.name]:
            raise HybridError(f"{folder}: {path.name} was changed by someone; choose a new folder, or remove this one")


def _earlier(folder: Path) -> dict[str, Any] | None:
    """Digests by name, of the files of the product that `folder` holds; None where it holds none."""
    try:
        known = json.loads((folder / FIGURES).read_bytes())
        return (
            {name: entry["sha256"] for name, entry in known["files"].items()} if known["made_by"] == MADE_BY else None
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _unwritable(folder: Path, reason: str) -> HybridError:
    return HybridError(f"{folder}: cannot be written ({reason}); free space or choose another folder")
