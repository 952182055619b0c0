"""Real numbers as the 8 bits that the device sees."""

import numpy as np
from numpy.typing import NDArray

from datasets.errors import DatasetError
from datasets.raw import Array

_ROWS = 4096  # at a time, so that float64 copies stay small


def value_range(x: Array, *, name: str) -> tuple[float, float]:
    """Find the values that become 0 and 255: least and greatest of `x`; uint8 is taken as it is.

    Raises: DatasetError where all values are equal.
    """
    if x.dtype == np.uint8:
        return 0.0, 255.0
    low, high = float(x.min()), float(x.max())
    if low == high:
        raise DatasetError(f"{name}: every training value is {low:g}; expected values that differ")
    return low, high


def to_uint8(x: Array, low: float, high: float) -> NDArray[np.uint8]:
    """``round((x - low) / (high - low) * 255)``, clipped to 0..255.

    >>> to_uint8(np.array([-1.0, 0.0, 0.5, 9.0]), -1.0, 1.0).tolist()  # 0, 127.5, 191.25, beyond the end
    [0, 128, 191, 255]
    """
    if x.dtype == np.uint8:
        return np.ascontiguousarray(x)
    mapped = np.empty(x.shape, np.uint8)
    for start in range(0, len(x), _ROWS):
        share = (x[start : start + _ROWS].astype(np.float64) - low) / (high - low)
        mapped[start : start + _ROWS] = np.rint(np.clip(share, 0.0, 1.0) * 255.0)
    return mapped
