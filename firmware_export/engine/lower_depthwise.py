"""Depthwise convolutions as calls of kernels."""

from math import inf

import numpy as np
from numpy.typing import NDArray

from firmware_export.engine.checks import describe, refuse, result_of, tensor_of
from firmware_export.engine.filters import (
    channel_constants,
    form_fields,
    geometry_of,
    image_filter,
    image_sizes,
    layer_call,
    rescaling_of,
)
from firmware_export.engine.graph import Graph, Op, Tensor
from firmware_export.engine.layer import Call, Constant, InPlace
from firmware_export.engine.requantise import LONG, Rescaling


def depthwise(graph: Graph, op: Op) -> list[Call]:
    """DEPTHWISE_CONV_2D with any multiplier."""
    source, target = tensor_of(graph, op, 0), result_of(graph, op)
    weights, geometry = image_filter(graph, op), geometry_of(graph, op, tensor_of(graph, op, 1).shape[1:3])
    outputs = weights.shape[3]
    if outputs % source.shape[3]:
        raise refuse(op, f"{describe(source)}: {outputs} outputs are no multiple of its channels")
    scaled, limits = rescaling_of(graph, op, np.moveaxis(weights[0], 2, 0))
    if _fits_planes(source, outputs, geometry, scaled):
        return [_planes(op, source, target, weights[0], geometry, (scaled, limits))]
    fields = {
        "weights": Constant(values=weights[0]),
        **channel_constants(scaled, 1),
        **form_fields(scaled, limits, False),
        **image_sizes(source, target),
        "multiplier": outputs // source.shape[3],
        **geometry,
        "in_zero": source.zero_points[0],
    }
    return [layer_call("depthwise", "depthwise", fields, op, 0)]


def _fits_planes(source: Tensor, outputs: int, geometry: dict[str, int], scaled: Rescaling) -> bool:
    """Whether `kernels/planes.h` computes it: 3x3, no dilation, one output per input, channels in fours."""
    square = geometry["kernel_h"] == geometry["kernel_w"] == 3
    dense = geometry["dilation_h"] == geometry["dilation_w"] == 1
    strides = min(geometry["stride_h"], geometry["stride_w"])
    return square and dense and strides < 3 and outputs == source.shape[3] and not outputs % 4 and scaled.form != LONG


def _planes(
    op: Op,
    source: Tensor,
    target: Tensor,
    weights: NDArray[np.int8],
    geometry: dict[str, int],
    scaled: tuple[Rescaling, tuple[int, int]],
) -> Call:
    """A depthwise convolution over planes; `weights` are ``(3, 3, channels)``. Lines are what makes them longer."""
    by_rows, by_columns = (_line_cost(target, geometry, line) for line in (0, 1))
    line = 0 if by_rows <= by_columns else 1
    place, sides = 1 - line, ("h", "w")
    pairs = 2 * weights.transpose(2, line, place)[..., [0, 1, 1, 2]].astype(np.int16)
    stride, pad = ([geometry[f"{name}_{sides[axis]}"] for axis in (line, place)] for name in ("stride", "pad"))
    lines = (target.shape[1 + line] - 1) * stride[0] + 3
    pitch = -(-target.shape[1 + place] // 2) * 2 * stride[1] + 2
    fields = {
        "weights": Constant(values=pairs),
        **channel_constants(scaled[0], 1),
        "form": scaled[0].form,
        "low": scaled[1][0],
        "high": scaled[1][1],
        "depth": source.shape[3],
        **_line_sizes("in", source, line),
        **_line_sizes("out", target, line),
        "line_stride": stride[0],
        "place_stride": stride[1],
        "line_pad": pad[0],
        "place_pad": pad[1],
        "lines": lines,
        "pitch": pitch,
        "in_zero": source.zero_points[0],
    }
    leave = (InPlace(read=0, lowest=0, highest=0),)  # channels by fours, each read before it is written
    return layer_call("planes", "planes", fields, op, 8 * lines * pitch, leave)


def _line_cost(target: Tensor, geometry: dict[str, int], line: int) -> float:
    """About how many instructions the outputs of a channel take, infinite where the places' stride is above 2."""
    lines, places = target.shape[1 + line], target.shape[2 - line]
    return lines * (36 + 34 * -(-places // 2) + 14 * (places % 2)) if geometry[f"stride_{'wh'[line]}"] < 3 else inf


def _line_sizes(name: str, tensor: Tensor, line: int) -> dict[str, int]:
    steps = (tensor.shape[2] * tensor.shape[3], tensor.shape[3])
    return {
        f"{name}_lines": tensor.shape[1 + line],
        f"{name}_places": tensor.shape[2 - line],
        f"{name}_line": steps[line],
        f"{name}_place": steps[1 - line],
    }
