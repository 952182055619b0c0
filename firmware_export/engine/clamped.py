"""Requantisation for cores without long multiplication: sums are clamped first, then multiplied in parts of 32 bits.

TFLite's result rises with the sum, so all sums up to some `base` give the smallest output that occurs and all from
``base + limit`` on the largest. In between, ``x = sum - base`` has few bits. With the mantissa in three parts M0, M1,
M2 of 11, 11 and 9 bits, and `r` the shift to the right, the result's distance from the smallest output is

    ((((x * M0 >> 11) + x * M1 + addend) >> 11) + x * M2 - [sum < 0] * 512) >> (9 + r);

`requantise` explains what the sign does. The nested divisions are one division rounded down. Whether this gives
TFLite's result is proven for each channel by all its thresholds: the smallest sums that give at least `v`, for each of
the at most 255 outputs `v`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from firmware_export.engine.arithmetic import Multiplier
from firmware_export.engine.requantise import Sums

_Ints = NDArray[np.int64]
_LIMIT_BITS = 20
_PART_BITS = 11
_MASK = (1 << _PART_BITS) - 1
_LAST_SHIFT = 31 - 2 * _PART_BITS
_SIGN = 1 << _LAST_SHIFT


def multiplied(sums: _Ints, mantissa: "_Ints | int", shift: "_Ints | int") -> _Ints:
    """`arithmetic.multiply` for arrays, as far as no shift to the left leaves 32 bits."""
    left, right = np.maximum(shift, 0), np.maximum(-np.asarray(shift), 0)
    high = ((sums << left) * mantissa + (1 << 30)) >> 31
    return np.where(right > 0, (high + (1 << right >> 1) - (high < 0)) >> right, high)


@dataclass(frozen=True, kw_only=True, eq=False)
class Clamped:
    """How a layer's sums become outputs."""

    bias: NDArray[np.int64]
    """What is added to a channel's products: the model's bias less the base."""
    channels: NDArray[np.uint32]
    """Rows of limit and last shift, mantissa, addend, pivot (`kernels/lean.h`)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Channels:
    """One row for each channel."""

    mantissa: _Ints
    shift: _Ints
    """To the left."""
    least: _Ints
    most: _Ints
    """Sums."""

    def outputs(self, sums: _Ints) -> _Ints:
        """TFLite's results ``(n, m)`` for sums ``(n, m)``, without the zero point."""
        return multiplied(sums, self.mantissa, self.shift)

    def those(self, chosen: NDArray[np.bool_]) -> "_Channels":
        """Some of them."""
        return _Channels(**{name: values[chosen] for name, values in vars(self).items()})

    def thresholds(self, values: _Ints) -> _Ints:
        """The smallest sums ``(n, m)`` that give at least `values` ``(m,)``, one above `most` where none does."""
        low = np.broadcast_to(self.least, (len(self.least), len(values))).copy()
        high = np.broadcast_to(self.most + 1, low.shape).copy()
        for _ in range(int((self.most - self.least).max() + 1).bit_length() + 1):
            middle = (low + high) >> 1
            reached = self.outputs(middle) >= values
            high = np.where(reached & (low < high), middle, high)
            low = np.where(reached | (low >= high), low, middle + 1)
        return high


def clamped(factors: Sequence[Multiplier], sums: Sequence[Sums], zero: int, limits: tuple[int, int]) -> Clamped | None:
    """Find constants for all channels of a layer, None where one has no such form; `limits` are the outputs'."""
    bias, swing = (np.array([[getattr(span, name)] for span in sums], np.int64) for name in ("bias", "swing"))
    mantissa, shift = np.array(factors, np.int64).T[..., None]
    channels = _Channels(mantissa=mantissa, shift=shift, least=bias - swing, most=bias + swing)
    if shift.max() >= _LAST_SHIFT or (np.abs(bias) + swing << np.maximum(shift, 0)).max() >= 1 << 31:
        return None
    least, most = (np.clip(channels.outputs(end) + zero, *limits) for end in (channels.least, channels.most))
    fixed = (least == most)[:, 0]
    places = (least - limits[0]) << 2 * _PART_BITS - 2
    table = np.concatenate([np.full_like(places, _LAST_SHIFT), 0 * places, places, 0 * places], axis=1)
    found = Clamped(bias=bias[:, 0], channels=table.astype(np.uint32))
    if fixed.all():
        return found
    rest = _constants(channels.those(~fixed), zero, limits)
    if rest is None:
        return None
    found.bias[~fixed] -= rest.bias
    found.channels[~fixed] = rest.channels
    return found


def _constants(channels: _Channels, zero: int, limits: tuple[int, int]) -> Clamped | None:
    """Constants of channels that have more than one output; their `bias` is the base.

    Smaller sums than occur are looked at as well, so that there are some that give the smallest output.
    """
    low, high = limits
    if channels.shift.min() < _LAST_SHIFT - 31:
        return None
    channels = replace(channels, least=channels.least - (256 << np.maximum(1 - channels.shift, 1)))
    if max((channels.most - channels.least).max(), -channels.least.min()) >= 1 << 31:
        return None
    steps = channels.thresholds(np.arange(low + 1, high + 1, dtype=np.int64) - zero)
    base = np.clip(steps[:, :1] - 1, channels.least, channels.most)
    limit = np.where(steps <= channels.most, steps - base, 0).max(axis=1, keepdims=True, initial=0)
    unit = 31 - channels.shift
    numerator = base * channels.mantissa + (1 << (unit - 1)) + ((zero - low) << unit)
    numerator += np.where(channels.shift < 0, 1 << 30, 0)
    rows = _Rows(
        limit=limit,
        mantissa=channels.mantissa,
        addend=numerator >> _PART_BITS,
        shift=_LAST_SHIFT - channels.shift,
        pivot=np.where(channels.shift < 0, np.maximum(-base, 0), 0),
    )
    if not _is_exact(rows, channels, base, steps, (low, high, zero)):
        return None
    table = np.concatenate([rows.limit << 8 | rows.shift, rows.mantissa, rows.addend, rows.pivot], axis=1)
    return Clamped(bias=base[:, 0], channels=table.astype(np.uint32))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Rows:
    limit: _Ints
    mantissa: _Ints
    addend: _Ints
    shift: _Ints
    pivot: _Ints

    def parts(self, x: _Ints) -> tuple[_Ints, _Ints]:
        """Both sums of parts, as the kernel computes them, without bounds of 32 bits."""
        lower = (x * (self.mantissa & _MASK) >> _PART_BITS) + x * (self.mantissa >> _PART_BITS & _MASK) + self.addend
        return lower, (lower >> _PART_BITS) + x * (self.mantissa >> 2 * _PART_BITS) - _SIGN * (x < self.pivot)

    def places(self, x: _Ints) -> _Ints:
        return np.asarray(self.parts(x)[1] >> self.shift, np.int64)


def _is_exact(rows: _Rows, channels: _Channels, base: _Ints, steps: _Ints, outputs: tuple[int, int, int]) -> bool:
    """Whether 32 bits suffice and the places of all sums are TFLite's: they rise where its results do.

    `outputs` are the smallest, the largest and the zero point.
    """
    low, high, zero = outputs
    ends = np.concatenate([np.zeros_like(rows.limit), rows.limit], axis=1)
    lower, upper = rows.parts(ends)
    if rows.limit.max() >= 1 << _LIMIT_BITS or rows.addend.min() < 0 or upper.min() < 0:
        return False
    if max(lower.max(), upper.max()) >= (1 << 32) - _SIGN or rows.pivot.max() >= 1 << 31:
        return False
    if not np.array_equal(rows.places(ends), np.clip(channels.outputs(base + ends) + zero, low, high) - low):
        return False
    places = np.arange(1, steps.shape[1] + 1)
    x = steps - base
    counts = (x > 0) & (x <= rows.limit)
    return bool(np.all(~counts | ((rows.places(x) >= places) & (rows.places(x - 1) < places))))
