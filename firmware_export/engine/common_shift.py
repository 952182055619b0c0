"""One shift for all channels of a layer, which the kernels then have as an immediate operand.

The short form of `requantise`, ``(floor((a * M + 2^31) / 2^32) + A) >> r`` with twice the sum in ``a``, is
``floor((z + 1/2 + A) / 2^r)`` with ``z = a * M / 2^32``, as `A` is whole. Numerator and denominator times ``2^j``, with
``j >= 1`` and so that ``r + j`` is the common shift `R`, make all but ``2^j * z`` whole:

    (floor((2^j * a) * M / 2^32) + 2^j * A + 2^(j-1)) >> R.

The factor ``2^j`` is part of weights and bias. Conditions: it leaves the weights in int16 and the sum in int32. Where
``r >= R``, the mantissa becomes smaller instead and loses bits: then both sides are compared. Both rise with the sum,
so where they agree on both ends of a range that have the same output, they agree between them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firmware_export.engine.arithmetic import clamp
from firmware_export.engine.requantise import POSITIVE, Rescaling

_INT16_MAX, _HALF = (1 << 15) - 1, 1 << 30


@dataclass(frozen=True, kw_only=True, eq=False)
class Common:
    """How sums become outputs with a common shift."""

    channels: NDArray[np.int32]
    """Rows of mantissa, addend, shift."""
    bias: NDArray[np.int32]
    scales: NDArray[np.int16]
    """What each channel's weights and bias are multiplied by."""


def common_shift(
    scaled: Rescaling, weights: NDArray[np.int8], reach: Sequence[int], limits: tuple[int, int], shift: int
) -> Common | None:
    """Give all channels one shift, None where that is not proven for each of them.

    `weights` are ``(channels, ...)``; `reach` is the largest absolute sum of a channel, its bias among it.
    """
    if scaled.form != POSITIVE:
        return None
    largest = np.abs(weights.reshape(len(weights), -1).astype(np.int64)).max(axis=1).tolist()
    rows = []
    for channel, bias, weight, far in zip(scaled.channels.tolist(), scaled.bias.tolist(), largest, reach, strict=True):
        row = _channel(channel, weight, far, limits, shift)
        if row is None:
            return None
        rows.append((*row, bias // 2 * row[3]))
    table = np.array(rows, np.int64)
    channels = np.array([(mantissa, addend, shift) for mantissa, addend, *_ in rows], np.int32)
    return Common(channels=channels, bias=table[:, 4].astype(np.int32), scales=table[:, 3].astype(np.int16))


def _channel(
    row: tuple[int, int, int], weight: int, reach: int, limits: tuple[int, int], shift: int
) -> tuple[int, int, int, int] | None:
    """Mantissa, addend, shift, scale of weights."""
    mantissa, addend, right = row
    if mantissa == 0:
        return 0, addend >> right << shift, shift, 1
    more = max(shift - right, 1)
    scale, lost = 2 << more, right + more - shift
    made = ((addend << more) + (1 << more >> 1)) >> lost
    if weight * scale > _INT16_MAX or reach * scale >= 2 * _HALF or abs(made) >= _HALF:
        return None
    smaller = (mantissa + (1 << lost >> 1)) >> lost

    def short(acc: int) -> int:
        return clamp((((2 * acc * mantissa + (1 << 31)) >> 32) + addend) >> right, *limits)

    def common(acc: int) -> int:
        return clamp((((scale * acc * smaller) >> 32) + made) >> shift, *limits)

    return (smaller, made, shift, scale) if lost == 0 or agree(short, common, -reach, reach) else None


def agree(a: Callable[[int], int], b: Callable[[int], int], low: int, high: int) -> bool:
    """Whether two functions that never fall are equal from `low` to `high`.

    >>> agree(lambda x: x // 2, lambda x: (x + 1) // 2, 0, 8), agree(lambda x: x // 2, lambda x: x >> 1, 0, 8)
    (False, True)
    """
    if a(low) != b(low) or a(high) != b(high):
        return False
    if high - low < 2 or a(low) == a(high):
        return True
    middle = (low + high) // 2
    return agree(a, b, low, middle) and agree(a, b, middle, high)
