"""Requantisation for cores without long multiplication, against TFLite's two roundings."""

import numpy as np
import pytest

from firmware_export.engine.arithmetic import Multiplier, clamp, multiply, quantize_multiplier
from firmware_export.engine.clamped import clamped
from firmware_export.engine.requantise import Sums


def output(x, row):
    """What `kernels/lean.h` computes, each step in 32 bits."""
    last, mantissa, addend, pivot = (int(value) for value in row)
    x = min(max(x, 0), last >> 8)
    total = x * (mantissa & 2047) >> 11
    total = total + x * (mantissa >> 11 & 2047) + addend
    assert total < 1 << 32
    total = (total >> 11) + x * (mantissa >> 22)
    assert total < 1 << 32
    total -= 512 * (x < pivot >> 8)
    assert total >= 0
    return (total >> (last & 31)) + (pivot & 255 ^ 128) - 128


def tflite(acc, factor, zero, limits):
    return clamp(multiply(acc, factor) + zero, *limits)


def test_a_quarter_by_pencil():
    """Sums of -8 to 8 times 1/4 on top of zero point 1, from -1 to 2: -8 / 4 + 1 = -1, and 4 / 4 + 1 = 2.

    Halves go up, then away from zero. -10 / 2 = -5 and -5 / 2 -> -3, -9 / 2 -> -4 and -4 / 2 = -2: so -1 begins
    with -9. 0 / 2 = 0, but 1 / 2 -> 1 and 1 / 2 -> 1: so 2 begins with 1. The base is -9; 10 sums above it count.
    """
    found = clamped([Multiplier(1 << 30, -1)], [Sums(bias=0, swing=8)], 1, (-1, 2))
    assert found.bias.tolist() == [9]
    assert found.channels[0, 0] == 10 << 8 | 10
    outputs = [output(acc + 9, found.channels[0]) for acc in range(-8, 9)]
    assert outputs == [tflite(acc, Multiplier(1 << 30, -1), 1, (-1, 2)) for acc in range(-8, 9)]
    assert [outputs[acc + 8] for acc in (-8, -6, -5, 0, 1, 8)] == [-1, -1, 0, 1, 2, 2]


def test_a_channel_with_one_output_needs_no_multiplication():
    found = clamped([Multiplier(1 << 30, -31)], [Sums(bias=1 << 30, swing=100)], -5, (-128, 127))
    assert found.channels[0, 1] == 0
    assert {output(x, found.channels[0]) for x in (-(1 << 31), 0, 99, (1 << 31) - 1)} == {-5}


@pytest.mark.parametrize(
    ("factor", "sums"),
    [
        (0.001, Sums(bias=(1 << 31) - 5, swing=9)),  # beyond int32
        (2.0**-14, Sums(bias=0, swing=1 << 24)),  # more sums count than fit 21 bits
        (2.0**9, Sums(bias=0, swing=10)),  # a shift to the left for which there is no last one
    ],
)
def test_what_has_no_such_form_is_told(factor, sums):
    assert clamped([quantize_multiplier(factor)], [sums], 0, (-128, 127)) is None


@pytest.mark.parametrize("seed", range(40))
def test_every_sum_gives_tflites_output(seed):
    rng = np.random.default_rng(seed)
    zero = int(rng.integers(-128, 128))
    limits = (zero, 127) if rng.random() < 0.4 else (-128, 127) if rng.random() < 0.5 else (max(zero - 3, -128), 127)
    factors = [quantize_multiplier(float(2.0 ** rng.uniform(-11, 0))) for _ in range(4)]
    factors[0] = Multiplier(1 << 30, int(rng.integers(-8, 1)))  # a power of two meets halves exactly
    spans = [Sums(bias=int(rng.integers(-5000, 5000)), swing=int(rng.integers(0, 1 << 16))) for _ in factors]
    found = clamped(factors, spans, zero, limits)
    assert found is not None
    for factor, span, bias, row in zip(factors, spans, found.bias.tolist(), found.channels, strict=True):
        for acc in range(span.bias - span.swing, span.bias + span.swing + 1, max(span.swing // 500, 1)):
            assert output(acc - span.bias + bias, row) == tflite(acc, factor, zero, limits), (factor, acc)
