"""CIFAR-10 and CIFAR-100 in their official layouts (https://www.cs.toronto.edu/~kriz/cifar.html).

An image is 3,072 bytes, the red, the green and the blue plane of 32 x 32. The binary version puts one label byte before
each image (CIFAR-100: coarse, then fine); the python version pickles a dict of an array and a list of labels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.errors import DatasetError
from datasets.files import read_members
from datasets.unpickle import unpickle

IMAGE_BYTES = 3 * 32 * 32

Labelled = tuple[NDArray[np.uint8], NDArray[Any]]
"""Images ``(n, 32, 32, 3)`` and labels ``(n,)``."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One official distribution: the names of its folder and archive, its files, and what a file says."""

    folder: str
    archive: str
    train: tuple[str, ...]
    test: str
    decode: Callable[[bytes, str], Labelled]


def _images(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _binary(content: bytes, where: str, *, label_bytes: int) -> Labelled:
    record = label_bytes + IMAGE_BYTES
    if len(content) % record:
        raise DatasetError(f"{where}: {len(content):,} bytes, expected a multiple of {record:,}; fetch it again")
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    return _images(records[:, label_bytes:]), records[:, label_bytes - 1].astype(np.int32)  # the fine label is last


def _pickled(content: bytes, where: str, *, label_key: str) -> Labelled:
    batch = unpickle(content, where=where)
    if not isinstance(batch, dict):
        raise DatasetError(f"{where}: holds a {type(batch).__name__}, expected a dict with data and {label_key}")
    entries = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
    data, labels = entries.get("data"), entries.get(label_key)
    if not isinstance(data, np.ndarray) or not isinstance(labels, list):
        raise DatasetError(f"{where}: has {', '.join(map(str, entries))}; expected data and {label_key}")
    if data.dtype != np.uint8 or data.shape != (len(labels), IMAGE_BYTES):
        raise DatasetError(
            f"{where}: data is {data.dtype} {data.shape}, expected uint8 {(len(labels), IMAGE_BYTES)} for its labels"
        )
    return _images(data), np.array(labels)


CIFAR10_LAYOUTS = (
    Layout(
        folder="cifar-10-batches-bin",
        archive="cifar-10-binary.tar.gz",
        train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test="test_batch.bin",
        decode=partial(_binary, label_bytes=1),
    ),
    Layout(
        folder="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        train=tuple(f"data_batch_{i}" for i in range(1, 6)),
        test="test_batch",
        decode=partial(_pickled, label_key="labels"),
    ),
)
CIFAR100_LAYOUTS = (
    Layout(
        folder="cifar-100-binary",
        archive="cifar-100-binary.tar.gz",
        train=("train.bin",),
        test="test.bin",
        decode=partial(_binary, label_bytes=2),
    ),
    Layout(
        folder="cifar-100-python",
        archive="cifar-100-python.tar.gz",
        train=("train",),
        test="test",
        decode=partial(_pickled, label_key="fine_labels"),
    ),
)


def find_cifar(folders: Sequence[Path], layouts: Sequence[Layout]) -> tuple[Path, Layout] | None:
    """Find the first place among `folders` that holds one of the layouts, as a folder or as an archive."""
    for folder in folders:
        for layout in layouts:
            for place in (folder / layout.folder, folder / layout.archive):
                if place.exists():
                    return place, layout
    return None


def read_cifar(place: Path, layout: Layout) -> tuple[Labelled, Labelled]:
    """Read the training and the test part. Raises: DatasetError naming the file that is missing or damaged."""
    contents = read_members(place, (*layout.train, layout.test))
    decoded = {name: layout.decode(content, f"{place}: {name}") for name, content in contents.items()}
    images, labels = zip(*(decoded[name] for name in layout.train), strict=True)
    return (np.concatenate(images), np.concatenate(labels)), decoded[layout.test]
