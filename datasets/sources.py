"""The data sets that have a name: where each is looked for, and what is known of it.

The optional environment variable ``HYBRID_DATA_DIR`` names a folder of local copies; without one, Keras downloads.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from datasets.cifar import CIFAR10_LAYOUTS, CIFAR100_LAYOUTS, Labelled, Layout, find_cifar, read_cifar
from datasets.class_names import CIFAR10_CLASSES, CIFAR100_CLASSES, FASHION_MNIST_CLASSES
from datasets.errors import DatasetError
from datasets.files import find
from datasets.idx import read_idx
from datasets.raw import Raw, part

DATA_DIR_VARIABLE = "HYBRID_DATA_DIR"
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist

FASHION_MNIST_SHA256 = "ca3ab2a37f845e1b8ae23cab1b51749a3011ba3bf1d9016176d75cbaabac376f"  # of Debian's copy

Pair = tuple[Labelled, Labelled]
"""Images and labels of the training and of the test part."""


def data_folders(*names: str) -> list[Path]:
    """``HYBRID_DATA_DIR`` with each of the names below it, as far as they exist; empty where the variable is not set.

    Raises: DatasetError where the variable names no folder.
    """
    value = os.environ.get(DATA_DIR_VARIABLE)
    if not value:
        return []
    root = Path(value)
    if not root.is_dir():
        raise DatasetError(f"{DATA_DIR_VARIABLE}: {value} is no folder; correct or unset it")
    return [root / name for name in names if (root / name).is_dir()]


def download(name: str, fetch: Callable[[], Any], *, remedy: str) -> Pair:
    """Call Keras's `fetch`, which keeps what it gets below ``~/.keras``.

    Raises: DatasetError with the `remedy` where it fails.
    """
    try:
        train, test = fetch()
    except Exception as exc:  # keras.utils.get_file raises a plain Exception where it has no network
        raise DatasetError(f"{name}: no local copy, and the download failed ({exc}); {remedy}") from exc
    return train, test


def check_sha256(pair: Pair, expected: str, *, name: str) -> None:
    """Compare the images and labels of both parts, byte by byte. Raises: DatasetError where they differ."""
    digest = hashlib.sha256()
    for array in (*pair[0], *pair[1]):
        digest.update(np.ascontiguousarray(array, np.uint8).tobytes())
    if digest.hexdigest() != expected:
        raise DatasetError(
            f"{name}: the download has SHA-256 {digest.hexdigest()}, expected {expected}; delete it below ~/.keras "
            "and try again"
        )


def fashion_mnist() -> Raw:
    """Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): 28 x 28 x 1, 60,000 + 10,000; clothes, shoes, bags."""
    folders = [*data_folders("fashion-mnist", "fashion_mnist"), DEBIAN_FASHION_MNIST]
    local = next((folder for folder in folders if folder.is_dir()), None)
    pair = _downloaded_fashion_mnist() if local is None else read_fashion_mnist(local)
    return _raw(
        "fashion_mnist",
        pair,
        class_names=FASHION_MNIST_CLASSES,
        licence="MIT, copyright 2017 Zalando SE",
        source="https://github.com/zalandoresearch/fashion-mnist",
    )


def read_fashion_mnist(folder: Path) -> Pair:
    """Read the four IDX files. Raises: DatasetError naming the one that is missing or damaged."""

    def images_and_labels(prefix: str) -> Labelled:
        images = read_idx(find(folder, f"{prefix}-images-idx3-ubyte"), dims=3)
        return images[..., None], read_idx(find(folder, f"{prefix}-labels-idx1-ubyte"), dims=1).astype(np.int32)

    return images_and_labels("train"), images_and_labels("t10k")


def _downloaded_fashion_mnist() -> Pair:
    from keras.datasets import fashion_mnist as keras_copy

    remedy = f"install Debian's dataset-fashion-mnist, or put its four files into ${DATA_DIR_VARIABLE}/fashion-mnist"
    train, test = download("fashion_mnist", keras_copy.load_data, remedy=remedy)
    check_sha256((train, test), FASHION_MNIST_SHA256, name="fashion_mnist")
    return (train[0][..., None], train[1]), (test[0][..., None], test[1])


def cifar10() -> Raw:
    """CIFAR-10 (Krizhevsky 2009): 32 x 32 x 3, 50,000 + 10,000 photographs of 10 classes."""
    return _raw("cifar10", _cifar("cifar10", CIFAR10_LAYOUTS), class_names=CIFAR10_CLASSES, **_CIFAR_CARD)


def cifar100() -> Raw:
    """CIFAR-100 (Krizhevsky 2009) with its 100 fine labels: 32 x 32 x 3, 50,000 + 10,000 photographs."""
    return _raw("cifar100", _cifar("cifar100", CIFAR100_LAYOUTS), class_names=CIFAR100_CLASSES, **_CIFAR_CARD)


_CIFAR_CARD = {
    "licence": "none stated; cite Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    "source": "https://www.cs.toronto.edu/~kriz/cifar.html",
}


def _cifar(name: str, layouts: tuple[Layout, ...]) -> Pair:
    found = find_cifar(data_folders(name, "."), layouts)
    if found:
        return read_cifar(*found)
    import keras

    remedy = f"put {layouts[0].archive} or {layouts[1].archive} into ${DATA_DIR_VARIABLE}"
    return download(name, getattr(keras.datasets, name).load_data, remedy=remedy)


def _raw(name: str, pair: Pair, *, class_names: tuple[str, ...], licence: str, source: str) -> Raw:
    (x_train, y_train), (x_test, y_test) = pair
    return Raw(
        name=name,
        train=part(x_train, y_train, where=f"{name} train", class_names=class_names),
        test=part(x_test, y_test, where=f"{name} test", class_names=class_names),
        class_names=class_names,
        licence=licence,
        source=source,
        mirror=True,
    )


SOURCES: dict[str, Callable[[], Raw]] = {
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
}
