import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hybrid import policy
from hybrid.sweep import nauc

LOG2 = np.log(2)
# Two classes: probabilities (1/2, 1/2) and (2/3, 1/3), since exp(log 2) : exp(0) = 2 : 1.
LOGITS = np.array([[0.0, 0.0], [LOG2, 0.0]])
FINITE = arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(2, 5)), elements=st.floats(-30, 30))


def test_max_softmax_by_hand():
    assert policy.max_softmax(LOGITS) == pytest.approx([1 / 2, 2 / 3])


def test_margin_by_hand():
    assert policy.margin(LOGITS) == pytest.approx([0, 2 / 3 - 1 / 3])


def test_negative_entropy_by_hand():
    # sum p log p: log(1/2), and 2/3 log(2/3) + 1/3 log(1/3) = 2/3 log 2 - log 3.
    assert policy.negative_entropy(LOGITS) == pytest.approx([-LOG2, 2 / 3 * LOG2 - np.log(3)])


def test_certainty_has_no_entropy():
    assert policy.negative_entropy([[1000.0, 0.0]]) == pytest.approx([0.0])


def test_oracle_keeps_first_what_a_query_would_harm():
    edge = [True, True, False, False]
    cloud = [False, True, False, True]
    assert policy.oracle(edge, cloud).tolist() == [2, 1, 0, -1]
    assert policy.kept(policy.oracle(edge, cloud), 0).tolist() == [True, True, True, False]


def test_kept_includes_the_threshold_itself():
    assert policy.kept([-3, -2, -1], -2).tolist() == [False, True, True]


def test_random_is_its_generator():
    a, b = (policy.random(5, np.random.default_rng(3)) for _ in range(2))
    assert a.tolist() == b.tolist()
    assert len(set(a)) == 5


@settings(deadline=None)
@given(FINITE)
def test_baselines_ignore_a_shift_and_stay_in_range(logits):
    ranges = {
        "max_softmax": (1 / logits.shape[1], 1),
        "entropy": (-np.log(logits.shape[1]), 0),
        "margin": (0, 1),
        "logit_margin": (0, 60),
    }
    assert set(ranges) == set(policy.BASELINES)
    for name, score in policy.BASELINES.items():
        low, high = ranges[name]
        assert np.all(score(logits) >= low - 1e-9), name
        assert np.all(score(logits) <= high + 1e-9), name
        np.testing.assert_allclose(score(logits + 7.0), score(logits), atol=1e-9)


@settings(deadline=None)
@given(arrays(np.float64, (8, 2), elements=st.floats(-9, 9)))
def test_with_two_classes_all_baselines_rank_alike(logits):
    # All are increasing in the larger probability; compare pairs that are clearly apart.
    p = policy.max_softmax(logits)
    apart = p[:, None] > p + 1e-6
    for score in policy.BASELINES.values():
        assert np.all((score(logits)[:, None] > score(logits))[apart])


def test_logit_margin_by_hand():
    assert policy.logit_margin([[3.0, -1.0, 2.5], [0.0, 0.0, -9.0]]).tolist() == [0.5, 0.0]


def test_p_norm_by_hand():
    # centred: (3, -1, -2) and 0; 1-norm 6, 2-norm sqrt(14)
    logits = [[5.0, 1.0, 0.0], [2.0, 2.0, 2.0]]
    assert policy.p_norm(logits, 1) == pytest.approx([3 / 6, 0])
    assert policy.p_norm(logits, 2) == pytest.approx([3 / np.sqrt(14), 0])


def test_p_norm_ignores_shift_and_scale_and_does_not_overflow():
    logits = np.random.default_rng(0).normal(size=(20, 5))
    np.testing.assert_allclose(policy.p_norm(1e80 * logits + 1e80, 7), policy.p_norm(logits, 7), rtol=1e-6)


def test_the_p_that_the_judge_likes_best():
    logits = np.random.default_rng(0).normal(size=(50, 5))
    wanted = policy.p_norm(logits, 3)
    rule = policy.fit_p_norm(logits, lambda score: -float(np.abs(score - wanted).sum()))
    np.testing.assert_array_equal(rule(logits), wanted)
    with_none = policy.fit_p_norm(logits, lambda score: float(score.max()))  # max-softmax comes first among equals
    assert with_none(logits).max() == max(policy.p_norm(logits, p).max() for p in range(1, 9))


def test_agree_keeps_what_both_answer_alike_and_breaks_ties_by_the_base():
    scores = policy.agree([0, 1, 2, 3], [0, 9, 2, 9], base=[5.0, 7.0, 6.0, -1.0])
    assert policy.kept(scores, 1).tolist() == [True, False, True, False]
    assert np.argsort(scores).tolist() == [3, 1, 0, 2]


def test_agree_is_the_best_that_knows_no_label():
    rng = np.random.default_rng(0)
    edge, cloud, label = rng.integers(0, 3, (3, 400))
    label = np.where(rng.random(400) < 0.9, cloud, label)
    base = rng.random(400)
    reached = [nauc(score, edge == label, cloud == label) for score in (base, policy.agree(edge, cloud, base))]
    assert reached[0] < 0.1 < 0.5 < reached[1] < 1.0


def test_logistic_by_hand():
    # 1 of 4 at x = 0, 3 of 4 at x = 1: log-odds -log 3 and log 3
    x = np.repeat([[0.0], [1.0]], 4, axis=0)
    weights, bias = policy.logistic(np.tile(x, (1000, 1)), [0, 0, 0, 1, 0, 1, 1, 1] * 1000)
    assert (weights[0], bias) == pytest.approx((2 * np.log(3), -np.log(3)), rel=1e-3)


def test_logistic_of_separable_and_of_constant_columns_is_finite():
    x = np.column_stack([np.arange(10.0), np.full(10, 7.0)])
    weights, bias = policy.logistic(x, np.arange(10) > 4)
    assert weights[0] > 1
    assert weights[1] == 0
    assert -bias / weights[0] == pytest.approx(4.5, abs=0.01)


def test_two_scores_find_that_only_the_second_matters():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (4000, 4))
    second = np.sort(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), axis=1)[:, -2]
    query = second > 0.2
    score = policy.fit_two_scores(logits, query)(logits)
    assert nauc(score, ~query, np.ones(4000, bool)) > 0.98
    assert nauc(policy.max_softmax(logits), ~query, np.ones(4000, bool)) < 0.95


def test_class_offsets_find_the_class_that_errs():
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 2, (4000, 3))
    query = logits.argmax(axis=1) == 1
    rule = policy.fit_class_offsets(logits, query)
    score = rule(logits)
    assert score[query].max() < score[~query].min()
    alike = np.array([[4.0, 0.0, 0.0], [0.0, 0.0, 4.0]])  # the same margin in two classes that never err
    assert np.ptp(rule(alike)) < 0.2
