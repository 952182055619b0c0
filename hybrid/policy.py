"""Who answers? Scores in, kept out: the edge answers where the score reaches the threshold, the cloud elsewhere.

Every score is a function ``(n, ...) -> (n,)``; higher means that the edge should keep the example. The learned router
must beat `BASELINES`, which cost nothing to train.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybrid.artifacts import Bools

Scores = NDArray[np.float64]


def kept(scores: ArrayLike, threshold: float) -> Bools:
    """Tell where the edge answers, ``(n,)``."""
    return np.asarray(scores) >= threshold


def softmax(logits: ArrayLike) -> Scores:
    """Probabilities ``(n, num_classes)`` of `logits`."""
    z = np.asarray(logits, dtype=np.float64)
    exp = np.exp(z - z.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def max_softmax(logits: ArrayLike) -> Scores:
    """Probability of the edge's answer."""
    return softmax(logits).max(axis=1)


def negative_entropy(logits: ArrayLike) -> Scores:
    """Sum of p log p in nats; 0 is certainty."""
    p = softmax(logits)
    return np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=1)


def margin(logits: ArrayLike) -> Scores:
    """Probability of the edge's answer less that of the runner-up."""
    top = np.sort(softmax(logits), axis=1)[:, -2:]
    return top[:, 1] - top[:, 0]


def random(n: int, rng: np.random.Generator) -> Scores:
    """Keep by lot: the line that every policy must lie above."""
    return rng.random(n)


def oracle(edge_right: ArrayLike, cloud_right: ArrayLike) -> Scores:
    """Score with both answers known, the best possible at every coverage.

    A query gains ``s = 1{cloud right} - 1{edge right}``, so what loses by a query is kept first (2), then what both
    answer rightly (1), then what neither does (0); what a query helps goes last (-1). The middle two gain nothing
    either way. "Query only where it helps" is this score with threshold 0.
    """
    edge, cloud = np.asarray(edge_right, dtype=bool), np.asarray(cloud_right, dtype=bool)
    return np.select([edge & ~cloud, edge & cloud, ~edge & ~cloud], [2.0, 1.0, 0.0], default=-1.0)


BASELINES: dict[str, Callable[[Any], Scores]] = {
    "max_softmax": max_softmax,
    "entropy": negative_entropy,
    "margin": margin,
}
"""Scores from the edge's logits ``(n, num_classes)`` alone."""
