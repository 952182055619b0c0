"""What a reader hands over: parts not yet divided, and the checks that every part must pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.errors import DatasetError

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Examples as they were stored: `x` uint8 or real numbers ``(n, height, width, channels)``, `y` int32 ``(n,)``."""

    x: Array
    y: NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Raw:
    """Labelled data as found; `validation` and `test` are None where the data brings none."""

    name: str
    train: Part
    validation: Part | None = None
    test: Part | None = None
    class_names: tuple[str, ...]
    licence: str
    source: str
    mirror: bool


def part(x: Array, y: Array, *, where: str, class_names: Sequence[str]) -> Part:
    """Check examples and labels, and pair them; `where` names them in errors.

    Raises: DatasetError for parts that are empty or of different length, labels that are no class numbers, pixels that
    are no finite numbers.
    """
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]  # Keras stores labels as a column
    if y.ndim != 1:
        raise DatasetError(f"{where}: labels of shape {y.shape}, expected (n,)")
    if len(x) != len(y):
        raise DatasetError(f"{where}: {len(x):,} examples but {len(y):,} labels; expected as many of both")
    if not x.size:
        raise DatasetError(f"{where}: empty (shape {x.shape}), expected at least one example")
    _check_labels(y, where, len(class_names))
    _check_values(x, where)
    return Part(x=x, y=y.astype(np.int32))


def _check_labels(y: Array, where: str, num_classes: int) -> None:
    if y.dtype.kind not in "iub":
        raise DatasetError(f"{where}: labels are {y.dtype}, expected integers 0 to {num_classes - 1}")
    wrong = np.flatnonzero((y < 0) | (y >= num_classes))
    if len(wrong):
        raise DatasetError(
            f"{where}: {len(wrong):,} labels out of range, the first is {y[wrong[0]]} at index {wrong[0]}; "
            f"allowed 0 to {num_classes - 1}"
        )


def _check_values(x: Array, where: str) -> None:
    if x.dtype.kind not in "iuf":
        raise DatasetError(f"{where}: values are {x.dtype}, expected uint8 or real numbers")
    if x.dtype.kind != "f":
        return
    wrong = np.argwhere(~np.isfinite(x))
    if len(wrong):
        index = tuple(int(i) for i in wrong[0])
        raise DatasetError(f"{where}: {len(wrong):,} values are NaN or infinite, the first at index {index}")
