"""How well a candidate learns: a short, seeded training on a few rows, scored on training examples it has not seen."""

from collections.abc import Callable
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray

from datasets.dataset import Dataset, Split
from datasets.errors import DatasetError
from hybrid.nets import build_net, normalise
from hybrid.specs import ArchSpec

MAX_HELD_OUT_ROWS = 2000
BATCH_SIZE = 64
LEARNING_RATE = 6e-3
WEIGHT_DECAY = 5e-3
WARM_UP_SHARE = 0.1


def held_out(data: Dataset, *, rows: int, seed: int) -> tuple[Split, Split]:
    """Cut ``data.train`` into `rows` examples to fit and a slice to score on, both stratified, disjoint.

    The slice is a fifth of the training part, at most `MAX_HELD_OUT_ROWS`; where fewer than `rows` remain, all of them
    are fitted. No other split is touched: calibration, validation and test stay unseen by the search.
    Raises: DatasetError where there are too few examples to cut.
    """
    train = data.train
    score_rows = min(MAX_HELD_OUT_ROWS, len(train) // 5)
    if score_rows < 1:
        raise DatasetError(f"{data.name}: {len(train)} training examples, the search needs 5 or more")
    order = stratified_order(train.y, np.random.default_rng(seed))
    return _take(train, order[score_rows : score_rows + rows]), _take(train, order[:score_rows])


def stratified_order(labels: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.intp]:
    """Shuffle so that every stretch holds the classes in about the proportion of the whole; indices ``(n,)``."""
    shuffled = rng.permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        place[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(place, kind="stable")


def _take(split: Split, rows: NDArray[np.intp]) -> Split:
    return Split(x=split.x[rows], y=split.y[rows])


def short_training(*, fit: Split, score: Split, epochs: int, seed: int) -> Callable[[ArchSpec], float]:
    """Return the function that trains a net on `fit` and gives its accuracy on `score`.

    Same net, same answer: every training starts from `seed`. AdamW with a warm-up and cosine decay; no XLA, which makes
    depthwise layers on a CPU several times slower.
    """
    fit_x, score_x = normalise(fit.x), normalise(score.x)

    def accuracy(arch: ArchSpec) -> float:
        import keras

        keras.utils.set_random_seed(seed)
        net = build_net(arch)
        model = keras.Model(net.input, net.outputs[0])
        model.compile(
            keras.optimizers.AdamW(_schedule(len(fit), epochs), weight_decay=WEIGHT_DECAY),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
        )
        model.fit(fit_x, fit.y, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)
        logits = model.predict(score_x, batch_size=8 * BATCH_SIZE, verbose=0)
        return float(np.mean(logits.argmax(axis=1) == score.y))

    return accuracy


def _schedule(rows: int, epochs: int) -> object:
    import keras

    steps = epochs * ceil(rows / BATCH_SIZE)
    warm_up = ceil(WARM_UP_SHARE * steps)
    return keras.optimizers.schedules.CosineDecay(
        LEARNING_RATE / 10, max(1, steps - warm_up), warmup_target=LEARNING_RATE, warmup_steps=warm_up
    )


def standard_error(accuracy: float, rows: int) -> float:
    """Binomial standard error of an accuracy measured on `rows` examples.

    >>> standard_error(0.5, 2500)
    0.01
    """
    return sqrt(accuracy * (1 - accuracy) / rows)
