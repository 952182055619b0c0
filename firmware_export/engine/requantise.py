"""Short forms of requantisation, each proven for the channel that uses it.

TFLite brings a sum into the output's scale with two roundings, `arithmetic.multiply`. The kernels' short forms
(`kernels/core.h`) need one multiplication, one addition and one shift.

With `M` the mantissa and `r` the shift to the right, TFLite's result is
``zero + round(round(acc * M / 2^31) / 2^r)``, the first rounding halves up, the second halves away from zero. For
``r > 0`` and ``acc >= 0`` this is

    floor((acc * M + 2^30 + 2^(30+r) + zero * 2^(31+r)) / 2^(31+r)),

and for ``acc < 0`` the same with 2^31 less: rounding away from zero takes one unit of the first result off, and a
mantissa of at least 2^30 leaves no negative sum at zero after the first rounding but that of exactly -2^30, for which
both agree. With twice the sum, ``a = 2 acc``, numerator and denominator double, and all but the product are multiples
of 2^32:

    (floor((a * M + 2^31) / 2^32) + 2^(r-1) + zero * 2^r - [acc < 0]) >> r.

Conditions: no step leaves 32 bits, so ``|a| < 2^31`` and ``|2^(r-1) + zero * 2^r| < 2^30``. Where the clamp removes all
results below the zero point, negative sums need no care. A channel whose smallest and largest sum give the same
output is a constant, as TFLite's result rises with the sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firmware_export.engine.arithmetic import SAFE_SUM, Multiplier, output_of

LONG, POSITIVE, SIGNED = 0, 1, 2
"""Forms, as the kernels number them."""
_HALF = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Sums:
    """What a channel may add up to."""

    bias: int
    swing: int
    """Largest absolute value of the products' sum."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rescaling:
    """How a layer's sums become outputs."""

    form: int
    channels: NDArray[np.int32]
    """Rows of mantissa, addend, shift."""
    bias: NDArray[np.int32]
    """In the form's unit: twice the model's in the short forms."""


def rescaling(factors: Sequence[Multiplier], sums: Sequence[Sums], zero: int, limits: tuple[int, int]) -> Rescaling:
    """Choose the shortest form that is exact for all channels; `limits` are the activation's."""
    form = POSITIVE if limits[0] >= zero else SIGNED
    rows = [_short(factor, span, zero, limits, form) for factor, span in zip(factors, sums, strict=True)]
    short = [row for row in rows if row is not None]
    if len(short) < len(rows):
        long_rows = [(factor.mantissa, zero, factor.shift) for factor in factors]
        biases = [span.bias for span in sums]
        return Rescaling(form=LONG, channels=np.array(long_rows, np.int32), bias=np.array(biases, np.int32))
    biases = [2 * span.bias if row[0] else 0 for row, span in zip(short, sums, strict=True)]
    return Rescaling(form=form, channels=np.array(short, np.int32), bias=np.array(biases, np.int32))


def _short(
    factor: Multiplier, span: Sums, zero: int, limits: tuple[int, int], form: int
) -> tuple[int, int, int] | None:
    """Mantissa, addend and shift of a channel's short form, None where it is not proven."""
    least, most = span.bias - span.swing, span.bias + span.swing
    if factor.shift <= 0 and -SAFE_SUM < least <= most < SAFE_SUM:
        output = output_of(least, factor, zero, limits)
        if output == output_of(most, factor, zero, limits):
            return 0, 2 * output + 1, 1
    fits = abs(span.bias) + span.swing < _HALF
    right = -factor.shift
    if not fits or factor.mantissa < _HALF or not 0 <= right < 23 or (right == 0 and form == SIGNED):
        return None
    addend = (zero << right) + (1 << right >> 1)
    return (factor.mantissa, addend, right) if abs(addend) < _HALF else None
