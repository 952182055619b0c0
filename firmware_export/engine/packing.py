"""Weights, bias and rescaling in the order in which kernels read them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def row_blocks(weights: NDArray[Any], bias: NDArray[Any], rescale: NDArray[Any]) -> NDArray[np.int32]:
    """Blocks ``(blocks, words)`` for `kernels/fully_connected.h`; `weights` are ``(channels, depth)``.

    Of int8, 1 is taken from the odd weights behind negative even ones, so that two bytes are 256 * odd + even.
    """
    missing = -len(weights) % 4
    filled = np.pad(weights, [(0, missing), (0, -weights.shape[1] % 8)])
    quads = filled.reshape(len(filled) // 4, 4, -1, 4).transpose(0, 2, 1, 3)  # blocks, quads, 4 channels, 4 values
    if weights.dtype == np.int8:
        ordered = quads.copy()
        ordered[..., 1::2] -= (ordered[..., ::2] < 0).astype(np.int8)
    else:
        ordered = quads[..., _PAIRS].reshape(*quads.shape[:3], 2, 2).transpose(0, 1, 3, 2, 4)
    words = np.ascontiguousarray(ordered).reshape(len(quads), -1).view("<i4")
    front = np.pad(bias, (0, missing)).reshape(len(quads), 4)
    behind = np.pad(rescale, [(0, missing), (0, 0)]).reshape(len(quads), -1)
    return np.concatenate([front, words, behind], axis=1).astype(np.int32)
