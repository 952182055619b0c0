"""The router: a small net on the edge net's features and confidences that says whether the edge can answer.

It reads the penultimate features and, from the logits, the largest softmax probability at three temperatures. The hot
one moves with the margin between the two best classes, the cold one with the entropy over all of them, and TensorFlow
Lite Micro can compute each in the graph (SOFTMAX with a beta, REDUCE_MAX), where it has no sort and no top-k. One
hidden layer follows. All of it is trained on the outputs of the int8 edge net and then grafted onto its flatbuffer.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hybrid.artifacts import Bools, Floats, NetOutputs
from hybrid.progress import SILENT, Narrator
from hybrid.specs import ArchSpec, RouterSpec
from hybrid.supervision import softmax

TEMPERATURES = (0.5, 1.0, 4.0)
"""Softmax temperatures of the confidences, relative to the logits' own spread (see `betas`)."""

ROUTER_BATCH = 128


@dataclass(frozen=True, kw_only=True)
class RouterNet:
    """score = out . relu(feature_weights^T f + confidence_weights^T c + hidden_bias) + out_bias; higher: keep.

    `betas` (3,) multiply the logits before each softmax; `feature_weights` (width, hidden), `confidence_weights`
    (3, hidden), `hidden_bias` (hidden,), `out` (hidden,).
    """

    betas: tuple[float, ...]
    feature_weights: Floats
    confidence_weights: Floats
    hidden_bias: Floats
    out: Floats
    out_bias: float

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one score."""
        return self.feature_weights.size + self.confidence_weights.size + self.out.size

    def hidden(self, outputs: NetOutputs) -> tuple[Floats, Floats]:
        """The two summands of the hidden layer before ReLU, from features and from confidences, ``(n, hidden)``."""
        from_features = outputs.features @ self.feature_weights
        from_confidences = confidences(outputs.logits, self.betas) @ self.confidence_weights + self.hidden_bias
        return from_features, from_confidences

    def score(self, outputs: NetOutputs) -> Floats:
        """The float score, ``(n,)``: the opposite of the log-odds that a query is worth it, less a constant."""
        from_features, from_confidences = self.hidden(outputs)
        return np.maximum(from_features + from_confidences, 0.0) @ self.out + np.float32(self.out_bias)


@dataclass(frozen=True, kw_only=True)
class MaxSoftmax:
    """The free rule: the largest softmax probability, of the logits times `beta`."""

    beta: float
    macs: int = 0

    def score(self, outputs: NetOutputs) -> Floats:
        """The float score, ``(n,)``."""
        return confidences(outputs.logits, (self.beta,))[:, 0]


Router = RouterNet | MaxSoftmax


def confidences(logits: Floats, betas: tuple[float, ...]) -> Floats:
    """Largest softmax probability at each beta, ``(n, len(betas))``."""
    return np.stack([softmax(logits, 1.0 / beta).max(axis=1) for beta in betas], axis=1)


def router_macs(arch: ArchSpec, spec: RouterSpec) -> int:
    """Multiply-accumulates, and about as many weights, of the router that an edge net will carry."""
    return (arch.feature_width + len(TEMPERATURES) + 1) * spec.hidden


def betas(logits: Floats) -> tuple[float, ...]:
    """Softmax betas for `TEMPERATURES`, scaled so that a net with twice the logits gets half the beta."""
    top_two = np.sort(logits, axis=1)[:, -2:]
    spread = float(np.median(top_two[:, 1] - top_two[:, 0])) / 4.0
    return tuple(1.0 / (temperature * max(spread, 1e-3)) for temperature in TEMPERATURES)


def query_targets(query: Bools, edge_logits: Floats, cloud_probabilities: Floats, *, softness: float = 0.5) -> Floats:
    """Soft proxy labels in [0, 1], ``(n,)``: part o(x), part what the cloud itself believes a query would gain.

    The soft part is p_cloud(cloud's class) - p_cloud(edge's class): zero where they agree, near one where the cloud is
    sure that the edge is wrong. It carries more than one bit per example where labels are noisy.
    """
    rows = np.arange(len(edge_logits))
    believed = cloud_probabilities.max(axis=1) - cloud_probabilities[rows, edge_logits.argmax(axis=1)]
    return ((1.0 - softness) * query + softness * believed).astype(np.float32)


def fit_router(
    outputs: NetOutputs, targets: Floats, spec: RouterSpec, *, seed: int, narrator: Narrator = SILENT
) -> RouterNet:
    """Fit a router to `targets` ``(n,)`` on the edge's `outputs`: binary cross-entropy plus the coverage hinge.

    Kag et al. 2023: min_r l(r(x), o(x)) + lambda [c - mean(1 - r(x))]_+ with c = `spec.coverage_target`. A fifth of the
    rows decides when to stop, so that a wide router cannot learn them by heart.
    """
    scales = betas(outputs.logits)
    inputs = np.concatenate([outputs.features, confidences(outputs.logits, scales)], axis=1)
    mean, std = inputs.mean(axis=0), inputs.std(axis=0) + 1e-6
    weights, bias, out, out_bias = _fit((inputs - mean) / std, targets, spec, seed, narrator)
    weights = weights / std[:, None]
    bias = bias - mean @ weights
    width = outputs.features.shape[1]
    router = RouterNet(
        betas=scales,
        feature_weights=weights[:width],
        confidence_weights=weights[width:],
        hidden_bias=bias,
        out=-out[:, 0],
        out_bias=-float(out_bias[0]),
    )
    return replace(router, out_bias=router.out_bias - float(np.median(router.score(outputs))))


def _fit(
    inputs: Floats, targets: Floats, spec: RouterSpec, seed: int, narrator: Narrator
) -> tuple[Floats, Floats, Floats, Floats]:
    """Train the two dense layers; returns their weights as numpy arrays, signed so that positive asks the cloud."""
    import keras

    from hybrid.fitting import narrated

    keras.utils.set_random_seed(seed)
    net = keras.Sequential(
        [
            keras.Input((inputs.shape[1],)),
            keras.layers.Dense(spec.hidden, activation="relu"),
            keras.layers.Dense(1),
        ]
    )
    net.compile(keras.optimizers.AdamW(3e-3, weight_decay=5e-4), _loss(spec), jit_compile=False)
    order = np.random.default_rng(seed).permutation(len(inputs))
    held, used = order[: len(order) // 5], order[len(order) // 5 :]
    stop = keras.callbacks.EarlyStopping(patience=8, restore_best_weights=True)
    steps = -(-len(used) // ROUTER_BATCH) * spec.epochs
    with narrated(keras, narrator, "router", steps) as progress:
        net.fit(
            inputs[used],
            targets[used],
            validation_data=(inputs[held], targets[held]),
            batch_size=ROUTER_BATCH,
            epochs=spec.epochs,
            verbose=0,
            callbacks=[stop, progress],
        )
    first, second = net.layers
    return (*map(np.asarray, first.get_weights()), *map(np.asarray, second.get_weights()))  # type: ignore[return-value]


def _loss(spec: RouterSpec) -> Callable[[Any, Any], Any]:
    from keras import losses, ops

    cross_entropy = losses.BinaryCrossentropy(from_logits=True)

    def loss(target: Any, logit: Any) -> Any:
        coverage = 1.0 - ops.mean(ops.sigmoid(logit))
        return cross_entropy(target, logit) + spec.coverage_weight * ops.relu(spec.coverage_target - coverage)

    return loss
