"""The data types: a split of examples, and a data set of four splits with its card."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Split:
    """`n` labelled examples: `x` uint8 ``(n, height, width, channels)``, `y` int32 ``(n,)``."""

    x: NDArray[np.uint8]
    y: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Four disjoint splits and what is known of the data.

    `x` is uint8 everywhere, because the device sees this: its int8 input is ``x - 128``. Data that was not 8-bit is
    mapped at load: ``x = round((value - low) / (high - low) * 255)`` with `value_range` = (low, high).
    `train` fits the nets, `calibration` (held out) the router, `validation` chooses, `test` only confirms.
    """

    name: str
    train: Split
    calibration: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    licence: str
    source: str
    digest: str
    """SHA-256 over every example and label, in order, as 64 hex digits."""
    value_range: tuple[float, float]
    mirror: bool
    """Whether a mirrored example keeps its class."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        height, width, channels = self.train.x.shape[1:]
        return height, width, channels

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def splits(self) -> dict[str, Split]:
        """The four splits by name."""
        return {
            "train": self.train,
            "calibration": self.calibration,
            "validation": self.validation,
            "test": self.test,
        }
