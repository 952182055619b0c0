"""Convolutions and fully connected layers as calls of kernels.

Weights stand as the dot products read them (`kernels/dot.h`): blocks of four channels, values in quads.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from firmware_export.engine.arithmetic import Multiplier, activation_range, padding_before, quantize_multiplier
from firmware_export.engine.checks import (
    constant,
    describe,
    need_image,
    need_int8,
    need_shape,
    optional,
    refuse,
    result_of,
    tensor_of,
)
from firmware_export.engine.graph import Graph, Op, Tensor
from firmware_export.engine.layer import Call, Constant

LONG, POSITIVE, SIGNED = 0, 1, 2
"""Forms of requantisation, see `kernels/core.h`."""
CHANNEL = "channel"
_PAIRS = (0, 2, 1, 3)
"""Order of a quad's values in int16 weights."""


def conv(graph: Graph, op: Op, *, wide: bool) -> list[Call]:
    """CONV_2D, also in groups."""
    source, target = tensor_of(graph, op, 0), result_of(graph, op)
    weights, geometry = _filter(graph, op), _geometry(graph, op, tensor_of(graph, op, 1).shape[1:3])
    outputs, kernel_h, kernel_w, depth = weights.shape
    if source.shape[3] % depth or outputs % (source.shape[3] // depth):
        raise refuse(op, f"{describe(source)}: does not split into groups of {depth} channels")
    groups = source.shape[3] // depth
    joined = groups == 1 and op.options["dilation_w_factor"] == 1
    runs = weights.reshape(outputs, kernel_h, kernel_w * depth) if joined else weights.reshape(outputs, -1, depth)
    packed = np.concatenate([_pack(part, wide) for part in np.split(runs, groups)])
    bias, channels, form, (low, high) = _rescaling(graph, op, outputs)
    quads = runs.shape[1] * _quads(runs.shape[2])
    fields = {
        "weights": Constant(values=packed),
        "bias": Constant(values=_fill(bias, groups)),
        "channels": Constant(values=_fill(channels, groups), ctype=CHANNEL),
        "wide": int(wide),
        "form": form,
        **_image_sizes(source, target),
        "out_c": outputs,
        **geometry,
        "groups": groups,
        "joined": int(joined),
        "quads": quads,
        "in_zero": source.zero_points[0],
        "low": low,
        "high": high,
    }
    return [_call("conv", "conv", fields, op, 16 * quads)]


def depthwise(graph: Graph, op: Op, *, wide: bool) -> list[Call]:
    """DEPTHWISE_CONV_2D with any multiplier."""
    source, target = tensor_of(graph, op, 0), result_of(graph, op)
    weights, geometry = _filter(graph, op), _geometry(graph, op, tensor_of(graph, op, 1).shape[1:3])
    outputs = weights.shape[3]
    if outputs % source.shape[3]:
        raise refuse(op, f"{describe(source)}: {outputs} outputs are no multiple of its channels")
    bias, channels, form, (low, high) = _rescaling(graph, op, outputs)
    fields = {
        "weights": Constant(values=weights[0]),
        "bias": Constant(values=bias),
        "channels": Constant(values=channels, ctype=CHANNEL),
        "form": form,
        **_image_sizes(source, target),
        "multiplier": outputs // source.shape[3],
        **geometry,
        "in_zero": source.zero_points[0],
        "low": low,
        "high": high,
    }
    return [_call("depthwise", "depthwise", fields, op, 0)]


def fully_connected(graph: Graph, op: Op, *, wide: bool) -> list[Call]:
    """FULLY_CONNECTED over one row or several."""
    source, target, filters = tensor_of(graph, op, 0), result_of(graph, op), tensor_of(graph, op, 1)
    need_int8(op, (source, target))
    weights = _int8_weights(op, filters)
    outputs, depth = weights.shape[-2:]
    if weights.size != outputs * depth or source.size % depth or target.size != source.size // depth * outputs:
        raise refuse(op, f"{describe(source)}: does not fit weights {list(weights.shape)}")
    if any(filters.zero_points):
        raise refuse(op, f"{describe(filters)}: weights with a zero point; quantise them symmetrically")
    bias, channels, form, (low, high) = _rescaling(graph, op, outputs)
    fields = {
        "weights": Constant(values=_pack(weights.reshape(outputs, 1, depth), wide)),
        "bias": Constant(values=_fill(bias, 1)),
        "channels": Constant(values=_fill(channels, 1), ctype=CHANNEL),
        "wide": int(wide),
        "form": form,
        "rows": source.size // depth,
        "depth": depth,
        "out_c": outputs,
        "in_zero": source.zero_points[0],
        "low": low,
        "high": high,
    }
    return [_call("fully_connected", "fully_connected", fields, op, 8 * _quads(depth))]


def _call(kernel: str, family: str, fields: dict[str, object], op: Op, scratch_bytes: int) -> Call:
    reads, writes = (op.inputs[0],), (op.outputs[0],)
    return Call(
        kernel=kernel,
        struct=kernel,
        family=family,
        fields=fields,
        reads=reads,
        writes=writes,
        scratch_bytes=scratch_bytes,
    )


def _quads(count: int) -> int:
    return -(-count // 4)


def _int8_weights(op: Op, filters: Tensor) -> NDArray[np.int8]:
    if filters.dtype != "int8" or filters.data is None:
        raise refuse(op, f"{describe(filters)}: weights must be constant int8")
    return np.asarray(filters.data, np.int8)


def _filter(graph: Graph, op: Op) -> NDArray[np.int8]:
    source, target, filters = tensor_of(graph, op, 0), result_of(graph, op), tensor_of(graph, op, 1)
    need_int8(op, (source, target))
    need_image(op, (source, target))
    weights = _int8_weights(op, filters)
    if weights.ndim != 4 or 0 in weights.shape or (op.kind == "DEPTHWISE_CONV_2D" and weights.shape[0] != 1):
        raise refuse(op, f"{describe(filters)}: weights must have four dimensions")
    return weights


def _geometry(graph: Graph, op: Op, kernel: Sequence[int]) -> dict[str, int]:
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


def _image_sizes(source: Tensor, target: Tensor) -> dict[str, int]:
    _, in_h, in_w, in_c = source.shape
    return {"in_h": in_h, "in_w": in_w, "in_c": in_c, "out_h": target.shape[1], "out_w": target.shape[2]}


def _rescaling(graph: Graph, op: Op, outputs: int) -> tuple[NDArray[np.int32], NDArray[np.int32], int, tuple[int, int]]:
    """Bias ``(outputs,)``, channels ``(outputs, 3)``, the form that holds for all of them, the activation's range."""
    target, bias = result_of(graph, op), optional(graph, op, 2)
    biases = np.zeros(outputs, np.int32)
    if bias is not None:
        need_shape(op, bias, (outputs,))
        if bias.dtype != "int32":
            raise refuse(op, f"{describe(bias)}: a bias must be int32")
        biases = constant(op, bias).astype(np.int32)
    zero = target.zero_points[0]
    limits = activation_range(op.options["fused_activation_function"], target.scales[0], zero)
    channels, form = channel_rows(_multipliers(graph, op, outputs), zero, limits[0])
    return biases, channels, form, limits


def _multipliers(graph: Graph, op: Op, outputs: int) -> list[Multiplier]:
    """One factor for each channel, from float32 scales as TFLite Micro multiplies them."""
    source, filters, target = tensor_of(graph, op, 0), tensor_of(graph, op, 1), result_of(graph, op)
    if len(filters.scales) not in (1, outputs):
        raise refuse(op, f"{describe(filters)}: has {len(filters.scales)} scales, allowed one or {outputs}")
    if op.kind == "FULLY_CONNECTED" and len(filters.scales) == 1:
        product = float(np.float32(source.scales[0]) * np.float32(filters.scales[0]))
        return [quantize_multiplier(product / target.scales[0])] * outputs
    scales = filters.scales if len(filters.scales) == outputs else filters.scales * outputs
    return [quantize_multiplier(source.scales[0] * scale / target.scales[0]) for scale in scales]


def channel_rows(factors: Sequence[Multiplier], zero: int, low: int) -> tuple[NDArray[np.int32], int]:
    """Rows of mantissa, addend and shift, and the form that is exact for all of them.

    With `r` the shift to the right, a result is ``zero + round(round(acc * mantissa / 2^31) / 2^r)``. Where both
    roundings go up, as they do for sums that are not negative, this is
    ``floor((acc * mantissa + 2^30 + 2^(30+r) + zero * 2^(31+r)) / 2^(31+r))``; halves of negative sums are rounded away
    from zero, which takes away 2^31 (a mantissa is at least 2^30, so no other sum changes its sign by the first
    rounding but that of -2^30, for which both agree). The short forms compute just this, and need
    ``1 < r < 24`` for their 32 bits.
    """
    short = all(-24 < factor.shift < -1 and factor.mantissa >= 1 << 30 for factor in factors)
    if not short:
        return np.array([(factor.mantissa, zero, factor.shift) for factor in factors], np.int32), LONG
    rows = [(f.mantissa, (1 << (-f.shift - 2)) + (zero << (-f.shift - 1)), -f.shift - 1) for f in factors]
    return np.array(rows, np.int32), POSITIVE if low >= zero else SIGNED


def _fill(values: NDArray[np.int32], groups: int) -> NDArray[np.int32]:
    """Fill each group's channels up to a multiple of four with zeros."""
    parts = values.reshape(groups, -1, *values.shape[1:])
    missing = -parts.shape[1] % 4
    filled = np.pad(parts, [(0, 0), (0, missing)] + [(0, 0)] * (parts.ndim - 2))
    return filled.reshape(-1, *values.shape[1:])


def _pack(runs: NDArray[np.int8], wide: bool) -> NDArray[np.int8] | NDArray[np.int16]:
    """Weights ``(channels, runs, run)`` as blocks ``(blocks, quads, ...)`` for `kernels/dot.h`."""
    channels, count, run = runs.shape
    filled = np.pad(runs, [(0, -channels % 4), (0, 0), (0, -run % 4)])
    blocks = filled.reshape(-1, 4, count * _quads(run), 4).transpose(0, 2, 1, 3)  # blocks, quads, 4 channels, 4 values
    if not wide:
        return np.ascontiguousarray(blocks)
    pairs = blocks[..., _PAIRS].reshape(*blocks.shape[:3], 2, 2).transpose(0, 1, 3, 2, 4)
    return np.ascontiguousarray(pairs, np.int16)
