"""`load`: a name or a path in, a `Dataset` of four splits out."""

import difflib
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from datasets.arrays import read_npz
from datasets.dataset import Dataset, Split
from datasets.errors import DatasetError
from datasets.folder import read_folder
from datasets.raw import Part, Raw
from datasets.sources import SOURCES
from datasets.split import Indices, divide, shares, take
from datasets.values import to_uint8, value_range

TEST_FRACTION = 0.15
"""Of everything, where the data brings no test part."""


def load(
    name_or_path: str,
    *,
    seed: int = 0,
    calibration_fraction: float = 0.1,
    validation_fraction: float = 0.1,
    image_size: int = 0,
    limit: int = 0,
) -> Dataset:
    """Read a data set and divide its training part; same arguments, same data: same splits, byte for byte.

    `name_or_path` is ``fashion_mnist``, ``cifar10``, ``cifar100``, a folder of images or an .npz file. The fractions
    are of the training part, rounded, stratified by class (see `datasets.split`); each split is shuffled by `seed`,
    while test and validation parts that the data brings stay in their own order. `limit` thins out train alone,
    stratified too.

    Raises: DatasetError for data that is missing, damaged or unusable, and for arguments that are not allowed.
    """
    _check_options(calibration_fraction, validation_fraction, image_size, limit)
    raw, test = _with_test(_read(name_or_path, image_size), np.random.default_rng([seed, 0]))
    if len(raw.class_names) < 2:
        raise DatasetError(
            f"{name_or_path}: every example is of class {raw.class_names[0]}; expected two classes or more"
        )
    parts = _divided(raw, calibration_fraction, validation_fraction, np.random.default_rng([seed, 1]))
    parts |= {
        "train": _limited(parts["train"], limit, len(raw.class_names), np.random.default_rng([seed, 2])),
        "test": test,
    }
    low, high = value_range(raw.train.x, name=raw.name)
    splits = {name: Split(x=to_uint8(found.x, low, high), y=found.y) for name, found in parts.items()}
    return Dataset(
        name=raw.name,
        **splits,
        class_names=raw.class_names,
        licence=raw.licence,
        source=raw.source,
        digest=digest(splits.values(), raw.class_names),
        value_range=(low, high),
        mirror=raw.mirror,
    )


def digest(splits: Iterable[Split], class_names: Sequence[str]) -> str:
    """SHA-256 over shape, examples and labels (int32, little endian) of each split in order, then the class names."""
    hashed = hashlib.sha256()
    for split in splits:
        hashed.update(str(split.x.shape).encode())
        hashed.update(np.ascontiguousarray(split.x).data)
        hashed.update(split.y.astype("<i4").tobytes())
    hashed.update("\n".join(class_names).encode())
    return hashed.hexdigest()


def _check_options(calibration_fraction: float, validation_fraction: float, image_size: int, limit: int) -> None:
    for key, fraction in (("calibration", calibration_fraction), ("validation", validation_fraction)):
        if not 0 < fraction < 1:
            raise DatasetError(f"data.{key}_fraction: got {fraction}, allowed above 0 and below 1")
    if calibration_fraction + validation_fraction >= 1:
        raise DatasetError("data: calibration_fraction + validation_fraction leave no training examples; lower them")
    if image_size < 0 or limit < 0:
        raise DatasetError(f"data: got image_size {image_size} and limit {limit}, allowed 0 or more")


def _read(name_or_path: str, image_size: int) -> Raw:
    path = Path(name_or_path)
    if name_or_path not in SOURCES and path.is_dir():
        return read_folder(path, image_size=image_size)
    if image_size:
        raise DatasetError(f"data.image_size: got {image_size} for {name_or_path}; only image folders are resized")
    if name_or_path in SOURCES:
        return SOURCES[name_or_path]()
    if path.is_file() and path.suffix == ".npz":
        return read_npz(path)
    raise DatasetError(f"data.name: {_complaint(name_or_path, path)}")


def _complaint(name: str, path: Path) -> str:
    what = f"{name} is no .npz file" if path.is_file() else f"unknown data set, and no such path: {name!r}"
    near = difflib.get_close_matches(name, SOURCES, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{what}; {hint}Allowed: {', '.join(sorted(SOURCES))}, a folder of images, an .npz file"


def _with_test(raw: Raw, rng: np.random.Generator) -> tuple[Raw, Part]:
    """Pair the data with its test part, cut off the training part where the data brings none."""
    if raw.test is not None:
        return raw, raw.test
    size = round(TEST_FRACTION * len(raw.train.y))
    later = 2 if raw.validation else 3  # train, calibration, validation
    in_test, in_train = divide(raw.train.y, [size], class_names=raw.class_names, rng=rng, leave=later)
    return replace(raw, train=_rows(raw.train, in_train)), _rows(raw.train, in_test)


def _divided(
    raw: Raw, calibration_fraction: float, validation_fraction: float, rng: np.random.Generator
) -> dict[str, Part]:
    """Divide the training part in three, or in two where the data brings its own validation part."""
    fractions = [calibration_fraction] if raw.validation else [calibration_fraction, validation_fraction]
    y = raw.train.y
    indices = divide(y, [round(f * len(y)) for f in fractions], class_names=raw.class_names, rng=rng)
    parts = [_rows(raw.train, rows) for rows in indices]
    return {"train": parts[-1], "calibration": parts[0], "validation": raw.validation or parts[1]}


def _limited(train: Part, limit: int, num_classes: int, rng: np.random.Generator) -> Part:
    if not 0 < limit < len(train.y):
        return train
    if limit < num_classes:
        raise DatasetError(f"data.limit: got {limit}, needs {num_classes} for one example of each class")
    counts = np.bincount(train.y, minlength=num_classes)
    kept, _ = take(train.y, shares(counts, limit), np.arange(len(train.y)))
    return _rows(train, rng.permutation(kept))


def _rows(found: Part, rows: Indices) -> Part:
    return Part(x=found.x[rows], y=found.y[rows])
