"""A model as plain values: tensors, operators in the order of their execution, inputs and outputs.

`firmware_export.engine.reader` makes it from a flatbuffer; everything behind it knows no flatbuffers.
"""

from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

DType = Literal["int8", "int16", "int32", "int64", "uint8", "bool", "float32"]
ABSENT = -1
"""Number in the place of an optional input that is not given."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tensor:
    """A tensor of a fixed shape; `data` holds what is constant."""

    number: int
    name: str
    shape: tuple[int, ...]
    dtype: DType
    scales: tuple[float, ...] = ()
    """Exact float32 values: none, one, or one for each index of `axis`."""
    zero_points: tuple[int, ...] = ()
    axis: int = 0
    data: NDArray[Any] | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, kw_only=True)
class Op:
    """An operator; `kind` is TFLite's name of it (``CONV_2D``), `options` its builtin options by the schema's names.

    Enumerations are given by name (``"padding": "SAME"``), lists as tuples; none is missing.
    """

    number: int
    """In the flatbuffer; numbers of operators that nothing needs are left out."""
    kind: str
    inputs: tuple[int, ...]
    """Numbers of tensors; `ABSENT` for an optional one that is not given."""
    outputs: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """A model of one subgraph."""

    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    """In the order of the flatbuffer, as TFLite Micro numbers them."""
