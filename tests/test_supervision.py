"""Labels, gains and weights of four examples, by pencil."""

import numpy as np

from hybrid.supervision import cloud_weights, edge_weights, proxy_labels, query_gain, softmax

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
