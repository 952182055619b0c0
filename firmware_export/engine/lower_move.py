"""Operators that only move values: boxes copied from place to place."""

from collections.abc import Sequence

import numpy as np

from firmware_export.engine.boxes import BOX, box, join, steps_in
from firmware_export.engine.checks import (
    constant,
    describe,
    need_image,
    need_int8,
    need_shape,
    optional,
    refuse,
    result_of,
    same_quantisation,
    tensor_of,
)
from firmware_export.engine.graph import Graph, Op
from firmware_export.engine.layer import Call, Constant

_MOST_LINES = 1 << 16
"""Rows or columns that an index of uint16 tells apart."""


def pad(graph: Graph, op: Op) -> list[Call]:
    """PAD and PADV2: fill, then copy into the middle."""
    source, target, value = tensor_of(graph, op, 0), result_of(graph, op), optional(graph, op, 2)
    need_int8(op, (source, target))
    widths = constant(op, tensor_of(graph, op, 1)).reshape(-1, 2)
    if len(widths) != len(source.shape) or widths.min(initial=0) < 0:
        raise refuse(op, f"{describe(source)}: needs a non-negative pair of paddings for each dimension")
    need_shape(op, target, tuple(int(s + w.sum()) for s, w in zip(source.shape, widths, strict=True)))
    if value is not None:
        same_quantisation(op, value, target)
    filler = target.zero_points[0] if value is None else int(constant(op, value).ravel()[0])
    fields = {"count": target.size, "value": filler}
    fill = Call(kernel="fill", struct="fill", family="move", fields=fields, reads=(), writes=op.outputs)
    steps = steps_in(target.shape)
    start = int(sum(int(before) * step for before, step in zip(widths[:, 0], steps, strict=True)))
    return [fill, _move(op, source.shape, (steps_in(source.shape), 0, op.inputs[0]), (steps, start, op.outputs[0]))]


def concatenation(graph: Graph, op: Op) -> list[Call]:
    """CONCATENATION of tensors with the same scale."""
    target = result_of(graph, op)
    axis, start, calls = op.options["axis"] % len(target.shape), 0, []
    if op.options["fused_activation_function"] != "NONE":
        raise refuse(op, "a fused activation, which TFLite Micro refuses too")
    for number in op.inputs:
        source = graph.tensors[number]
        need_int8(op, (source, target))
        same_quantisation(op, source, target)
        need_shape(op, source, (*target.shape[:axis], source.shape[axis], *target.shape[axis + 1 :]))
        steps = steps_in(target.shape)
        calls.append(
            _move(op, source.shape, (steps_in(source.shape), 0, number), (steps, start * steps[axis], op.outputs[0]))
        )
        start += source.shape[axis]
    if start != target.shape[axis]:
        raise refuse(op, f"{describe(target)}: its inputs have {start} along axis {axis}")
    return calls


def split(graph: Graph, op: Op) -> list[Call]:
    """SPLIT into equal parts."""
    source = tensor_of(graph, op, 1)
    axis = int(constant(op, tensor_of(graph, op, 0)).ravel()[0]) % len(source.shape)
    size, steps, calls = source.shape[axis] // len(op.outputs), steps_in(source.shape), []
    for place, number in enumerate(op.outputs):
        part = graph.tensors[number]
        need_int8(op, (source, part), scaled=False)
        need_shape(op, part, (*source.shape[:axis], size, *source.shape[axis + 1 :]))
        origin = (steps, place * size * steps[axis], op.inputs[1])
        calls.append(_move(op, part.shape, origin, (steps_in(part.shape), 0, number)))
    return calls


def strided_slice(graph: Graph, op: Op) -> list[Call]:
    """STRIDED_SLICE with masks of begin, end and shrink, of at most four dimensions."""
    source, target = tensor_of(graph, op, 0), result_of(graph, op)
    need_int8(op, (source, target), scaled=False)
    begin, end, strides = (constant(op, tensor_of(graph, op, place)).ravel() for place in (1, 2, 3))
    rank = len(source.shape)
    if not len(begin) == len(end) == len(strides) == rank or rank > 4 or not strides.all():
        raise refuse(op, f"{describe(source)}: needs begin, end and non-zero stride of at most four dimensions")
    if op.options.get("ellipsis_mask") or op.options.get("new_axis_mask") or op.options.get("offset"):
        raise refuse(op, "masks of ellipsis or new axes, which TFLite Micro does not know")
    spans = [
        _span(op, axis, source.shape[axis], int(begin[axis]), int(end[axis]), int(strides[axis]))
        for axis in range(rank)
    ]
    sizes = tuple(len(span) for span in spans)
    shrunk = tuple(size for axis, size in enumerate(sizes) if not op.options["shrink_axis_mask"] >> axis & 1)
    need_shape(op, target, shrunk)
    steps = steps_in(source.shape)
    start = sum(span.start * step for span, step in zip(spans, steps, strict=True))
    walk = [span.step * step for span, step in zip(spans, steps, strict=True)]
    return [_move(op, sizes, (walk, start, op.inputs[0]), (steps_in(sizes), 0, op.outputs[0]))]


def transpose(graph: Graph, op: Op) -> list[Call]:
    """TRANSPOSE."""
    source, target = tensor_of(graph, op, 0), result_of(graph, op)
    need_int8(op, (source, target), scaled=False)
    order = [int(axis) for axis in constant(op, tensor_of(graph, op, 1)).ravel()]
    if sorted(order) != list(range(len(source.shape))):
        raise refuse(op, f"{describe(source)}: {order} is no order of its dimensions")
    sizes = tuple(source.shape[axis] for axis in order)
    need_shape(op, target, sizes)
    steps = steps_in(source.shape)
    return [_move(op, sizes, ([steps[axis] for axis in order], 0, op.inputs[0]), (steps_in(sizes), 0, op.outputs[0]))]


def resize(graph: Graph, op: Op) -> list[Call]:
    """RESIZE_NEAREST_NEIGHBOR: which row and column is nearest is computed here."""
    source, target = tensor_of(graph, op, 0), result_of(graph, op)
    need_int8(op, (source, target), scaled=False)
    need_image(op, (source, target))
    if max(source.shape[1:3]) > _MOST_LINES:
        raise refuse(op, f"{describe(source)}: allowed are {_MOST_LINES:,} rows and columns at most")
    height, width = (int(size) for size in constant(op, tensor_of(graph, op, 1)).ravel())
    need_shape(op, target, (1, height, width, source.shape[3]))
    options = (bool(op.options["align_corners"]), bool(op.options["half_pixel_centers"]))
    fields = {
        "rows": Constant(values=_nearest(source.shape[1], height, *options)),
        "columns": Constant(values=_nearest(source.shape[2], width, *options)),
        "in_w": source.shape[2],
        "out_h": height,
        "out_w": width,
        "channels": source.shape[3],
    }
    return [
        Call(kernel="resize", struct="resize", family="move", fields=fields, reads=op.inputs[:1], writes=op.outputs)
    ]


_End = tuple[Sequence[int], int, int]
"""Steps, start and tensor of one end of a copy."""


def _move(op: Op, sizes: Sequence[int], source: _End, target: _End) -> Call:
    size, in_step, out_step = join(list(zip(sizes, source[0], target[0], strict=True)))
    if len(size) > BOX:
        raise refuse(op, f"copies boxes of more than {BOX} dimensions")
    fields = {
        "size": box(size, 1),
        "in_step": box(in_step, 0),
        "out_step": box(out_step, 0),
        "in_start": source[1],
        "out_start": target[1],
    }
    return Call(kernel="move", struct="move", family="move", fields=fields, reads=source[2:], writes=target[2:])


def _span(op: Op, axis: int, size: int, begin: int, end: int, stride: int) -> range:
    """The indices of one axis: masks win over numbers, negative numbers count from the end, all are clamped."""
    masks = {name: op.options[f"{name}_mask"] >> axis & 1 for name in ("begin", "end", "shrink_axis")}
    low, high = (0, size) if stride > 0 else (-1, size - 1)
    first = (0 if stride > 0 else size - 1) if masks["begin"] else _clamped(begin, size, low, high)
    if masks["shrink_axis"]:
        if stride < 0:
            raise refuse(op, f"takes one index of axis {axis} backwards, for which TFLite Micro gives no value")
        if not 0 <= first < size:
            raise refuse(op, f"index {begin} lies outside of axis {axis} with {size} values")
        return range(first, first + 1)
    last = (size if stride > 0 else -1) if masks["end"] else _clamped(end, size, low, high)
    return range(first, last, stride)


def _clamped(index: int, size: int, low: int, high: int) -> int:
    return min(max(index + size if index < 0 else index, low), high)


def _nearest(
    size: int, outputs: int, align_corners: bool, half_pixels: bool
) -> "np.ndarray[tuple[int], np.dtype[np.uint16]]":
    """The nearest input of each output, in float32 as TFLite Micro computes it."""
    corners = align_corners and outputs > 1
    scale = np.float32(size - 1 if corners else size) / np.float32(outputs - 1 if corners else outputs)
    places = (np.arange(outputs, dtype=np.float32) + np.float32(0.5 if half_pixels else 0.0)) * scale
    rounded = np.floor(places.astype(np.float64) + 0.5) if align_corners else np.floor(places)
    return np.clip(rounded, 0, size - 1).astype(np.uint16)
