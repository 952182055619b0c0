"""Convolutions and fully connected layers as calls of kernels.

Weights stand as the dot products read them (`kernels/dot.h`): blocks of four channels, values in quads.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf
from typing import Any

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
from firmware_export.engine.fixed_shift import FixedShift, fixed_shift
from firmware_export.engine.graph import Graph, Op, Tensor
from firmware_export.engine.layer import Call, Constant, InPlace
from firmware_export.engine.requantise import LONG, Rescaling, Sums, rescaling
from firmware_export.engine.room import room_beside

CHANNEL = "channel"
_PAIRS = (0, 2, 1, 3)
"""Order of a quad's values in int16 weights."""
FIXED, _EXPANDED = 3, 8
"""As `kernels/tiles.h` numbers the form, and log2 of what it takes int8 weights times."""


def conv(graph: Graph, op: Op, *, wide: bool, low_ram: bool) -> list[Call]:
    """CONV_2D, also in groups; `low_ram` unpacks as little at a time as possible, which takes more instructions.

    Weights of int16 are more than those of the model where `_winograd` serves, for fewer products.
    """
    source, target = tensor_of(graph, op, 0), result_of(graph, op)
    weights, geometry = _filter(graph, op), _geometry(graph, op, tensor_of(graph, op, 1).shape[1:3])
    outputs, kernel_h, kernel_w, depth = weights.shape
    if source.shape[3] % depth or outputs % (source.shape[3] // depth):
        raise refuse(op, f"{describe(source)}: does not split into groups of {depth} channels")
    groups = source.shape[3] // depth
    joined = groups == 1 and op.options["dilation_w_factor"] == 1
    runs = weights.reshape(outputs, kernel_h, kernel_w * depth) if joined else weights.reshape(outputs, -1, depth)
    quads = runs.shape[1] * _quads(runs.shape[2])
    weighted, words, form = _rescaled(graph, op, runs, wide)
    fields = {
        "weights": Constant(values=np.concatenate([_tiles(*part) for part in _split(groups, weighted, *words)])),
        "wide": int(wide),
        **form,
        **_image_sizes(source, target),
        "out_c": outputs,
        **geometry,
        "groups": groups,
        "joined": int(joined),
        "quads": quads,
        "row_quads": quads // kernel_h,
        "pairs": 1 if low_ram else _pairs(graph, op, quads, wide),
        "in_zero": source.zero_points[0],
    }
    call = _few(op, source, target, fields, weighted, words)
    if call is None and wide:
        call = _winograd(graph, op, weights, fields, low_ram)
    return [call or _tiled(op, source, target, fields)]


def _tiled(op: Op, source: Tensor, target: Tensor, fields: dict[str, Any]) -> Call:
    quads, pairs = fields["quads"], fields["pairs"]
    leave = _conv_in_place(source, target, fields, 2 * pairs) if fields["groups"] == 1 else ()
    rest = 8 * quads if fields["wide"] else 16 * quads + 40
    return _call("conv", "conv", fields, op, 16 * quads * pairs + rest, leave)


def _winograd(graph: Graph, op: Op, weights: NDArray[np.int8], fields: dict[str, Any], low_ram: bool) -> Call | None:
    """The kernel of `kernels/winograd.h`, None where it does not serve."""
    source, target = tensor_of(graph, op, 0), result_of(graph, op)
    plain = fields["kernel_w"] == 3 and fields["stride_w"] == fields["dilation_w"] == fields["groups"] == 1
    if not plain or source.shape[3] % 4 or target.shape[2] % 4 or target.shape[3] % 2 or fields["form"] == LONG:
        return None
    first, middle, last = (weights[:, :, column].reshape(len(weights), 1, -1).astype(np.int64) for column in range(3))
    parts = np.concatenate([first + middle + last, first - middle + last, 2 * first, -2 * last], axis=1)
    exponents, words, form = _winograd_form(graph, op, weights, np.abs(parts).max(axis=(1, 2)))
    parts = (parts << exponents[:, None, None]).astype(np.int16)
    quads = parts.shape[2] // 4
    pairs = 1 if low_ram else _pairs(graph, op, 4 * quads, True)
    front, behind = (_by_blocks(part) for part in words)
    m1, m2, m0, m3 = (_tile_words(parts[:, [number]]) for number in range(4))
    stream = np.concatenate([np.tile(front, 2), m1, m2, m0, behind, m3, behind], axis=1).astype(np.int32)
    values = {"weights": Constant(values=stream), **form, "quads": quads, "row_quads": source.shape[3] // 4}
    leave = _conv_in_place(source, target, fields, 4 * pairs)
    call = _call(
        "conv_winograd", "winograd", {**fields, **values, "pairs": pairs}, op, quads * (64 * pairs + 24), leave
    )
    return replace(call, struct="conv")


def _winograd_form(
    graph: Graph, op: Op, weights: NDArray[np.int8], peaks: NDArray[np.int64]
) -> tuple[NDArray[np.int64], tuple[NDArray[Any], NDArray[Any]], dict[str, int]]:
    """log2 of what doubled weights are taken times, bias and rescaling, and the form."""
    largest = np.floor(np.log2(32767 / np.maximum(peaks, 1))).astype(np.int64) + 1
    runs = weights.reshape(len(weights), 1, -1)
    fixed, (scaled, limits) = _fixed_shift(graph, op, runs, largest, free=True), _rescaling(graph, op, runs)
    form = {"form": scaled.form, "offset": 0, "low": limits[0], "high": limits[1]}
    if fixed is None or (fixed.exponents[fixed.channels[:, 0] > 0] < 1).any():
        return np.zeros(len(weights), np.int64), (scaled.bias, scaled.channels), form
    bias = np.where(fixed.channels[:, 0] == 0, 0, _biases(graph, op, len(weights)) << fixed.exponents)
    words = bias, fixed.channels
    return np.maximum(fixed.exponents - 1, 0), words, {**form, "form": FIXED, "offset": fixed.offset}


def _few(
    op: Op, source: Tensor, target: Tensor, fields: dict[str, Any], runs: NDArray[Any], words: Sequence[NDArray[Any]]
) -> Call | None:
    """The kernel of `kernels/few.h`, None where it does not serve."""
    quads, outputs = fields["quads"], fields["out_c"]
    in_one_run = 1 in (fields["kernel_h"], fields["row_quads"])
    if fields["form"] != FIXED or quads not in (2, 3) or not in_one_run or not fields["joined"] or outputs % 4:
        return None
    stream = _few_words(runs, *words)
    leave = _conv_in_place(source, target, fields, 1)
    scratch = 16 + (0 if fields["wide"] else 4 * outputs * (3 + 2 * quads))
    call = _call("conv_few", "few", {**fields, "weights": Constant(values=stream)}, op, scratch, leave)
    return replace(call, struct="conv")


def _few_words(runs: NDArray[Any], bias: NDArray[Any], rescale: NDArray[Any]) -> NDArray[np.int32]:
    """Words of the channels ``(channels, words)`` for `kernels/few.h`."""
    filled = np.pad(runs, [(0, 0), (0, 0), (0, -runs.shape[2] % 4)]).reshape(len(runs), -1, 4)
    ordered = filled if runs.dtype == np.int8 else filled[..., _PAIRS]
    words = np.ascontiguousarray(ordered).reshape(len(runs), -1).view("<i4")
    parts = [bias[:, None], words, rescale] if words.shape[1] == 6 else [bias[:, None], rescale, words]
    return np.concatenate(parts, axis=1).astype(np.int32)


_PATCHES_BYTES = 3072
"""What patches may take where another layer's tensors leave no room for more."""


def _pairs(graph: Graph, op: Op, quads: int, wide: bool) -> int:
    """How many pairs of patches are unpacked at a time: each block of weights begins anew for them."""
    _, rows, columns, _ = result_of(graph, op).shape
    room = max(_PATCHES_BYTES, room_beside(graph, op) - 24 * quads)
    return max(min(room // (16 * quads), 8 if wide else 16, -(-rows * columns // 2)), 1)


def _rescaled(
    graph: Graph, op: Op, runs: NDArray[np.int8], wide: bool
) -> tuple[NDArray[Any], tuple[NDArray[Any], NDArray[Any]], dict[str, int]]:
    """Scaled weights, bias and rescaling for each channel, and the form; `runs` are ``(channels, runs, run)``."""
    scaled, limits = _rescaling(graph, op, runs)
    peaks = np.abs(runs.reshape(len(runs), -1).astype(np.int64)).max(axis=1)
    largest = np.floor(np.log2(32767 / np.maximum(peaks, 1))).astype(np.int64)
    scales = largest if wide else np.full(len(runs), _EXPANDED)
    fixed = _fixed_shift(graph, op, runs, scales, free=wide)
    exponents = np.full(len(runs), int(scaled.form != LONG))
    bias, rescale, form = scaled.bias, scaled.channels, {"form": scaled.form, "offset": 0}
    if fixed is not None:
        exponents, rescale, form = fixed.exponents, fixed.channels, {"form": FIXED, "offset": fixed.offset}
        bias = np.where(rescale[:, 0] == 0, 0, _biases(graph, op, len(runs)) << exponents)
    weighted = runs.astype(np.int16) << exponents[:, None, None].astype(np.int16) if wide else runs
    return weighted, (bias, rescale), {**form, "low": limits[0], "high": limits[1]}


def _split(groups: int, *parts: NDArray[Any]) -> Iterator[tuple[NDArray[Any], ...]]:
    return zip(*(np.split(part, groups) for part in parts), strict=True)


def _tiles(runs: NDArray[Any], bias: NDArray[Any], rescale: NDArray[Any]) -> NDArray[np.int32]:
    """Blocks ``(blocks, words)`` of one group for `kernels/tiles.h`, filled up to an even number of channels."""
    parts = [np.tile(_by_blocks(bias), 2), _tile_words(runs), _by_blocks(rescale)]
    return np.concatenate(parts, axis=1).astype(np.int32)


def _by_blocks(channels: NDArray[Any]) -> NDArray[Any]:
    """Values of two channels beside each other, ``(blocks, values)``."""
    filled = np.pad(channels, [(0, len(channels) % 2)] + [(0, 0)] * (channels.ndim - 1))
    return filled.reshape(len(filled) // 2, -1)


def _tile_words(runs: NDArray[Any]) -> NDArray[np.int32]:
    """Weights of int8 or int16 ``(channels, runs, run)`` as words ``(blocks, words)``."""
    quads = runs.shape[1] * _quads(runs.shape[2])
    filled = np.pad(runs, [(0, len(runs) % 2), (0, 0), (0, -runs.shape[2] % 4)]).reshape(-1, 2, quads, 4)
    if runs.dtype == np.int8:
        ordered = filled.transpose(0, 2, 1, 3)  # blocks, quads, 2 channels, 4 values
    else:
        ordered = filled[..., _PAIRS].reshape(-1, 2, quads, 2, 2).transpose(0, 2, 3, 1, 4)
    return np.ascontiguousarray(ordered).reshape(len(filled), -1).view("<i4")


def _fixed_shift(
    graph: Graph, op: Op, runs: NDArray[np.int8], exponents: NDArray[np.int64], *, free: bool
) -> FixedShift | None:
    source, target = tensor_of(graph, op, 0), result_of(graph, op)
    flat, zero = runs.reshape(len(runs), -1).astype(np.int64), source.zero_points[0]
    low, high = flat * (-128 - zero), flat * (127 - zero)
    biases = _biases(graph, op, len(runs))
    bounds = biases + np.minimum(low, high).sum(axis=1), biases + np.maximum(low, high).sum(axis=1)
    limits = activation_range(op.options["fused_activation_function"], target.scales[0], target.zero_points[0])
    factors = _multipliers(graph, op, len(runs))
    return fixed_shift(factors, bounds, target.zero_points[0], limits, exponents, free=free)


def depthwise(graph: Graph, op: Op) -> list[Call]:
    """DEPTHWISE_CONV_2D with any multiplier."""
    source, target = tensor_of(graph, op, 0), result_of(graph, op)
    weights, geometry = _filter(graph, op), _geometry(graph, op, tensor_of(graph, op, 1).shape[1:3])
    outputs = weights.shape[3]
    if outputs % source.shape[3]:
        raise refuse(op, f"{describe(source)}: {outputs} outputs are no multiple of its channels")
    scaled, limits = _rescaling(graph, op, np.moveaxis(weights[0], 2, 0))
    if _fits_planes(source, outputs, geometry, scaled):
        return [_planes(op, source, target, weights[0], geometry, (scaled, limits))]
    fields = {
        "weights": Constant(values=weights[0]),
        **_constants(scaled, 1),
        **_form(scaled, limits, False),
        **_image_sizes(source, target),
        "multiplier": outputs // source.shape[3],
        **geometry,
        "in_zero": source.zero_points[0],
    }
    return [_call("depthwise", "depthwise", fields, op, 0)]


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
        **_constants(scaled[0], 1),
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
    return _call("planes", "planes", fields, op, 8 * lines * pitch, leave)


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
    scaled, limits = _rescaling(graph, op, weights.reshape(outputs, depth))
    fields = {
        "weights": Constant(values=_pack(weights.reshape(outputs, 1, depth), wide, scaled.form)),
        **_constants(scaled, 1),
        **_form(scaled, limits, wide),
        "rows": source.size // depth,
        "depth": depth,
        "out_c": outputs,
        "in_zero": source.zero_points[0],
    }
    leave = (InPlace(read=0),) if source.size == depth else ()  # one row is unpacked before it is answered
    return [_call("fully_connected", "fully_connected", fields, op, 8 * _quads(depth), leave)]


def _conv_in_place(source: Tensor, target: Tensor, geometry: dict[str, int], step: int) -> tuple[InPlace, ...]:
    """The output may follow behind the input: `step` pixels are written after the patches of all were read.

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


def _call(
    kernel: str, family: str, fields: dict[str, object], op: Op, scratch_bytes: int, in_place: tuple[InPlace, ...] = ()
) -> Call:
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


def _constants(scaled: Rescaling, groups: int) -> dict[str, Constant]:
    """Bias and channels, each group filled up to a multiple of four."""
    return {
        "bias": Constant(values=_fill(scaled.bias, groups)),
        "channels": Constant(values=_fill(scaled.channels, groups), ctype=CHANNEL),
    }


def _form(scaled: Rescaling, limits: tuple[int, int], wide: bool) -> dict[str, int]:
    """Which code a layer takes; sums are doubled by int16 weights, or else by the input's values."""
    doubled = scaled.form != LONG and not wide
    return {"wide": int(wide), "form": scaled.form, "in_scale": 1 + doubled, "low": limits[0], "high": limits[1]}


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


def _rescaling(graph: Graph, op: Op, weights: NDArray[np.int8]) -> tuple[Rescaling, tuple[int, int]]:
    """Rescaling of all channels and the activation's range; `weights` are ``(channels, ...)``."""
    source, target, outputs = tensor_of(graph, op, 0), result_of(graph, op), len(weights)
    biases = _biases(graph, op, outputs).tolist()
    zero = source.zero_points[0]
    swings = np.abs(weights.reshape(outputs, -1).astype(np.int64)).sum(axis=1) * max(127 - zero, 128 + zero)
    sums = [Sums(bias=b, swing=int(swing)) for b, swing in zip(biases, swings, strict=True)]
    limits = activation_range(op.options["fused_activation_function"], target.scales[0], target.zero_points[0])
    return rescaling(_multipliers(graph, op, outputs), sums, target.zero_points[0], limits), limits


def _biases(graph: Graph, op: Op, outputs: int) -> NDArray[np.int64]:
    bias = optional(graph, op, 2)
    if bias is None:
        return np.zeros(outputs, np.int64)
    need_shape(op, bias, (outputs,))
    if bias.dtype != "int32":
        raise refuse(op, f"{describe(bias)}: a bias must be int32")
    return np.asarray(constant(op, bias), np.int64)


def _multipliers(graph: Graph, op: Op, outputs: int) -> list[Multiplier]:
    """One factor for each channel, from float32 scales multiplied in float64."""
    source, filters, target = tensor_of(graph, op, 0), tensor_of(graph, op, 1), result_of(graph, op)
    if len(filters.scales) not in (1, outputs):
        raise refuse(op, f"{describe(filters)}: has {len(filters.scales)} scales, allowed one or {outputs}")
    scales = filters.scales if len(filters.scales) == outputs else filters.scales * outputs
    return [quantize_multiplier(source.scales[0] * scale / target.scales[0]) for scale in scales]


def _fill(values: NDArray[np.int32], groups: int) -> NDArray[np.int32]:
    """Fill each group's channels up to a multiple of four with zeros."""
    parts = values.reshape(groups, -1, *values.shape[1:])
    missing = -parts.shape[1] % 4
    filled = np.pad(parts, [(0, 0), (0, missing)] + [(0, 0)] * (parts.ndim - 2))
    return filled.reshape(-1, *values.shape[1:])


def _pack(runs: NDArray[np.int8], wide: bool, form: int) -> NDArray[np.int8] | NDArray[np.int16]:
    """Weights ``(channels, runs, run)`` as blocks ``(blocks, quads, ...)`` for `kernels/dot.h`."""
    channels, count, run = runs.shape
    filled = np.pad(runs, [(0, -channels % 4), (0, 0), (0, -run % 4)])
    blocks = filled.reshape(-1, 4, count * _quads(run), 4).transpose(0, 2, 1, 3)  # blocks, quads, 4 channels, 4 values
    if not wide:
        return np.ascontiguousarray(blocks)
    pairs = blocks[..., _PAIRS].reshape(*blocks.shape[:3], 2, 2).transpose(0, 1, 3, 2, 4)
    return np.ascontiguousarray(pairs, np.int16) * np.int16(1 if form == LONG else 2)
