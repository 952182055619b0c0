"""The router of Kag et al. (ICLR 2023), to compare with: floating point, some 20-27k parameters, off the device.

The net is that of the authors' `Hybrid_Router`: features to 128 to 64 units, joined by the entropy of the softmax and
all pairwise differences of its k largest values, then C, 64 and C units and one logit; each layer has batch
normalisation and ReLU. Theirs has k = 10 and cannot take fewer classes; here k is at most C. Its labels are
o(x) = 1{edge wrong and cloud right}, on whatever examples are given: the authors take those that the nets were trained
on. Theirs is trained together with the edge net for 100 epochs, ours on stored outputs.
"""

from dataclasses import dataclass

import numpy as np

from hybrid.artifacts import Floats
from hybrid.device_router import StoredOutputs
from hybrid.perceptron import Gradient, Perceptron, Recipe, cross_entropy_gradient, fit, sigmoid
from hybrid.policy import negative_entropy
from hybrid.supervision import Evidence, query_targets, softmax

FEATURE_WIDTHS = (128, 64)
MIDDLE_WIDTH = 64
LARGEST = 10


@dataclass(frozen=True, kw_only=True)
class PaperSpec:
    """How it is trained: AdamW with a cosine to zero on binary cross-entropy and the coverage hinge."""

    epochs: int = 8
    learning_rate: float = 5e-4
    """The authors'; on a few epochs up to 3e-3 is better."""
    weight_decay: float = 5e-4
    batch: int = 256
    coverage: float = 0.7
    """c of the constraint coverage >= c."""
    coverage_weight: float = 1.0
    """lambda of the hinge lambda [c - mean(1 - r)]_+; 0 leaves the cross-entropy alone."""


@dataclass(frozen=True, kw_only=True)
class PaperRouter:
    """The fitted net; `logit_scale` and `feature_scale` are the size of a stored step."""

    logit_scale: float
    feature_scale: float
    net: Perceptron

    @property
    def parameters(self) -> int:
        """Number of weights and biases, batch normalisation folded away."""
        return sum(weights.size + bias.size for weights, bias in self.net.folded())

    def score(self, stored: StoredOutputs) -> Floats:
        """Minus the log-odds that a query pays, ``(n,)``; higher: the edge can answer."""
        return -self.net.logits(paper_inputs(stored, self.logit_scale, self.feature_scale))


def confidence_inputs(logits: Floats) -> Floats:
    """Entropy of the softmax in nats and the k * k differences of its k largest values, ``(n, 1 + k * k)``.

    >>> confidence_inputs(np.log(np.array([[1.0, 3.0]]))).round(2).tolist()
    [[0.56, 0.0, 0.5, -0.5, 0.0]]
    """
    largest = -np.sort(-softmax(logits), axis=1)[:, :LARGEST]
    differences = (largest[:, :, None] - largest[:, None, :]).reshape(len(logits), -1)
    return np.column_stack([-negative_entropy(logits), differences])


def paper_inputs(stored: StoredOutputs, logit_scale: float, feature_scale: float) -> Floats:
    """What the net reads: features, then what joins behind them, ``(n, width + 1 + k * k)``."""
    features = (stored.features.astype(np.float32) + 128.0) * feature_scale
    joined = confidence_inputs(stored.logits.astype(np.float32) * np.float32(logit_scale))
    return np.concatenate([features, joined], axis=1, dtype=np.float32)


def coverage_gradient(spec: PaperSpec) -> Gradient:
    """Of cross-entropy plus lambda [c - mean(1 - r)]_+ with r = sigmoid(logit): the form that enforces coverage >= c.

    The authors' poster and code have the bracket's sign the other way round, which penalises coverage above c.
    """

    def gradient(logits: Floats, targets: Floats) -> Floats:
        query = sigmoid(logits)
        lacks = spec.coverage > 1.0 - float(query.mean())
        hinge = spec.coverage_weight * lacks * query * (1.0 - query) / len(logits)
        return cross_entropy_gradient(logits, targets) + hinge

    return gradient


def fit_paper_router(
    evidence: Evidence, spec: PaperSpec | None = None, *, logit_scale: float, feature_scale: float = 1 / 32, seed: int
) -> PaperRouter:
    """Fit the paper's router to the proxy labels of `evidence`.

    `logit_scale` is the logits' quantisation scale; batch normalisation makes `feature_scale` a matter of taste.
    """
    spec = spec or PaperSpec()
    x = paper_inputs(evidence.stored, logit_scale, feature_scale)
    width, num_classes = evidence.stored.features.shape[1], evidence.stored.logits.shape[1]
    rng = np.random.default_rng(seed)
    widths = (*FEATURE_WIDTHS, num_classes, MIDDLE_WIDTH, num_classes)
    net = Perceptron(x.shape[1], widths, rng=rng, side=x.shape[1] - width, side_at=len(FEATURE_WIDTHS))
    recipe = Recipe(epochs=spec.epochs, rate=spec.learning_rate, decay=spec.weight_decay, batch=spec.batch)
    targets = query_targets(evidence, softness=0.0)
    fit(net, x, targets, recipe, rng=rng, gradient=coverage_gradient(spec))
    return PaperRouter(logit_scale=logit_scale, feature_scale=feature_scale, net=net)
