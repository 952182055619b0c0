"""Operators of one value: tables of 256 entries, and float at the model's rim."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from firmware_export.engine import tables
from firmware_export.engine.arithmetic import quantize_multiplier
from firmware_export.engine.checks import describe, need_int8, refuse, result_of, tensor_of
from firmware_export.engine.graph import Graph, Op, Tensor
from firmware_export.engine.layer import Call, Constant, InPlace


def lookup(graph: Graph, op: Op) -> list[Call]:
    """LOGISTIC, TANH, HARD_SWISH, LEAKY_RELU, RELU and RELU6."""
    source, target = tensor_of(graph, op, 0), result_of(graph, op)
    need_int8(op, (source, target))
    _check_output(op, target)
    return [_lookup(op, source, target, _TABLES[op.kind](op, source, target))]


def quantize(graph: Graph, op: Op) -> list[Call]:
    """QUANTIZE: of float at the rim, or between int8 and uint8."""
    source, target = tensor_of(graph, op, 0), result_of(graph, op)
    if source.dtype == "float32" and target.dtype == "int8":
        fields = {"scale": target.scales[0], "zero": target.zero_points[0], "count": source.size}
        return [_rim_call(op, "from_float", fields)]
    if {source.dtype, target.dtype} - {"int8", "uint8"} or source.dtype == target.dtype == "uint8":
        raise refuse(op, f"{describe(source)} to {describe(target)}: allowed are int8, uint8 and float32 to int8")
    return [_lookup(op, source, target, tables.requantize(source, target))]


def dequantize(graph: Graph, op: Op) -> list[Call]:
    """DEQUANTIZE at the rim."""
    source = tensor_of(graph, op, 0)
    if source.dtype not in ("int8", "uint8"):
        raise refuse(op, f"{describe(source)}: allowed are int8 and uint8")
    table = Constant(values=tables.dequantize(source))
    return [_rim_call(op, "to_float", {"table": table, "count": source.size, "in_flip": _flip(source)})]


def _check_output(op: Op, target: Tensor) -> None:
    """TFLite Micro's own conditions of a few operators."""
    if op.kind == "LOGISTIC" and target.zero_points[0] != -128:
        raise refuse(op, f"{describe(target)}: zero point must be -128")


def _hard_swish(op: Op, source: Tensor, target: Tensor) -> NDArray[np.int8]:
    if quantize_multiplier(source.scales[0] / 128 / target.scales[0]).shift > 0:
        raise refuse(op, f"{describe(target)}: its scale is too small against its input's, TFLite Micro refuses it too")
    return tables.hard_swish(source, target)


_TABLES: dict[str, Callable[[Op, Tensor, Tensor], NDArray[np.int8]]] = {
    "LOGISTIC": lambda op, source, target: tables.logistic_table(source),
    "TANH": lambda op, source, target: tables.tanh_table(source),
    "HARD_SWISH": _hard_swish,
    "LEAKY_RELU": lambda op, source, target: tables.leaky_relu(source, target, op.options["alpha"]),
    "RELU": lambda op, source, target: tables.relu(source, target),
    "RELU6": lambda op, source, target: tables.relu6(source),
}


def _flip(tensor: Tensor) -> int:
    return 128 if tensor.dtype == "uint8" else 0


def _lookup(op: Op, source: Tensor, target: Tensor, table: NDArray[np.int8]) -> Call:
    fields = {
        "table": Constant(values=table),
        "count": source.size,
        "in_flip": _flip(source),
        "out_flip": _flip(target),
    }
    return replace(_rim_call(op, "lookup", fields), in_place=(InPlace(read=0, highest=0),))


def _rim_call(op: Op, kernel: str, fields: Mapping[str, object]) -> Call:
    return Call(kernel=kernel, struct=kernel, family="lookup", fields=fields, reads=op.inputs, writes=op.outputs)
