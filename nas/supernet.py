"""One net for a whole space: trained once, after which every candidate is scored in a fraction of a second.

Each step trains two nets with the weights that they share: one between, beside a large, a small or another one between
(the sandwich of Yu & Huang 2019, in turns). Four nets in each step (large, small, two between) rank nets worse, as half
as many steps fit the time: Kendall's tau of the shared weights alone .25 against .48. All learn from labels and cloud;
where no cloud answers for the training examples, the large one is in each step, and the other learns from what it says
(in-place distillation, ibid.). A cloud teaches better than the large net, which knows as little at first as the others:
on Fashion-MNIST 83 against 81 % after one epoch, both together 82 %. A candidate takes its part of the weights and
estimates its batch normalisation's statistics anew.

The chosen net is later trained from first weights of its own: started from those inherited, two nets ended 0.4 to 1.1
points lower after as many epochs, at each of three learning rates.
"""

from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.batches import Augment, batches
from datasets.dataset import Split
from hybrid import nets
from hybrid.arrays import DAMAGE, write_arrays
from hybrid.artifacts import Floats, NetOutputs
from hybrid.checkpoint import Checkpoint
from hybrid.errors import SpecError
from hybrid.fitting import Rate, distillation_loss, targets
from hybrid.progress import SILENT, Narrator
from hybrid.specs import ArchSpec, TrainSpec
from nas.shared import HEAD, Mode, SharedLayers, first_weights, place, weight_shapes
from nas.space import Space, largest_of_kinds, sample, shrunk, smallest, smallest_of_kinds

LARGE_SHARE, SMALL_SHARE = 0.2, 0.1
"""Of the steps, those in which a large or a small net is trained beside one between."""
LARGE_POOL, BETWEEN_POOL, SMALL_POOL = 8, 64, 4
PEAK_RATE = 0.2
MOMENTUM = 0.9
STATISTICS_ROWS = 512
INFER_BATCH = 512
CLIP_NORM = 5.0

SEEN = "seen"
Draw = Callable[[Space, np.random.Generator], ArchSpec]


class Supernet:
    """The weights that all nets of a space share."""

    def __init__(self, space: Space, *, seed: int) -> None:
        self.space, self._seed = space, seed
        self.weights = first_weights(weight_shapes(space), seed)
        self._seen: Any = None

    def outputs(self, arch: ArchSpec, x: NDArray[np.uint8]) -> NetOutputs:
        """What `arch` with inherited weights says about stored examples `x` ``(n, height, width, channels)``."""
        statistics = self.statistics(arch)
        parts = [
            self._forward(arch, nets.normalise(x[start : start + INFER_BATCH]), "infer", statistics)
            for start in range(0, len(x), INFER_BATCH)
        ]
        logits, features = (np.concatenate([np.asarray(part) for part in kind]) for kind in zip(*parts, strict=True))
        return NetOutputs(logits=logits, features=features)

    def statistics(self, arch: ArchSpec) -> dict[str, tuple[Any, Any]]:
        """Mean and variance of each of its normalisations, over the examples kept by `see`."""
        statistics: dict[str, tuple[Any, Any]] = {}
        self._forward(arch, self._seen, "estimate", statistics)
        return statistics

    def _forward(self, arch: ArchSpec, x: Any, mode: Mode, statistics: dict[str, Any] | None = None) -> list[Any]:
        """Logits ``(n, num_classes)`` and features ``(n, width)``."""
        return apply(SharedLayers(self.weights, mode, statistics), x, arch)

    def fit(
        self,
        rows: Split,
        cloud: Floats | None,
        *,
        allowed: Callable[[ArchSpec], bool] = lambda arch: True,
        epochs: int,
        train: TrainSpec,
        mirror: bool = False,
        narrator: Narrator = SILENT,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """Train the shared weights on `rows`, with the cloud's probabilities on them ``(n, num_classes)`` where given.

        No net that is not `allowed` is trained: what does not fit the device should not cost time, nor shape weights.
        With a `checkpoint`, each epoch is kept there, and what is kept there of this training is not done again.
        Raises: SpecError where the loss is no number any more.
        """
        target = targets(rows.y, self.space.num_classes, cloud, temperature=train.temperature)
        augment = Augment(mirror=mirror and train.flip, crop_pixels=train.crop_pixels)
        size = min(train.batch_size, len(rows))
        loss = distillation_loss(alpha=0.0 if cloud is None else train.distillation, temperature=train.temperature)
        self.see(rows)
        per_epoch, rng = -(-len(rows) // size), np.random.default_rng([self._seed, 1])
        steps = epochs * per_epoch
        sandwiches = Sandwiches(self.space, rng, allowed, steps=steps, taught=cloud is not None)
        step = _Step(
            self.weights,
            self._forward,
            loss,
            taught=cloud is not None,
            steps=steps,
            weight_decay=train.weight_decay,
        )
        done = 0 if checkpoint is None else checkpoint.restore(step.variables)
        step.done = done * per_epoch
        for _ in range(step.done):
            sandwiches.draw()
        data = batches(rows.x, rows.y, target, batch_size=size, seed=self._seed, augment=augment, first_epoch=done)
        with narrator.track("supernet", steps) as advance:
            if done:
                advance(step.done, "goes on")
            for epoch in range(done, epochs):
                for x, _labels, goal in data:
                    if not isfinite(reached := step(sandwiches.draw(), x, goal)):
                        raise SpecError(f"supernet: got a loss of {reached} in epoch {epoch + 1}; look at the data")
                    advance(1, f"loss {reached:.3f}")
                if checkpoint is not None:
                    checkpoint.save(epoch + 1, step.variables)

    def see(self, rows: Split) -> None:
        """Keep the examples from which every candidate estimates its statistics."""
        self._seen = nets.normalise(rows.x[:STATISTICS_ROWS])

    def write(self, path: Path) -> None:
        """Write the shared weights and the examples for the statistics, at once."""
        arrays = {name: weight.numpy() for name, weight in self.weights.items()}
        write_arrays(path, {**arrays, SEEN: np.asarray(self._seen)})

    def read(self, path: Path) -> None:
        """Take up what `write` wrote. Raises: SpecError where it is damaged or of another space."""
        remedy = f"delete {path.parent} to train the supernet anew"
        try:
            with np.load(path) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except DAMAGE as exc:
            raise SpecError(f"{path}: damaged ({exc}); {remedy}") from exc
        self._seen = arrays.pop(SEEN, None)
        shapes = {name: tuple(weight.shape) for name, weight in self.weights.items()}
        if self._seen is None or {name: array.shape for name, array in arrays.items()} != shapes:
            raise SpecError(f"{path}: is the supernet of another space; {remedy}")
        for name, array in arrays.items():
            self.weights[name].assign(array)


def apply(k: Any, x: Any, arch: ArchSpec) -> list[Any]:
    """The net of `arch` over a layers namespace that is told the place of each layer: logits and features."""
    x = nets.seen(k, x, arch)
    for position, block in enumerate(arch.blocks):
        for depth in range(block.depth):
            k.at(place(position, block.kind, depth))
            x = nets.layer(k, x, block, block.stride if depth == 0 else 1)
    k.at(place(len(arch.blocks) - 1, HEAD))
    outputs: list[Any] = nets.head(k, x, arch)
    return outputs


class Sandwiches:
    """Which two nets are trained in a step; where no cloud has `taught`, the first is a large one, the other's teacher.

    They come from pools, because each is compiled once, which takes as long as a few dozen steps.
    """

    def __init__(
        self,
        space: Space,
        rng: np.random.Generator,
        allowed: Callable[[ArchSpec], bool],
        *,
        steps: int,
        taught: bool,
    ) -> None:
        def pool(count: int, draw: Draw) -> list[ArchSpec]:
            nets_ = {shrunk(draw(space, rng), space, rng, allowed): None for _ in range(max(2, min(count, steps // 8)))}
            return [arch for arch in nets_ if allowed(arch)] or [smallest(space)]

        self._rng, self._taught = rng, taught
        self._large, self._small = pool(LARGE_POOL, largest_of_kinds), pool(SMALL_POOL, smallest_of_kinds)
        self._between = pool(BETWEEN_POOL, sample)

    def draw(self) -> tuple[ArchSpec, ArchSpec]:
        """The two nets of the next step."""
        chance, pool = self._rng.random(), self._between
        if chance < LARGE_SHARE + SMALL_SHARE:
            pool = self._large if chance < LARGE_SHARE else self._small
        return self._pick(pool if self._taught else self._large), self._pick(self._between if self._taught else pool)

    def _pick(self, pool: Sequence[ArchSpec]) -> ArchSpec:
        return pool[int(self._rng.integers(len(pool)))]


class _Step:
    """One step of training: gradients of the two nets, added up; then Nesterov momentum."""

    def __init__(
        self,
        weights: dict[str, Any],
        forward: Callable[[ArchSpec, Any, Mode], Sequence[Any]],
        loss: Callable[[Any, Any], Any],
        *,
        taught: bool,
        steps: int,
        weight_decay: float,
    ) -> None:
        import keras
        import tensorflow as tf

        self._weights, self._forward, self._loss = list(weights.values()), forward, loss
        self._gradients = [tf.Variable(tf.zeros_like(weight)) for weight in self._weights]
        self._momenta = [tf.Variable(tf.zeros_like(weight)) for weight in self._weights]
        self._rate, self.done = Rate(peak=PEAK_RATE).schedule(keras, steps), 0
        self._decay, self._taught = weight_decay, taught
        self._update = tf.function(self._move, autograph=False)
        self._compiled: dict[tuple[ArchSpec, bool], Any] = {}

    @property
    def variables(self) -> list[Any]:
        """All that a step leaves to the next, beside how many are `done`."""
        return [*self._weights, *self._momenta]

    def __call__(self, pair: tuple[ArchSpec, ArchSpec], x: Any, goal: Any) -> float:
        """Train both nets on `x` towards `goal`; the loss of the first."""
        import tensorflow as tf

        value, logits = self._add(pair[0], True, x, goal)
        self._add(pair[1], self._taught, x, goal if self._taught else tf.nn.softmax(logits))
        self._update(tf.constant(float(self._rate(self.done)), tf.float32))
        self.done += 1
        return float(value)

    def _add(self, arch: ArchSpec, first: bool, x: Any, goal: Any) -> Any:
        """Add the gradients of a net; its loss and logits. `first`: it learns from the goal.

        Compiled for batches of any size: what is compiled for one rounds differently, and which nets meet the last,
        smaller batch of an epoch would depend on where a training goes on.
        """
        import tensorflow as tf

        def add(x: Any, goal: Any) -> tuple[Any, Any]:
            with tf.GradientTape() as tape:
                logits = self._forward(arch, x, "train")[0]
                each = self._loss(goal, logits) if first else tf.nn.softmax_cross_entropy_with_logits(goal, logits)
                value = tf.reduce_mean(each)
            for total, gradient in zip(self._gradients, tape.gradient(value, self._weights), strict=True):
                if gradient is not None:
                    total.assign_add(gradient)
            return value, logits

        if (arch, first) not in self._compiled:
            signature = [tf.TensorSpec((None, *batch.shape[1:]), tf.float32) for batch in (x, goal)]
            self._compiled[arch, first] = tf.function(add, autograph=False, input_signature=signature)
        return self._compiled[arch, first](x, goal)

    def _move(self, rate: Any) -> None:
        import tensorflow as tf

        clipped, _ = tf.clip_by_global_norm([gradient.value() for gradient in self._gradients], CLIP_NORM)
        for weight, momentum, gradient, total in zip(
            self._weights, self._momenta, clipped, self._gradients, strict=True
        ):
            decayed = gradient + self._decay * weight if len(weight.shape) > 1 else gradient
            speed = momentum.assign(MOMENTUM * momentum + decayed)
            weight.assign_sub(rate * (decayed + MOMENTUM * speed))
            total.assign(tf.zeros_like(total))
