"""Weights, bias and rescaling in the order in which kernels read them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_export.engine.requantise import LONG

_PAIRS = (0, 2, 1, 3)
"""Order of a quad's values in int16 weights."""


def quads_of(count: int) -> int:
    """Groups of four that hold so many values."""
    return -(-count // 4)


def tiles(runs: NDArray[Any], bias: NDArray[Any], rescale: NDArray[Any]) -> NDArray[np.int32]:
    """Blocks ``(blocks, words)`` of one group for `kernels/tiles.h`, filled up to an even number of channels."""
    parts = [np.tile(by_blocks(bias), 2), tile_words(runs), by_blocks(rescale)]
    return np.concatenate(parts, axis=1).astype(np.int32)


def by_blocks(channels: NDArray[Any]) -> NDArray[Any]:
    """Values of two channels beside each other, ``(blocks, values)``."""
    filled = np.pad(channels, [(0, len(channels) % 2)] + [(0, 0)] * (channels.ndim - 1))
    return filled.reshape(len(filled) // 2, -1)


def tile_words(runs: NDArray[Any]) -> NDArray[np.int32]:
    """Weights of int8 or int16 ``(channels, runs, run)`` as words ``(blocks, words)``."""
    quads = runs.shape[1] * quads_of(runs.shape[2])
    filled = np.pad(runs, [(0, len(runs) % 2), (0, 0), (0, -runs.shape[2] % 4)]).reshape(-1, 2, quads, 4)
    if runs.dtype == np.int8:
        ordered = filled.transpose(0, 2, 1, 3)  # blocks, quads, 2 channels, 4 values
    else:
        ordered = filled[..., _PAIRS].reshape(-1, 2, quads, 2, 2).transpose(0, 2, 3, 1, 4)
    return np.ascontiguousarray(ordered).reshape(len(filled), -1).view("<i4")


def few_words(runs: NDArray[Any], bias: NDArray[Any], rescale: NDArray[Any]) -> NDArray[np.int32]:
    """Words of the channels ``(channels, words)`` for `kernels/few.h`."""
    filled = np.pad(runs, [(0, 0), (0, 0), (0, -runs.shape[2] % 4)]).reshape(len(runs), -1, 4)
    ordered = filled if runs.dtype == np.int8 else filled[..., _PAIRS]
    words = np.ascontiguousarray(ordered).reshape(len(runs), -1).view("<i4")
    parts = [bias[:, None], words, rescale] if words.shape[1] == 6 else [bias[:, None], rescale, words]
    return np.concatenate(parts, axis=1).astype(np.int32)


def row_blocks(runs: NDArray[np.int8], wide: bool, form: int) -> NDArray[np.int8] | NDArray[np.int16]:
    """Weights ``(channels, runs, run)`` as blocks ``(blocks, quads, ...)`` for `kernels/dot.h`."""
    channels, count, run = runs.shape
    filled = np.pad(runs, [(0, -channels % 4), (0, 0), (0, -run % 4)])
    blocks = filled.reshape(-1, 4, count * quads_of(run), 4).transpose(
        0, 2, 1, 3
    )  # blocks, quads, 4 channels, 4 values
    if not wide:
        return np.ascontiguousarray(blocks)
    pairs = blocks[..., _PAIRS].reshape(*blocks.shape[:3], 2, 2).transpose(0, 1, 3, 2, 4)
    return np.ascontiguousarray(pairs, np.int16) * np.int16(1 if form == LONG else 2)
