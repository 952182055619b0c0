"""Small dense nets in numpy: batch normalisation, ReLU, AdamW on binary cross-entropy; nothing heavy to load.

Routers and their teachers have a few thousand weights. A framework's start alone takes longer than their training.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hybrid.artifacts import Floats

MOMENTUM = 0.1
"""Share of a batch in the running mean and variance."""
EPSILON = 1e-5
ROWS_AT_ONCE = 1 << 16

Gradient = Callable[[Floats, Floats], Floats]
"""Logits ``(n,)`` and targets ``(n,)`` to the derivative of the mean loss by each logit, ``(n,)``."""
Layer = tuple[Floats, Floats]
"""Weights ``(fan_in, width)`` and bias ``(width,)``."""


def sigmoid(logits: Floats) -> Floats:
    """``1 / (1 + exp(-logits))`` without overflow.

    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return 0.5 * (1.0 + np.tanh(0.5 * logits))


def cross_entropy_gradient(logits: Floats, targets: Floats) -> Floats:
    """Of the mean binary cross-entropy with targets in [0, 1]."""
    return (sigmoid(logits) - targets) / len(logits)


class Perceptron:
    """Dense layers, each followed by batch normalisation and ReLU, then one logit.

    The last `side` inputs skip the first `side_at` layers: they join what comes out of them.
    """

    def __init__(
        self, inputs: int, hidden: Sequence[int], *, rng: np.random.Generator, side: int = 0, side_at: int = 0
    ) -> None:
        self.hidden, self.side, self.side_at = tuple(hidden), side, side_at
        fans = [inputs - side, *hidden]
        fans[side_at] += side
        self._shapes = list(zip(fans, (*hidden, 1), strict=True))
        self._ends = np.cumsum([fan * width for fan, width in self._shapes])
        widths = sum(hidden)
        self.decayed = int(self._ends[-1])
        """So many parameters, the first ones, are weights; the others are scales and shifts."""
        weights = [rng.normal(0.0, np.sqrt(2.0 / fan), fan * width) for fan, width in self._shapes]
        self.parameters: Floats = np.concatenate([*weights, np.ones(widths), np.zeros(widths + 1)]).astype(np.float32)
        self.means: Floats = np.zeros(widths, np.float32)
        self.variances: Floats = np.ones(widths, np.float32)

    def logits(self, x: Floats) -> Floats:
        """The logit of each row of `x` ``(n, inputs)``, ``(n,)``."""
        layers = self.folded()
        parts = [self._infer(x[start : start + ROWS_AT_ONCE], layers) for start in range(0, len(x), ROWS_AT_ONCE)]
        return np.concatenate([*parts, np.zeros(0, np.float32)])

    def folded(self) -> list[Layer]:
        """The same net without batch normalisation."""
        layers = []
        for index, (weights, (scale, shift, here)) in enumerate(zip(self._weights(), self._norms(), strict=True)):
            if index == len(self.hidden):
                layers.append((weights, shift))
                continue
            factor = scale / np.sqrt(self.variances[here] + EPSILON)
            layers.append((weights * factor, shift - self.means[here] * factor))
        return layers

    def gradient(self, x: Floats, targets: Floats, gradient: Gradient) -> Floats:
        """Derivative of the loss on a batch by all `parameters`; the running statistics take the batch in."""
        inputs, normed, inverse = self._train(x)
        weights, norms = self._weights(), self._norms()
        found = np.zeros_like(self.parameters)
        found_weights, found_norms = self._weights(found), self._norms(found)
        delta = gradient((inputs[-1] @ weights[-1])[:, 0] + norms[-1][1], targets)[:, None].astype(np.float32)
        found_norms[-1][1][:] = delta.sum()
        for index in range(len(self.hidden), -1, -1):
            found_weights[index][:] = inputs[index].T @ delta
            if index == 0:
                break
            above = delta @ weights[index].T
            delta = above[:, : self.hidden[index - 1]] * (inputs[index][:, : self.hidden[index - 1]] > 0)
            z, scale = normed[index - 1], norms[index - 1][0]
            found_norms[index - 1][0][:] = (delta * z).sum(axis=0)
            found_norms[index - 1][1][:] = delta.sum(axis=0)
            centred = delta - (found_norms[index - 1][1] + z * found_norms[index - 1][0]) / np.float32(len(x))
            delta = centred * (scale * inverse[index - 1])
        return found

    def _train(self, x: Floats) -> tuple[list[Floats], list[Floats], list[Floats]]:
        """Each layer's inputs, its normalised sums and their inverse deviations, with the batch's own statistics."""
        inputs, normed, inverse = [], [], []
        value, side = self._split(x)
        for index, (weights, (scale, shift, here)) in enumerate(zip(self._weights(), self._norms(), strict=True)):
            inputs.append(np.concatenate([value, side], axis=1) if self.side and index == self.side_at else value)
            if index == len(self.hidden):
                break
            total = inputs[-1] @ weights
            mean = total.mean(axis=0)
            total -= mean
            variance = np.einsum("ij,ij->j", total, total) / np.float32(len(x))
            inverse.append(1.0 / np.sqrt(variance + EPSILON))
            normed.append(total * inverse[-1])
            self.means[here] += MOMENTUM * (mean - self.means[here])
            self.variances[here] += MOMENTUM * (variance - self.variances[here])
            value = np.maximum(normed[-1] * scale + shift, 0.0)
        return inputs, normed, inverse

    def _infer(self, x: Floats, layers: list[Layer]) -> Floats:
        value, side = self._split(x)
        for index, (weights, bias) in enumerate(layers):
            if self.side and index == self.side_at:
                value = np.concatenate([value, side], axis=1)
            value = value @ weights + bias
            if index < len(self.hidden):
                value = np.maximum(value, 0.0)
        return value[:, 0]

    def _split(self, x: Floats) -> tuple[Floats, Floats]:
        cut = x.shape[1] - self.side
        return x[:, :cut], x[:, cut:]

    def _weights(self, flat: Floats | None = None) -> list[Floats]:
        """Views of the layers' weights in `flat`, by default in `parameters`."""
        parts = np.split((self.parameters if flat is None else flat)[: self.decayed], self._ends[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def _norms(self, flat: Floats | None = None) -> list[tuple[Floats, Floats, slice]]:
        """Views of each layer's scale and shift, and where its statistics lie; the last layer has a shift alone."""
        rest = (self.parameters if flat is None else flat)[self.decayed :]
        total, start, found = sum(self.hidden), 0, []
        for width in self.hidden:
            here = slice(start, start + width)
            found.append((rest[:total][here], rest[total:][here], here))
            start += width
        return [*found, (rest[:0], rest[2 * total :], slice(0, 0))]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a perceptron is trained: AdamW with a cosine to zero."""

    epochs: int
    rate: float = 3e-3
    decay: float = 5e-4
    batch: int = 512


class AdamW:
    """Loshchilov & Hutter 2019; the first `decayed` parameters shrink by ``rate * decay`` a step."""

    def __init__(self, net: Perceptron, decay: float) -> None:
        self.net, self.decay, self.steps = net, decay, 0
        self.first, self.second = np.zeros_like(net.parameters), np.zeros_like(net.parameters)

    def step(self, gradient: Floats, rate: float) -> None:
        """Change the net's parameters in place."""
        self.steps += 1
        self.first += 0.1 * (gradient - self.first)
        self.second += 0.001 * (gradient * gradient - self.second)
        mean = self.first / np.float32(1.0 - 0.9**self.steps)
        spread = self.second / np.float32(1.0 - 0.999**self.steps)
        self.net.parameters[: self.net.decayed] *= np.float32(1.0 - rate * self.decay)
        self.net.parameters -= np.float32(rate) * mean / (np.sqrt(spread) + np.float32(1e-8))


def fit(
    net: Perceptron,
    x: Floats,
    targets: Floats,
    recipe: Recipe,
    *,
    rng: np.random.Generator,
    gradient: Gradient = cross_entropy_gradient,
    judge: Callable[[Perceptron], float] | None = None,
) -> Perceptron:
    """Train `net` in place on `x` ``(n, inputs)`` and `targets` ``(n,)``; it ends at the epoch that `judge` likes best.

    Rows that do not fill a batch sit an epoch out; fewer rows than a batch are one batch.
    """
    batch = min(recipe.batch, len(x))
    steps = recipe.epochs * (len(x) // batch)
    adam, best, kept = AdamW(net, recipe.decay), -np.inf, _state(net)
    for _ in range(recipe.epochs):
        order = rng.permutation(len(x))
        for start in range(0, len(x) - batch + 1, batch):
            rows = order[start : start + batch]
            rate = recipe.rate * 0.5 * (1.0 + np.cos(np.pi * adam.steps / steps))
            adam.step(net.gradient(x[rows], targets[rows], gradient), rate)
        if judge is not None and (reached := judge(net)) > best:
            best, kept = reached, _state(net)
    if judge is not None:
        net.parameters[:], net.means[:], net.variances[:] = kept
    return net


def _state(net: Perceptron) -> tuple[Floats, Floats, Floats]:
    return net.parameters.copy(), net.means.copy(), net.variances.copy()
