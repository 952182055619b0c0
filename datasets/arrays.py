"""Arrays of an .npz file: ``x, y`` or ``x_train, y_train, x_test, y_test``; optionally ``class_names, mirror``."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from datasets.errors import DatasetError
from datasets.raw import Array, Raw, part

WHOLE = {"x", "y"}
DIVIDED = {"x_train", "y_train", "x_test", "y_test"}
OPTIONAL = {"class_names", "mirror"}


def read_npz(path: Path) -> Raw:
    """Read images or signals.

    uint8: ``(n, height, width)`` and ``(n, height, width, channels)`` are images. Other numbers: ``(n, length)`` and
    ``(n, length, channels)`` are signals and become ``(n, length, 1, channels)``; four axes stay as they are.
    `mirror` (true or false, default false) says whether a mirrored uint8 image of 1 or 3 channels keeps its class.

    Raises: DatasetError for a damaged file, other arrays than those above, and unusable values.
    """
    arrays = _arrays(path)
    entries = set(arrays)
    if entries - OPTIONAL not in (WHOLE, DIVIDED):
        raise DatasetError(
            f"{path}: holds {', '.join(sorted(entries)) or 'nothing'}; expected x and y, or x_train, y_train, x_test "
            "and y_test; optional class_names and mirror"
        )
    divided = "x_train" in entries
    x_key, y_key = ("x_train", "y_train") if divided else ("x", "y")
    names = _class_names(arrays, y_key, path)
    train = part(_shaped(arrays[x_key], f"{path}: {x_key}"), arrays[y_key], where=f"{path}: {x_key}", class_names=names)
    test = None
    if divided:
        x_test = _shaped(arrays["x_test"], f"{path}: x_test")
        if x_test.shape[1:] != train.x.shape[1:] or x_test.dtype != train.x.dtype:
            raise DatasetError(
                f"{path}: x_test is {x_test.dtype} {x_test.shape[1:]} per example, expected as x_train "
                f"{train.x.dtype} {train.x.shape[1:]}"
            )
        test = part(x_test, arrays["y_test"], where=f"{path}: x_test", class_names=names)
    return Raw(
        name=path.stem,
        train=train,
        test=test,
        class_names=names,
        licence="not stated",
        source=".npz file",
        mirror=_mirror(arrays, train.x, path),
    )


def _arrays(path: Path) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as exc:
        raise DatasetError(f"{path}: not a readable .npz of plain arrays ({exc}); save it with numpy.savez") from exc


def _shaped(x: Array, where: str) -> Array:
    """Four axes for images and signals alike."""
    if x.ndim == 3 and x.dtype == np.uint8:
        return x[..., None]
    if x.ndim == 3:
        return x[:, :, None, :]
    if x.ndim == 2:
        return x[:, :, None, None]
    if x.ndim == 4:
        return x
    raise DatasetError(f"{where}: shape {x.shape}, expected 2 to 4 axes, the examples first")


def _class_names(arrays: dict[str, Array], y_key: str, path: Path) -> tuple[str, ...]:
    if "class_names" in arrays:
        return tuple(str(name) for name in arrays["class_names"].ravel())
    y = arrays[y_key]
    if not y.size or y.dtype.kind not in "iub":
        raise DatasetError(f"{path}: {y_key} is {y.dtype} of shape {y.shape}, expected integers (n,)")
    return tuple(str(label) for label in range(int(y.max()) + 1))


def _mirror(arrays: dict[str, Array], x: Array, path: Path) -> bool:
    mirror = bool(np.all(arrays.get("mirror", False)))
    if mirror and not (x.dtype == np.uint8 and x.shape[3] in (1, 3)):
        raise DatasetError(f"{path}: mirror is true, which is for uint8 images of 1 or 3 channels; got {x.dtype}")
    return mirror
