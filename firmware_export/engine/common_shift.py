"""One shift for all channels of a layer, which the kernels then have as an immediate operand.

The short form of `requantise`, ``(floor((a * M + 2^31) / 2^32) + A) >> r`` with twice the sum in ``a``, is
``floor((z + 1/2 + A) / 2^r)`` with ``z = a * M / 2^32``, as `A` is whole. Numerator and denominator times ``2^j``, with
``j >= 1`` and so that ``r + j`` is the common shift `R`, make all but ``2^j * z`` whole:

    (floor((2^j * a) * M / 2^32) + 2^j * A + 2^(j-1)) >> R.

The factor ``2^j`` is part of weights and bias. Conditions: it leaves the weights in int16 and the sum in int32. Where
``r >= R``, the mantissa becomes smaller instead and loses bits, and what the addend then has below 1 goes into the
bias: so both sides are compared. Both rise with the sum, so where they agree on both ends of a range that have the same
output, they agree between them.
"""

from collections.abc import Callable, Iterator, Sequence
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
) -> tuple[int, int, int, int] | None:
    """Mantissa, addend, scale of weights and bias, and what is added to the bias."""
    mantissa, addend, right = row
    if mantissa == 0:
        return 0, addend >> right << shift, 1, 0
    for made in _candidates(row, shift):
        whole, scale, rest = made[1:]
        if weight * scale > _INT16_MAX or max(map(abs, span)) * scale + abs(rest) >= 2 * _HALF or abs(whole) >= _HALF:
            return None
        if right < shift or agree(_short(row, limits), _common(made, shift, limits), *span):
            return made
    return None


def _candidates(row: tuple[int, int, int], shift: int) -> Iterator[tuple[int, int, int, int]]:
    """Forms of a channel, weights with small scales first; the first one is exact where ``r < R``."""
    mantissa, addend, right = row
    for more in range(max(shift - right, 1), 8):
        scale, lost = 2 << more, right + more - shift
        whole, rest = divmod((2 * addend + 1) << more, 2 << lost)
        smaller = max((mantissa + (1 << lost >> 1)) >> lost, 1)
        nearest = ((rest << 32 - lost) // smaller + 1) // 2
        yield from ((smaller, whole, scale, nearest + offset) for offset in ((0,) if lost == 0 else (0, -1, 1)))


def _short(row: tuple[int, int, int], limits: tuple[int, int]) -> Callable[[int], int]:
    mantissa, addend, right = row
    return lambda acc: clamp((((2 * acc * mantissa + (1 << 31)) >> 32) + addend) >> right, *limits)


def _common(made: tuple[int, int, int, int], shift: int, limits: tuple[int, int]) -> Callable[[int], int]:
    mantissa, addend, scale, rest = made
    return lambda acc: clamp(((((scale * acc + rest) * mantissa) >> 32) + addend) >> shift, *limits)


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
