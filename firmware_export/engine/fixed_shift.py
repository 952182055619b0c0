"""Requantisation by one shift for all channels: a multiplication with an addition, and a saturating shift.

With ``a = scale * acc``, `scale` a power of two, the kernels (`kernels/tiles.h`) compute

    saturate(saturate((floor(a * mantissa / 2^32) + addend) >> SHIFT) + offset),

where `saturate` brings a number into int8. TFLite's result (`requantise`) is at least ``zero + d``, ``d > 0``, from
``acc * M / 2^31 >= d * 2^r - 2^(r-1) - 1/2`` on; times ``2^(SHIFT-r)`` this gives
``addend = zero * 2^SHIFT + 2^(SHIFT-1) + 2^(SHIFT-r-1)`` with ``scale * mantissa = M * 2^(SHIFT-r+1)``. An activation
that ends at one limit of int8 only is the outer `saturate`: the inner one cuts at the other limit, moved there by
`offset`. Where the mantissa cannot be represented, or negative sums need another addend, the formula is off.

So nothing rests on it. Both functions rise with the sum, and TFLite's takes at most 256 values: they are the same for
all sums if they agree at the least and the largest sum, and on both sides of each step between. This is what is
checked, for each channel, with mantissas and addends near those of the formula.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from firmware_export.engine.arithmetic import INT8_MAX, INT8_MIN, SAFE_SUM, Multiplier, output_of

SHIFT = 12
"""The kernels' ENGINE_SHIFT."""
_LARGEST_RIGHT = 20
_NEAR = sorted(product(range(-3, 4), range(-1, 2)), key=lambda pair: abs(pair[0]) + 4 * abs(pair[1]))
"""Changes of mantissa and addend to try, nearest first."""

_Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedShift:
    """How a layer's sums become outputs."""

    exponents: _Ints
    """log2 of each channel's `scale`."""
    channels: NDArray[np.int32]
    """Rows of mantissa, addend."""
    offset: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Steps:
    """TFLite's outputs as a function of the sum, for each channel of a layer."""

    least: _Ints
    most: _Ints
    outputs: _Ints
    """``(channels, 2)`` at the least and the largest sum."""
    values: _Ints
    """Outputs ``(n,)``."""
    first: _Ints
    """``(channels, n)``: the least sum that gives a value or more."""


def fixed_shift(
    factors: Sequence[Multiplier],
    bounds: tuple[_Ints, _Ints],
    zero: int,
    limits: tuple[int, int],
    exponents: _Ints,
    *,
    free: bool,
) -> FixedShift | None:
    """Find what is exact for all channels, whose sums lie within `bounds`; None where a channel has no such form.

    `exponents` are log2 of the channels' scales, the largest ones where they are `free`.
    """
    offset, right = _offset(limits), np.array([-factor.shift for factor in factors], np.int64)
    if offset is None or right.min() < 0:
        return None
    steps = output_steps(factors, bounds, zero, limits)
    constant = steps.outputs[:, 0] == steps.outputs[:, 1]
    wanted = SHIFT + 1 - right
    chosen = np.clip(wanted, 0, exponents) if free else exponents
    largest = np.maximum(np.abs(steps.least), np.abs(steps.most))
    beyond = (right > _LARGEST_RIGHT) | (chosen < wanted) | (largest << chosen >= 1 << 31)
    if (largest >= SAFE_SUM).any() or (beyond & ~constant).any():
        return None
    mantissa = np.array([factor.mantissa for factor in factors], np.int64)
    centre = np.where(constant, 0, mantissa >> np.clip(chosen - wanted, 0, 31))
    rounding = (1 << SHIFT - 1) + (1 << np.clip(SHIFT - right - 1, 0, SHIFT))
    base = np.where(constant, steps.outputs[:, 0] << SHIFT, (zero << SHIFT) + rounding) - (offset << SHIFT)
    channels = _search(steps, chosen, centre, base, offset)
    return None if channels is None else FixedShift(exponents=chosen, channels=channels, offset=offset)


def output_steps(
    factors: Sequence[Multiplier], bounds: tuple[_Ints, _Ints], zero: int, limits: tuple[int, int]
) -> Steps:
    """Where TFLite's outputs rise; where a shift to the right is above 20, only the outputs at both ends hold."""
    ends = [[output_of(int(acc), f, zero, limits) for acc in pair] for f, *pair in zip(factors, *bounds, strict=True)]
    values = np.arange(limits[0] + 1, limits[1] + 1)
    right = np.array([[min(-f.shift, _LARGEST_RIGHT)] for f in factors], np.int64)
    above = (values - zero)[None, :]
    half = np.where(right > 0, 1 << np.maximum(right - 1, 0), 0)
    first_rounded = (above << right) - half + ((above <= 0) & (right > 0))
    mantissa = np.array([[max(f.mantissa, 1)] for f in factors], np.int64)
    first = -(-((first_rounded << 31) - (1 << 30)) // mantissa)
    return Steps(least=bounds[0], most=bounds[1], outputs=np.array(ends, np.int64), values=values, first=first)


def _offset(limits: tuple[int, int]) -> int | None:
    """What the outer saturation adds, None where both limits are within int8's."""
    low, high = limits[0] - INT8_MIN, limits[1] - INT8_MAX
    offset = low or high
    return None if (low and high) or not INT8_MIN <= offset <= INT8_MAX else offset


def _search(steps: Steps, exponents: _Ints, centre: _Ints, base: _Ints, offset: int) -> NDArray[np.int32] | None:
    """The nearest mantissa and addend of each channel that are exact."""
    found = np.zeros((len(centre), 2), np.int64)
    left = np.arange(len(centre))
    for by_mantissa, by_addend in _NEAR:
        pairs = np.stack([centre[left] + by_mantissa, base[left] + by_addend], axis=1)
        exact = _is_exact(steps, left, exponents[left], pairs, offset)
        found[left[exact]] = pairs[exact]
        left = left[~exact]
        if not len(left):
            return found.astype(np.int32)
    return None


def _is_exact(steps: Steps, rows: _Ints, exponents: _Ints, pairs: _Ints, offset: int) -> NDArray[np.bool_]:
    """Whether channels `rows` agree with TFLite for all sums."""

    def outputs(sums: _Ints) -> _Ints:
        high = ((sums << exponents[:, None]) * pairs[:, :1] >> 32) + pairs[:, 1:]
        return np.clip(np.clip(high >> SHIFT, INT8_MIN, INT8_MAX) + offset, INT8_MIN, INT8_MAX)

    ends = np.stack([steps.least[rows], steps.most[rows]], axis=1)
    reached = (steps.values > steps.outputs[rows, :1]) & (steps.values <= steps.outputs[rows, 1:])
    first = np.where(reached, steps.first[rows], ends[:, 1:])
    rises = (outputs(first) >= steps.values) & (outputs(first - 1) < steps.values)
    sane = (pairs[:, 0] >= 0) & (pairs[:, 0] < 1 << 31) & (np.abs(pairs[:, 1]) < 1 << 30)
    return np.asarray(sane & (rises | ~reached).all(axis=1) & (outputs(ends) == steps.outputs[rows]).all(axis=1))
