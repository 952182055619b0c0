"""The router: what it reads, what it learns from, and that it learns."""

import numpy as np
import pytest
from learner_helpers import EDGE

from hybrid.artifacts import NetOutputs
from hybrid.router import (
    TEMPERATURES,
    MaxSoftmax,
    RouterNet,
    _loss,
    betas,
    confidences,
    fit_router,
    query_targets,
    router_macs,
)
from hybrid.specs import RouterSpec

SPEC = RouterSpec(hidden=16, epochs=25)


def test_confidences_by_pencil():
    logits = np.log(np.array([[1.0, 4.0], [9.0, 1.0]], np.float32))
    # beta 1: 4/5 and 9/10; beta 1/2 takes roots: 2/3 and 3/4; beta 2 squares: 16/17 and 81/82
    expected = [[4 / 5, 2 / 3, 16 / 17], [9 / 10, 3 / 4, 81 / 82]]
    np.testing.assert_allclose(confidences(logits, (1.0, 0.5, 2.0)), expected, rtol=1e-5)


def test_betas_follow_the_logits_spread():
    logits = np.array([[0, 8, 1], [4, 0, -9], [0, 0, 2]], np.float32)  # gaps 7, 4, 2: median 4, spread 4 / 4 = 1
    np.testing.assert_allclose(betas(logits), [1 / t for t in TEMPERATURES])
    np.testing.assert_allclose(betas(2 * logits), [0.5 / t for t in TEMPERATURES])
    np.testing.assert_allclose(  # so that the confidences are those of the same net
        confidences(2 * logits, betas(2 * logits)), confidences(logits, betas(logits)), rtol=1e-5
    )


def test_betas_of_a_net_that_knows_nothing_are_finite():
    assert np.isfinite(betas(np.zeros((5, 3), np.float32))).all()


def test_query_targets_by_pencil():
    query = np.array([True, False, False, False])
    edge = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)  # answers 0, 0, 1, 2
    cloud = np.array([[0.1, 0.8, 0.1], [0.7, 0.2, 0.1], [0.6, 0.4, 0.0], [0.9, 0.1, 0.0]], np.float32)
    # the cloud answers 1, 0, 0, 0; believed gain: 0.8 - 0.1, 0.7 - 0.7, 0.6 - 0.4, 0.9 - 0.0
    np.testing.assert_allclose(query_targets(query, edge, cloud), [0.5 + 0.35, 0.0, 0.1, 0.45], rtol=1e-6)
    np.testing.assert_allclose(query_targets(query, edge, cloud, softness=0.0), [1, 0, 0, 0])


@pytest.mark.parametrize(("target", "hinge"), [(0.5, 0.125), (0.375, 0.0), (0.2, 0.0), (1.0, 0.625)])
def test_cross_entropy_and_coverage_hinge_by_pencil(target, hinge):
    # r = 1/2 and 3/4, coverage 1 - (1/2 + 3/4) / 2 = 0.375; only what lacks to the target costs
    logit = np.array([[0.0], [np.log(3.0)]], np.float32)
    label = np.array([[0.0], [1.0]], np.float32)
    cross_entropy = (-np.log(1 / 2) - np.log(3 / 4)) / 2
    loss = _loss(RouterSpec(coverage_target=target, coverage_weight=2.0))(label, logit)
    assert float(loss) == pytest.approx(cross_entropy + 2.0 * hinge, rel=1e-5)


def test_score_of_a_router_by_pencil():
    router = RouterNet(
        betas=(1.0,),
        feature_weights=np.array([[1.0, -1.0], [0.0, 2.0]], np.float32),
        confidence_weights=np.array([[10.0, 0.0]], np.float32),
        hidden_bias=np.array([-5.0, 1.0], np.float32),
        out=np.array([3.0, -2.0], np.float32),
        out_bias=0.25,
    )
    outputs = NetOutputs(
        logits=np.log(np.array([[1.0, 4.0], [9.0, 1.0]], np.float32)),  # confidences 0.8, 0.9
        features=np.array([[1.0, 1.0], [-9.0, -5.0]], np.float32),
    )
    # first: relu(1 + 8 - 5), relu(-1 + 2 + 1) = 4, 2 -> 3 * 4 - 2 * 2 + 0.25
    # second: relu(-9 + 9 - 5), relu(9 - 10 + 1) = 0, 0
    np.testing.assert_allclose(router.score(outputs), [8.25, 0.25], rtol=1e-4, atol=1e-4)
    assert router.macs == 4 + 2 + 2


def test_max_softmax_is_the_largest_probability():
    outputs = NetOutputs(logits=np.log(np.array([[1.0, 4.0]], np.float32)), features=np.zeros((1, 1), np.float32))
    np.testing.assert_allclose(MaxSoftmax(beta=0.5).score(outputs), [2 / 3], rtol=1e-5)
    assert MaxSoftmax(beta=1.0).macs == 0


def examples(n, seed):
    rng = np.random.default_rng(seed)
    features = rng.normal(3.0, 5.0, (n, 6)).astype(np.float32)  # not standardised
    return NetOutputs(logits=rng.normal(0, 2, (n, 4)).astype(np.float32), features=features)


def ranked_right(score, query):
    """Share of pairs of one to keep and one to ask in which the one to keep scores higher (area under the ROC)."""
    return float((score[~query][:, None] > score[query][None]).mean())


def test_it_learns_a_separable_problem():
    outputs = examples(1000, 0)
    query = outputs.features[:, 2] > 5.0
    router = fit_router(outputs, query.astype(np.float32), SPEC, seed=0)
    fresh = examples(300, 1)
    assert ranked_right(router.score(fresh), fresh.features[:, 2] > 5.0) > 0.96
    assert np.median(router.score(outputs)) == pytest.approx(0.0, abs=1e-4)  # half is kept at threshold 0


def test_it_learns_from_confidences():
    outputs = examples(600, 0)
    query = confidences(outputs.logits, betas(outputs.logits))[:, 1] < 0.9
    router = fit_router(outputs, query.astype(np.float32), RouterSpec(hidden=8, epochs=15), seed=0)
    assert ranked_right(router.score(outputs), query) > 0.9


def test_shapes_macs_and_the_estimate_before_training():
    outputs = NetOutputs(logits=examples(60, 0).logits, features=np.ones((60, EDGE.feature_width), np.float32))
    router = fit_router(outputs, np.zeros(60, np.float32), RouterSpec(hidden=5, epochs=1), seed=0)
    assert router.feature_weights.shape == (16, 5)
    assert router.confidence_weights.shape == (3, 5)
    # 16 features and 3 confidences to 5 hidden, 5 to one score
    assert router.macs == router_macs(EDGE, RouterSpec(hidden=5)) == (16 + 3) * 5 + 5
    assert np.isfinite(router.score(outputs)).all()  # features that never change have no spread


def test_same_seed_same_router():
    outputs, targets = examples(100, 0), np.linspace(0, 1, 100, dtype=np.float32)
    spec = RouterSpec(hidden=4, epochs=1)
    first, again, other = (fit_router(outputs, targets, spec, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.score(outputs), again.score(outputs))
    assert (first.score(outputs) != other.score(outputs)).any()
