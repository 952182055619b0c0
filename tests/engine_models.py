"""Random int8 models of every operator that the engine knows, alone and in chains; TFLite Micro accepts all of them.

Each drawing function takes a draft and the number of an int8 tensor in it, adds an operator that reads the tensor,
and gives the number of the operator's first output. Accumulators stay within 32 bits, as in any real net: beyond that,
TFLite Micro's own arithmetic is undefined.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from engine_build import Draft, flatbuffer, single_op
from engine_moves import (
    draw_concatenation,
    draw_expand_dims,
    draw_pad,
    draw_reshape,
    draw_resize,
    draw_split,
    draw_squeeze,
    draw_strided_slice,
    draw_transpose,
)
from engine_oracle import RefusedError, random_examples, tflm, tflm_many
from engine_random import Draw, Rng, random_activation, random_affine, random_scale, random_shape, same_affine
from numpy.typing import NDArray

from firmware_export.engine.graph import Graph

__all__ = [
    "DRAWS",
    "Draft",
    "RefusedError",
    "flatbuffer",
    "random_chain",
    "random_examples",
    "random_single_op",
    "single_op",
    "tflm",
    "tflm_many",
]

INT32_MAX = (1 << 31) - 1


def random_single_op(rng: Rng, kind: str | None = None) -> bytes:
    """Draw a model of one operator, of this kind or of any."""
    return flatbuffer(random_graph(rng, [kind or str(rng.choice(list(DRAWS)))]))


def random_chain(rng: Rng, length: int) -> bytes:
    """Draw a model of some operators in a row; each output that nothing reads is an output of the model."""
    inner = [kind for kind in DRAWS if kind not in RIM]
    return flatbuffer(random_graph(rng, [str(kind) for kind in rng.choice(inner, length)]))


def random_graph(rng: Rng, kinds: Sequence[str]) -> Graph:
    """Draw a graph of operators of these kinds in a row; those that do not fit a tensor's shape are left out.

    Its outputs are the tensors that nothing reads.
    """
    draft = Draft()
    rank = int(rng.choice(DRAWS[kinds[0]][0]))
    last = draft.input(random_shape(rng, rank), **random_affine(rng))
    for kind in kinds:
        shape, (ranks, draw) = draft.tensors[last].shape, DRAWS[kind]
        if len(shape) in ranks and (shape[0] == 1 or kind not in BATCHED):
            last = draw(draft, rng, last)
    made = [number for op in draft.ops for number in op.outputs]
    read = {number for op in draft.ops for number in op.inputs}
    return draft.graph([number for number in made if number not in read])


def _windows(rng: Rng, sizes: Sequence[int], *, dilated: bool) -> tuple[str, list[tuple[int, int, int, int]]]:
    """Draw padding and, per spatial axis: kernel, stride, dilation, output size."""
    padding = str(rng.choice(["SAME", "VALID"]))
    return padding, [_window(rng, size, padding, dilated=dilated) for size in sizes]


def _window(rng: Rng, size: int, padding: str, *, dilated: bool) -> tuple[int, int, int, int]:
    kernel, stride = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    dilation = int(rng.integers(1, 4)) if dilated and rng.random() < 0.4 else 1
    if padding == "SAME":
        return kernel, stride, dilation, -(-size // stride)
    while (kernel - 1) * dilation + 1 > size:
        kernel, dilation = max(1, kernel - 1), max(1, dilation - 1)
    return kernel, stride, dilation, -(-(size - (kernel - 1) * dilation) // stride)


def _weights(rng: Rng, shape: tuple[int, ...], axis: int, input_scale: float) -> tuple[dict[str, Any], NDArray[Any]]:
    """Draw weights per tensor or per channel, some channels dead; and the multiplier's weight part per channel."""
    channels = shape[axis]
    data = rng.integers(-127, 128, shape).astype(np.int8)
    if rng.random() < 0.25:
        scales = np.full(1, random_scale(rng), np.float32)
    else:
        scales = np.array([random_scale(rng) for _ in range(channels)], np.float32)
        dead = rng.random(channels) < rng.choice([0, 0.3])
        scales[dead] *= np.float32(2.0**-20)
        np.moveaxis(data, axis, 0)[dead] = 0
    quantised = {"scales": tuple(map(float, scales)), "zero_points": (0,) * len(scales), "axis": axis}
    return {"data": data, **quantised}, np.broadcast_to(scales.astype(float) * input_scale, channels)


def _output_affine(rng: Rng, weights: NDArray[Any], scales: NDArray[Any], axis: int) -> dict[str, Any]:
    """Draw an output quantisation for which typical sums of a typical channel spread over the range of int8."""
    sums = prod(weights.shape) // weights.shape[axis]
    typical = float(np.median(scales)) * 73 * 73 * np.sqrt(sums) / 64
    return random_affine(rng, scale=typical * 2.0 ** rng.uniform(-3, 3))


def _bias(rng: Rng, weights: NDArray[Any], multipliers: NDArray[Any], axis: int) -> NDArray[np.int32]:
    """Draw a bias per channel; where the multiplier shifts to the right, it may be near the ends of int32."""
    bound = np.abs(np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1).astype(np.int64)).sum(axis=1) * 255
    small = rng.normal(size=bound.shape) * (100 + bound / 4)
    ends = rng.choice([-1, 1], bound.shape) * (INT32_MAX - bound)
    extreme = (multipliers < 0.4) & (rng.random(bound.shape) < rng.choice([0, 0.3]))
    limit = np.where(multipliers < 0.4, INT32_MAX - bound, 1 << 24)
    return np.clip(np.where(extreme, ends, small), -limit, limit).astype(np.int32)


def _linear(draft: Draft, rng: Rng, x: int, shape: tuple[int, ...], axis: int) -> tuple[list[int], dict[str, Any]]:
    """Add weights ``shape`` and perhaps a bias to `x`; gives all inputs, and the output's quantisation."""
    input_scale = draft.tensors[x].scales[0]
    weights, scales = _weights(rng, shape, axis, input_scale)
    output = _output_affine(rng, weights["data"], scales, axis)
    inputs = [x, draft.tensor(shape, **weights)]
    if rng.random() < 0.8:
        real = tuple(float(np.float32(scale)) for scale in scales[: len(weights["scales"])])
        zeros = (0,) * len(real)
        bias = _bias(rng, weights["data"], scales / output["scale"], axis)
        inputs.append(draft.constant(bias, scales=real, zero_points=zeros))
    return inputs, output


def draw_conv(draft: Draft, rng: Rng, x: int) -> int:
    """CONV_2D, sometimes in groups."""
    _, height, width, depth = draft.tensors[x].shape
    groups = int(rng.choice([d for d in range(1, depth + 1) if depth % d == 0])) if rng.random() < 0.3 else 1
    filters = groups * int(rng.integers(1, max(2, 18 // groups)))
    padding, (rows, columns) = _windows(rng, (height, width), dilated=True)
    inputs, affine = _linear(draft, rng, x, (filters, rows[0], columns[0], depth // groups), 0)
    y = draft.tensor((1, rows[3], columns[3], filters), **affine)
    return draft.op("CONV_2D", inputs, y, padding=padding, **_strides(rows, columns, rng))


def draw_depthwise(draft: Draft, rng: Rng, x: int) -> int:
    """DEPTHWISE_CONV_2D with a depth multiplier from 1 to 3."""
    _, height, width, depth = draft.tensors[x].shape
    times = int(rng.choice([1, 1, 2, 3]))
    padding, (rows, columns) = _windows(rng, (height, width), dilated=True)
    inputs, affine = _linear(draft, rng, x, (1, rows[0], columns[0], depth * times), 3)
    y = draft.tensor((1, rows[3], columns[3], depth * times), **affine)
    options = {"padding": padding, "depth_multiplier": times, **_strides(rows, columns, rng)}
    return draft.op("DEPTHWISE_CONV_2D", inputs, y, **options)


def _strides(rows: Sequence[int], columns: Sequence[int], rng: Rng) -> dict[str, Any]:
    return {
        "stride_h": rows[1],
        "stride_w": columns[1],
        "dilation_h_factor": rows[2],
        "dilation_w_factor": columns[2],
        "fused_activation_function": random_activation(rng),
    }


def draw_fully_connected(draft: Draft, rng: Rng, x: int) -> int:
    """FULLY_CONNECTED on the last axis, or on all but the first."""
    shape = draft.tensors[x].shape
    keep = len(shape) > 2 and rng.random() < 0.5
    depth = shape[-1] if keep else prod(shape[1:])
    units = int(rng.integers(1, 20))
    inputs, affine = _linear(draft, rng, x, (units, depth), 0)
    y = draft.tensor((*shape[:-1], units) if keep else (1, units), **affine)
    options = {"keep_num_dims": bool(keep), "fused_activation_function": random_activation(rng)}
    return draft.op("FULLY_CONNECTED", inputs, y, **options)


def _draw_pool(kind: str) -> Draw:
    def draw(draft: Draft, rng: Rng, x: int) -> int:
        _, height, width, depth = draft.tensors[x].shape
        padding, (rows, columns) = _windows(rng, (height, width), dilated=False)
        y = draft.tensor((1, rows[3], columns[3], depth), **same_affine(draft, x))
        options = {"filter_height": rows[0], "filter_width": columns[0], "stride_h": rows[1], "stride_w": columns[1]}
        activation = {"fused_activation_function": random_activation(rng)}
        return draft.op(kind, [x], y, padding=padding, **options, **activation)

    return draw


def _draw_binary(kind: str) -> Draw:
    """The other operand: the same tensor, an input or a constant, of the same shape or one to be repeated."""

    def draw(draft: Draft, rng: Rng, x: int) -> int:
        shape = draft.tensors[x].shape
        other = _operand(draft, rng, x)
        pair = [x, other] if rng.random() < 0.5 else [other, x]
        scales = [draft.tensors[number].scales[0] for number in pair]
        real = 127 * (scales[0] * scales[1] if kind == "MUL" else max(scales) / 64)
        full = np.broadcast_shapes(shape, draft.tensors[other].shape)
        y = draft.tensor(full, **random_affine(rng, scale=real * 2.0 ** rng.uniform(-3, 2)))
        return draft.op(kind, pair, y, fused_activation_function=random_activation(rng))

    return draw


def _operand(draft: Draft, rng: Rng, x: int) -> int:
    shape = draft.tensors[x].shape
    if rng.random() < 0.1:
        return x
    if len(shape) <= 4 and rng.random() < 0.4:
        shape = tuple(1 if rng.random() < 0.5 else size for size in shape)
        shape = shape[int(rng.integers(0, len(shape))) :]
    if rng.random() < 0.5:
        return draft.input(shape, **random_affine(rng))
    return draft.constant(rng.integers(-128, 128, shape), "int8", **random_affine(rng))


def draw_mean(draft: Draft, rng: Rng, x: int) -> int:
    """MEAN over some axes, counted from either end."""
    shape = draft.tensors[x].shape
    axes = sorted(int(axis) for axis in rng.permutation(len(shape))[: int(rng.integers(1, len(shape) + 1))])
    keep = bool(rng.random() < 0.5)
    left = [1 if axis in axes else size for axis, size in enumerate(shape) if keep or axis not in axes]
    named = [axis - len(shape) if rng.random() < 0.3 else axis for axis in axes]
    count = prod(shape[axis] for axis in axes)
    scale = draft.tensors[x].scales[0] * 2.0 ** rng.uniform(-1, 1) / count ** rng.uniform(0, 0.5)
    y = draft.tensor(left, **random_affine(rng, scale=scale))
    return draft.op("MEAN", [x, draft.constant(named)], y, keep_dims=keep)


def _draw_unary(kind: str, **output: Any) -> Draw:
    """Of the same shape, with any quantisation but for what is given."""

    def draw(draft: Draft, rng: Rng, x: int) -> int:
        scale = draft.tensors[x].scales[0] * 2.0 ** rng.uniform(-3, 2)
        y = draft.tensor(draft.tensors[x].shape, **random_affine(rng, scale=scale, **output))
        options = {"alpha": float(np.float32(rng.choice([0, 0.01, 0.2, 0.9, 1.5])))} if kind == "LEAKY_RELU" else {}
        return draft.op(kind, [x], y, **options)

    return draw


def _draw_table(kind: str, scale: float, zero_point: int) -> Draw:
    def draw(draft: Draft, rng: Rng, x: int) -> int:
        y = draft.tensor(draft.tensors[x].shape, scale=scale, zero_point=zero_point)
        options = {"beta": float(rng.choice([1.0, 1.0, 0.5, 3.0]))} if kind == "SOFTMAX" else {}
        return draft.op(kind, [x], y, **options)

    return draw


def draw_quantize_input(draft: Draft, rng: Rng, x: int) -> int:
    """QUANTIZE of a float32 or uint8 input of the model, in place of `x`."""
    shape = draft.tensors[x].shape
    draft.inputs.remove(x)
    if rng.random() < 0.5:
        source = draft.input(shape, "float32")
    else:
        source = draft.input(shape, "uint8", scale=random_scale(rng), zero_point=int(rng.integers(0, 256)))
    return draft.op("QUANTIZE", [source], x)


def draw_dequantize(draft: Draft, rng: Rng, x: int) -> int:
    """DEQUANTIZE to a float32 output."""
    return draft.op("DEQUANTIZE", [x], draft.tensor(draft.tensors[x].shape, "float32"))


ANY = (1, 2, 3, 4)
DRAWS: dict[str, tuple[Sequence[int], Draw]] = {
    "CONV_2D": ((4,), draw_conv),
    "DEPTHWISE_CONV_2D": ((4,), draw_depthwise),
    "FULLY_CONNECTED": ((2, 3, 4), draw_fully_connected),
    "ADD": (ANY, _draw_binary("ADD")),
    "SUB": (ANY, _draw_binary("SUB")),
    "MUL": (ANY, _draw_binary("MUL")),
    "AVERAGE_POOL_2D": ((4,), _draw_pool("AVERAGE_POOL_2D")),
    "MAX_POOL_2D": ((4,), _draw_pool("MAX_POOL_2D")),
    "MEAN": ((2, 3, 4), draw_mean),
    "PAD": (ANY, draw_pad("PAD")),
    "PADV2": (ANY, draw_pad("PADV2")),
    "RESHAPE": (ANY, draw_reshape),
    "SQUEEZE": ((2, 3, 4), draw_squeeze),
    "EXPAND_DIMS": ((1, 2, 3), draw_expand_dims),
    "CONCATENATION": (ANY, draw_concatenation),
    "SPLIT": (ANY, draw_split),
    "STRIDED_SLICE": (ANY, draw_strided_slice),
    "SOFTMAX": (ANY, _draw_table("SOFTMAX", 1 / 256, -128)),
    "LOGISTIC": (ANY, _draw_table("LOGISTIC", 1 / 256, -128)),
    "TANH": (ANY, _draw_table("TANH", 1 / 128, 0)),
    "HARD_SWISH": (ANY, _draw_unary("HARD_SWISH")),
    "LEAKY_RELU": (ANY, _draw_unary("LEAKY_RELU")),
    "RELU": (ANY, _draw_unary("RELU")),
    "RELU6": (ANY, _draw_unary("RELU6")),
    "QUANTIZE": (ANY, _draw_unary("QUANTIZE")),
    "RESIZE_NEAREST_NEIGHBOR": ((4,), draw_resize),
    "TRANSPOSE": ((1, 2, 3, 4), draw_transpose),
    "QUANTIZE of an input": (ANY, draw_quantize_input),
    "DEQUANTIZE": (ANY, draw_dequantize),
}
"""Kind of operator -> ranks of the tensor it reads, drawing function."""
BATCHED = (
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "FULLY_CONNECTED",
    "AVERAGE_POOL_2D",
    "MAX_POOL_2D",
    "RESIZE_NEAREST_NEIGHBOR",
    "SQUEEZE",
)
"""These are drawn only where the first axis holds one example."""
RIM = ("QUANTIZE of an input", "DEQUANTIZE")
