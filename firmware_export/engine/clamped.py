"""Requantisation for cores without long multiplication: sums are clamped first, then multiplied in parts of 32 bits.

TFLite's result rises with the sum. Let `first` be the smallest output that occurs and `base` the smallest sum that
gives it: smaller sums, if there are any, are clamped to the same output, and so are all from ``base + limit`` on. In
between, ``x = sum - base`` has few bits. With the mantissa in three parts M0, M1, M2 of 11, 11 and 9 bits, and `r` the
shift to the right, the output is

    first + (((((x * M0 >> 11) + x * M1 + addend) >> 11) + x * M2 - [sum < 0] * 512) >> (9 + r));

`requantise` explains what the sign does. The nested divisions are one division rounded down. Whether this gives
TFLite's result is proven for each channel by all its thresholds: the smallest sums that give at least `v`, for each of
the at most 255 outputs `v`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from firmware_export.engine.arithmetic import SAFE_SUM, Multiplier, multiply_all
from firmware_export.engine.requantise import Sums

_Ints = NDArray[np.int64]
_LIMIT_BITS = 21
_PART_BITS = 11
_MASK = (1 << _PART_BITS) - 1
_LAST_SHIFT = 31 - 2 * _PART_BITS
_SIGN = 1 << _LAST_SHIFT


@dataclass(frozen=True, kw_only=True, eq=False)
class Clamped:
    """How a layer's sums become outputs."""

    bias: NDArray[np.int64]
    """What is added to a channel's products: the model's bias less the base."""
    channels: NDArray[np.uint32]
    """Rows of limit and last shift, mantissa, addend, pivot and first output (`kernels/lean.h`)."""


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
        return multiply_all(sums, self.mantissa, self.shift)

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
    if shift.max() >= _LAST_SHIFT or (np.abs(bias) + swing << np.maximum(shift, 0)).max() >= SAFE_SUM:
        return None
    least, most = (np.clip(channels.outputs(end) + zero, *limits) for end in (channels.least, channels.most))
    fixed = (least == most)[:, 0]
    table = np.concatenate([np.full_like(least, _LAST_SHIFT), 0 * least, 0 * least, least & 255], axis=1)
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
    """Constants of channels that have more than one output; their `bias` is the base."""
    if channels.shift.min() < _LAST_SHIFT - 31:
        return None
    first = np.maximum(channels.outputs(channels.least) + zero, limits[0])
    wider = replace(
        channels, least=channels.least - (4 << np.maximum(-channels.shift, 0))
    )  # more than an output's sums
    if max((wider.most - wider.least).max(), -wider.least.min()) >= 1 << 31:
        return None
    steps = wider.thresholds(np.arange(limits[0], limits[1] + 1, dtype=np.int64) - zero)
    base = np.take_along_axis(steps, first - limits[0], axis=1)
    unit = 31 - channels.shift
    numerator = base * channels.mantissa + (1 << (unit - 1)) + ((zero - first) << unit)
    rows = _Rows(
        limit=np.where(steps <= channels.most, steps - base, 0).max(axis=1, keepdims=True, initial=0),
        mantissa=channels.mantissa,
        addend=numerator + np.where(channels.shift < 0, 1 << 30, 0) >> _PART_BITS,
        shift=_LAST_SHIFT - channels.shift,
        pivot=np.where(channels.shift < 0, np.clip(-base, 0, 1 << _LIMIT_BITS), 0),
        first=first,
    )
    if not _is_exact(rows, steps - base, np.arange(limits[0], limits[1] + 1)):
        return None
    signs = rows.pivot << 8 | first & 255
    table = np.concatenate([rows.limit << 8 | rows.shift, rows.mantissa, rows.addend, signs], axis=1)
    return Clamped(bias=base[:, 0], channels=table.astype(np.uint32))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Rows:
    limit: _Ints
    mantissa: _Ints
    addend: _Ints
    shift: _Ints
    pivot: _Ints
    first: _Ints

    def parts(self, x: _Ints) -> tuple[_Ints, _Ints]:
        """Both sums of parts, as the kernel computes them, without bounds of 32 bits."""
        lower = (x * (self.mantissa & _MASK) >> _PART_BITS) + x * (self.mantissa >> _PART_BITS & _MASK) + self.addend
        return lower, (lower >> _PART_BITS) + x * (self.mantissa >> 2 * _PART_BITS) - _SIGN * (x < self.pivot)

    def outputs(self, x: _Ints) -> _Ints:
        """What the kernel gives for sums ``(n, m)`` less the base."""
        return np.asarray((self.parts(x)[1] >> self.shift) + self.first, np.int64)


def _is_exact(rows: _Rows, steps: _Ints, values: _Ints) -> bool:
    """Whether 32 bits suffice, and all outputs are TFLite's: they rise to `values` ``(m,)`` at `steps` ``(n, m)``."""
    ends = np.concatenate([np.zeros_like(rows.limit), rows.limit], axis=1)
    lower, upper = rows.parts(ends)
    if rows.limit.max() >= 1 << _LIMIT_BITS or rows.addend.min() < 0 or upper.min() < 0:
        return False
    if max(lower.max(), upper.max()) >= (1 << 32) - _SIGN or rows.outputs(ends).max() > values[-1]:
        return False
    counts = (steps > 0) & (steps <= rows.limit)
    right = (rows.outputs(steps) >= values) & (rows.outputs(steps - 1) < values)
    return bool(np.all(right | ~counts) and np.array_equal(rows.outputs(ends[:, :1]), rows.first))
