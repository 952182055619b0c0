"""A .tflite, however hostile, as a `Graph` that is sound and that the engine supports.

The places of fields are those of ``schema.fbs`` (version 3) of tflite-micro at 90b983c (2026-08). What is no sound
model is a SpecError; what is sound and beyond the engine is an UnsupportedOpError.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from firmware_export.engine.flat import Bytes, Table
from firmware_export.engine.graph import ABSENT, DType, Graph, Op, Tensor
from firmware_export.engine.opset import ENUMS, KINDS, fields, names
from firmware_export.engine.sound import check_flow, check_meaning, describe, label
from hybrid.errors import SpecError, UnsupportedOpError

IDENTIFIER, SCHEMA_VERSION = b"TFL3", 3
MOST_ELEMENTS = (1 << 31) - 1
MOST_AXES = 6
"""As many as TFLite Micro's shapes hold."""
_ANY_AXES = 64
_RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-(1 << 15), (1 << 15) - 1)}

_PYTHON = {"bool": bool, "byte": int, "int": int, "float": float}


@dataclass(frozen=True)
class _Tensors:
    """All tensors, and what speaks against those that the engine cannot take, by number."""

    all: tuple[Tensor, ...]
    complaints: dict[int, str] = field(default_factory=dict)


def read(flatbuffer: bytes) -> Graph:
    """Read a model of one subgraph.

    Raises: SpecError where the bytes are no sound model; UnsupportedOpError where it holds what the engine cannot run.
    """
    model = Bytes(bytes(flatbuffer)).root(IDENTIFIER)
    version, subgraphs = model.number(0, "uint"), model.tables(2)
    if version != SCHEMA_VERSION or not subgraphs:
        raise SpecError(
            f"model: schema version {version} and {len(subgraphs)} subgraphs, expected version {SCHEMA_VERSION} and 1"
        )
    if len(subgraphs) > 1:
        raise UnsupportedOpError(
            f"model: has {len(subgraphs)} subgraphs, allowed 1; convert without control flow and variables"
        )
    (subgraph,) = subgraphs
    tensors = _tensors(subgraph.tables(0), model.tables(4))
    codes = [_code(code) for code in model.tables(1)]
    tables = subgraph.tables(3)
    bare = Graph(
        tensors=tensors.all,
        ops=tuple(_bare_op(number, table, codes, tensors) for number, table in enumerate(tables)),
        inputs=_numbers(subgraph, 1, tensors, "model: its inputs"),
        outputs=_numbers(subgraph, 2, tensors, "model: its outputs"),
    )
    check_flow(bare)
    graph = replace(bare, ops=tuple(_with_options(op, tables[op.number], tensors) for op in _needed(bare)))
    _refuse(tensors, range(len(tensors.all)), "model")
    check_meaning(graph)
    return graph


def _tensors(tables: Sequence[Table], buffers: Sequence[Table]) -> _Tensors:
    complaints: dict[int, str] = {}
    contents = [_Content.of(buffer) for buffer in buffers]
    return _Tensors(tuple(_tensor(number, t, contents, complaints) for number, t in enumerate(tables)), complaints)


@dataclass(frozen=True)
class _Content:
    """A buffer's bytes; None of what is not constant."""

    raw: NDArray[np.uint8] | None
    is_outside: bool
    """The bytes are not in the flatbuffer."""

    @classmethod
    def of(cls, buffer: Table) -> "_Content":
        raw, is_outside = buffer.vector(0, "u1", free=True), bool(buffer.number(1, "ulong") > 1)
        return cls(raw if raw.size or is_outside else None, is_outside)


def _tensor(number: int, table: Table, contents: Sequence[_Content], complaints: dict[int, str]) -> Tensor:
    name = table.text(3)
    what = label(number, name)
    shape = _shape(table, what)
    dtype = names("TensorType").get(table.number(1, "byte"), "unknown").lower()
    content = _content(table.number(2, "uint"), contents, what)
    complaint = _complaint(table, shape, dtype, content)
    if complaint:
        complaints[number] = complaint
    scales, zero_points, axis = _quantisation(table.table(4), shape, dtype, what)
    return Tensor(
        number=number,
        name=name,
        shape=shape,
        dtype=cast(DType, dtype),
        scales=scales,
        zero_points=zero_points,
        axis=axis,
        data=_data(content, shape, dtype, what) if complaint is None else content.raw,
    )


def _shape(table: Table, what: str) -> tuple[int, ...]:
    stored = table.vector(0, "<i4")
    shape = tuple(stored[:_ANY_AXES].tolist())
    if len(stored) > _ANY_AXES or min(shape, default=1) < 1 or prod(shape) > MOST_ELEMENTS:
        raise SpecError(
            f"{what}: shape {shape[:8]} ({len(stored)} axes), expected sizes from 1, {MOST_ELEMENTS:,} elements at most"
        )
    return shape


def _content(number: int, contents: Sequence[_Content], what: str) -> _Content:
    if number >= len(contents):
        raise SpecError(f"{what}: buffer {number}, expected one of the {len(contents)} of the model")
    return contents[number]


def _complaint(table: Table, shape: tuple[int, ...], dtype: str, content: _Content) -> str | None:
    """Say why the engine cannot take a sound tensor, if so."""
    signature = tuple(table.vector(7, "<i4")[:_ANY_AXES].tolist())
    unknown = [axis for axis, size in enumerate(signature) if size < 0 and (axis, shape[axis : axis + 1]) != (0, (1,))]
    quantisation = table.table(4)
    reasons = {
        f"is {dtype}, supported are {', '.join(get_args(DType))}": dtype not in get_args(DType),
        f"has {len(shape)} axes, supported at most {MOST_AXES}": len(shape) > MOST_AXES,
        f"has a dynamic shape {signature}; convert with a fixed input shape": bool(unknown),
        "is a variable; convert without state": table.number(5, "bool"),
        "is sparse; convert it dense": table.table(6) is not None,
        "is quantised in a custom way": quantisation is not None and quantisation.number(4, "ubyte") != 0,
        "is stored outside of the flatbuffer": content.is_outside,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _quantisation(
    table: Table | None, shape: tuple[int, ...], dtype: str, what: str
) -> tuple[tuple[float, ...], tuple[int, ...], int]:
    """Read scales, zero points and their axis; as in TFLite Micro there are none where either list is empty.

    A vector has but one axis, whichever it names: converters gave biases that of their weights.
    """
    if table is None or table.number(4, "ubyte") != 0:
        return (), (), 0
    scales, zero_points = table.vector(2, "<f4"), table.vector(3, "<i8")
    axis = 0 if len(shape) == 1 else int(table.number(6, "int"))
    if not len(scales) or not len(zero_points):
        return (), (), 0
    channels = shape[axis] if len(scales) > 1 and 0 <= axis < len(shape) else 1
    if not len(scales) == len(zero_points) == channels:
        raise SpecError(
            f"{what}: {len(scales)} scales and {len(zero_points)} zero points along axis {axis} of shape {shape}, "
            f"expected 1 of each or one for each index"
        )
    low, high = _RANGES.get(dtype, (-(1 << 31), (1 << 31) - 1))
    sound = np.isfinite(scales) & (scales > 0) & (low <= zero_points) & (zero_points <= high)
    if not sound.all():
        index = int(np.argmin(sound))
        raise SpecError(
            f"{what}: scale {scales[index]} and zero point {zero_points[index]}, expected a finite scale above 0 and a "
            f"zero point from {low} to {high}"
        )
    return tuple(scales.tolist()), tuple(zero_points.tolist()), axis


def _data(content: _Content, shape: tuple[int, ...], dtype: str, what: str) -> NDArray[Any] | None:
    if content.raw is None:
        return None
    item = np.dtype(dtype).newbyteorder("<")
    if content.raw.size != prod(shape) * item.itemsize:
        raise SpecError(
            f"{what}: {content.raw.size:,} bytes of data, expected {prod(shape) * item.itemsize:,} for {dtype} {shape}"
        )
    return content.raw.view(item).reshape(shape)


def _code(table: Table) -> str:
    """Name of an operator; of a custom one ``CUSTOM`` and its own name."""
    code = max(int(table.number(0, "byte")), int(table.number(3, "int")))
    name = names("BuiltinOperator").get(code)
    if name is None:
        raise SpecError(f"model: builtin operator {code} is not in the schema")
    return f"CUSTOM {table.text(1)[:60]!r}" if name == "CUSTOM" else name


def _bare_op(number: int, table: Table, codes: Sequence[str], tensors: _Tensors) -> Op:
    """Read an operator of any kind, without its options."""
    index = table.number(0, "uint")
    if index >= len(codes):
        raise SpecError(f"operator {number}: code {index}, expected one of the {len(codes)} of the model")
    what = f"operator {number} {codes[index]}"
    inputs = _numbers(table, 1, tensors, f"{what}: its inputs", lowest=ABSENT)
    outputs = _numbers(table, 2, tensors, f"{what}: its outputs")
    return Op(number=number, kind=codes[index], inputs=inputs, outputs=outputs)


def _needed(graph: Graph) -> list[Op]:
    """Give the operators that the outputs depend on.

    A RESHAPE has no need of numbers that are computed: as in TFLite Micro its output's own shape counts. So the SHAPE,
    PACK and the like that converters put before it for the sake of a batch of any size fall away.

    Raises: SpecError where none is left.
    """
    wanted, needed = set(graph.outputs), []
    for op in reversed(graph.ops):
        if not wanted.isdisjoint(op.outputs):
            has_numbers = op.kind == "RESHAPE" and len(op.inputs) == 2 and op.inputs[1] != ABSENT
            computed = has_numbers and graph.tensors[op.inputs[1]].data is None
            needed.append(replace(op, inputs=op.inputs[:1]) if computed else op)
            wanted.update(needed[-1].inputs)
    if not needed:
        raise SpecError("model: no operator leads to its outputs")
    return needed[::-1]


def _with_options(op: Op, table: Table, tensors: _Tensors) -> Op:
    """Complete an operator. Raises: UnsupportedOpError where it, or a tensor of it, is beyond the engine."""
    if op.kind not in KINDS:
        options = names("BuiltinOptions").get(table.number(3, "ubyte"), "unknown options")
        hint = "; convert with a fixed batch of one example" if op.kind == "SHAPE" else ""
        raise UnsupportedOpError(
            f"{describe(op, tensors.all)}, {options}: not supported{hint}; supported are {', '.join(KINDS)}"
        )
    whole = replace(op, options=_options(table, op.kind, f"operator {op.number} {op.kind}"))
    _refuse(tensors, (*op.inputs, *op.outputs), describe(whole, tensors.all))
    return whole


def _numbers(table: Table, slot: int, tensors: _Tensors, what: str, *, lowest: int = 0) -> tuple[int, ...]:
    numbers = tuple(table.vector(slot, "<i4").tolist())
    for number in numbers:
        if not lowest <= number < len(tensors.all):
            raise SpecError(f"{what} hold tensor {number}, expected {lowest} to {len(tensors.all) - 1}")
    return numbers


def _refuse(tensors: _Tensors, numbers: Iterable[int], what: str) -> None:
    """Raise: UnsupportedOpError where one of these tensors is beyond the engine."""
    for number in numbers:
        if number in tensors.complaints:
            tensor = tensors.all[number]
            raise UnsupportedOpError(f"{what}: {label(number, tensor.name)} {tensors.complaints[number]}")


def _options(table: Table, kind: str, what: str) -> dict[str, Any]:
    """Read an operator's options; enumerations by name, lists as tuples, the schema's defaults where there are none."""
    wanted = KINDS[kind].options
    if wanted is None or not fields(wanted):
        return {}
    given = names("BuiltinOptions").get(table.number(3, "ubyte"), "unknown")
    if given not in (wanted, "NONE"):
        raise SpecError(f"{what}: options of type {given}, expected {wanted}")
    options = table.table(4) if given == wanted else None
    return {
        name: _option(options, slot, form, default, f"{what}: {name}")
        for slot, (name, form, default) in enumerate(fields(wanted))
    }


def _option(options: Table | None, slot: int, form: str, default: Any, what: str) -> Any:
    if form == "[int]":
        values = () if options is None else tuple(options.vector(slot, "<i4").tolist())
        if len(values) > _ANY_AXES:
            raise SpecError(f"{what} has {len(values)} entries, expected {_ANY_AXES} at most")
        return values
    stored = "byte" if form in ENUMS else form
    value = _PYTHON[stored](default if options is None else options.number(slot, stored, default))
    if form in ENUMS and value not in names(form):
        raise SpecError(f"{what} is {value}, expected one of {sorted(names(form).values())}")
    if not math.isfinite(value):
        raise SpecError(f"{what} is {value}, expected a finite number")
    return names(form)[value] if form in ENUMS else value
