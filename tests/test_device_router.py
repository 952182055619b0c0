"""The router in integers: by pencil, at the bounds, and the same bits in Python and in compiled C."""

from dataclasses import replace

import numpy as np
import pytest
from router_helpers import ALL, compiled, extremes, made_up, outputs

from hybrid.cascade import Mix, Stage
from hybrid.device_router import (
    CUTS,
    HIDDEN_MAX,
    SUM_MAX,
    IntegerRouter,
    RouterInputs,
    RouterNet,
    StoredOutputs,
    cut,
    even_cuts,
    exponentials,
    integer_router,
    program_routers,
    router_inputs,
)

EXAMPLES = 10_000
STORED = StoredOutputs(
    logits=np.array([[10, 30, 25], [7, -5, 7]], np.int8), features=np.array([[-128, 2], [127, 0]], np.int8)
)


def test_inputs_by_pencil():
    inputs = RouterInputs(features=True, gaps=True, top=2, betas=(np.log(2) / 5,), classes=True)
    # first: gaps 20, 0, 5; the confidence halves every 5: 4096 / (1/16 + 1 + 1/2) of 4096 is 1 / 1.5625
    # second: gaps 0, 12, 0; of equal logits the lowest answers, its own gap is not among the two nearest
    first = [0, 130, 20, 0, 5, 5, 20, int(4096 / 1.5625), 0, 1, 0]
    halved = round(4096 * 2 ** (-12 / 5))
    second = [255, 128, 0, 12, 0, 0, 12, (1 << 24) // (2 * 4096 + halved), 1, 0, 0]
    assert router_inputs(STORED, inputs).tolist() == [first, second]


def test_a_linear_router_by_pencil():
    router = IntegerRouter(
        inputs=RouterInputs(top=1, classes=True),
        weights=np.array([[3], [0], [-10], [100]], np.int32),
        bias=np.array([7], np.int32),
        shift=0,
        out=None,
        out_bias=0,
        cuts=np.arange(CUTS, dtype=np.int64),
    )
    assert router.raw(STORED).tolist() == [3 * 5 - 10 + 7, 3 * 0 + 0 + 7]
    assert router.score(STORED).tolist() == [13 - 128, 8 - 128]  # cuts 0 to 12 are at or below 12, 0 to 7 below 7
    assert (router.parameters, router.macs) == (5, 4)
    assert router.table_bytes == 4 * 4 + 4 + 255 * 4


def test_a_hidden_router_by_pencil():
    router = IntegerRouter(
        inputs=RouterInputs(top=1),
        weights=np.array([[4, -4, 10_000]], np.int32),
        bias=np.array([3, 3, 0], np.int32),
        shift=1,
        out=np.array([2, 5, 1], np.int16),
        out_bias=-9,
        cuts=np.arange(CUTS, dtype=np.int64),
    )
    # margin 5: 23 >> 1 = 11, -17 -> 0, 50,000 >> 1 = 25,000 -> 16,383; margin 0: 3 >> 1 = 1 twice, and 0
    assert router.raw(STORED).tolist() == [22 + 0 + 16_383 - 9, 2 + 5 + 0 - 9]
    assert router.score(STORED).tolist() == [127, -128]
    assert (router.parameters, router.macs) == (3 + 3 + 3 + 1, 6)


def test_even_cuts_make_every_score_as_frequent():
    raw = np.random.default_rng(0).permutation(2560)
    counts = np.bincount(cut(raw, even_cuts(raw)).astype(int) + 128, minlength=256)
    assert counts.min() >= 9
    assert counts.max() <= 11


@pytest.mark.parametrize("hidden", [0, 6])
def test_integers_rank_as_the_float_router(hidden):
    net, stored = made_up(ALL, 7, 5, hidden), outputs(4000, 5, 7)
    router = integer_router(net, stored)
    raw, real = router.raw(stored).astype(float), net.raw(stored).astype(float)
    assert np.corrcoef(raw, real)[0, 1] > 0.999_999
    assert len(np.unique(router.score(stored))) == 256
    assert router.parameters == net.parameters
    assert router.macs == net.macs


def bounds_hold(router, num_classes, num_features):
    """By arithmetic, not by examples: the sums of the first layer, the raw score, the cuts."""
    highest = router.inputs.highest(num_features, num_classes)
    most = highest @ np.abs(router.weights.astype(np.int64)) + np.abs(router.bias.astype(np.int64))
    assert most.max() < SUM_MAX
    assert np.abs(router.cuts).max() <= SUM_MAX
    if router.out is not None:
        out = np.abs(router.out.astype(np.int64)).sum()
        assert out * HIDDEN_MAX + abs(router.out_bias) < SUM_MAX


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("hidden", [0, 1, 16])
def test_no_sum_overflows(scale, hidden):
    net = made_up(ALL, 9, 4, hidden)
    for weights in (net.weights * scale, np.full_like(net.weights, scale), np.full_like(net.weights, -scale)):
        changed = replace(net, weights=weights.astype(np.float32), bias=(net.bias * 1e3).astype(np.float32))
        bounds_hold(integer_router(changed, outputs(50, 4, 9)), 4, 9)


def test_a_router_of_nothing_but_zeros_says_nothing():
    zeros = RouterNet(inputs=RouterInputs(top=1), weights=np.zeros((1, 1), np.float32), bias=np.zeros(1, np.float32))
    assert len(np.unique(integer_router(zeros, STORED).score(STORED))) == 1
    silent = replace(zeros, out=np.zeros(1, np.float32), out_bias=5.0)
    router = integer_router(silent, STORED)
    assert abs(router.out_bias) <= SUM_MAX
    assert len(np.unique(router.score(STORED))) == 1


SHAPES = {
    "linear rule": (RouterInputs(top=1), 3, 1, 0),
    "features": (RouterInputs(features=True), 10, 32, 0),
    "gaps": (RouterInputs(gaps=True), 10, 4, 0),
    "top": (RouterInputs(top=4), 5, 4, 0),
    "confidences": (RouterInputs(betas=(0.02, 0.1, 5.0)), 10, 4, 0),
    "classes": (RouterInputs(classes=True), 10, 4, 0),
    "hidden, all parts": (ALL, 10, 16, 12),
    "one hidden unit": (RouterInputs(features=True, betas=(0.05,)), 4, 3, 1),
    "two classes": (replace(ALL, top=1), 2, 5, 4),
    "many classes": (replace(ALL, top=99), 100, 8, 3),
}


@pytest.mark.parametrize("name", SHAPES)
def test_compiled_c_gives_the_same_bits(name):
    inputs, num_classes, num_features, hidden = SHAPES[name]
    examples = outputs(EXAMPLES, num_classes, num_features)
    router = integer_router(made_up(inputs, num_features, num_classes, hidden, seed=7), examples)
    c = compiled([Stage(flatbuffer=b"", router=router)], [num_features], num_classes)
    c.set_threshold(10)
    for stored in (examples, outputs(500, num_classes, num_features, seed=1), extremes(num_classes, num_features)):
        said = c.judge([stored])
        np.testing.assert_array_equal(said.score, router.score(stored))
        np.testing.assert_array_equal(said.logits, stored.logits)
        np.testing.assert_array_equal(said.edge_class, stored.logits.argmax(axis=1))
        np.testing.assert_array_equal(said.decision, router.score(stored) >= 10)
        assert not said.stage.any()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("hidden", [0, 16])
def test_compiled_c_at_the_largest_sums(sign, hidden):
    """Every weight at its end, every input at its end: the sums come close to 2^31, and no compiler may differ."""
    net = made_up(ALL, 6, 3, hidden)
    net = replace(net, weights=np.full_like(net.weights, sign), bias=np.full_like(net.bias, sign))
    if hidden:
        net = replace(net, out=np.full_like(net.out, sign))
    stored = extremes(3, 6)
    router = integer_router(net, stored)
    total = router_inputs(stored, ALL).astype(np.int64) @ router.weights.astype(np.int64) + router.bias
    assert np.abs(total).max() > 2**26
    c = compiled([Stage(flatbuffer=b"", router=router)], [6], 3)
    np.testing.assert_array_equal(c.judge([stored]).score, router.score(stored))


def three_stages():
    """Stages that read different things, one with hidden units; widths 4, 3 and 5, 6 classes."""
    widths, kinds = [4, 3, 5], [RouterInputs(top=1), ALL, RouterInputs(features=True, betas=(0.1,))]
    said = [outputs(EXAMPLES, 6, width, seed) for seed, width in enumerate(widths)]
    mixes = [
        Mix(),
        Mix(multipliers=(20_000, -31_000), bias=-1234, shift=15),
        Mix(multipliers=(3, 2, 1), bias=9, shift=2),
    ]
    nets = [made_up(kind, sum(widths[: n + 1]), 6, (0, 5, 0)[n], seed=n) for n, kind in enumerate(kinds)]
    return widths, said, mixes, nets


def test_compiled_c_of_a_cascade_gives_the_same_bits():
    from hybrid.cascade import combined

    widths, said, mixes, nets = three_stages()
    read = [combined(mix, said[:n]) for n, mix in enumerate(mixes, 1)]
    routers = program_routers(nets, read)
    stages = [
        Stage(flatbuffer=b"", router=router, mix=mix, look_below=below)
        for router, mix, below in zip(routers, mixes, (5, -100, 7), strict=True)
    ]
    c = compiled(stages, widths, 6)
    c.set_threshold(-3)
    for number, (router, stored, below) in enumerate(zip(routers, read, (5, -100, -128), strict=True)):
        found, score = c.judge(said[: number + 1]), router.score(stored)
        np.testing.assert_array_equal(found.logits, stored.logits)
        np.testing.assert_array_equal(found.score, score)
        np.testing.assert_array_equal(found.decision, np.where(score < below, 2, score >= -3))
        assert (found.stage == number).all()
        assert len(np.unique(found.decision)) == (3 if number == 1 else 2)


def test_routers_of_a_program_share_one_scale():
    """Two linear rules on the margin in the same unit, at other precision: equal raw scores, equal int8 scores."""

    def rule(slope, bias):
        weights, offset = np.array([[slope]], np.float32), np.array([bias], np.float32)
        return RouterNet(inputs=RouterInputs(top=1), weights=weights, bias=offset)

    margins = np.arange(256)
    stored = StoredOutputs(
        logits=np.stack([np.full(256, 127), 127 - margins], axis=1).astype(np.int8),
        features=np.zeros((256, 1), np.int8),
    )
    steep, flat = program_routers([rule(0.5, -20.0), rule(0.25, 4.0)], [stored, stored])
    # 0.5 m - 20 = 0.25 n + 4 where n = 2 m - 96
    for margin in range(48, 176):
        both = [router.score(stored)[row] for router, row in ((steep, margin), (flat, 2 * margin - 96))]
        assert abs(int(both[0]) - int(both[1])) <= 1
    together = np.concatenate([steep.score(stored), flat.score(stored)])
    assert np.bincount(together.astype(int) + 128).max() <= 6  # 512 examples on 256 scores


def test_one_router_of_a_program_is_the_integer_router():
    net, stored = made_up(ALL, 3, 4, 5), outputs(500, 4, 3)
    (alone,) = program_routers([net], [stored])
    np.testing.assert_array_equal(alone.cuts, integer_router(net, stored).cuts)
    np.testing.assert_array_equal(alone.cuts, even_cuts(alone.raw(stored)))


def test_given_cuts_are_in_units_of_the_float_router():
    net, stored = made_up(RouterInputs(features=True), 6, 3), outputs(2000, 3, 6)
    cuts = np.linspace(-2.0, 2.0, CUTS).astype(np.float32)
    expected = cut(net.raw(stored).astype(np.float64), cuts.astype(np.float64))
    got = integer_router(net, stored, cuts=cuts).score(stored)
    assert (np.abs(got.astype(int) - expected) <= 1).all()
    assert (got == expected).mean() > 0.99
    far = np.linspace(1e12, 2e12, CUTS).astype(np.float32)
    assert (integer_router(net, stored, cuts=far).score(stored) == -128).all()
    assert (integer_router(net, stored, cuts=-far[::-1]).score(stored) == 127).all()


def test_exponentials_fit_16_bits():
    for beta in (1e-9, 0.1, 100.0):
        table = exponentials(beta)
        assert table[0] == 4096
        assert table.min() >= 0
        assert table.max() <= 65_535
