"""What a graph is lowered to: layers of calls of kernels, with all their constants."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

WeightWidth = Literal["int8", "int16"]
"""How weights of convolutions and fully connected layers stand in flash: small, or unpacked for fewer instructions."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Constant:
    """An array in flash."""

    values: NDArray[Any]
    """Of int8, uint16, int16, int32 or float32; or rows of integers, one for each struct that `ctype` names."""
    ctype: str = ""
    """Name of a kernel's struct, without the prefix; empty where the values' own type holds."""

    @property
    def nbytes(self) -> int:
        """Bytes of flash."""
        return int(self.values.nbytes)


@dataclass(frozen=True, kw_only=True)
class InPlace:
    """How a call's output may overlap a tensor that it reads, and that nothing reads afterwards.

    ``lowest <= place of the output - place of the tensor <= highest``, in bytes; None: no limit.
    """

    read: int
    """Which of the call's `reads`."""
    lowest: int | None = None
    highest: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """One call of a kernel: ``kernel(&fields, reads..., writes..., scratch)``."""

    kernel: str
    """Name of the function without the prefix."""
    struct: str
    """Name of the type of its parameters, without prefix and ``_t``."""
    family: str
    """File of kernels that has both."""
    fields: Mapping[str, Any]
    """The struct's members: numbers, tuples for arrays, mappings for structs, `Constant` for pointers."""
    reads: tuple[int, ...]
    """Numbers of tensors."""
    writes: tuple[int, ...]
    scratch_bytes: int = 0
    in_place: tuple[InPlace, ...] = ()

    @property
    def constants(self) -> dict[str, Constant]:
        """What stands in flash, by member."""
        return {name: value for name, value in self.fields.items() if isinstance(value, Constant)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """One operator of the graph."""

    number: int
    """Of the operator."""
    kind: str
    output_shape: tuple[int, ...]
    macs: int
    weights: WeightWidth | None
    """None where there is no choice."""
    calls: tuple[Call, ...]
    """Empty for an operator that only gives a tensor another shape."""

    @property
    def flash_bytes(self) -> int:
        """Bytes of constants."""
        return sum(constant.nbytes for call in self.calls for constant in call.constants.values())

    @property
    def scratch_bytes(self) -> int:
        """Bytes needed beside its tensors while it runs."""
        return max((call.scratch_bytes for call in self.calls), default=0)
