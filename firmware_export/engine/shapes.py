"""The shapes that an operator's inputs and options allow, and the options that the engine supports."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from firmware_export.engine.graph import ABSENT, Op, Tensor
from hybrid.errors import SpecError, UnsupportedOpError

Shape = tuple[int, ...]
Given = Sequence[Tensor]
"""The inputs that are not left out."""

_ACTIVATIONS = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "fused_activation_function": _ACTIVATIONS,
    "weights_format": ("DEFAULT",),
    "quantized_bias_type": ("FLOAT32", "INT32"),
    "ellipsis_mask": (0,),
    "new_axis_mask": (0,),
    "offset": (False,),
}
_AT_LEAST_ONE = (
    "stride_w",
    "stride_h",
    "dilation_w_factor",
    "dilation_h_factor",
    "filter_width",
    "filter_height",
    "num_splits",
)
_MOST_AXES = {"PAD": 5, "PADV2": 5, "STRIDED_SLICE": 4, "TRANSPOSE": 5}
"""Where TFLite Micro takes fewer than its shapes hold."""
_MOST_NUMBERS = 64


def check_options(op: Op, what: str) -> None:
    """Raise: SpecError for options that mean nothing, UnsupportedOpError for those that the engine cannot follow."""
    for name, value in op.options.items():
        if name in _AT_LEAST_ONE and value < 1:
            raise SpecError(f"{what}: {name} is {value}, expected at least 1")
        allowed = ("NONE",) if op.kind == "CONCATENATION" else _SUPPORTED.get(name, (value,))
        if name in _SUPPORTED and value not in allowed:
            raise UnsupportedOpError(f"{what}: {name} is {value}, supported: {', '.join(map(str, allowed))}")


def check_shapes(op: Op, tensors: Sequence[Tensor], what: str) -> None:
    """Raise: SpecError where the shapes of inputs, options and outputs do not go together."""
    given = [tensors[number] for number in op.inputs if number != ABSENT]
    outputs = [tensors[number] for number in op.outputs]
    most = _MOST_AXES.get(op.kind)
    if most and len(given[0].shape) > most:
        raise UnsupportedOpError(f"{what}: reads {len(given[0].shape)} axes, supported as in TFLite Micro: {most}")
    expected = _SHAPES[op.kind](op, given, outputs, what)
    if [output.shape for output in outputs] != expected:
        shapes = ", ".join(str(tensor.shape) for tensor in given)
        raise SpecError(f"{what}: makes shapes {[output.shape for output in outputs]} of {shapes}, expected {expected}")


def _need(holds: bool, what: str, complaint: str) -> None:
    if not holds:
        raise SpecError(f"{what}: {complaint}")


def window(size: int, kernel: int, stride: int, dilation: int, padding: str) -> int:
    """Give how many positions a window takes along an axis; 0 or less where it does not fit.

    >>> window(5, 3, 2, 1, "SAME"), window(5, 3, 2, 1, "VALID"), window(5, 3, 1, 2, "VALID")
    (3, 2, 1)
    """
    return -(-(size if padding == "SAME" else size - (kernel - 1) * dilation) // stride)


def _windows(op: Op, x: Tensor, kernel: Sequence[int], what: str) -> Shape:
    """Batch, height and width of what windows make."""
    _need(len(x.shape) == 4, what, f"reads shape {x.shape}, expected 4 axes")
    o, axes = op.options, (("h", 1), ("w", 2))
    sizes = [
        window(x.shape[axis], k, o[f"stride_{d}"], o.get(f"dilation_{d}_factor", 1), o["padding"])
        for (d, axis), k in zip(axes, kernel, strict=True)
    ]
    _need(min(sizes) > 0, what, f"a window of {tuple(kernel)} does not fit into {x.shape}")
    return (x.shape[0], *sizes)


def _bias(given: Given, channels: int, what: str) -> None:
    sizes = [tensor.size for tensor in given[2:]]
    _need(sizes in ([], [channels]), what, f"has {sizes} biases, expected {channels} or none")


def _conv(op: Op, given: Given, outputs: Given, what: str) -> list[Shape]:
    x, weights = given[:2]
    _need(len(weights.shape) == 4, what, f"has weights {weights.shape}, expected 4 axes")
    made = _windows(op, x, weights.shape[1:3], what)
    filters, groups, rest = weights.shape[0], *divmod(x.shape[3], weights.shape[3])
    _need(rest == 0 and filters % max(groups, 1) == 0, what, f"weights {weights.shape} do not divide {x.shape}")
    _bias(given, filters, what)
    return [(*made, filters)]


def _depthwise(op: Op, given: Given, outputs: Given, what: str) -> list[Shape]:
    x, weights = given[:2]
    _need(len(weights.shape) == 4, what, f"has weights {weights.shape}, expected 4 axes")
    made = _windows(op, x, weights.shape[1:3], what)
    channels = x.shape[3] * op.options["depth_multiplier"]
    _need(weights.shape[::3] == (1, channels), what, f"has weights {weights.shape}, expected (1, .., .., {channels})")
    _bias(given, channels, what)
    return [(*made, channels)]


def _fully_connected(op: Op, given: Given, outputs: Given, what: str) -> list[Shape]:
    """The output's leading axes are free, as in TFLite Micro; only their product counts."""
    x, weights = given[:2]
    _need(len(weights.shape) == 2, what, f"has weights {weights.shape}, expected 2 axes")
    units, depth = weights.shape
    rows, rest = divmod(x.size, depth)
    _need(rest == 0, what, f"weights {weights.shape} do not divide {x.shape}")
    _bias(given, units, what)
    made = outputs[0].shape
    return [made if made[-1:] == (units,) and prod(made) == rows * units else (rows, units)]


def _binary(op: Op, given: Given, outputs: Given, what: str) -> list[Shape]:
    first, second = (tensor.shape for tensor in given)
    try:
        return [np.broadcast_shapes(first, second)]
    except ValueError as exc:
        raise SpecError(f"{what}: reads shapes {first} and {second}, which do not go together") from exc


def _pool(op: Op, given: Given, outputs: Given, what: str) -> list[Shape]:
    kernel = (op.options["filter_height"], op.options["filter_width"])
    return [(*_windows(op, given[0], kernel, what), given[0].shape[3])]


def _numbers(tensor: Tensor, what: str) -> list[int]:
    """Give a constant's few numbers."""
    _need(tensor.size <= _MOST_NUMBERS, what, f"reads {tensor.size} numbers, expected {_MOST_NUMBERS} at most")
    return [] if tensor.data is None else [int(value) for value in tensor.data.ravel()]


def _axis(said: int, count: int, what: str) -> int:
    _need(-count <= said < count, what, f"axis {said}, expected {-count} to {count - 1}")
    return said % count


def _mean(op: Op, given: Given, outputs: Given, what: str) -> list[Shape]:
    shape = given[0].shape
    axes = {_axis(said, len(shape), what) for said in _numbers(given[1], what)}
    keep = op.options["keep_dims"]
    return [tuple(1 if axis in axes else size for axis, size in enumerate(shape) if keep or axis not in axes)]


def _pad(op: Op, given: Given, outputs: Given, what: str) -> list[Shape]:
    shape, around = given[0].shape, _numbers(given[1], what)
    _need(len(around) == 2 * len(shape) and min(around, default=0) >= 0, what, f"paddings {around} for {shape}")
    _need(all(tensor.size == 1 for tensor in given[2:]), what, "pads with several values, expected one")
    return [tuple(size + before + after for size, before, after in zip(shape, around[::2], around[1::2], strict=True))]


def _reshape(op: Op, given: Given, outputs: Given, what: str) -> list[Shape]:
    """The output's own shape counts, as in TFLite Micro."""
    made = outputs[0]
    _need(made.size == given[0].size, what, f"makes {made.size} of {given[0].size} elements")
    return [made.shape]


def _squeeze(op: Op, given: Given, outputs: Given, what: str) -> list[Shape]:
    shape = given[0].shape
    axes = {_axis(said, len(shape), what) for said in op.options["squeeze_dims"]} or set(range(len(shape)))
    if op.options["squeeze_dims"]:
        _need(all(shape[axis] == 1 for axis in axes), what, f"drops axes {sorted(axes)} of {shape}")
    return [tuple(size for axis, size in enumerate(shape) if size != 1 or axis not in axes)]


def _expand_dims(op: Op, given: Given, outputs: Given, what: str) -> list[Shape]:
    shape, said = given[0].shape, _numbers(given[1], what)
    _need(len(said) == 1, what, f"axes {said}, expected one")
    axis = _axis(said[0], len(shape) + 1, what)
    return [(*shape[:axis], 1, *shape[axis:])]


def _concatenation(op: Op, given: Given, outputs: Given, what: str) -> list[Shape]:
    shape = given[0].shape
    axis = _axis(op.options["axis"], len(shape), what)
    rests = {(len(tensor.shape), tensor.shape[:axis], tensor.shape[axis + 1 :]) for tensor in given}
    _need(len(rests) == 1, what, f"joins shapes {[tensor.shape for tensor in given]} along axis {axis}")
    return [(*shape[:axis], sum(tensor.shape[axis] for tensor in given), *shape[axis + 1 :])]


def _split(op: Op, given: Given, outputs: Given, what: str) -> list[Shape]:
    shape, said = given[1].shape, _numbers(given[0], what)
    _need(len(said) == 1, what, f"axes {said}, expected one")
    axis = _axis(said[0], len(shape), what)
    part, rest = divmod(shape[axis], op.options["num_splits"])
    _need(rest == 0 and part > 0, what, f"splits {shape} into {op.options['num_splits']} along axis {axis}")
    _need(len(outputs) == op.options["num_splits"], what, f"has {len(outputs)} outputs for its num_splits")
    return [(*shape[:axis], part, *shape[axis + 1 :])] * len(outputs)


def _strided_slice(op: Op, given: Given, outputs: Given, what: str) -> list[Shape]:
    shape, (begin, end, steps) = given[0].shape, (_numbers(tensor, what) for tensor in given[1:])
    lengths = {len(begin), len(end), len(steps)}
    _need(lengths == {len(shape)} and 0 not in steps, what, f"begin {begin}, end {end}, strides {steps} for {shape}")
    o, made = op.options, []
    for axis, size in enumerate(shape):
        start = None if o["begin_mask"] >> axis & 1 else begin[axis]
        stop = None if o["end_mask"] >> axis & 1 else end[axis]
        if o["shrink_axis_mask"] >> axis & 1:
            _need(start is None or -size <= start < size, what, f"takes index {start} of axis {axis} of {shape}")
        else:
            made.append(len(range(*slice(start, stop, steps[axis]).indices(size))))
    return [tuple(made)]


def _resize(op: Op, given: Given, outputs: Given, what: str) -> list[Shape]:
    shape, size = given[0].shape, _numbers(given[1], what)
    fits = len(shape) == 4 and given[1].shape == (2,)
    _need(fits, what, f"resizes {shape} to {size}, expected 4 axes and two sizes")
    return [(shape[0], *size, shape[3])]


def _transpose(op: Op, given: Given, outputs: Given, what: str) -> list[Shape]:
    shape, order = given[0].shape, _numbers(given[1], what)
    fits = len(given[1].shape) == 1 and sorted(order) == list(range(len(shape)))
    _need(fits, what, f"order {order} of the axes of {shape}, in a list of {len(given[1].shape)} axes")
    return [tuple(shape[axis] for axis in order)]


def _same(op: Op, given: Given, outputs: Given, what: str) -> list[Shape]:
    return [given[0].shape]


_SHAPES: dict[str, Callable[[Op, Given, Given, str], list[Shape]]] = {
    "ADD": _binary,
    "AVERAGE_POOL_2D": _pool,
    "CONCATENATION": _concatenation,
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "DEQUANTIZE": _same,
    "EXPAND_DIMS": _expand_dims,
    "FULLY_CONNECTED": _fully_connected,
    "HARD_SWISH": _same,
    "LEAKY_RELU": _same,
    "LOGISTIC": _same,
    "MAX_POOL_2D": _pool,
    "MEAN": _mean,
    "MUL": _binary,
    "PAD": _pad,
    "PADV2": _pad,
    "QUANTIZE": _same,
    "RELU": _same,
    "RELU6": _same,
    "RESHAPE": _reshape,
    "RESIZE_NEAREST_NEIGHBOR": _resize,
    "SOFTMAX": _same,
    "SPLIT": _split,
    "SQUEEZE": _squeeze,
    "STRIDED_SLICE": _strided_slice,
    "SUB": _binary,
    "TANH": _same,
    "TRANSPOSE": _transpose,
}
"""Expected shapes of an operator's outputs, from its inputs, options and (where they decide) outputs."""
