"""The reader for training: shuffled, augmented, normalised batches as a tf.data.Dataset.

All randomness follows from `seed`, the number of the epoch and the place of the batch in it; no global seed counts.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from datasets.errors import DatasetError

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes of training examples, drawn for each example anew."""

    mirror: bool = False
    """Mirror left and right, every second example."""
    crop_pixels: int = 0
    """Shift by up to this many pixels each way, on axes longer than 1; what comes in is 0."""
    cutout_pixels: int = 0
    """Set a square with this edge to 0, anywhere (DeVries and Taylor 2017); it may stick out."""
    mixup: float = 0.0
    """Blend pairs of examples and their labels with a share of Beta(mixup, mixup) (Zhang et al. 2018); 0 is off."""


def batches(
    x: NDArray[np.uint8],
    y: NDArray[np.int32],
    *extras: NDArray[Any],
    batch_size: int,
    seed: int,
    augment: Augment | None = None,
    num_classes: int = 0,
    shuffle: bool = True,
    first_epoch: int = 0,
) -> "tf.data.Dataset":
    """Batches ``(x, y, *extras)``: `x` float32 in [-1, 127/128], `y` and each row of `extras` with its example.

    Each pass over the result is the next epoch, newly shuffled and augmented; a new call starts over, at `first_epoch`.
    With mixup, `y`
    becomes one-hot float32 ``(n, num_classes)``, and `extras`, which must then be floating, are blended like it.

    Raises: DatasetError for arrays that do not match and for augmentation that these examples do not allow.
    """
    import tensorflow as tf

    augment = augment or Augment()
    _check(x, y, extras, augment, num_classes)
    if batch_size < 1:
        raise DatasetError(f"batch_size: got {batch_size}, allowed 1 or more")
    with tf.device("CPU"):
        stored = [tf.convert_to_tensor(array) for array in (x, y, *extras)]

    def batch(rows: Any, seed: Any) -> tuple[Any, ...]:
        images, labels, *others = (tf.gather(array, rows) for array in stored)
        seeds = tf.random.split(seed, 2)
        images = _normalised(_moved(images, augment, seeds[0]))
        if not augment.mixup:
            return (images, labels, *others)
        return _mixed((images, tf.one_hot(labels, num_classes), *others), augment.mixup, seeds[1])

    plan = _plan(count=len(y), batch_size=batch_size, seed=seed, shuffle=shuffle, first_epoch=first_epoch)
    return plan.map(batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _check(
    x: NDArray[np.uint8], y: NDArray[np.int32], extras: Sequence[NDArray[Any]], augment: Augment, num_classes: int
) -> None:
    lengths = [len(x), len(y), *map(len, extras)]
    if x.dtype != np.uint8 or x.ndim != 4 or len(set(lengths)) > 1 or not len(x):
        raise DatasetError(
            f"batches: got {x.dtype} examples {x.shape} and arrays of length {lengths}, expected uint8 "
            "(n, height, width, channels) and as many of everything"
        )
    if min(augment.crop_pixels, augment.cutout_pixels, augment.mixup) < 0:
        raise DatasetError(f"augment: got {augment}, allowed 0 or more for pixels and mixup")
    shortest = min((size for size in x.shape[1:3] if size > 1), default=1)
    if augment.crop_pixels >= shortest:
        raise DatasetError(f"augment.crop_pixels: got {augment.crop_pixels}, allowed below {shortest}")
    if augment.mixup and num_classes < 1:
        raise DatasetError("augment.mixup: blends one-hot labels; give num_classes")
    if augment.mixup and any(array.dtype.kind != "f" for array in extras):
        raise DatasetError(f"augment.mixup: blends floating extras only, got {[str(a.dtype) for a in extras]}")


def _plan(*, count: int, batch_size: int, seed: int, shuffle: bool, first_epoch: int) -> "tf.data.Dataset":
    """Yield the indices of each batch and the seed of its augmentation, ``(rows (n,), seed (2,))``."""
    import tensorflow as tf

    epochs = itertools.count(first_epoch)

    def epoch() -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        rng = np.random.default_rng([seed, next(epochs)])
        order = rng.permutation(count) if shuffle else np.arange(count)
        for start in range(0, count, batch_size):
            yield order[start : start + batch_size], rng.integers(2**31, size=2)

    signature = (tf.TensorSpec((None,), tf.int64), tf.TensorSpec((2,), tf.int64))
    plan = tf.data.Dataset.from_generator(epoch, output_signature=signature)
    return plan.apply(tf.data.experimental.assert_cardinality(-(-count // batch_size)))


def _normalised(x: Any) -> Any:
    """uint8 0..255 to [-1, 127/128], so that the int8 input is ``x - 128``."""
    import tensorflow as tf

    return (tf.cast(x, tf.float32) - 128.0) / 128.0


def _moved(x: Any, augment: Augment, seed: Any) -> Any:
    """Mirror, crop and cut out at once: each pixel is gathered from a computed place, or is 0.

    `x`: uint8 ``(n, height, width, channels)``, as is the result.
    """
    import tensorflow as tf

    if not (augment.mirror or augment.crop_pixels or augment.cutout_pixels):
        return x
    count, (height, width, channels) = tf.shape(x)[0], x.shape[1:]
    seeds = tf.random.split(seed, 5)
    rows = _places(count, height, augment.crop_pixels, seeds[0])
    columns = _places(count, width, augment.crop_pixels, seeds[1])
    if augment.mirror:
        columns = tf.where(_uniform(count, 0, 2, seeds[2]) == 1, columns[:, ::-1], columns)
    blank = count * height * width  # the place of a pixel of zeros behind all others
    starts = tf.range(count)[:, None] * (height * width) + rows * width  # of the row, (n, height)
    starts = tf.where(_inside(rows, height), starts, blank)
    columns = tf.where(_inside(columns, width), columns, blank)
    pixels = tf.minimum(starts[:, :, None] + columns[:, None, :], blank)  # (n, height, width)
    if augment.cutout_pixels:
        down, across = (_square(count, s, augment.cutout_pixels, seeds[3 + i]) for i, s in enumerate((height, width)))
        pixels = tf.where(down[:, :, None] & across[:, None, :], blank, pixels)
    table = tf.concat([tf.reshape(x, (-1, channels)), tf.zeros((1, channels), tf.uint8)], axis=0)
    return tf.gather(table, pixels)


def _uniform(count: Any, low: int, high: int, seed: Any) -> Any:
    """Integers in [low, high), ``(count, 1)``."""
    import tensorflow as tf

    return tf.random.stateless_uniform((count, 1), seed, low, high, tf.int32)


def _places(count: Any, size: int, shift: int, seed: Any) -> Any:
    """Where each pixel along an axis comes from, ``(count, size)``; an axis of one pixel stays."""
    import tensorflow as tf

    places = tf.tile(tf.range(size)[None], (count, 1))
    return places + _uniform(count, -shift, shift + 1, seed) if shift and size > 1 else places


def _inside(places: Any, size: int) -> Any:
    return (places >= 0) & (places < size)


def _square(count: Any, size: int, edge: int, seed: Any) -> Any:
    """Which pixels along an axis a square with a random centre covers, bool ``(count, size)``."""
    import tensorflow as tf

    first = _uniform(count, 0, size, seed) - edge // 2
    place = tf.range(size)[None]
    return (place >= first) & (place < first + edge)


def _mixed(values: tuple[Any, ...], alpha: float, seed: Any) -> tuple[Any, ...]:
    """Blend every example with its neighbour in the (shuffled) batch, all its values by the same share."""
    import tensorflow as tf

    count = tf.shape(values[0])[0]
    gamma = tf.random.stateless_gamma((2, count), seed, alpha)
    share = tf.math.divide_no_nan(gamma[0], gamma[0] + gamma[1])  # Beta(alpha, alpha), (n,)

    def blend(value: Any) -> Any:
        weight = tf.cast(tf.reshape(share, [-1] + [1] * (len(value.shape) - 1)), value.dtype)
        return weight * value + (1 - weight) * tf.roll(value, 1, axis=0)

    return tuple(blend(value) for value in values)
