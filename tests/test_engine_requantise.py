"""TFLite's fixed point with pencil and paper, and the short forms of requantisation against it."""

import numpy as np
import pytest

from firmware_export.engine.arithmetic import (
    SAFE_SUM,
    Multiplier,
    activation_range,
    clamp,
    divide_by_power,
    exp_of_negative,
    high_mul,
    logistic,
    multiply,
    multiply_all,
    output_of,
    padding_before,
    quantize_multiplier,
    tanh,
    wrap,
)
from firmware_export.engine.fixed_shift import SHIFT, fixed_shift, output_steps
from firmware_export.engine.requantise import LONG, POSITIVE, SIGNED, Sums, rescaling


def test_a_half_is_rounded_up_first_and_away_from_zero_then():
    """5 * 0.5 = 2.5 -> 3, and -5 * 0.5 = -2.5 -> -2; then 6 / 4 = 1.5 -> 2 and -6 / 4 = -1.5 -> -2."""
    assert [high_mul(value, 1 << 30) for value in (5, -5)] == [3, -2]
    assert [divide_by_power(value, 2) for value in (6, -6)] == [2, -2]
    assert multiply(-5, Multiplier(1 << 30, -1)) == divide_by_power(-2, 1) == -1


def test_a_factor_just_below_a_power_of_two_moves_up_to_it():
    """(1 - 2^-40) * 2^31 rounds to 2^31, which is no int32: the mantissa becomes 2^30 and the shift grows by one."""
    assert quantize_multiplier(1 - 2.0**-40) == Multiplier(1 << 30, 1)


def test_a_factor_below_two_to_the_minus_32_is_zero():
    assert quantize_multiplier(2.0**-32) == Multiplier(1 << 30, -31)
    assert quantize_multiplier(2.0**-33) == Multiplier(0, 0)


def test_a_shift_to_the_left_wraps():
    """2^30 * 4 = 2^32, which is 0 in 32 bits."""
    assert multiply(1 << 30, Multiplier(1 << 30, 2)) == 0


def test_arrays_are_multiplied_as_each_of_their_values():
    factors = [Multiplier(1 << 30, 0), Multiplier((1 << 31) - 1, 3), Multiplier(1518500250, -1), Multiplier(1, -31)]
    values = np.array([0, 1, -1, 5, -5, 6, -6, 1_000_001, -1_000_001, (1 << 28) - 1, -(1 << 28)])
    mantissas, shifts = np.array(factors).T[..., None]
    expected = [[multiply(value, factor) for value in values.tolist()] for factor in factors]
    assert multiply_all(values, mantissas, shifts).tolist() == expected
    assert [multiply_all(values, *factor).tolist() for factor in factors] == expected


def test_the_zero_point_may_take_an_output_beyond_32_bits():
    """2^31 - 1 times a half is 2^30, far above 127; times almost one it is 2^31 - 2, and 2^31 + 8 is -2^31 + 8."""
    most = (1 << 31) - 1
    assert output_of(most, Multiplier(1 << 30, 0), 10, (-128, 127)) == 127
    assert output_of(most, Multiplier(most, 0), 10, (-100, 127)) == -100
    assert output_of(8, Multiplier(1 << 30, 0), 10) == 14


def test_relu6_ends_at_six():
    """With scale 0.1 and zero point -100, 0 is -100 and 6 is -100 + 60 = -40."""
    assert activation_range("RELU6", 0.1, -100) == (-100, -40)
    assert activation_range("NONE", 0.1, -100) == (-128, 127)


def test_the_lesser_half_of_the_padding_comes_first():
    """10 columns, kernel 3, stride 2: 5 outputs reach over (5 - 1) * 2 + 3 = 11 columns; 1 is missing, 0 before."""
    assert padding_before(2, 1, 10, 3, True) == 0
    assert padding_before(1, 1, 10, 3, True) == 1


@pytest.mark.parametrize("value", [-15.9, -4.0, -0.5, 0.25, 1.0, 7.5])
def test_fixed_point_functions_are_near_the_real_ones(value):
    raw = round(value * 2**27)
    assert logistic(raw) / 2**31 == pytest.approx(1 / (1 + np.exp(-value)), abs=1e-6)
    assert tanh(raw) / 2**31 == pytest.approx(np.tanh(value), abs=1e-6)
    if value < 0:
        assert exp_of_negative(raw, 4) / 2**31 == pytest.approx(np.exp(value), abs=1e-6)


def short_form(acc, row, form):
    """What the kernels compute, step by step in 32 bits; see kernels/core.h."""
    mantissa, addend, shift = map(int, row)
    doubled = wrap(2 * acc)
    high = (doubled * mantissa + (1 << 31)) >> 32
    value = high + addend - (form == SIGNED and doubled < 0)
    assert wrap(value) == value
    return value >> shift


def tflite(acc, factor, zero):
    return multiply(acc, factor) + zero


def steps_of(factor, reach):
    """Sums on both sides of each step of the result that an int8 can show, and the ends."""
    real = factor.mantissa * 2.0 ** (factor.shift - 31)
    halves = (np.arange(-260, 261) - 0.5) / real
    near = {round(half) + offset for half in halves if abs(half) < reach for offset in (-2, -1, 0, 1, 2)}
    return sorted(near | {-reach, reach, -1, 0, 1})


@pytest.mark.parametrize("seed", range(60))
def test_short_forms_give_tflites_result_on_both_sides_of_every_step(seed):
    rng = np.random.default_rng(seed)
    mantissa = int(rng.choice([1 << 30, (1 << 31) - 1, rng.integers(1 << 30, 1 << 31)]))
    factor, zero = (
        Multiplier(mantissa, -int(rng.integers(0, 23))),
        int(rng.choice([-128, 127, 0, rng.integers(-128, 128)])),
    )
    limits = (zero, 127) if rng.random() < 0.5 else (-128, 127)
    reach = int(rng.integers(1000, 1 << 29))
    made = rescaling([factor], [Sums(bias=0, swing=reach)], zero, limits)
    assert (made.form == LONG) <= (factor.shift > -1 or abs(zero) << -factor.shift >= 1 << 29)
    if made.form != LONG:
        assert made.form == (POSITIVE if limits[0] >= zero else SIGNED)
        for acc in steps_of(factor, reach):
            got = clamp(short_form(acc if made.channels[0][0] else 0, made.channels[0], made.form), *limits)
            assert got == clamp(tflite(acc, factor, zero), *limits), (acc, factor, zero)


def test_a_channel_that_always_saturates_is_a_constant():
    """Bias 2^31 - 10^6 and products of at most 10^5, times 2^-11: at least 2^20 - 540, far above 127 on both ends."""
    made = rescaling([Multiplier(1 << 30, -10)], [Sums(bias=(1 << 31) - 10**6, swing=10**5)], 3, (-128, 127))
    assert made.form == SIGNED
    assert made.channels.tolist() == [[0, 255, 1]]
    assert made.bias.tolist() == [0]


def test_one_channel_beyond_the_bounds_takes_the_layer_to_the_long_form():
    """With 2^30 - 1 as the bias, twice the sum would leave 32 bits, and 2^-30 of it is 1 or 0."""
    near = Sums(bias=(1 << 30) - 1, swing=1 << 29)
    made = rescaling([Multiplier(1 << 30, -29), Multiplier(1 << 30, -8)], [near, Sums(bias=1, swing=9)], 0, (-128, 127))
    assert made.form == LONG
    assert made.bias.tolist() == [(1 << 30) - 1, 1]


def outputs_of(sums, factor, zero, limits):
    return [clamp(multiply(int(acc), factor) + zero, *limits) for acc in sums]


def by_fixed_shift(sums, exponent, mantissa, addend, offset):
    high = ((sums << exponent) * mantissa >> 32) + addend
    return np.clip(np.clip(high >> SHIFT, -128, 127) + offset, -128, 127)


def test_the_sums_at_which_an_output_rises():
    """A factor of 1/4: 1.5 rounds up and -1.5 down, so 6 gives 2 and -6 gives -2; what is first rounded is whole."""
    factor = Multiplier(1 << 30, -1)
    bounds = np.array([-8]), np.array([8])
    steps = output_steps([factor], bounds, 0, (-128, 127))
    first = dict(zip(steps.values.tolist(), steps.first[0].tolist(), strict=True))
    for value in (-1, 0, 1, 2):
        assert outputs_of([first[value] - 1, first[value]], factor, 0, (-128, 127)) == [value - 1, value]


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize(("zero", "limits"), [(-128, (-128, 127)), (-15, (-15, 127)), (-128, (-128, 90))])
def test_one_shift_for_all_channels_is_exact_for_every_sum(free, zero, limits):
    rng = np.random.default_rng(3)
    factors = [quantize_multiplier(real) for real in rng.uniform(0.0006, 0.02, 5)]
    bounds = rng.integers(-30_000, 0, 5), rng.integers(0, 30_000, 5)
    found = fixed_shift(factors, bounds, zero, limits, np.full(5, 8), free=free)
    for number, factor in enumerate(factors):
        sums = np.arange(bounds[0][number], bounds[1][number] + 1)
        channel = found.channels[number].astype(np.int64)
        got = by_fixed_shift(sums, found.exponents[number], *channel, found.offset)
        assert np.array_equal(got, outputs_of(sums, factor, zero, limits))


def test_halves_of_negative_sums_need_another_form():
    """Both signs of a sum are outputs: no line is near enough to both kinds of halves."""
    factors = [quantize_multiplier(0.003)]
    assert (
        fixed_shift(factors, (np.array([-40_000]), np.array([40_000])), 0, (-128, 127), np.array([8]), free=True)
        is None
    )


def test_a_dead_channel_is_its_constant_whatever_its_bias():
    """Sums from about -2^31 to -2^30 stay below zero: the bias does not fit the scale, and is not needed."""
    factors, bounds = [quantize_multiplier(0.003)], (np.array([1 - SAFE_SUM]), np.array([-(1 << 30)]))
    found = fixed_shift(factors, bounds, -128, (-128, 127), np.array([8]), free=False)
    assert found.channels.tolist() == [[0, -128 << SHIFT]]
