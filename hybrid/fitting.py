"""One way to fit a classifier, for edge, cloud and search: SGD on a one-cycle schedule, soft targets, weights.

Nesterov momentum with a short, high one-cycle schedule learned more per minute than AdamW on the nets of this size.
Targets travel as one array ``(n, 2 * num_classes)``: the labels' one-hot rows beside the cloud's soft ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.batches import Augment, batches
from hybrid.artifacts import Floats, NetOutputs
from hybrid.checkpoint import Checkpoint
from hybrid.errors import SpecError
from hybrid.nets import normalise
from hybrid.progress import Advance, Narrator
from hybrid.supervision import tempered

PREDICT_BATCH = 512
WARM_UP_SHARE = 0.25


def targets(
    labels: NDArray[np.int32],
    num_classes: int,
    cloud: Floats | None = None,
    *,
    temperature: float = 1.0,
    smoothing: float = 0.0,
) -> Floats:
    """Smoothed one-hot labels beside the cloud's probabilities at `temperature`, ``(n, 2 * num_classes)``.

    `cloud` are probabilities at temperature 1, ``(n, num_classes)``; without them the labels stand twice.
    """
    hard = np.eye(num_classes, dtype=np.float32)[labels] * (1.0 - smoothing) + np.float32(smoothing / num_classes)
    soft = hard if cloud is None else tempered(cloud, temperature)
    return np.concatenate([hard, soft], axis=1)


def distillation_loss(*, alpha: float, temperature: float) -> Any:
    """(1 - alpha) CE(labels, p) + alpha T^2 CE(cloud at T, p at T), per example ``(n,)`` (Hinton et al. 2015)."""
    from keras import ops

    def loss(target: Any, logits: Any) -> Any:
        hard, soft = ops.split(target, 2, axis=-1)
        cross_entropy = -ops.sum(hard * ops.log_softmax(logits), axis=-1)
        if alpha == 0.0:
            return cross_entropy
        softened = -ops.sum(soft * ops.log_softmax(logits / temperature), axis=-1)
        return (1.0 - alpha) * cross_entropy + alpha * temperature**2 * softened

    return loss


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A learning rate that rises to `peak` over a quarter of the steps and falls to `end` (Smith & Topin 2018).

    With `start` above zero there is no rise: it falls from there to `end` in a line.
    """

    peak: float
    start: float = 0.0
    end: float = 0.0

    def schedule(self, k: ModuleType, steps: int) -> Any:
        """The schedule of Keras module `k` over so many steps."""
        schedules = k.optimizers.schedules
        if self.start > 0.0:
            return schedules.PolynomialDecay(self.start, steps, end_learning_rate=self.end)
        warm_up = max(1, int(steps * WARM_UP_SHARE))
        return schedules.CosineDecay(
            self.peak / 25,
            max(1, steps - warm_up),
            alpha=self.end / self.peak,
            warmup_target=self.peak,
            warmup_steps=warm_up,
        )


def fit(
    net: Any,
    x: NDArray[np.uint8],
    labels: NDArray[np.int32],
    target: Floats,
    *,
    weights: Floats | None = None,
    epochs: int,
    batch_size: int,
    rate: Rate,
    weight_decay: float,
    loss: Any,
    augment: Augment | None,
    seed: int,
    label: str,
    narrator: Narrator,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Fit the logits of `net` in place on stored examples `x`; `weights` ``(n,)`` scale each example's loss.

    `target` ``(n, 2 * num_classes)`` is what is learned (see `targets`); `labels` ``(n,)`` are their classes. With a
    `checkpoint`, each epoch is kept there, and what is kept there of this training is not done again.
    Raises: SpecError where the loss is no number any more.
    """
    import keras

    keras.utils.set_random_seed(seed)
    batch_size = min(batch_size, len(x))
    steps = -(-len(x) // batch_size)
    weights = np.ones(len(x), np.float32) if weights is None else weights
    classifier = keras.Model(net.input, net.output[0])
    optimizer = keras.optimizers.SGD(
        rate.schedule(keras, steps * epochs), momentum=0.9, nesterov=True, weight_decay=weight_decay
    )
    classifier.compile(optimizer, loss, jit_compile=False)  # XLA makes depthwise gradients 7 times slower on CPUs
    done, callbacks = 0, [keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: _check(label, epoch, logs))]
    if checkpoint is not None:
        optimizer.build(classifier.trainable_variables)
        variables = [*classifier.variables, *optimizer.variables]
        done = checkpoint.restore(variables)
        callbacks.append(
            keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, _logs: checkpoint.save(epoch + 1, variables))
        )
    data = batches(
        x,
        labels,
        target,
        weights,
        batch_size=batch_size,
        seed=seed,
        augment=augment,
        num_classes=target.shape[1] // 2,
        first_epoch=done,
    ).map(lambda example, _label, goal, weight: (example, goal, weight))
    with narrated(keras, narrator, label, steps * epochs, done=steps * done) as callback:
        classifier.fit(  # the data shuffles itself
            data, epochs=epochs, initial_epoch=done, shuffle=False, verbose=0, callbacks=[callback, *callbacks]
        )


def _check(label: str, epoch: int, logs: dict[str, float]) -> None:
    if not isfinite(logs["loss"]):
        remedy = "lower its learning rate (train.edge_learning_rate, train.cloud_learning_rate), or look at the data"
        raise SpecError(f"{label}: got a loss of {logs['loss']} in epoch {epoch + 1}; {remedy}")


def predict(net: Any, x: NDArray[np.uint8], *, label: str, narrator: Narrator) -> NetOutputs:
    """Logits ``(n, num_classes)`` and features ``(n, width)`` of a float net over stored examples."""
    logits, features = [], []
    with narrator.track(label, len(x)) as advance:
        for start in range(0, len(x), PREDICT_BATCH):
            part = normalise(x[start : start + PREDICT_BATCH])
            part_logits, part_features = net.predict_on_batch(part)
            logits.append(part_logits)
            features.append(part_features)
            advance(len(part), "")
    return NetOutputs(logits=np.concatenate(logits), features=np.concatenate(features))


@contextmanager
def narrated(k: ModuleType, narrator: Narrator, label: str, steps: int, *, done: int = 0) -> Iterator[Any]:
    """A callback of Keras module `k` that reports each batch and the running loss; so many steps are `done` before."""
    with narrator.track(label, steps) as advance:
        if done:
            advance(done, "goes on")
        yield k.callbacks.LambdaCallback(on_train_batch_end=lambda _batch, logs: _report(advance, logs))


def _report(advance: Advance, logs: dict[str, float] | None) -> None:
    advance(1, f"loss {logs['loss']:.3f}" if logs else "")
