"""Layers for cores without DSP instructions, as calls of the `lean` kernels; None where those do not compute a layer.

Values stay int8, so each channel's bias takes in what the input's zero point adds to its sum.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from firmware_export.engine import lower_arith
from firmware_export.engine.checks import result_of, tensor_of
from firmware_export.engine.clamped import clamped
from firmware_export.engine.filters import (
    conv_in_place,
    geometry_of,
    image_filter,
    image_sizes,
    layer_call,
    limits_of,
    matrix,
    multipliers_of,
    sums_of,
)
from firmware_export.engine.graph import Graph, Op
from firmware_export.engine.layer import Call, Constant, InPlace
from firmware_export.engine.linear import summands, sums

_CHANNEL = "lean_channel"
_LARGEST_VALUE = 255
_BYTE_OFFSET = 128
"""What `kernels/lean_fully_connected.c` adds to values."""


def conv(graph: Graph, op: Op) -> list[Call] | None:
    """CONV_2D in one group."""
    source, target = tensor_of(graph, op, 0), result_of(graph, op)
    weights, geometry = image_filter(graph, op), geometry_of(graph, op, tensor_of(graph, op, 1).shape[1:3])
    outputs, depth = len(weights), weights.shape[3]
    scaled = _scaled(graph, op, weights.reshape(outputs, -1), 2, source.zero_points[0])
    if scaled is None or source.shape[3] != depth or weights.min() < -127:
        return None
    packed = _pack(weights.reshape(outputs, -1), 2, 4)
    quads = packed.shape[1]
    fields = {
        "weights": Constant(values=packed),
        **scaled,
        **image_sizes(source, target),
        "out_c": outputs,
        **geometry,
        "quads": quads,
        "in_zero": source.zero_points[0],
    }
    scratch = 16 * quads + 16 * packed.shape[0] + -(-depth // 4) * 4
    leave = conv_in_place(source, target, geometry, 2)
    return [layer_call("lean_conv", "lean_conv", fields, op, scratch, leave)]


def fully_connected(graph: Graph, op: Op) -> list[Call] | None:
    """FULLY_CONNECTED over one row or several."""
    if any(tensor_of(graph, op, 1).zero_points):
        return None
    source, weights = tensor_of(graph, op, 0), matrix(graph, op)
    outputs, depth = weights.shape
    scaled = _scaled(graph, op, weights, 4, source.zero_points[0] + _BYTE_OFFSET)
    if scaled is None:
        return None
    packed = _pack(weights, 4, 8).transpose(0, 1, 3, 2)
    fields = {
        "weights": Constant(values=np.ascontiguousarray(packed)),
        **scaled,
        "rows": source.size // depth,
        "depth": depth,
        "out_c": outputs,
    }
    leave = (InPlace(read=0),) if source.size == depth else ()  # one row is copied before it is answered
    return [layer_call("lean_fully_connected", "lean_fully_connected", fields, op, 8 * packed.shape[1], leave)]


def depthwise(graph: Graph, op: Op) -> list[Call] | None:
    """DEPTHWISE_CONV_2D, 3x3 without dilation, one output for each input."""
    source, target = tensor_of(graph, op, 0), result_of(graph, op)
    weights, geometry = image_filter(graph, op)[0], geometry_of(graph, op, tensor_of(graph, op, 1).shape[1:3])
    dense = geometry.pop("dilation_h") == geometry.pop("dilation_w") == 1
    if (
        (geometry.pop("kernel_h"), geometry.pop("kernel_w")) != (3, 3)
        or not dense
        or weights.shape[2] != source.shape[3]
    ):
        return None
    nines = np.moveaxis(weights, 2, 0).reshape(-1, 9)
    scaled = _scaled(graph, op, nines, 1, source.zero_points[0])
    if scaled is None:
        return None
    lines = (target.shape[1] - 1) * geometry["stride_h"] + 3
    pitch = (target.shape[2] - 1) * geometry["stride_w"] + 3
    fields = {
        "weights": Constant(values=np.ascontiguousarray(nines)),
        **scaled,
        **image_sizes(source, target),
        **geometry,
        "lines": lines,
        "pitch": pitch,
        "in_zero": source.zero_points[0],
    }
    leave = (InPlace(read=0, lowest=0, highest=0),)  # channel by channel, each read before it is written
    return [layer_call("lean_depthwise", "lean_depthwise", fields, op, 4 * lines * pitch, leave)]


def addition(graph: Graph, op: Op) -> list[Call] | None:
    """ADD of tensors of the same shape."""
    return _without_factor(graph, op, lower_arith.addition(graph, op)[0], 1)


def subtraction(graph: Graph, op: Op) -> list[Call] | None:
    """SUB of tensors of the same shape."""
    return _without_factor(graph, op, lower_arith.subtraction(graph, op)[0], -1)


def _without_factor(graph: Graph, op: Op, call: Call, sign: int) -> list[Call] | None:
    """The sum that `call` computes by tables in the output's scale, where these are exact for every pair of values."""
    pairs, target = call.fields["pairs"], result_of(graph, op)
    if pairs["step_a"] != pairs["step_b"] or pairs["size"][-1] != target.size:
        return None
    low, high, zero = call.fields["low"], call.fields["high"], target.zero_points[0]
    a, b, factor = summands(tensor_of(graph, op, 0), tensor_of(graph, op, 1), target, sign)
    wanted = np.clip(sums(a, b, factor, zero), low, high)
    real = factor.mantissa * 2.0 ** (factor.shift - 31)
    shift = 29 - int((abs(a).max() + abs(b).max()) * real + abs(zero) + 1).bit_length()
    table_a, table_b = (np.rint(table * real * 2.0**shift).astype(np.int64) for table in (a, b))
    addend = _addend(table_a[:, None] + table_b, wanted, shift, (low, high))
    if shift < 1 or addend is None:
        return None
    fields = {
        "table_a": Constant(values=table_a.astype(np.int32)),
        "table_b": Constant(values=(table_b + addend).astype(np.int32)),
        "count": target.size,
        "shift": shift,
        "low": low,
        "high": high,
    }
    return [replace(call, kernel="lean_sum", struct="lean_sum", family="lean_sum", fields=fields)]


def _addend(sums: NDArray[np.int64], wanted: NDArray[np.int64], shift: int, limits: tuple[int, int]) -> int | None:
    """What makes all sums, shifted and brought into `limits`, what is wanted: the middle of all that do, or None."""
    least = int(((wanted << shift) - sums)[wanted > limits[0]].max(initial=-(1 << 30)))
    most = int(((wanted + 1 << shift) - 1 - sums)[wanted < limits[1]].min(initial=1 << 30))
    return (least + most) // 2 if least <= most else None


def _scaled(graph: Graph, op: Op, weights: NDArray[np.int8], block: int, offset: int) -> dict[str, Constant] | None:
    """Bias and channels for weights ``(channels, values)``, channels filled up to whole blocks.

    `offset` is the input's zero point as the kernel sees values. None where a channel has no such form.
    """
    limits, zero = limits_of(graph, op), result_of(graph, op).zero_points[0]
    scaled = clamped(multipliers_of(graph, op, len(weights)), sums_of(graph, op, weights), zero, limits)
    if scaled is None:
        return None
    sums = weights.astype(np.int64)
    bias = scaled.bias - offset * sums.sum(axis=1)
    if (abs(bias) + _LARGEST_VALUE * abs(sums).sum(axis=1)).max() >= 1 << 31:
        return None
    filled = np.pad(bias, (0, -len(bias) % block))
    return {
        "bias": Constant(values=filled.astype(np.int32)),
        "channels": Constant(values=scaled.channels, ctype=_CHANNEL),
    }


def _pack(weights: NDArray[np.int8], channels: int, values: int) -> NDArray[np.int8]:
    """Weights ``(channels, values)`` as ``(blocks, groups of values, channels of a block, values of a group)``."""
    filled = np.pad(weights, [(0, -weights.shape[0] % channels), (0, -weights.shape[1] % values)])
    blocks = filled.reshape(-1, channels, filled.shape[1] // values, values)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3))
