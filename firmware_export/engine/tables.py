"""Operators that are a function of one int8: tables of 256 entries, entry ``i`` for the value ``i - 128``.

Every entry is computed here with TFLite Micro's own integer arithmetic, so that the device only looks it up.
"""

from collections.abc import Callable
from math import frexp

import numpy as np
from numpy.typing import NDArray

from firmware_export.engine.arithmetic import (
    INT8_MAX,
    INT8_MIN,
    Multiplier,
    clamp,
    divide_by_power,
    exp_of_negative,
    high_mul,
    input_radius,
    logistic,
    multiply,
    output_of,
    quantize_multiplier,
    round_away,
    steps_of,
    tanh,
    wrap,
)
from firmware_export.engine.graph import Tensor

_INT32_MAX = (1 << 31) - 1


def _table(function: Callable[[int], int]) -> NDArray[np.int8]:
    return np.array([function(value) for value in range(INT8_MIN, INT8_MAX + 1)], np.int8)


def _scale(tensor: Tensor) -> np.float32:
    return np.float32(tensor.scales[0])


def requantize(source: Tensor, target: Tensor) -> NDArray[np.int8]:
    """QUANTIZE between int8 tensors, or to or from uint8 (whose values less 128 are used here)."""
    factor = quantize_multiplier(float(_scale(source)) / float(_scale(target)))
    source_offset, target_offset = (t.zero_points[0] - 128 * (t.dtype == "uint8") for t in (source, target))
    return _table(lambda value: output_of(value - source_offset, factor, target_offset))


def relu(source: Tensor, target: Tensor) -> NDArray[np.int8]:
    """RELU with its rescaling."""
    factor, zero = quantize_multiplier(source.scales[0] / target.scales[0]), target.zero_points[0]
    limits = max(zero, INT8_MIN), INT8_MAX
    return _table(lambda value: output_of(value - source.zero_points[0], factor, zero, limits))


def relu6(source: Tensor) -> NDArray[np.int8]:
    """RELU6, which TFLite Micro computes in the input's scale."""
    zero = source.zero_points[0]
    six = clamp(steps_of(6.0, source.scales[0]) + zero)
    return _table(lambda value: min(max(value, zero), six))


def leaky_relu(source: Tensor, target: Tensor, alpha: float) -> NDArray[np.int8]:
    """LEAKY_RELU; a negative slope is multiplied without its sign.

    Raises: OverflowError where TFLite Micro takes the sign off a mantissa of -2^31, which is undefined.
    """
    slope = quantize_multiplier(source.scales[0] * alpha / target.scales[0])
    same = quantize_multiplier(source.scales[0] / target.scales[0])
    if slope.mantissa < -_INT32_MAX:
        raise OverflowError(
            f"alpha {alpha:.9g} and scales give the factor -2^{slope.shift}, whose mantissa has no opposite"
        )
    sign, slope = (-1 if slope.mantissa < 0 else 1), Multiplier(abs(slope.mantissa), slope.shift)

    def value_of(value: int) -> int:
        offset = value - source.zero_points[0]
        scaled = multiply(offset, same) if offset >= 0 else sign * multiply(offset, slope)
        return clamp(wrap(scaled + target.zero_points[0]))

    return _table(value_of)


def _sigmoid_like(source: Tensor, function: Callable[[int], int], low: int, bits: int, offset: int) -> NDArray[np.int8]:
    fraction, shift = frexp(float(_scale(source)) * 2.0**27)
    factor = Multiplier(wrap(round_away(fraction * 2.0**31)), shift)
    radius = input_radius(4, shift)

    def value_of(value: int) -> int:
        centred = value - source.zero_points[0]
        if abs(centred) >= radius:
            return low if centred <= -radius else INT8_MAX
        return clamp(divide_by_power(function(multiply(centred, factor)), bits) + offset)

    return _table(value_of)


def logistic_table(source: Tensor) -> NDArray[np.int8]:
    """LOGISTIC; the output's scale is 1/256, its zero point -128."""
    return _sigmoid_like(source, logistic, INT8_MIN, 23, -128)


def tanh_table(source: Tensor) -> NDArray[np.int8]:
    """TANH; the output's scale is 1/128, its zero point 0."""
    return _sigmoid_like(source, tanh, INT8_MIN, 24, 0)


def _to_int16(mantissa: int) -> int:
    return 32767 if mantissa >= _INT32_MAX - (1 << 15) else (mantissa + (1 << 15)) >> 16


def _high_mul16(a: int, b: int) -> int:
    return min((a * b + (1 << 14)) >> 15, 32767)


def _saturate16(value: int) -> int:
    return clamp(value, -32768, 32767)


def _divide16(value: int, exponent: int) -> int:
    """As `divide_by_power`, but in 16 bits, where masks of 16 bits and more are all ones."""
    return divide_by_power(value, exponent) if exponent < 16 else 1 if value >= 0 else -1


def hard_swish(source: Tensor, target: Tensor) -> NDArray[np.int8]:
    """HARD_SWISH in 16 bits: ``x * relu6(x + 3) / 6``."""
    fine = source.scales[0] / 128
    output, reluish = quantize_multiplier(fine / target.scales[0]), quantize_multiplier(fine / (3 / 32768))
    output16, reluish16, exponent = _to_int16(output.mantissa), _to_int16(reluish.mantissa), reluish.shift

    def value_of(value: int) -> int:
        wide = (value - source.zero_points[0]) * 128
        gate = _saturate16(wide << (exponent - 1)) if exponent > 0 else wide
        gate = _high_mul16(gate, reluish16)
        gate = _saturate16(gate << 1) if exponent > 0 else _divide16(gate, -exponent)
        product = ((gate + (1 << 15)) >> 1) * _high_mul16(wide, output16)
        kept = (abs(product) >> 15) * (1 if product >= 0 else -1)
        return clamp(_divide16(kept, -output.shift) + target.zero_points[0])

    return _table(value_of)


def dequantize(source: Tensor) -> NDArray[np.float32]:
    """DEQUANTIZE of int8, or of uint8 less 128."""
    offset = source.zero_points[0] - 128 * (source.dtype == "uint8")
    return np.array([np.float32(float(_scale(source)) * (v - offset)) for v in range(-128, 128)], np.float32)


def exponentials(source: Tensor, beta: float) -> NDArray[np.int32]:
    """SOFTMAX: ``exp(beta * scale * -i)`` in Q0.31 for the differences 0..255 to a row's maximum; 0 where too small."""
    real = min(float(np.float32(beta)) * float(_scale(source)) * 2.0**26, 2.0**31 - 1)
    factor = quantize_multiplier(real)
    radius = input_radius(5, factor.shift)
    values = [
        exp_of_negative(high_mul(wrap(-i << factor.shift), factor.mantissa), 5) if i <= radius else 0
        for i in range(256)
    ]
    return np.array(values, np.int32)
