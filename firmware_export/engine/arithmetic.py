"""TensorFlow Lite's fixed point, as TFLite Micro's x86 reference kernels compute it: pure functions of integers.

A real multiplier becomes a `Multiplier`: a Q0.31 mantissa and a power of two. Rounding happens twice, once after the
multiplication and once after the shift, and the second rounds halves away from zero. Additions wrap at 32 bits.
"""

from math import floor, frexp
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

INT8_MIN, INT8_MAX = -128, 127
SUM_SHIFT = 20
"""By how many bits to the left ADD and SUB shift values before they rescale them."""
SAFE_SUM = (1 << 31) - 128
"""A number nearer to 0 stays in int32 when it is taken times a factor of at most 1 and a zero point is added."""
_ONE = (1 << 31) - 1
"""1.0 in Q0.31, as near as it gets."""
_MOST_SHIFT = 31
_ACTIVATIONS = {"RELU": (0.0, None), "RELU_N1_TO_1": (-1.0, 1.0), "RELU6": (0.0, 6.0)}
_Ints = NDArray[np.int64]


class Multiplier(NamedTuple):
    """A real factor ``mantissa * 2^(shift - 31)``."""

    mantissa: int
    shift: int
    """Positive: to the left."""


def wrap(value: int) -> int:
    """Bring a number into int32 as two's complement does.

    >>> wrap(2**31)
    -2147483648
    """
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


def clamp(value: int, low: int = INT8_MIN, high: int = INT8_MAX) -> int:
    """Bring a number into a range, by default int8's."""
    return min(max(value, low), high)


def round_away(value: float) -> int:
    """Round to the nearest integer, halves away from zero."""
    return floor(abs(value) + 0.5) * (1 if value >= 0 else -1)


def nearest_int32(value: float) -> int:
    """Round as `round_away`. Raises: OverflowError beyond int32, where a conversion in C is undefined."""
    if abs(value) > _ONE:
        raise OverflowError(f"scales give a limit of {value:.3g}, allowed are those of int32")
    return round_away(value)


def steps_of(value: float, scale: float) -> int:
    """Give a real value in steps of `scale`, divided in float32. Raises: OverflowError beyond int32."""
    with np.errstate(over="ignore"):
        return nearest_int32(float(np.float32(value) / np.float32(scale)))


def quantize_multiplier(real: float) -> Multiplier:
    """Bring a real factor into fixed point; one that is below about 2^-32 becomes zero.

    Raises: OverflowError from 2^31 on, where TFLite Micro's own shift is undefined.

    >>> quantize_multiplier(0.5), quantize_multiplier(1.0)
    (Multiplier(mantissa=1073741824, shift=0), Multiplier(mantissa=1073741824, shift=1))
    """
    if real == 0:
        return Multiplier(0, 0)
    fraction, shift = frexp(real)
    mantissa = round_away(fraction * (1 << 31))
    if mantissa == 1 << 31:
        mantissa, shift = mantissa // 2, shift + 1
    if shift > _MOST_SHIFT:
        raise OverflowError(f"scales give a factor of {real:.3g}, allowed is less than 2^{_MOST_SHIFT}")
    return Multiplier(mantissa, shift) if shift >= -31 else Multiplier(0, 0)


def high_mul(a: int, b: int) -> int:
    """``a * b / 2^31``, rounded to the nearest, halves up, saturating.

    >>> high_mul(1 << 30, 3), high_mul(-(1 << 30), 3)
    (2, -1)
    """
    return min((a * b + (1 << 30)) >> 31, _ONE)


def divide_by_power(value: int, exponent: int) -> int:
    """``value / 2^exponent``, rounded to the nearest, halves away from zero.

    >>> divide_by_power(3, 1), divide_by_power(-3, 1)
    (2, -2)
    """
    if exponent == 0:
        return value
    return (value + (1 << (exponent - 1)) - (value < 0)) >> exponent


def multiply(value: int, factor: Multiplier) -> int:
    """Multiply with both roundings; a shift to the left wraps."""
    left, right = max(factor.shift, 0), max(-factor.shift, 0)
    return divide_by_power(high_mul(wrap(value << left), factor.mantissa), right)


def multiply_all(values: _Ints, mantissa: _Ints | int, shift: _Ints | int) -> _Ints:
    """`multiply` for arrays, by one factor or several; exact as long as no shift to the left leaves 32 bits.

    >>> multiply_all(np.array([5, -5]), 1 << 30, -1), multiply(5, Multiplier(1 << 30, -1))
    (array([ 2, -1]), 2)
    """
    left, right = np.maximum(shift, 0), np.maximum(-np.asarray(shift), 0)
    high = ((values << left) * mantissa + (1 << 30)) >> 31
    return np.where(right > 0, (high + (1 << right >> 1) - (high < 0)) >> right, high)


def output_of(value: int, factor: Multiplier, zero: int, limits: tuple[int, int] = (INT8_MIN, INT8_MAX)) -> int:
    """Bring a sum or a value into the output's scale: multiplied, its zero point added, which wraps, and clamped."""
    return clamp(wrap(multiply(value, factor) + zero), *limits)


def activation_range(activation: str, scale: float, zero_point: int) -> tuple[int, int]:
    """The int8 range that a fused activation (``RELU``, ``RELU6``, ...) leaves, `scale` being the output's."""

    def quantized(value: float) -> int:
        return zero_point + steps_of(value, scale)

    low, high = _ACTIVATIONS.get(activation, (None, None))
    return (
        INT8_MIN if low is None else max(quantized(low), INT8_MIN),
        INT8_MAX if high is None else min(quantized(high), INT8_MAX),
    )


def padding_before(stride: int, dilation: int, size: int, kernel: int, same: bool) -> int:
    """Rows or columns of padding before the first one of an input of `size`."""
    if not same:
        return 0
    outputs = -(-size // stride)
    return max((outputs - 1) * stride + (kernel - 1) * dilation + 1 - size, 0) // 2


def input_radius(integer_bits: int, left_shift: int, total_bits: int = 31) -> int:
    """Largest input difference whose rescaled value still fits ``Q(integer_bits)``.

    Raises: OverflowError beyond int32.
    """
    return nearest_int32(floor(((1 << integer_bits) - 1) * (1 << (total_bits - integer_bits)) / 2.0**left_shift))


def saturating_left(value: int, exponent: int) -> int:
    """``value * 2^exponent``, saturating at int32."""
    return clamp(value << exponent, -(1 << 31), _ONE)


_EXP_STEPS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
"""exp of -1/4, -1/2, -1, -2, -4, -8, -16 in Q0.31."""


def exp_of_negative(value: int, integer_bits: int) -> int:
    """``exp(value)`` in Q0.31 for a `value` of at most 0 in ``Q(integer_bits)``, at most 5 integer bits."""
    if value == 0:
        return _ONE
    fraction_bits = 31 - integer_bits
    quarter = 1 << (fraction_bits - 2)
    reduced = (value & (quarter - 1)) - quarter
    result = _exp_near_minus_eighth(saturating_left(reduced, integer_bits))
    remainder = wrap(reduced - value)
    for step, factor in enumerate(_EXP_STEPS):
        if integer_bits > step - 2 and remainder & (1 << (fraction_bits + step - 2)):
            result = high_mul(result, factor)
    return result


def _exp_near_minus_eighth(value: int) -> int:
    """``exp`` of a Q0.31 in [-1/4, 0): Taylor's series about -1/8, to the fourth power."""
    constant, third = 1895147668, 715827883
    x = value + (1 << 28)
    x2 = high_mul(x, x)
    x3, x4 = high_mul(x2, x), high_mul(x2, x2)
    series = divide_by_power(high_mul(divide_by_power(x4, 2) + x3, third) + x2, 1)
    return wrap(constant + high_mul(constant, x + series))


def _half_denominator_inverse(value: int) -> int:
    """``2 / (1 + value)`` in Q2.29 for a Q0.31 in [0, 1], three steps of Newton's."""
    half = (value + _ONE + 1) // 2
    x = 1515870810 + high_mul(half, -1010580540)
    for _ in range(3):
        x = wrap(x + saturating_left(high_mul(x, (1 << 29) - high_mul(half, x)), 2))
    return x


def one_over_one_plus(value: int) -> int:
    """``1 / (1 + value)`` in Q0.31 for a Q0.31 in [0, 1]."""
    return saturating_left(_half_denominator_inverse(value), 1)


def logistic(value: int) -> int:
    """``1 / (1 + exp(-value))`` in Q0.31 for a Q4.27."""
    if value == 0:
        return 1 << 30
    positive = one_over_one_plus(exp_of_negative(-abs(value), 4))
    return positive if value > 0 else _ONE - positive


def tanh(value: int) -> int:
    """``tanh(value)`` in Q0.31 for a Q4.27: the argument of exp is twice as large, so read as a Q5.26."""
    if value == 0:
        return 0
    inverse = _half_denominator_inverse(exp_of_negative(-abs(value), 5))
    result = saturating_left(inverse - (1 << 29), 2)
    return -result if value < 0 else result
