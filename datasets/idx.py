"""The IDX format of MNIST and its successors (format: http://yann.lecun.com/exdb/mnist/)."""

import math
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.errors import DatasetError
from datasets.files import read

UNSIGNED_BYTE = 8


def read_idx(path: Path, *, dims: int) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes with `dims` axes, plain or compressed.

    Raises: DatasetError where magic number or size do not fit.
    """
    content = read(path)
    header = 4 + 4 * dims
    magic = bytes((0, 0, UNSIGNED_BYTE, dims))
    if content[:4] != magic:
        raise DatasetError(f"{path}: magic number {content[:4].hex() or 'missing'}, expected {magic.hex()}")
    if len(content) < header:
        raise DatasetError(f"{path}: {len(content)} bytes, expected a header of {header}")
    shape = struct.unpack(f">{dims}I", content[4:header])
    expected = header + math.prod(shape)
    if len(content) != expected:
        raise DatasetError(f"{path}: {len(content):,} bytes, expected {expected:,} for shape {shape}; fetch it again")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
