"""One shift for all channels, and sums of two tensors in one step: both against TFLite's fixed point."""

import numpy as np
import pytest

from firmware_export.engine.arithmetic import Multiplier, clamp, multiply, quantize_multiplier
from firmware_export.engine.common_shift import common_shift
from firmware_export.engine.graph import Tensor
from firmware_export.engine.linear import SHIFT, line_through, summands, sums
from firmware_export.engine.requantise import Sums, rescaling

R = 10


def made(factor, bias, swing, zero, limits=(-128, 127), weight=100):
    scaled = rescaling([factor], [Sums(bias=bias, swing=swing)], zero, limits)
    return common_shift(scaled, np.array([[weight]], np.int8), [swing], limits, R)


def output(common, acc, bias, limits):
    """What `kernels/planes.c` computes of a sum: its products are scaled, its bias is the made one."""
    mantissa, addend, shift = map(int, common.channels[0])
    total = (acc - bias) * int(common.scales[0]) + int(common.bias[0])
    assert abs(total) < 1 << 31
    return clamp((((total * mantissa) >> 32) + addend) >> shift, *limits)


def test_a_channel_with_a_smaller_shift_gets_larger_weights():
    """Shift 8, zero point -128: 2^(10-8) = 4 times twice the weights; addend (-128 * 2^8 + 2^7) * 4 + 2."""
    common = made(Multiplier(1 << 30, -8), 10, 1000, -128)
    assert common.scales.tolist() == [8]
    assert common.channels.tolist() == [[1 << 30, (-128 * 256 + 128) * 4 + 2, 10]]
    assert common.bias.tolist() == [80]


def test_weights_that_leave_int16_keep_their_shift():
    """Shift 2 needs 2^9 times the weights: 63 * 512 = 32,256 fits, 64 * 512 = 32,768 does not."""
    assert made(Multiplier(1 << 30, -2), 0, 1000, -128, weight=63).scales.tolist() == [512]
    assert made(Multiplier(1 << 30, -2), 0, 1000, -128, weight=64) is None


def test_negative_sums_that_are_seen_keep_their_shift():
    assert made(Multiplier(1 << 30, -8), 0, 1000, 0) is None


@pytest.mark.parametrize("seed", range(40))
def test_the_common_shift_gives_tflites_result_on_both_sides_of_every_step(seed):
    rng = np.random.default_rng(seed)
    factor = Multiplier(int(rng.integers(1 << 30, 1 << 31)), -int(rng.integers(3, 21)))
    zero, bias = int(rng.choice([-128, -20, 5])), int(rng.integers(-200_000, 200_000))
    swing, limits = int(rng.integers(100, 300_000)), (zero, int(rng.choice([127, 60])))
    common = made(factor, bias, swing, zero, limits)
    if common is None:
        assert factor.shift > -4 or swing + abs(bias) > 1 << 17
        return
    halves = (np.arange(-256, 257) - 0.5) / (factor.mantissa * 2.0 ** (factor.shift - 31))
    near = {round(half) + offset for half in halves for offset in (-2, -1, 0, 1, 2) if abs(half - bias) < swing - 3}
    for acc in sorted(near | {bias - swing, bias, bias + swing}):
        assert output(common, acc, bias, limits) == clamp(multiply(acc, factor) + zero, *limits)


def test_a_line_gives_all_sums_of_two_tensors():
    """Scales 0.3 and 0.2, output 0.45, zero points 3, -4, 5: the line against TFLite's roundings."""
    twice, zeros = 2 * 0.3, (3, -4, 5)
    in_a, in_b, out = (quantize_multiplier(real) for real in (0.5, 0.2 / twice, twice / (2**20 * 0.45)))
    tables = [
        np.array([multiply((value - zero) << 20, factor) for value in range(-128, 128)])
        for zero, factor in zip(zeros, (in_a, in_b), strict=False)
    ]
    scaled = zip((0.3, 0.2, 0.45), zeros, strict=True)
    a, b, target = (
        Tensor(number=n, name="", shape=(1,), dtype="int8", scales=(scale,), zero_points=(zero,))
        for n, (scale, zero) in enumerate(scaled)
    )
    found = summands(a, b, target, -1)
    assert (found.table_a.tolist(), (-found.table_b).tolist(), found.factor) == (*map(np.ndarray.tolist, tables), out)
    expected = sums(*tables, out, 5)
    assert expected[3 + 128 + 45, 128 - 4] == 5 + 30  # 45 * 0.3 / 0.45
    assert expected[0, 7] == multiply(int(tables[0][0]) + int(tables[1][7]), out) + 5
    a, b, offset = line_through(expected, (0.3 / 0.45, 0.2 / 0.45), (-128, 127))
    values = np.arange(-128, 128)
    line = ((a * values >> 8)[:, None] + (b * values >> 8) + offset) >> SHIFT
    assert np.array_equal(np.clip(line, -128, 127), np.clip(expected, -128, 127))


def test_sums_that_lie_on_halves_need_the_tables():
    """Equal scales, the output's twice as large: (1 + 0) / 2 goes up, (-1 + 0) / 2 down, which no line does."""
    table = np.arange(-128, 128) << 19
    expected = sums(table, table, quantize_multiplier(2.0**-20), 0)
    assert (expected[129, 128], expected[127, 128]) == (1, -1)
    assert line_through(expected, (0.5, 0.5), (-128, 127)) is None
