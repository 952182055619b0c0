"""What lowering of convolutions and fully connected layers has in common: weights, geometry, rescaling."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_export.engine.arithmetic import Multiplier, activation_range, padding_before, quantize_multiplier
from firmware_export.engine.checks import (
    constant,
    describe,
    need_image,
    need_int8,
    optional,
    refuse,
    result_of,
    tensor_of,
)
from firmware_export.engine.graph import Graph, Op, Tensor
from firmware_export.engine.layer import Call, Constant, InPlace
from firmware_export.engine.requantise import LONG, Rescaling, Sums, rescaling

CHANNEL = "channel"


def layer_call(
    kernel: str,
    family: str,
    fields: Mapping[str, object],
    op: Op,
    scratch_bytes: int,
    in_place: tuple[InPlace, ...] = (),
) -> Call:
    """One call of a kernel that reads the first input and writes the first output."""
    reads, writes = (op.inputs[0],), (op.outputs[0],)
    return Call(
        kernel=kernel,
        struct=kernel,
        family=family,
        fields=fields,
        reads=reads,
        writes=writes,
        scratch_bytes=scratch_bytes,
        in_place=in_place,
    )


def conv_in_place(source: Tensor, target: Tensor, geometry: dict[str, int], step: int) -> tuple[InPlace, ...]:
    """A convolution's output may follow behind its input: `step` pixels are written after their patches were read.

    What is read after output pixel `p`, row by row, begins at the first row of the kernel at `p`.
    """
    _, rows, columns, outputs = target.shape
    pitch = source.shape[2] * source.shape[3]
    pixels = np.arange(step, rows * columns, step)
    if geometry["kernel_h"] * geometry["kernel_w"] * geometry["stride_h"] * geometry["stride_w"] == 1:
        unread = pixels * source.shape[3]
    else:
        unread = np.maximum(pixels // columns * geometry["stride_h"] - geometry["pad_h"], 0) * pitch
    return (InPlace(read=0, highest=int((unread - pixels * outputs).min(initial=source.size))),)


def channel_constants(scaled: Rescaling, groups: int) -> dict[str, Constant]:
    """Bias and channels, each group filled up to a multiple of four."""
    return {
        "bias": Constant(values=_fill(scaled.bias, groups)),
        "channels": Constant(values=_fill(scaled.channels, groups), ctype=CHANNEL),
    }


def form_fields(scaled: Rescaling, limits: tuple[int, int], wide: bool) -> dict[str, int]:
    """Which code a layer takes; sums are doubled by int16 weights, or else by the input's values."""
    doubled = scaled.form != LONG and not wide
    return {"wide": int(wide), "form": scaled.form, "in_scale": 1 + doubled, "low": limits[0], "high": limits[1]}


def int8_weights(op: Op, filters: Tensor) -> NDArray[np.int8]:
    """Constant weights."""
    if filters.dtype != "int8" or filters.data is None:
        raise refuse(op, f"{describe(filters)}: weights must be constant int8")
    return np.asarray(filters.data, np.int8)


def image_filter(graph: Graph, op: Op) -> NDArray[np.int8]:
    """Weights of a layer from image to image, as the model has them."""
    source, target, filters = tensor_of(graph, op, 0), result_of(graph, op), tensor_of(graph, op, 1)
    need_int8(op, (source, target))
    need_image(op, (source, target))
    weights = int8_weights(op, filters)
    if weights.ndim != 4 or 0 in weights.shape or (op.kind == "DEPTHWISE_CONV_2D" and weights.shape[0] != 1):
        raise refuse(op, f"{describe(filters)}: weights must have four dimensions")
    return weights


def geometry_of(graph: Graph, op: Op, kernel: Sequence[int]) -> dict[str, int]:
    """Kernel, strides, dilations and padding as the kernels' structs name them."""
    source, target, options = tensor_of(graph, op, 0), result_of(graph, op), op.options
    sides, same = ("h", "w"), options["padding"] == "SAME"
    strides, dilations = ([options[f"{name}_{s}{end}"] for s in sides] for name, end in _STEPS)
    for side, size in enumerate(target.shape[1:3]):
        span, extent = source.shape[1 + side], (kernel[side] - 1) * dilations[side] + 1
        expected = -(-span // strides[side]) if same else (span - extent) // strides[side] + 1
        if size != expected or size < 1:
            raise refuse(op, f"{describe(target)}: height and width do not follow from its input, kernel and stride")
    pads = [
        padding_before(strides[side], dilations[side], source.shape[1 + side], kernel[side], same) for side in (0, 1)
    ]
    named = {"kernel": kernel, "stride": strides, "dilation": dilations, "pad": pads}
    return {f"{name}_{side}": int(pair[index]) for name, pair in named.items() for index, side in enumerate(sides)}


_STEPS = (("stride", ""), ("dilation", "_factor"))


def image_sizes(source: Tensor, target: Tensor) -> dict[str, int]:
    """Sizes of both images as the kernels' structs name them."""
    _, in_h, in_w, in_c = source.shape
    return {"in_h": in_h, "in_w": in_w, "in_c": in_c, "out_h": target.shape[1], "out_w": target.shape[2]}


def rescaling_of(graph: Graph, op: Op, weights: NDArray[np.integer[Any]]) -> tuple[Rescaling, tuple[int, int]]:
    """Rescaling of all channels and the activation's range; `weights` are ``(channels, ...)``."""
    sums, limits = sums_of(graph, op, weights), limits_of(graph, op)
    zero = result_of(graph, op).zero_points[0]
    return rescaling(multipliers_of(graph, op, len(weights)), sums, zero, limits), limits


def limits_of(graph: Graph, op: Op) -> tuple[int, int]:
    """The outputs that the fused activation leaves."""
    target = result_of(graph, op)
    return activation_range(op.options["fused_activation_function"], target.scales[0], target.zero_points[0])


def sums_of(graph: Graph, op: Op, weights: NDArray[np.integer[Any]]) -> list[Sums]:
    """What each channel may add up to; `weights` are ``(channels, ...)``."""
    biases, swings = biases_of(graph, op, len(weights)), swings_of(weights, tensor_of(graph, op, 0).zero_points[0])
    return [Sums(bias=bias, swing=swing) for bias, swing in zip(biases.tolist(), swings, strict=True)]


def biases_of(graph: Graph, op: Op, outputs: int) -> NDArray[np.int64]:
    """The bias of each channel, zeros where none is given."""
    bias = optional(graph, op, 2)
    if bias is None:
        return np.zeros(outputs, np.int64)
    if bias.size != outputs:
        raise refuse(op, f"{describe(bias)}: the operator implies {outputs} values")
    if bias.dtype != "int32":
        raise refuse(op, f"{describe(bias)}: a bias must be int32")
    return constant(op, bias).ravel()


def swings_of(weights: NDArray[np.integer[Any]], zero: int) -> list[int]:
    """The largest absolute value that each channel's products add up to; `weights` are ``(channels, ...)``."""
    sums = np.abs(weights.reshape(len(weights), -1).astype(np.int64)).sum(axis=1)
    swings: list[int] = (sums * max(127 - zero, 128 + zero)).tolist()
    return swings


def multipliers_of(graph: Graph, op: Op, outputs: int) -> list[Multiplier]:
    """One factor for each channel, from float32 scales multiplied in float64."""
    source, filters, target = tensor_of(graph, op, 0), tensor_of(graph, op, 1), result_of(graph, op)
    if len(filters.scales) not in (1, outputs):
        raise refuse(op, f"{describe(filters)}: has {len(filters.scales)} scales, allowed one or {outputs}")
    scales = filters.scales if len(filters.scales) == outputs else filters.scales * outputs
    return [quantize_multiplier(source.scales[0] * scale / target.scales[0]) for scale in scales]


def matrix(graph: Graph, op: Op) -> NDArray[Any]:
    """Weights ``(outputs, depth)`` of a fully connected layer, less their zero point: int16 where that is not 0."""
    source, target, filters = tensor_of(graph, op, 0), result_of(graph, op), tensor_of(graph, op, 1)
    need_int8(op, (source, target))
    weights = int8_weights(op, filters)
    outputs, depth = weights.shape[-2:]
    if weights.size != outputs * depth or source.size % depth or target.size != source.size // depth * outputs:
        raise refuse(op, f"{describe(source)}: does not fit weights {list(weights.shape)}")
    weights = weights.reshape(outputs, depth)
    if len(filters.scales) == 1 and filters.zero_points[0]:  # nowhere else does TFLite Micro regard it
        return weights.astype(np.int16) - np.int16(filters.zero_points[0])
    return weights


def _fill(values: NDArray[np.int32], groups: int) -> NDArray[np.int32]:
    """Fill each group's channels up to a multiple of four with zeros."""
    parts = values.reshape(groups, -1, *values.shape[1:])
    missing = -parts.shape[1] % 4
    filled = np.pad(parts, [(0, 0), (0, missing)] + [(0, 0)] * (parts.ndim - 2))
    return filled.reshape(-1, *values.shape[1:])
