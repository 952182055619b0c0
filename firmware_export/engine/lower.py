"""A graph becomes layers: calls of kernels with all their constants. What cannot be computed exactly is refused."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from firmware_export.engine import lower_arith, lower_conv, lower_depthwise, lower_lean, lower_move, lower_point
from firmware_export.engine.checks import describe, refuse
from firmware_export.engine.graph import ABSENT, Graph, Op
from firmware_export.engine.layer import Call, Layer, WeightWidth

ALIASES = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
"""Operators that give a tensor another shape and leave its bytes where they are."""

_Lowering = Callable[[Graph, Op], list[Call]]
_WEIGHTED = ("CONV_2D", "FULLY_CONNECTED")
"""Whose weights may stand in flash in two ways."""
_PLAIN: dict[str, _Lowering] = {
    "ADD": lower_arith.addition,
    "SUB": lower_arith.subtraction,
    "MUL": lower_arith.product,
    "MEAN": lower_arith.mean,
    "AVERAGE_POOL_2D": lower_arith.pool,
    "MAX_POOL_2D": lower_arith.pool,
    "SOFTMAX": lower_arith.softmax,
    "PAD": lower_move.pad,
    "PADV2": lower_move.pad,
    "CONCATENATION": lower_move.concatenation,
    "SPLIT": lower_move.split,
    "STRIDED_SLICE": lower_move.strided_slice,
    "TRANSPOSE": lower_move.transpose,
    "RESIZE_NEAREST_NEIGHBOR": lower_move.resize,
    "LOGISTIC": lower_point.lookup,
    "TANH": lower_point.lookup,
    "HARD_SWISH": lower_point.lookup,
    "LEAKY_RELU": lower_point.lookup,
    "RELU": lower_point.lookup,
    "RELU6": lower_point.lookup,
    "QUANTIZE": lower_point.quantize,
    "DEQUANTIZE": lower_point.dequantize,
}
_LEAN: dict[str, Callable[[Graph, Op], list[Call] | None]] = {
    "CONV_2D": lower_lean.conv,
    "FULLY_CONNECTED": lower_lean.fully_connected,
    "DEPTHWISE_CONV_2D": lower_lean.depthwise,
    "ADD": lower_lean.addition,
    "SUB": lower_lean.subtraction,
}
KINDS = tuple(sorted((*_WEIGHTED, "DEPTHWISE_CONV_2D", *_PLAIN, *ALIASES)))
"""Operators that the engine computes."""


def folded(graph: Graph) -> Graph:
    """Make constants that only get another shape constants of that shape: nothing is left to run for them."""
    tensors, ops = list(graph.tensors), []
    for op in graph.ops:
        data = tensors[op.inputs[0]].data if op.kind in ALIASES else None
        if data is None:
            ops.append(op)
        else:
            made = tensors[op.outputs[0]]
            tensors[made.number] = replace(made, data=data.reshape(made.shape))
    return replace(graph, tensors=tuple(tensors), ops=tuple(ops))


def lower(graph: Graph, *, weights: WeightWidth, low_ram: bool = False, lean: bool = False) -> tuple[Layer, ...]:
    """Lower every operator, in order; `low_ram` prefers little scratch to few instructions.

    `lean` is for cores without DSP instructions: layers take the kernels for these, whose weights are int8, where there
    are some.

    Raises: UnsupportedOpError naming operator, tensor and reason.
    """
    lowerings = {**_PLAIN, **dict.fromkeys(ALIASES, _alias), **_weighted(weights == "int16", low_ram)}
    lean_lowerings = {kind: partial(_lean_first, _LEAN[kind], lowerings[kind]) for kind in _LEAN} if lean else {}
    return tuple(_lower(graph, op, {**lowerings, **lean_lowerings}, weights) for op in graph.ops)


def _lean_first(
    lean: Callable[[Graph, Op], list[Call] | None], otherwise: _Lowering, graph: Graph, op: Op
) -> list[Call]:
    calls = lean(graph, op)
    return otherwise(graph, op) if calls is None else calls


def _weighted(wide: bool, low_ram: bool) -> dict[str, _Lowering]:
    return {
        "CONV_2D": partial(lower_conv.conv, wide=wide, low_ram=low_ram),
        "DEPTHWISE_CONV_2D": partial(lower_depthwise.depthwise, low_ram=low_ram),
        "FULLY_CONNECTED": partial(lower_conv.fully_connected, wide=wide),
    }


def alias_roots(graph: Graph) -> dict[int, int]:
    """For each tensor, the one whose bytes it shares: itself, but for outputs of `ALIASES`."""
    roots = {tensor.number: tensor.number for tensor in graph.tensors}
    for op in graph.ops:
        if op.kind in ALIASES:
            roots[op.outputs[0]] = roots[op.inputs[0]]
    return roots


def _lower(graph: Graph, op: Op, lowerings: dict[str, _Lowering], weights: WeightWidth) -> Layer:
    if op.kind not in lowerings:
        raise refuse(op, f"is not among the operators of the engine: {', '.join(KINDS)}")
    _check_tensors(graph, op)
    try:
        calls = lowerings[op.kind](graph, op)
    except KeyError as missing:
        raise refuse(op, f"option {missing} is missing; the model is damaged") from None
    except OverflowError as exc:
        raise refuse(op, str(exc)) from None
    shape = graph.tensors[op.outputs[0]].shape
    width = weights if op.kind in _WEIGHTED else None
    macs = macs_of(graph, op)
    return Layer(number=op.number, kind=op.kind, output_shape=shape, macs=macs, weights=width, calls=tuple(calls))


def _check_tensors(graph: Graph, op: Op) -> None:
    if not op.outputs:
        raise refuse(op, "has no output; the model is damaged")
    for number in (*op.inputs, *op.outputs):
        if number != ABSENT and graph.tensors[number].size == 0:
            raise refuse(op, f"{describe(graph.tensors[number])}: is empty")


def _alias(graph: Graph, op: Op) -> list[Call]:
    source, target = graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]
    if source.size != target.size or source.dtype != target.dtype:
        raise refuse(op, f"{describe(source)} does not become {describe(target)} by another shape")
    return []


def macs_of(graph: Graph, op: Op) -> int:
    """Multiply-accumulates of an operator with weights, 0 of others."""
    if op.kind not in (*_WEIGHTED, "DEPTHWISE_CONV_2D"):
        return 0
    weights, target = graph.tensors[op.inputs[1]], graph.tensors[op.outputs[0]]
    outputs = weights.shape[3] if op.kind == "DEPTHWISE_CONV_2D" else weights.size // weights.shape[-1]
    if op.kind == "CONV_2D":
        outputs = weights.shape[0]
    return target.size * (weights.size // outputs)
