"""Sums of two int8 values in one step, ``(offset + a * i / 256 + b * j / 256) >> SHIFT``, divisions rounded down.

TFLite Micro rescales each value, adds, and rescales the sum. For nearly all scales the one step gives the same result,
but not where many sums lie on halves. All pairs of values are compared.
"""

from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from firmware_export.engine.arithmetic import SUM_SHIFT, Multiplier, multiply_all, quantize_multiplier
from firmware_export.engine.graph import Tensor

SHIFT = 21
"""The kernels' ENGINE_LINEAR_SHIFT."""
_VALUES = np.arange(-128, 128, dtype=np.int64)
_NEAR = sorted(product((0, -12, 12, -24, 24, -36, 36), repeat=2), key=lambda pair: abs(pair[0]) + abs(pair[1]))
"""Changes of both slopes to try, nearest first."""


class Summands(NamedTuple):
    """What TFLite Micro adds for two tensors."""

    table_a: NDArray[np.int64]
    table_b: NDArray[np.int64]
    """By value, ``(256,)``."""
    factor: Multiplier
    """From their sum to the output."""


def summands(a: Tensor, b: Tensor, target: Tensor, sign: int) -> Summands:
    """Rescale all values of both tensors to twice the larger scale; `sign` is that of `b`."""
    twice = 2 * max(a.scales[0], b.scales[0])
    factor = quantize_multiplier(twice / ((1 << SUM_SHIFT) * target.scales[0]))
    return Summands(_rescaled(a, twice), sign * _rescaled(b, twice), factor)


def _rescaled(tensor: Tensor, twice: float) -> NDArray[np.int64]:
    factor = quantize_multiplier(tensor.scales[0] / twice)
    return multiply_all(_VALUES - tensor.zero_points[0] << SUM_SHIFT, *factor)


def sums(table_a: NDArray[np.int64], table_b: NDArray[np.int64], factor: Multiplier, zero: int) -> NDArray[np.int64]:
    """Outputs ``(256, 256)`` for all pairs of `Summands`, before the clamp."""
    return multiply_all(table_a[:, None] + table_b, *factor) + zero


def line_through(
    outputs: NDArray[np.int64], slopes: tuple[float, float], limits: tuple[int, int]
) -> tuple[int, int, int] | None:
    """Find factors of both values and the offset that give all `outputs`, clamped to `limits`; None without luck.

    `slopes` are real, in outputs per unit of the values.
    """
    a, b = (round(slope * 2.0 ** (SHIFT + 8)) for slope in slopes)
    if max(abs(a), abs(b)) >= 1 << 31:
        return None
    clamped = np.clip(outputs, *limits)
    for near_a, near_b in _NEAR:
        offset = _offset(clamped, a + near_a, b + near_b, limits)
        if offset is not None:
            return a + near_a, b + near_b, offset
    return None


def _offset(outputs: NDArray[np.int64], a: int, b: int, limits: tuple[int, int]) -> int | None:
    """Find the offset for these factors: each output bounds it from both sides, those at the limits from one."""
    parts = (a * _VALUES >> 8)[:, None] + (b * _VALUES >> 8)
    least, most = (outputs << SHIFT) - parts, ((outputs + 1) << SHIFT) - 1 - parts
    low = int(least[outputs > limits[0]].max(initial=most.min()))
    high = int(most[outputs < limits[1]].min(initial=least.max()))
    offset = (low + high) // 2
    fits = abs(offset) + int(np.abs(parts).max()) < 1 << 31
    return offset if low <= high and fits else None
