"""Convolutions and fully connected layers as calls of kernels.

Weights stand as the dot products read them (`kernels/dot.h`): blocks of four channels, values in quads.
"""

from dataclasses import replace

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
    matrix,
    rescaling_of,
)
from firmware_export.engine.graph import Graph, Op, Tensor
from firmware_export.engine.layer import Call, Constant, InPlace
from firmware_export.engine.requantise import LONG

_PAIRS = (0, 2, 1, 3)
"""Order of a quad's values in int16 weights."""


def conv(graph: Graph, op: Op, *, wide: bool, low_ram: bool) -> list[Call]:
    """CONV_2D, also in groups; `low_ram` unpacks each patch alone, which takes more instructions."""
    source, target = tensor_of(graph, op, 0), result_of(graph, op)
    weights, geometry = image_filter(graph, op), geometry_of(graph, op, tensor_of(graph, op, 1).shape[1:3])
    outputs, kernel_h, kernel_w, depth = weights.shape
    if source.shape[3] % depth or outputs % (source.shape[3] // depth):
        raise refuse(op, f"{describe(source)}: does not split into groups of {depth} channels")
    groups = source.shape[3] // depth
    joined = groups == 1 and op.options["dilation_w_factor"] == 1
    columns = joined and not depth % 4 and kernel_w > 1 and op.options["stride_w"] == 1 and not low_ram
    if columns:
        weights = weights.transpose(0, 2, 1, 3)
    runs = weights.reshape(outputs, kernel_h, kernel_w * depth) if joined else weights.reshape(outputs, -1, depth)
    scaled, limits = rescaling_of(graph, op, weights)
    packed = np.concatenate([_pack(part, wide, scaled.form) for part in np.split(runs, groups)])
    quads = runs.shape[1] * _quads(runs.shape[2])
    fields = {
        "weights": Constant(values=packed),
        **channel_constants(scaled, groups),
        **form_fields(scaled, limits, wide),
        **image_sizes(source, target),
        "out_c": outputs,
        **geometry,
        "groups": groups,
        "joined": int(joined),
        "quads": quads,
        "row_quads": quads // kernel_h,
        "in_zero": source.zero_points[0],
    }
    leave = _conv_in_place(source, target, geometry) if groups == 1 else ()
    if columns:
        slots = target.shape[2] + kernel_w
        call = layer_call("conv_columns", "conv", fields, op, 16 * quads // kernel_w * slots, leave)
        return [replace(call, struct="conv")]
    return [layer_call("conv", "conv", fields, op, 16 * quads, leave)]


def fully_connected(graph: Graph, op: Op, *, wide: bool) -> list[Call]:
    """FULLY_CONNECTED over one row or several."""
    source, weights = tensor_of(graph, op, 0), matrix(graph, op)
    outputs, depth = weights.shape
    wide = wide or weights.dtype == np.int16
    scaled, limits = rescaling_of(graph, op, weights)
    fields = {
        "weights": Constant(values=_pack(weights.reshape(outputs, 1, depth), wide, scaled.form)),
        **channel_constants(scaled, 1),
        **form_fields(scaled, limits, wide),
        "rows": source.size // depth,
        "depth": depth,
        "out_c": outputs,
        "in_zero": source.zero_points[0],
    }
    leave = (InPlace(read=0),) if source.size == depth else ()  # one row is unpacked before it is answered
    return [layer_call("fully_connected", "fully_connected", fields, op, 8 * _quads(depth), leave)]


def _conv_in_place(source: Tensor, target: Tensor, geometry: dict[str, int]) -> tuple[InPlace, ...]:
    """The output may follow behind the input: two pixels are written after the patches of both were read.

    What is read after output pixel `p`, row by row, begins at the first row of the kernel at `p`.
    """
    _, rows, columns, outputs = target.shape
    pitch = source.shape[2] * source.shape[3]
    pixels = np.arange(2, rows * columns, 2)
    if geometry["kernel_h"] * geometry["kernel_w"] * geometry["stride_h"] * geometry["stride_w"] == 1:
        unread = pixels * source.shape[3]
    else:
        unread = np.maximum(pixels // columns * geometry["stride_h"] - geometry["pad_h"], 0) * pitch
    return (InPlace(read=0, highest=int((unread - pixels * outputs).min(initial=source.size))),)


def _quads(count: int) -> int:
    return -(-count // 4)


def _pack(runs: NDArray[np.int8], wide: bool, form: int) -> NDArray[np.int8] | NDArray[np.int16]:
    """Weights ``(channels, runs, run)`` as blocks ``(blocks, quads, ...)`` for `kernels/dot.h`."""
    channels, count, run = runs.shape
    filled = np.pad(runs, [(0, -channels % 4), (0, 0), (0, -run % 4)])
    blocks = filled.reshape(-1, 4, count * _quads(run), 4).transpose(0, 2, 1, 3)  # blocks, quads, 4 channels, 4 values
    if not wide:
        return np.ascontiguousarray(blocks)
    pairs = blocks[..., _PAIRS].reshape(*blocks.shape[:3], 2, 2).transpose(0, 1, 3, 2, 4)
    return np.ascontiguousarray(pairs, np.int16) * np.int16(1 if form == LONG else 2)
