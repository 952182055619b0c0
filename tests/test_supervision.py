"""Labels, gains and weights of four examples, by pencil."""

import numpy as np
import pytest

from hybrid.device_router import StoredOutputs
from hybrid.supervision import (
    Evidence,
    believed_gain,
    cloud_weights,
    edge_weights,
    fit_temperature,
    proxy_labels,
    query_gain,
    query_targets,
    softmax,
    stacked,
    tempered,
)

EDGE_RIGHT = np.array([True, True, False, False])
CLOUD_RIGHT = np.array([True, False, True, False])


def test_ask_only_where_the_edge_is_wrong_and_the_cloud_is_right():
    assert proxy_labels(EDGE_RIGHT, CLOUD_RIGHT).tolist() == [False, False, True, False]


def test_query_gain_is_cloud_minus_edge():
    gain = query_gain(EDGE_RIGHT, CLOUD_RIGHT)
    assert gain.tolist() == [1 - 1, 0 - 1, 1 - 0, 0 - 0]
    assert gain.dtype == np.float32


def test_summed_gain_of_the_queried_is_what_the_hybrid_wins():
    query = np.array([False, True, True, True])
    hybrid = np.where(query, CLOUD_RIGHT, EDGE_RIGHT)
    assert hybrid.tolist() == [True, False, True, False]  # 2 right; the edge alone has 2 right
    assert query_gain(EDGE_RIGHT, CLOUD_RIGHT)[query].sum() == hybrid.sum() - EDGE_RIGHT.sum() == 0


def test_proxy_labels_are_the_positive_gains():
    rng = np.random.default_rng(0)
    edge, cloud = rng.random((2, 100)) < 0.5
    np.testing.assert_array_equal(proxy_labels(edge, cloud), query_gain(edge, cloud) > 0)


def test_weights():
    query = np.array([0.0, 0.25, 0.5, 1.0], np.float32)  # r(x)
    assert edge_weights(query).tolist() == [2.0, 1.75, 1.5, 1.0]  # 2 - r
    assert cloud_weights(query).tolist() == [1.0, 1.25, 1.5, 2.0]  # 1 + r
    assert (edge_weights(query) + cloud_weights(query)).tolist() == [3.0] * 4


def test_softmax():
    # e^0 : e^ln2 : e^ln5 = 1 : 2 : 5, of 8
    logits = np.log(np.array([[1.0, 2.0, 5.0]], np.float32))
    np.testing.assert_allclose(softmax(logits), [[0.125, 0.25, 0.625]], rtol=1e-6)


def test_softmax_at_a_temperature():
    # halving log 4 and log 9 takes the roots: 1 : 2 : 3, of 6
    logits = np.log(np.array([[1.0, 4.0, 9.0]], np.float32))
    np.testing.assert_allclose(softmax(logits, 2.0), [[1 / 6, 2 / 6, 3 / 6]], rtol=1e-6)


def test_softmax_of_large_logits_is_finite_and_depends_on_differences_only():
    p = softmax(np.array([[1e4, 1e4 - 1], [-1e4, -1e4 - 1]], np.float32))
    np.testing.assert_allclose(p, [[1 / (1 + np.exp(-1)), 1 / (1 + np.e)]] * 2, rtol=1e-5)
    assert p.dtype == np.float32


def test_softmax_keeps_its_precision():
    assert softmax(np.zeros((1, 2), np.float32)).dtype == np.float32
    assert softmax(np.zeros((1, 2), np.float64)).dtype == softmax([[1, 2]]).dtype == np.float64


def four():
    """The edge answers 0, 0, 1, 2; the truth is 1, 0, 1, 2; the cloud says 1, 0, 0, 0."""
    return Evidence(
        stored=StoredOutputs(
            logits=np.array([[9, 0, 0], [9, 9, 0], [-5, 9, 0], [0, 0, 9]], np.int8),
            features=np.arange(8, dtype=np.int8).reshape(4, 2),
        ),
        labels=np.array([1, 0, 1, 2], np.int32),
        cloud_probabilities=np.array([[0.1, 0.8, 0.1], [0.7, 0.2, 0.1], [0.6, 0.4, 0.0], [0.9, 0.1, 0.0]], np.float32),
    )


def test_evidence_knows_who_is_right():
    e = four()
    assert e.edge_class.tolist() == [0, 0, 1, 2]  # of equal logits the lowest class
    assert e.cloud_class.tolist() == [1, 0, 0, 0]
    assert e.edge_right.tolist() == [False, True, True, True]
    assert e.cloud_right.tolist() == [True, True, False, False]
    assert len(e) == 4


def test_rows_stay_together():
    e = four()
    part = e.take(np.array([3, 0]))
    assert part.labels.tolist() == [2, 1]
    assert part.stored.features.tolist() == [[6, 7], [0, 1]]
    both = stacked(part, None, e)
    assert both.labels.tolist() == [2, 1, 1, 0, 1, 2]
    np.testing.assert_array_equal(both.stored.logits[2:], e.stored.logits)
    np.testing.assert_array_equal(both.cloud_probabilities[:2], e.cloud_probabilities[[3, 0]])


def test_believed_gain_by_pencil():
    # 0.8 - 0.1, 0.7 - 0.7, 0.6 - 0.4, 0.9 - 0.0
    np.testing.assert_allclose(
        believed_gain(four().edge_class, four().cloud_probabilities), [0.7, 0.0, 0.2, 0.9], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("target", "softness", "expected"),
    [
        ("proxy", 0.0, [1, 0, 0, 0]),
        ("proxy", 1.0, [0.7, 0.0, 0.2, 0.9]),
        ("proxy", 0.5, [0.85, 0.0, 0.1, 0.45]),
        ("gain", 0.0, [1.0, 0.5, 0.0, 0.0]),  # gains 1, 0, -1, -1
        ("gain", 0.5, [(1 + 0.85) / 2, 0.5, (1 - 0.4) / 2, (1 - 0.05) / 2]),
    ],
)
def test_query_targets_by_pencil(target, softness, expected):
    found = query_targets(four(), softness=softness, target=target)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_temperature_of_a_cloud_that_boasts():
    rng = np.random.default_rng(0)
    honest = softmax(rng.normal(0, 2, (20000, 4)))
    labels = (rng.random(20000)[:, None] > honest.cumsum(axis=1)).sum(axis=1)
    assert fit_temperature(honest, labels) == pytest.approx(1.0, abs=0.1)
    boasts = tempered(honest, 0.5)  # twice the logits
    assert fit_temperature(boasts, labels) == pytest.approx(2.0, abs=0.2)
    np.testing.assert_allclose(tempered(boasts, 2.0), honest, rtol=1e-5)
