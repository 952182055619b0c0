"""One shift for all channels of a layer, which the kernels then have as an immediate operand.

The short form of `requantise`, ``(floor((a * M + 2^31) / 2^32) + A) >> r`` with twice the sum in ``a``, is
``floor((z + 1/2 + A) / 2^r)`` with ``z = a * M / 2^32``, as `A` is whole. Numerator and denominator times ``2^j``, with
``j >= 1`` and so that ``r + j`` is the common shift `R`, make all but ``2^j * z`` whole:

    (floor((2^j * a) * M / 2^32) + 2^j * A + 2^(j-1)) >> R.

The factor ``2^j`` is part of weights and bias. Conditions: it leaves the weights in int16 and the sum in int32. Where
``r >= R``, the mantissa becomes smaller instead and loses bits, which an addition to the bias makes up for: both sides
rise with the sum, so they are equal where each output begins at the same sum.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firmware_export.engine.arithmetic import clamp
from firmware_export.engine.requantise import POSITIVE, Rescaling

_INT16_MAX, _HALF = (1 << 15) - 1, 1 << 30
_Row = tuple[int, int, int, int]
"""Mantissa, addend, scale of weights and bias, and what is added to the bias."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Common:
    """How sums become outputs with a common shift."""

    channels: NDArray[np.int32]
    """Rows of mantissa, addend, shift."""
    bias: NDArray[np.int32]
    scales: NDArray[np.int16]
    """What each channel's weights and bias are multiplied by."""


def common_shift(
    scaled: Rescaling, weights: NDArray[np.int8], swings: Sequence[int], limits: tuple[int, int], shift: int
) -> Common | None:
    """Give all channels one shift, None where that is not proven for each of them.

    `weights` are ``(channels, ...)``; `swings` are the largest absolute values of their products' sums.
    """
    if scaled.form != POSITIVE:
        return None
    largest = np.abs(weights.reshape(len(weights), -1).astype(np.int64)).max(axis=1).tolist()
    rows = []
    for channel, bias, weight, far in zip(scaled.channels.tolist(), scaled.bias.tolist(), largest, swings, strict=True):
        row = _channel(channel, weight, (bias // 2 - far, bias // 2 + far), limits, shift)
        if row is None:
            return None
        mantissa, addend, scale, rest = row
        rows.append((mantissa, addend, shift, scale, bias // 2 * scale + rest))
    table = np.array(rows, np.int32)
    return Common(channels=table[:, :3], bias=table[:, 4], scales=table[:, 3].astype(np.int16))


def _channel(
    row: tuple[int, int, int], weight: int, span: tuple[int, int], limits: tuple[int, int], shift: int
) -> _Row | None:
    mantissa, addend, right = row
    if mantissa == 0:
        return 0, addend >> right << shift, 1, 0
    if right < shift:
        more = shift - right
        return _checked((mantissa, (addend << more) + (1 << more >> 1), 2 << more, 0), weight, span)
    tries = (_smaller(row, more, span, limits, shift) for more in range(1, 8))
    return next((made for made in tries if made and _checked(made, weight, span)), None)


def _checked(made: _Row, weight: int, span: tuple[int, int]) -> _Row | None:
    """The form, None where weights, sums or addend leave their bits."""
    _, addend, scale, rest = made
    largest = max(map(abs, span)) * scale + abs(rest)
    return made if weight * scale <= _INT16_MAX and largest < 2 * _HALF and abs(addend) < _HALF else None


def _smaller(
    row: tuple[int, int, int], more: int, span: tuple[int, int], limits: tuple[int, int], shift: int
) -> _Row | None:
    """The form for ``r >= R`` with weights times ``2^(1 + more)``; outputs bound from both sides what the bias gets."""
    mantissa, addend, right = row
    scale, lost = 2 << more, right + more - shift
    less, whole = max((mantissa + (1 << lost >> 1)) >> lost, 1), ((2 * addend + 1) << more) >> (lost + 1)

    def output(acc: int) -> int:
        return clamp((((2 * acc * mantissa + (1 << 31)) >> 32) + addend) >> right, *limits)

    def begins(value: int) -> int:
        """The least scaled sum that gives this output."""
        return -((whole - (value << shift) << 32) // less)

    first, last = output(span[0]), output(span[1])
    steps = [begins(value) - scale * _least(output, value, *span) for value in range(first + 1, last + 1)]
    low = [*steps, *([begins(first) - scale * span[0]] if first > limits[0] else [])]
    high = [
        *(step + scale - 1 for step in steps),
        *([begins(last + 1) - 1 - scale * span[1]] if last < limits[1] else []),
    ]
    rest = max(low, default=min(high, default=0))
    return (less, whole, scale, rest) if rest <= min(high, default=rest) else None


def _least(output: Callable[[int], int], value: int, low: int, high: int) -> int:
    """The least sum above `low` that gives this output or a larger one.

    >>> _least(lambda acc: acc // 10, 3, 0, 100)
    30
    """
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if output(middle) >= value else (middle, high)
    return high
