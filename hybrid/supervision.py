"""What the router and the nets learn from: proxy labels, query gain, weights and losses, by equation.

Kag et al., "Efficient Edge Inference by Selective Query", ICLR 2023: edge, cloud and router are their base b,
global g and r. Their r(x) = 1 asks the cloud; here `query` is that probability, and the shipped
``router_score`` is its opposite.
"""

import numpy as np

from hybrid.artifacts import Bools, Floats


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


def softmax(logits: Floats, temperature: float = 1.0) -> Floats:
    """Class probabilities of `logits` ``(n, num_classes)`` at a temperature."""
    z = logits / temperature
    z = z - z.max(axis=1, keepdims=True)
    e = np.exp(z)
    return (e / e.sum(axis=1, keepdims=True)).astype(np.float32)
