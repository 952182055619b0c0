"""Who answers? Scores in, kept out: the edge answers where the score reaches the threshold, the cloud elsewhere.

Every score is a function ``(n, ...) -> (n,)``; higher means that the edge should keep the example. The learned router
must beat `BASELINES`, which cost nothing to train; the ``fit_...`` rules have a few constants. `oracle` and `agree`
know the cloud's answer: they are ceilings.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybrid.artifacts import Bools
from hybrid.perceptron import sigmoid
from hybrid.supervision import softmax

Scores = NDArray[np.float64]
Rule = Callable[[Any], Scores]
"""Edge logits ``(n, num_classes)`` to scores ``(n,)``."""


def kept(scores: ArrayLike, threshold: float) -> Bools:
    """Tell where the edge answers, ``(n,)``."""
    return np.asarray(scores) >= threshold


def max_softmax(logits: ArrayLike) -> Scores:
    """Probability of the edge's answer."""
    return _probabilities(logits).max(axis=1)


def negative_entropy(logits: ArrayLike) -> Scores:
    """Sum of p log p in nats; 0 is certainty."""
    p = _probabilities(logits)
    return np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=1)


def margin(logits: ArrayLike) -> Scores:
    """Probability of the edge's answer less that of the runner-up."""
    return _lead(_probabilities(logits))


def logit_margin(logits: ArrayLike) -> Scores:
    """Largest logit less the second."""
    return _lead(np.asarray(logits, dtype=np.float64))


def p_norm(logits: ArrayLike, p: float) -> Scores:
    """Largest centred logit over the p-norm of all (Cattelan & Silva 2024); 0 where all logits are equal."""
    z = np.asarray(logits, dtype=np.float64)
    z = z - z.mean(axis=1, keepdims=True)
    largest = z.max(axis=1)
    shares = np.abs(z) / np.maximum(np.abs(z).max(axis=1, keepdims=True), 1e-300)  # at most 1: no power overflows
    norm = np.abs(z).max(axis=1) * np.sum(shares**p, axis=1) ** (1 / p)
    return np.divide(largest, norm, out=np.zeros_like(largest), where=norm > 0)


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


def agree(edge_class: ArrayLike, cloud_class: ArrayLike, base: ArrayLike) -> Scores:
    """Score with both answers known but not the truth: 1{edge class = cloud class}, ties ranked by `base` ``(n,)``.

    The ceiling of a router that learns all there is to learn about the cloud; only label noise lies between it and the
    oracle. The base's ranks lie in [0, 1).

    >>> agree([1, 1, 2], [1, 0, 2], base=[0.2, 0.9, 0.3]).round(2).tolist()
    [1.0, 0.67, 1.33]
    """
    same = np.asarray(edge_class) == np.asarray(cloud_class)
    _, ranks, counts = np.unique(np.asarray(base), return_inverse=True, return_counts=True)
    return same + (np.cumsum(counts) - counts)[ranks] / len(same)


def fit_p_norm(logits: ArrayLike, judge: Callable[[Scores], float]) -> Rule:
    """The p-norm score whose p in 1 to 8 or max-softmax instead, whichever `judge` likes best on these rows.

    `judge` maps scores to a figure of merit such as nAUC. Cattelan & Silva fall back to max-softmax alike.
    """
    rules: list[Rule] = [max_softmax, *(_with_p(p) for p in range(1, 9))]
    return max(rules, key=lambda rule: judge(rule(logits)))


def fit_two_scores(logits: ArrayLike, query: ArrayLike) -> Rule:
    """Logistic regression of `query` ``(n,)`` on the two largest probabilities (Behera et al. 2024): three constants.

    On the device the same is said by the margin of the two best logits and the largest probability; see
    `hybrid.rules.fit_logistic`.
    """
    weights, bias = logistic(_two_largest(_probabilities(logits)), query)
    return lambda logits: -(_two_largest(_probabilities(logits)) @ weights + bias)


def fit_class_offsets(logits: ArrayLike, query: ArrayLike, *, shrinkage: float = 20.0, base: Rule = margin) -> Rule:
    """A threshold per answered class (Daghero et al. 2022), as an offset to `base` for each.

    Logistic regression of `query` ``(n,)`` on the base score and the class; `shrinkage` is the ridge on an offset, in
    nats per squared nat: a class with a few examples keeps the common threshold.
    """
    classes = np.asarray(logits).shape[1]

    def columns(logits: ArrayLike) -> Scores:
        return np.column_stack([base(logits), np.asarray(logits).argmax(axis=1)[:, None] == np.arange(classes)])

    weights, bias = logistic(columns(logits), query, ridge=np.append(0.0, np.full(classes, shrinkage)))
    return lambda logits: -(columns(logits) @ weights + bias)


def logistic(x: ArrayLike, targets: ArrayLike, ridge: ArrayLike = 0.0, steps: int = 30) -> tuple[Scores, float]:
    """Weights ``(d,)`` and bias of a logistic regression of `targets` ``(n,)`` in [0, 1] on `x` ``(n, d)``.

    Newton's method. ``ridge * weight^2 / 2``, one figure or one per column, is added to the cross-entropy summed over
    examples; a trace of it keeps separable data finite. A column without spread gets weight 0.
    """
    columns, wanted = np.asarray(x, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    mean, spread = columns.mean(axis=0), columns.std(axis=0)
    unit = np.where(spread > 1e-12, spread, np.inf)
    z = np.column_stack([(columns - mean) / unit, np.ones(len(columns))])
    penalty = np.append(np.asarray(ridge, dtype=np.float64) / unit**2, 0.0) + 1e-3
    weights = np.zeros(z.shape[1])
    for _ in range(steps):
        p = sigmoid(z @ weights)
        slope = z.T @ (p - wanted) + penalty * weights
        curvature = (z * (p * (1.0 - p))[:, None]).T @ z + np.diag(penalty)
        move = np.linalg.solve(curvature, slope)
        weights -= move * min(1.0, 4.0 / max(float(np.abs(move).max()), 1e-12))
        if np.abs(move).max() < 1e-9:
            break
    scaled = weights[:-1] / unit
    return scaled, float(weights[-1] - mean @ scaled)


def _probabilities(logits: ArrayLike) -> Scores:
    return softmax(np.asarray(logits, dtype=np.float64))


def _two_largest(values: Scores) -> Scores:
    return np.sort(values, axis=1)[:, -2:]


def _lead(values: Scores) -> Scores:
    top = _two_largest(values)
    return top[:, 1] - top[:, 0]


def _with_p(p: float) -> Rule:
    return lambda logits: p_norm(logits, p)


BASELINES: dict[str, Rule] = {
    "max_softmax": max_softmax,
    "entropy": negative_entropy,
    "margin": margin,
    "logit_margin": logit_margin,
}
"""Scores from the edge's logits ``(n, num_classes)`` alone."""
