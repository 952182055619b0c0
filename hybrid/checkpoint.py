"""Where a training stands at the end of an epoch, on disk: the same command goes on there after a kill.

A training that goes on ends with the weights of one that was never stopped: batches follow from seed and epoch (see
`datasets.batches`), and what an optimiser remembers is kept with the weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hybrid.arrays import DAMAGE, write_arrays
from hybrid.files import whole

EPOCHS = "epochs"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One file for one training; it stays after the last epoch, and who made its folder removes it."""

    path: Path

    def save(self, epochs: int, variables: Sequence[Any]) -> None:
        """Keep all `variables` as they are after so many epochs, whole or not at all. Raises: OSError."""
        arrays = {f"v{place}": np.asarray(variable) for place, variable in enumerate(variables)}
        with whole(self.path) as work:
            write_arrays(work, {**arrays, EPOCHS: np.array(epochs)})

    def restore(self, variables: Sequence[Any]) -> int:
        """Set `variables` to what was kept, and return after how many epochs that was; 0: nothing usable is there."""
        try:
            with np.load(self.path) as stored:
                epochs = int(stored[EPOCHS])
                arrays = [stored[f"v{place}"] for place in range(len(variables))]
        except (*DAMAGE, KeyError):
            return 0
        if [array.shape for array in arrays] != [tuple(variable.shape) for variable in variables]:
            return 0
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
        return epochs
