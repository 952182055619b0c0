"""Sums, products, means, pools and softmax as calls of kernels."""

from itertools import groupby
from math import prod
from typing import Any

import numpy as np

from firmware_export.engine import tables
from firmware_export.engine.arithmetic import (
    Multiplier,
    activation_range,
    padding_before,
    quantize_multiplier,
)
from firmware_export.engine.boxes import BOX, box, join, steps_in
from firmware_export.engine.checks import (
    constant,
    describe,
    need_image,
    need_int8,
    need_shape,
    refuse,
    result_of,
    same_quantisation,
    tensor_of,
)
from firmware_export.engine.graph import Graph, Op, Tensor
from firmware_export.engine.layer import Call, Constant, InPlace
from firmware_export.engine.linear import Summands, line_through, summands, sums
from firmware_export.engine.requantise import LONG, Rescaling, Sums, rescaling

_MOST_SHARES = 1 << 13
"""So many exponentials of 2^19 wrap to 0 as they are added up."""


def addition(graph: Graph, op: Op) -> list[Call]:
    """ADD."""
    return _sum(graph, op, 1)


def subtraction(graph: Graph, op: Op) -> list[Call]:
    """SUB."""
    return _sum(graph, op, -1)


def product(graph: Graph, op: Op) -> list[Call]:
    """MUL."""
    a, b, target = _operands(graph, op)
    factor = quantize_multiplier(a.scales[0] * b.scales[0] / target.scales[0])
    low, high = activation_range(op.options["fused_activation_function"], target.scales[0], target.zero_points[0])
    reach = [max(127 - tensor.zero_points[0], 128 + tensor.zero_points[0]) for tensor in (a, b)]
    span = Sums(bias=0, swing=reach[0] * reach[1])
    scaled = rescaling([factor], [span], target.zero_points[0], (low, high))
    fields = {
        "pairs": _pairs(op, a, b, target),
        "rescale": _first_channel(scaled),
        "form": scaled.form,
        "zero_a": a.zero_points[0],
        "zero_b": b.zero_points[0],
        "low": low,
        "high": high,
    }
    return [_elementwise("product", fields, graph, op)]


def mean(graph: Graph, op: Op) -> list[Call]:
    """MEAN: the division by the number of values is part of the factor."""
    source, target = tensor_of(graph, op, 0), result_of(graph, op)
    need_int8(op, (source, target))
    axes = {int(axis) % max(len(source.shape), 1) for axis in constant(op, tensor_of(graph, op, 1)).ravel()}
    kept = tuple(size for axis, size in enumerate(source.shape) if axis not in axes)
    if kept != tuple(size for size in target.shape if size != 1) and target.size != int(np.prod(kept)):
        raise refuse(op, f"{describe(target)}: does not follow from its input and axes")
    groups = _groups(source.shape, axes)
    count = source.size // target.size
    fields = {
        **_mean_box("kept", [(size, step) for summed, size, step in groups if not summed], op),
        **_mean_box("summed", [(size, step) for summed, size, step in groups if summed], op),
        "offset": source.zero_points[0] * count,
        "rescale": _channel(_mean_factor(source, target, count), target.zero_points[0]),
    }
    return [Call(kernel="mean", struct="mean", family="mean", fields=fields, reads=op.inputs[:1], writes=op.outputs)]


def pool(graph: Graph, op: Op) -> list[Call]:
    """AVERAGE_POOL_2D and MAX_POOL_2D."""
    source, target, options = tensor_of(graph, op, 0), result_of(graph, op), op.options
    need_int8(op, (source, target))
    need_image(op, (source, target))
    same_quantisation(op, source, target, 1e-6)
    same, sides = options["padding"] == "SAME", ("h", "w")
    windows, strides = (options["filter_height"], options["filter_width"]), (options["stride_h"], options["stride_w"])
    sizes = tuple(
        -(-size // stride) if same else (size - window) // stride + 1
        for size, window, stride in zip(source.shape[1:3], windows, strides, strict=True)
    )
    need_shape(op, target, (1, *sizes, source.shape[3]))
    pads = [padding_before(strides[i], 1, source.shape[1 + i], windows[i], same) for i in (0, 1)]
    low, high = activation_range(options["fused_activation_function"], target.scales[0], target.zero_points[0])
    named = {"window": windows, "stride": strides, "pad": pads}
    fields = {
        **dict(zip(("in_h", "in_w", "channels", "out_h", "out_w"), (*source.shape[1:], *sizes), strict=True)),
        **{f"{name}_{side}": int(pair[i]) for name, pair in named.items() for i, side in enumerate(sides)},
        "low": low,
        "high": high,
    }
    kernel = {"AVERAGE_POOL_2D": "average_pool", "MAX_POOL_2D": "max_pool"}[op.kind]
    return [Call(kernel=kernel, struct="pool", family="pool", fields=fields, reads=op.inputs, writes=op.outputs)]


def softmax(graph: Graph, op: Op) -> list[Call]:
    """SOFTMAX over the last dimension."""
    source, target = tensor_of(graph, op, 0), result_of(graph, op)
    need_int8(op, (source, target))
    if (target.scales[0], target.zero_points[0]) != (1 / 256, -128):
        raise refuse(op, f"{describe(target)}: scale must be 1/256 and zero point -128")
    depth = source.shape[-1] if source.shape else 0
    if not 0 < depth < _MOST_SHARES:
        raise refuse(op, f"{describe(source)}: allowed are rows of 1 to {_MOST_SHARES - 1:,} values")
    exponentials = Constant(values=tables.exponentials(source, op.options["beta"]))
    fields = {"exponentials": exponentials, "rows": source.size // depth, "depth": depth}
    return [
        Call(kernel="softmax", struct="softmax", family="softmax", fields=fields, reads=op.inputs, writes=op.outputs)
    ]


def _operands(graph: Graph, op: Op) -> tuple[Tensor, Tensor, Tensor]:
    a, b, target = tensor_of(graph, op, 0), tensor_of(graph, op, 1), result_of(graph, op)
    need_int8(op, (a, b, target))
    return a, b, target


def _sum(graph: Graph, op: Op, sign: int) -> list[Call]:
    a, b, target = _operands(graph, op)
    parts = summands(a, b, target, sign)
    if parts.factor.shift > 0:
        raise refuse(op, f"{describe(target)}: its scale is too small against its inputs', TFLite Micro refuses it too")
    low, high = activation_range(op.options["fused_activation_function"], target.scales[0], target.zero_points[0])
    slopes = a.scales[0] / target.scales[0], sign * b.scales[0] / target.scales[0]
    line = line_through(sums(*parts, target.zero_points[0]), slopes, (low, high))
    common = {"pairs": _pairs(op, a, b, target), "low": low, "high": high}
    if line is not None:
        factors = dict(zip(("factor_a", "factor_b", "offset"), line, strict=True))
        return [_elementwise("linear_sum", {**common, **factors}, graph, op)]
    return [_elementwise("sum", {**common, **_tables(parts, target.zero_points[0], (low, high))}, graph, op)]


def _tables(parts: Summands, zero: int, limits: tuple[int, int]) -> dict[str, Any]:
    """What each input adds to the sum, by value, and how the sum is rescaled."""
    span = Sums(bias=0, swing=int(abs(parts.table_a).max() + abs(parts.table_b).max()))
    scaled = rescaling([parts.factor], [span], zero, limits)
    times = 1 if scaled.form == LONG else 2
    return {
        "table_a": Constant(values=(parts.table_a * times).astype(np.int32)),
        "table_b": Constant(values=(parts.table_b * times).astype(np.int32)),
        "rescale": _first_channel(scaled),
        "form": scaled.form,
    }


def _elementwise(kernel: str, fields: dict[str, Any], graph: Graph, op: Op) -> Call:
    """A call that may write over an input that is not broadcast: each value is read before its place is written."""
    size = result_of(graph, op).size
    same = [place for place in (0, 1) if graph.tensors[op.inputs[place]].size == size]
    return Call(
        kernel=kernel,
        struct=kernel,
        family=kernel,
        fields=fields,
        reads=op.inputs,
        writes=op.outputs,
        in_place=tuple(InPlace(read=place, highest=0) for place in same),
    )


def _first_channel(scaled: Rescaling) -> dict[str, int]:
    return dict(zip(("mantissa", "addend", "shift"), scaled.channels[0].tolist(), strict=True))


def _channel(factor: Multiplier, zero: int) -> dict[str, int]:
    return {"mantissa": factor.mantissa, "addend": zero, "shift": factor.shift}


def _pairs(op: Op, a: Tensor, b: Tensor, target: Tensor) -> dict[str, tuple[int, ...]]:
    """Sizes and steps of a walk over the output, dimensions joined where both inputs allow it."""
    rank = len(target.shape)
    try:
        if np.broadcast_shapes(a.shape, b.shape) != target.shape:
            raise ValueError
    except ValueError:
        message = f"{describe(a)} and {describe(b)} do not give {describe(target)} by broadcasting"
        raise refuse(op, message) from None
    steps = [_broadcast_steps(tensor.shape, rank) for tensor in (a, b)]
    size, step_a, step_b = join(list(zip(target.shape, *steps, strict=True)))
    if len(size) > BOX:
        raise refuse(op, f"{describe(a)} and {describe(b)}: broadcasts over more than {BOX} dimensions")
    return {"size": box(size, 1), "step_a": box(step_a, 0), "step_b": box(step_b, 0)}


def _broadcast_steps(shape: tuple[int, ...], rank: int) -> list[int]:
    padded = box(shape, 1, rank)
    return [step if size > 1 else 0 for size, step in zip(padded, steps_in(padded), strict=True)]


def _groups(shape: tuple[int, ...], axes: set[int]) -> list[tuple[bool, int, int]]:
    """Neighbouring dimensions that are all kept or all summed: which, size, step."""
    steps, found = steps_in(shape), []
    for summed, members in groupby((axis for axis in range(len(shape)) if shape[axis] > 1), lambda a: a in axes):
        group = list(members)
        found.append((summed, prod(shape[axis] for axis in group), steps[group[-1]]))
    return found


def _mean_box(name: str, groups: list[tuple[int, int]], op: Op) -> dict[str, tuple[int, ...]]:
    if len(groups) > 3:
        raise refuse(op, "sums over more than three separate groups of dimensions")
    sizes, steps = [size for size, _ in groups], [step for _, step in groups]
    return {name: box(sizes, 1, 3), f"{name}_step": box(steps, 0, 3)}


def _mean_factor(source: Tensor, target: Tensor, count: int) -> Multiplier:
    factor = quantize_multiplier(source.scales[0] / target.scales[0])
    shift = min(count.bit_length() - 1, 32, 31 + factor.shift)
    return Multiplier((factor.mantissa << shift) // count, factor.shift - shift)
