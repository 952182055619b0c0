"""What every operator asks of its tensors, each refusal one clear line."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from firmware_export.engine.graph import ABSENT, Graph, Op, Tensor
from hybrid.errors import UnsupportedOpError


def refuse(op: Op, reason: str) -> UnsupportedOpError:
    """An error that names the operator."""
    return UnsupportedOpError(f"operator {op.number} ({op.kind}): {reason}")


def describe(tensor: Tensor) -> str:
    """A tensor in a message."""
    return f"tensor {tensor.number} '{tensor.name}' ({tensor.dtype} {list(tensor.shape)})"


def tensor_of(graph: Graph, op: Op, place: int) -> Tensor:
    """The input at a place. Raises: UnsupportedOpError where it is missing."""
    if place >= len(op.inputs) or op.inputs[place] == ABSENT:
        raise refuse(op, f"has no input {place}; the model is damaged")
    return graph.tensors[op.inputs[place]]


def optional(graph: Graph, op: Op, place: int) -> Tensor | None:
    """The input at a place, or None where it is not given."""
    if place >= len(op.inputs) or op.inputs[place] == ABSENT:
        return None
    return graph.tensors[op.inputs[place]]


def result_of(graph: Graph, op: Op, place: int = 0) -> Tensor:
    """The output at a place."""
    return graph.tensors[op.outputs[place]]


def need_int8(op: Op, tensors: Iterable[Tensor], *, scaled: bool = True) -> None:
    """Raises: UnsupportedOpError where a tensor is not int8, or has not one scale and zero point (if `scaled`)."""
    for tensor in tensors:
        if tensor.dtype != "int8":
            raise refuse(op, f"{describe(tensor)}: allowed is int8; quantise the model to int8 throughout")
        if scaled and (len(tensor.scales) != 1 or len(tensor.zero_points) != 1 or not tensor.scales[0] > 0):
            raise refuse(op, f"{describe(tensor)}: has {len(tensor.scales)} scales, needs one above 0")


def need_shape(op: Op, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Raises: UnsupportedOpError where a tensor has another shape than its operator implies."""
    if tensor.shape != shape:
        raise refuse(op, f"{describe(tensor)}: the operator implies shape {list(shape)}")


def need_image(op: Op, tensors: Iterable[Tensor]) -> None:
    """Raises: UnsupportedOpError where a tensor is not ``(1, height, width, channels)``."""
    for tensor in tensors:
        if len(tensor.shape) != 4 or tensor.shape[0] != 1:
            raise refuse(op, f"{describe(tensor)}: allowed is a batch of one image [1, height, width, channels]")


def constant(op: Op, tensor: Tensor) -> NDArray[np.int64]:
    """A constant's integers. Raises: UnsupportedOpError where it is computed instead."""
    if tensor.data is None:
        raise refuse(op, f"{describe(tensor)}: must be a constant")
    return np.asarray(tensor.data).astype(np.int64)


def same_quantisation(op: Op, a: Tensor, b: Tensor, tolerance: float = 0.0) -> None:
    """Raises: UnsupportedOpError where scales or zero points differ, which TFLite Micro refuses too."""
    if abs(a.scales[0] - b.scales[0]) > tolerance or a.zero_points != b.zero_points:
        raise refuse(op, f"{describe(a)} and {describe(b)}: scale and zero point must be the same")
