"""Convolutions and fully connected layers as calls of kernels."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_export.engine.checks import describe, refuse, result_of, tensor_of
from firmware_export.engine.filters import (
    biases_of,
    conv_in_place,
    geometry_of,
    image_filter,
    image_sizes,
    layer_call,
    limits_of,
    matrix,
    multipliers_of,
    rescaling_of,
    sums_of,
)
from firmware_export.engine.fixed_shift import FixedShift, fixed_shift
from firmware_export.engine.graph import Graph, Op, Tensor
from firmware_export.engine.layer import Call, Constant, InPlace
from firmware_export.engine.packing import by_blocks, few_words, quads_of, row_blocks, tile_words, tiles
from firmware_export.engine.requantise import LONG
from firmware_export.engine.room import room_beside

FIXED, _EXPANDED = 3, 8
"""As `kernels/tiles.h` numbers the form, and log2 of what it takes int8 weights times."""


def conv(graph: Graph, op: Op, *, wide: bool, low_ram: bool) -> list[Call]:
    """CONV_2D, also in groups; `low_ram` unpacks as little at a time as possible, which takes more instructions.

    Weights of int16 are more than those of the model where `_winograd` serves, for fewer products.
    """
    source, target = tensor_of(graph, op, 0), result_of(graph, op)
    weights, geometry = image_filter(graph, op), geometry_of(graph, op, tensor_of(graph, op, 1).shape[1:3])
    outputs, kernel_h, kernel_w, depth = weights.shape
    if source.shape[3] % depth or outputs % (source.shape[3] // depth):
        raise refuse(op, f"{describe(source)}: does not split into groups of {depth} channels")
    groups = source.shape[3] // depth
    joined = groups == 1 and op.options["dilation_w_factor"] == 1
    runs = weights.reshape(outputs, kernel_h, kernel_w * depth) if joined else weights.reshape(outputs, -1, depth)
    quads = runs.shape[1] * quads_of(runs.shape[2])
    weighted, words, form = _rescaled(graph, op, runs, wide)
    fields = {
        "wide": int(wide),
        **form,
        **image_sizes(source, target),
        "out_c": outputs,
        **geometry,
        "groups": groups,
        "joined": int(joined),
        "quads": quads,
        "row_quads": quads // kernel_h,
        "pairs": 1 if low_ram else _pairs(graph, op, quads, wide),
        "in_zero": source.zero_points[0],
    }
    call = _few(op, source, target, fields, weighted, words) or _winograd(graph, op, weights, fields, low_ram)
    return [call or _tiled(op, source, target, fields, weighted, words)]


def _tiled(
    op: Op, source: Tensor, target: Tensor, fields: dict[str, Any], runs: NDArray[Any], words: Sequence[NDArray[Any]]
) -> Call:
    """The kernel of `kernels/conv.h`, which serves everywhere."""
    quads, pairs, groups = fields["quads"], fields["pairs"], fields["groups"]
    by_group = zip(*(np.split(part, groups) for part in (runs, *words)), strict=True)
    stream = np.concatenate([tiles(*part) for part in by_group])
    leave = conv_in_place(source, target, fields, 2 * pairs) if groups == 1 else ()
    scratch = 16 * quads * pairs + (8 * quads if fields["wide"] else 16 * quads + 40)
    return layer_call("conv", "conv", {"weights": Constant(values=stream), **fields}, op, scratch, leave)


def _winograd(graph: Graph, op: Op, weights: NDArray[Any], fields: dict[str, Any], low_ram: bool) -> Call | None:
    """The kernel of `kernels/winograd.h`, None where it does not serve."""
    source, target = tensor_of(graph, op, 0), result_of(graph, op)
    plain = fields["kernel_w"] == 3 and fields["stride_w"] == fields["dilation_w"] == fields["groups"] == 1
    if not plain or source.shape[3] % 4 or target.shape[2] % 4 or target.shape[3] % 2 or fields["form"] == LONG:
        return None
    first, middle, last = (weights[:, :, column].reshape(len(weights), 1, -1).astype(np.int64) for column in range(3))
    parts = np.concatenate([first + middle + last, first - middle + last, 2 * first, -2 * last], axis=1)
    exponents, words, form = _winograd_form(graph, op, weights, np.abs(parts).max(axis=(1, 2)))
    if form["form"] == LONG:
        return None
    quads, stream = parts.shape[2] // 4, _winograd_blocks(parts, exponents, *words)
    pairs = 1 if low_ram else min(_pairs(graph, op, 4 * quads, True), 8 if fields["wide"] else 2)
    scratch = quads * (64 * pairs + 24)
    if not fields["wide"]:
        scratch, stream = scratch + stream.nbytes, _winograd_bytes(weights, exponents, *words)
        if low_ram or scratch > max(room_beside(graph, op), _EXPANDED_BYTES):
            return None
    sizes = {"quads": quads, "row_quads": source.shape[3] // 4, "pairs": pairs}
    leave = conv_in_place(source, target, fields, 4 * pairs)
    fields = {"weights": Constant(values=stream), **fields, **form, **sizes}
    call = layer_call("conv_winograd", "winograd", fields, op, scratch, leave)
    return replace(call, struct="conv")


def _winograd_blocks(
    parts: NDArray[np.int64], exponents: NDArray[np.int64], bias: NDArray[Any], rescale: NDArray[Any]
) -> NDArray[np.int32]:
    """Blocks of int16; `parts` are the weights of m1, m2, m0, m3 ``(channels, 4, values)``."""
    scaled = (parts << exponents[:, None, None]).astype(np.int16)
    m1, m2, m0, m3 = (tile_words(scaled[:, [number]]) for number in range(4))
    front, behind = np.tile(by_blocks(bias), 2), by_blocks(rescale)
    return np.concatenate([front, m1, m2, m0, behind, m3, behind], axis=1).astype(np.int32)


def _winograd_bytes(
    weights: NDArray[Any], exponents: NDArray[np.int64], bias: NDArray[Any], rescale: NDArray[Any]
) -> NDArray[np.int32]:
    """Blocks of int8; `weights` are ``(channels, rows, 3, depth)``."""
    pairs = weights.reshape(len(weights) // 2, 2, -1, 3, weights.shape[3] // 4, 4)
    ordered = np.ascontiguousarray(pairs.transpose(0, 2, 4, 1, 3, 5))  # blocks, rows, quads, 2 channels, 3 columns, 4
    shifts = by_blocks(exponents) @ np.array([[1], [256]])
    parts = [np.tile(by_blocks(bias), 2), shifts, ordered.reshape(len(ordered), -1).view("<i4"), by_blocks(rescale)]
    return np.concatenate(parts, axis=1).astype(np.int32)


def _winograd_form(
    graph: Graph, op: Op, weights: NDArray[Any], peaks: NDArray[np.int64]
) -> tuple[NDArray[np.int64], tuple[NDArray[Any], NDArray[Any]], dict[str, int]]:
    """log2 of what doubled weights are taken times, bias and rescaling, and the form."""
    largest = np.floor(np.log2(32767 / np.maximum(peaks, 1))).astype(np.int64) + 1
    runs = weights.reshape(len(weights), 1, -1)
    fixed, (scaled, limits) = _fixed_shift(graph, op, runs, largest, free=True), rescaling_of(graph, op, runs)
    form = {"form": scaled.form, "offset": 0, "low": limits[0], "high": limits[1]}
    if fixed is None or (fixed.exponents[fixed.channels[:, 0] > 0] < 1).any():
        return np.zeros(len(weights), np.int64), (scaled.bias, scaled.channels), form
    bias = np.where(fixed.channels[:, 0] == 0, 0, biases_of(graph, op, len(runs)) << fixed.exponents)
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
    stream = few_words(runs, *words)
    leave = conv_in_place(source, target, fields, 1)
    scratch = 16 + (0 if fields["wide"] else 4 * outputs * (3 + 2 * quads))
    call = layer_call("conv_few", "few", {"weights": Constant(values=stream), **fields}, op, scratch, leave)
    return replace(call, struct="conv")


_PATCHES_BYTES = 4096
"""What patches may take where another layer's tensors leave no room for more."""
_EXPANDED_BYTES = 9 * 1024
"""The same for patches and all weights of a layer, where these are expanded once."""


def _pairs(graph: Graph, op: Op, quads: int, wide: bool) -> int:
    """How many pairs of patches are unpacked at a time: each block of weights begins anew for them."""
    _, rows, columns, _ = result_of(graph, op).shape
    room = max(_PATCHES_BYTES, room_beside(graph, op) - 24 * quads)
    return max(min(room // (16 * quads), 8 if wide else 16, -(-rows * columns // 2)), 1)


def _rescaled(
    graph: Graph, op: Op, runs: NDArray[Any], wide: bool
) -> tuple[NDArray[Any], tuple[NDArray[Any], NDArray[Any]], dict[str, int]]:
    """Scaled weights, bias and rescaling for each channel, and the form; `runs` are ``(channels, runs, run)``."""
    scaled, limits = rescaling_of(graph, op, runs)
    peaks = np.abs(runs.reshape(len(runs), -1).astype(np.int64)).max(axis=1)
    largest = np.floor(np.log2(32767 / np.maximum(peaks, 1))).astype(np.int64)
    scales = largest if wide else np.full(len(runs), _EXPANDED)
    fixed = _fixed_shift(graph, op, runs, scales, free=wide)
    exponents = np.full(len(runs), int(scaled.form != LONG))
    bias, rescale, form = scaled.bias, scaled.channels, {"form": scaled.form, "offset": 0}
    if fixed is not None:
        exponents, rescale, form = fixed.exponents, fixed.channels, {"form": FIXED, "offset": fixed.offset}
        bias = np.where(rescale[:, 0] == 0, 0, biases_of(graph, op, len(runs)) << exponents)
    weighted = runs.astype(np.int16) << exponents[:, None, None].astype(np.int16) if wide else runs
    return weighted, (bias, rescale), {**form, "low": limits[0], "high": limits[1]}


def _fixed_shift(
    graph: Graph, op: Op, runs: NDArray[Any], exponents: NDArray[np.int64], *, free: bool
) -> FixedShift | None:
    source, target = tensor_of(graph, op, 0), result_of(graph, op)
    flat, zero = runs.reshape(len(runs), -1).astype(np.int64), source.zero_points[0]
    low, high = flat * (-128 - zero), flat * (127 - zero)
    biases = biases_of(graph, op, len(runs))
    bounds = biases + np.minimum(low, high).sum(axis=1), biases + np.maximum(low, high).sum(axis=1)
    factors = multipliers_of(graph, op, len(runs))
    return fixed_shift(factors, bounds, target.zero_points[0], limits_of(graph, op), exponents, free=free)


def fully_connected(graph: Graph, op: Op, *, wide: bool) -> list[Call]:
    """FULLY_CONNECTED over one row or several; weights that the kernel does not take as int8 stand as int16."""
    source, weights = tensor_of(graph, op, 0), matrix(graph, op)
    outputs, depth = weights.shape
    wide = wide or weights.dtype == np.int16 or not _fits_bytes(graph, op, weights)
    weighted, (bias, rescale), form = _rescaled(graph, op, weights.reshape(outputs, 1, depth), wide)
    if not wide:
        weighted, bias = weights, _byte_bias(graph, op, weights)
    fields = {
        "weights": Constant(values=row_blocks(weighted.reshape(outputs, depth), bias, rescale)),
        "wide": int(wide),
        **form,
        "rows": source.size // depth,
        "depth": depth,
        "out_c": outputs,
        "in_zero": source.zero_points[0],
    }
    leave = (InPlace(read=0),) if source.size == depth else ()  # one row is unpacked before it is answered
    return [layer_call("fully_connected", "fully_connected", fields, op, -(-depth // 8) * 16, leave)]


def _fits_bytes(graph: Graph, op: Op, weights: NDArray[Any]) -> bool:
    """Whether sums times 256 stay within 32 bits, weights are above -128, and rescaling has a short form."""
    largest = max(abs(sums.bias) + sums.swing for sums in sums_of(graph, op, weights))
    short = rescaling_of(graph, op, weights)[0].form != LONG
    return short and largest < 1 << 31 - _EXPANDED and int(weights.min()) > -128


def _byte_bias(graph: Graph, op: Op, weights: NDArray[Any]) -> NDArray[np.int64]:
    """Bias times 256, with what the kernel's products lack: zero point and 127 for each odd weight; it wraps."""
    values, zero = weights.astype(np.int64), tensor_of(graph, op, 0).zero_points[0]
    whole = biases_of(graph, op, len(weights)) + 127 * values[:, 1::2].sum(axis=1) - zero * values.sum(axis=1)
    return (whole << _EXPANDED).astype(np.int32).astype(np.int64)
