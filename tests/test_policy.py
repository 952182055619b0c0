import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hybrid import policy

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
