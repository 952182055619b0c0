"""Depthwise convolutions as calls of kernels."""

import numpy as np
from numpy.typing import NDArray

from firmware_export.engine.checks import describe, refuse, result_of, tensor_of
from firmware_export.engine.common_shift import Common, common_shift
from firmware_export.engine.filters import (
    CHANNEL,
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

_SHIFT = 10
"""The common shift of `kernels/planes.h`."""


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
    """Whether `kernels/planes.h` computes it."""
    square = geometry["kernel_h"] == geometry["kernel_w"] == 3
    dense = geometry["dilation_h"] == geometry["dilation_w"] == 1
    strides = geometry["stride_h"] == geometry["stride_w"] < 3
    return square and dense and strides and outputs == source.shape[3] and scaled.form != LONG


def _planes(
    op: Op,
    source: Tensor,
    target: Tensor,
    weights: NDArray[np.int8],
    geometry: dict[str, int],
    scaled: tuple[Rescaling, tuple[int, int]],
) -> Call:
    """A depthwise convolution over planes; `weights` are ``(3, 3, channels)``. Lines are what makes them longer."""
    by_rows, by_columns = (_line_cost(target, line) for line in (0, 1))
    line = 0 if by_rows <= by_columns else 1
    stride = geometry["stride_h"]
    pairs = -(-target.shape[2 - line] // 2) * stride + 1
    lines = (target.shape[1 + line] - 1) * stride + 3
    taps = weights.transpose(2, line, 1 - line)[..., [0, 1, 1, 2]]
    fields = {
        "image": _image(source, geometry, line, pairs=pairs, phases=1, lines=lines),
        **_rescaled(taps, weights, source.zero_points[0], *scaled),
        "low": scaled[1][0],
        "high": scaled[1][1],
        "stride": stride,
        **_line_sizes("out", target, line),
    }
    leave = (InPlace(read=0, lowest=0, highest=0),)  # channels by fours, each read before it is written
    return layer_call("planes", "planes", fields, op, 16 * pairs * lines, leave)


def _rescaled(
    taps: NDArray[np.int8], weights: NDArray[np.int8], zero: int, scaled: Rescaling, limits: tuple[int, int]
) -> dict[str, object]:
    """Weights ``(channels, ...)`` and channels, with a common shift where that is proven."""
    by_channel = np.moveaxis(weights, 2, 0)
    swings = np.abs(by_channel.reshape(len(taps), -1).astype(np.int64)).sum(axis=1) * max(127 - zero, 128 + zero)
    found = common_shift(scaled, by_channel, swings.tolist(), limits, _SHIFT)
    made = found or Common(channels=scaled.channels, bias=scaled.bias, scales=np.full(len(taps), 2, np.int16))
    return {
        "weights": Constant(values=taps.astype(np.int16) * made.scales.reshape(-1, *[1] * (taps.ndim - 1))),
        "bias": Constant(values=made.bias),
        "channels": Constant(values=made.channels, ctype=CHANNEL),
        "common": int(found is not None),
    }


def _line_cost(target: Tensor, line: int) -> int:
    """About how many instructions the outputs of a channel take."""
    lines, places = target.shape[1 + line], target.shape[2 - line]
    return -(-places // 2) * (21 + 49 * (lines // 2) + 27 * (lines % 2))


def _image(source: Tensor, geometry: dict[str, int], line: int, **sizes: int) -> dict[str, int]:
    """An image as planes, `kernels/plane_fill.h`."""
    pads = geometry["pad_h"], geometry["pad_w"]
    return {
        "depth": source.shape[3],
        **_line_sizes("in", source, line),
        "line_pad": pads[line],
        "place_pad": pads[1 - line],
        **sizes,
        "in_zero": source.zero_points[0],
    }


def _line_sizes(name: str, tensor: Tensor, line: int) -> dict[str, int]:
    steps = (tensor.shape[2] * tensor.shape[3], tensor.shape[3])
    return {
        f"{name}_lines": tensor.shape[1 + line],
        f"{name}_places": tensor.shape[2 - line],
        f"{name}_line": steps[line],
        f"{name}_place": steps[1 - line],
    }
