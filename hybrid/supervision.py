"""What the router and the nets learn from: proxy labels, query gain, weights and losses, by equation.

Kag et al., "Efficient Edge Inference by Selective Query", ICLR 2023: edge, cloud and router are their base b,
global g and r. Their r(x) = 1 asks the cloud; here `query` is that probability, and the shipped
``router_score`` is its opposite.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybrid.artifacts import Bools, Floats, Ints
from hybrid.device_router import StoredOutputs

TEMPERATURES = np.geomspace(0.25, 8.0, 41)
"""The cloud temperatures that `fit_temperature` tries."""


def softmax(logits: ArrayLike, temperature: float = 1.0) -> NDArray[Any]:
    """Class probabilities of `logits` ``(n, num_classes)`` at a temperature, in the logits' own precision."""
    z = np.asarray(logits)
    z = (z if np.issubdtype(z.dtype, np.floating) else z.astype(np.float64)) / temperature
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def proxy_labels(edge_right: Bools, cloud_right: Bools) -> Bools:
    """o(x) = 1{b(x) != y and g(x) = y}: ask only where the edge is wrong and the cloud is right, ``(n,)``.

    >>> proxy_labels(np.array([True, True, False, False]), np.array([True, False, True, False]))
    array([False, False,  True, False])
    """
    return np.logical_and(np.logical_not(edge_right), cloud_right)


def query_gain(edge_right: Bools, cloud_right: Bools) -> Floats:
    """s(x) = 1{g(x) = y} - 1{b(x) = y}: what a query changes, in {-1, 0, 1}, ``(n,)``.

    >>> query_gain(np.array([True, True, False, False]), np.array([True, False, True, False]))
    array([ 0., -1.,  1.,  0.], dtype=float32)
    """
    return cloud_right.astype(np.float32) - edge_right.astype(np.float32)


def edge_weights(query: Floats) -> Floats:
    """(2 - r(x)): the edge concentrates on what it will answer (Kag et al., L_base), ``(n,)``."""
    return 2.0 - query


def cloud_weights(query: Floats) -> Floats:
    """(1 + r(x)): the cloud concentrates on what it will be asked (Kag et al., L_global), ``(n,)``."""
    return 1.0 + query


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Examples that a router learns from or is judged by: what the int8 edge stores, the truth, the cloud's belief.

    `labels` ``(n,)``, `cloud_probabilities` ``(n, num_classes)``. Held-out, cross-fitted and in-sample examples differ
    only in which nets spoke; `stacked` joins them.
    """

    stored: StoredOutputs
    labels: Ints
    cloud_probabilities: Floats

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def edge_class(self) -> Ints:
        """The edge's answer, ``(n,)``; of equal logits the lowest class."""
        return self.stored.logits.argmax(axis=1).astype(np.int32)

    @property
    def cloud_class(self) -> Ints:
        """The cloud's answer, ``(n,)``."""
        return self.cloud_probabilities.argmax(axis=1).astype(np.int32)

    @property
    def edge_right(self) -> Bools:
        """Where the edge is right, ``(n,)``."""
        return self.edge_class == self.labels

    @property
    def cloud_right(self) -> Bools:
        """Where the cloud is right, ``(n,)``."""
        return self.cloud_class == self.labels

    def take(self, rows: NDArray[np.intp]) -> "Evidence":
        """Some of the examples."""
        return Evidence(
            stored=self.stored.take(rows),
            labels=self.labels[rows],
            cloud_probabilities=self.cloud_probabilities[rows],
        )


def stacked(*parts: Evidence | None) -> Evidence:
    """All examples of the `parts` that are there, in order; at least one must be."""
    there = [part for part in parts if part is not None]
    return Evidence(
        stored=StoredOutputs(
            logits=np.concatenate([part.stored.logits for part in there]),
            features=np.concatenate([part.stored.features for part in there]),
        ),
        labels=np.concatenate([part.labels for part in there]),
        cloud_probabilities=np.concatenate([part.cloud_probabilities for part in there]),
    )


def believed_gain(edge_class: Ints, cloud_probabilities: Floats) -> Floats:
    """p_cloud(cloud's class) - p_cloud(edge's class): what the cloud itself thinks that a query gains, ``(n,)``.

    Zero where they agree, near one where the cloud is sure that the edge is wrong. It carries more than one bit per
    example where labels are noisy.
    """
    rows = np.arange(len(edge_class))
    return cloud_probabilities.max(axis=1) - cloud_probabilities[rows, edge_class]


def query_targets(evidence: Evidence, *, softness: float = 0.5, target: Literal["proxy", "gain"] = "proxy") -> Floats:
    """What a router is to say of a query, in [0, 1], ``(n,)``: part counted by the labels, part believed by the cloud.

    ``proxy``: (1 - softness) o(x) + softness * `believed_gain`. ``gain``: (1 + v) / 2 with v = (1 - softness) s(x) +
    softness * `believed_gain`, so that queries which do harm count against; cross-entropy on it is least where the
    router ranks by E[v | x].
    """
    believed = believed_gain(evidence.edge_class, evidence.cloud_probabilities)
    if target == "proxy":
        hard = proxy_labels(evidence.edge_right, evidence.cloud_right)
        return ((1.0 - softness) * hard + softness * believed).astype(np.float32)
    gain = (1.0 - softness) * query_gain(evidence.edge_right, evidence.cloud_right) + softness * believed
    return ((1.0 + gain) / 2.0).astype(np.float32)


def tempered(probabilities: Floats, temperature: float) -> Floats:
    """Class probabilities ``(n, num_classes)`` at another temperature: ``p^(1 / temperature)``, normalised.

    >>> tempered(np.array([[0.8, 0.2]]), 0.5).round(3).tolist()  # 0.64 : 0.04
    [[0.941, 0.059]]
    """
    return softmax(np.log(np.maximum(probabilities, 1e-12)), temperature)


def fit_temperature(probabilities: Floats, labels: Ints) -> float:
    """The temperature of `TEMPERATURES` at which held-out `labels` ``(n,)`` are likeliest (Guo et al. 2017)."""
    rows = np.arange(len(labels))

    def surprise(temperature: float) -> float:
        return float(-np.log(np.maximum(tempered(probabilities, temperature)[rows, labels], 1e-12)).mean())

    return float(min(TEMPERATURES, key=surprise))
