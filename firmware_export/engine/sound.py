"""What a graph must fulfil before anything is computed from it: order, types, quantisation and shapes.

No sound model: SpecError. Sound, but beyond the engine: UnsupportedOpError.
"""

from collections.abc import Iterator, Sequence

from firmware_export.engine.graph import ABSENT, Graph, Op, Tensor
from firmware_export.engine.limits import check_limits
from firmware_export.engine.opset import KINDS
from firmware_export.engine.shapes import check_options, check_shapes
from hybrid.errors import SpecError, UnsupportedOpError

_CONSTANT_TYPES = {"w": "int8", "b": "int32", "i": "int32", "c": "int8"}
_RIM_TYPES = ("float32", "uint8")
_SAME_QUANTISATION = ("AVERAGE_POOL_2D", "CONCATENATION", "MAX_POOL_2D", "PADV2")
_POOL_SCALE_TOLERANCE = 1e-6
_TAKE_NONE = ("CONV_2D", "FULLY_CONNECTED")
"""Where TFLite Micro does not abort on a last input of number -1."""
_OUTPUT_SCALES = {"SOFTMAX": (1 / 256,)}
_OUTPUT_ZERO_POINTS = {"SOFTMAX": (-128,), "LOGISTIC": (-128,)}


def label(number: int, name: str) -> str:
    """Name a tensor in one line, however long or odd its name is."""
    return f"tensor {number} {name[:60]!r}"


def describe(op: Op, tensors: Sequence[Tensor]) -> str:
    """Name an operator with its options and what it makes, in one line."""
    made = ", ".join(f"{label(number, tensors[number].name)} {tensors[number].shape}" for number in op.outputs[:4])
    options = "".join(f", {name}={value}" for name, value in op.options.items())
    return f"operator {op.number} {op.kind} (makes {made or 'nothing'}{options})"


def check_meaning(graph: Graph) -> None:
    """Check types, quantisation and shapes of a graph whose order is sound. Raises: SpecError; UnsupportedOpError."""
    _check_rim(graph)
    outside = frozenset(graph.inputs)
    for op in graph.ops:
        what = describe(op, graph.tensors)
        check_options(op, what)
        _check_types(op, graph, outside, what)
        _check_quantisation(op, graph, what)
        check_shapes(op, graph.tensors, what)
        given = [graph.tensors[number] for number in op.inputs if number != ABSENT]
        check_limits(op, given, graph.tensors[op.outputs[0]], what)


def check_flow(graph: Graph) -> None:
    """Check that each tensor is constant, an input, or made once by an earlier operator, before it is read.

    Raises: SpecError.
    """
    constants = {tensor.number for tensor in graph.tensors if tensor.data is not None}
    if not graph.ops or not graph.inputs or not graph.outputs:
        counts = f"{len(graph.ops)} operators, {len(graph.inputs)} inputs, {len(graph.outputs)} outputs"
        raise SpecError(f"model: has {counts}, expected at least one of each")
    if len(set(graph.inputs)) != len(graph.inputs) or constants & set(graph.inputs):
        raise SpecError(f"model: inputs {graph.inputs[:8]}, expected each once, and none that is constant")
    known = constants | set(graph.inputs)
    for op in graph.ops:
        missing, again = set(op.inputs) - known - {ABSENT}, set(op.outputs) & known
        if missing or again or not op.outputs or len(set(op.outputs)) < len(op.outputs):
            raise SpecError(
                f"{describe(op, graph.tensors)}: reads tensors {sorted(missing)[:8]} before they are made, makes "
                f"{sorted(again)[:8]} again, has outputs {op.outputs[:8]}; expected none, none, each once"
            )
        known.update(op.outputs)
    if set(graph.outputs) - known:
        raise SpecError(f"model: outputs {sorted(set(graph.outputs) - known)[:8]} are never made")


def _check_rim(graph: Graph) -> None:
    for number in (*graph.inputs, *graph.outputs):
        tensor = graph.tensors[number]
        if tensor.dtype not in ("int8", *_RIM_TYPES):
            raise UnsupportedOpError(
                f"model: input or output {label(number, tensor.name)} is {tensor.dtype}, supported are int8, and "
                f"{' and '.join(_RIM_TYPES)} beside a QUANTIZE or DEQUANTIZE"
            )
        if tensor.data is not None:
            raise UnsupportedOpError(f"model: output {label(number, tensor.name)} is constant, supported are made ones")


def roles(op: Op, what: str) -> Iterator[tuple[str, int]]:
    """Give each input's role, as in `Kind.reads`, and number, without absent ones. Raises: SpecError."""
    words = KINDS[op.kind].reads.split()
    if words[0].endswith("*"):
        words = ["x"] * max(1, len(op.inputs))
    least = sum(not word.endswith("?") for word in words)
    if not least <= len(op.inputs) <= len(words):
        raise SpecError(f"{what}: has {len(op.inputs)} inputs, expected {least} to {len(words)}")
    for word, number in zip(words, op.inputs, strict=False):
        if number == ABSENT and not (word.endswith("?") and op.kind in _TAKE_NONE):
            raise SpecError(f"{what}: an input is left out that must be given")
        if number != ABSENT:
            yield word[0], number


def _check_types(op: Op, graph: Graph, outside: frozenset[int], what: str) -> None:
    for role, number in roles(op, what):
        tensor = graph.tensors[number]
        if role != "x" and tensor.data is None:
            raise UnsupportedOpError(f"{what}: {label(number, tensor.name)} is computed, supported are constants")
        allowed = (_CONSTANT_TYPES[role],) if role != "x" else _read_types(op, number in outside)
        _expect_type(tensor, allowed, what)
    for number in op.outputs:
        allowed = {"DEQUANTIZE": ("float32",), "QUANTIZE": ("int8", "uint8")}.get(op.kind, ("int8",))
        _expect_type(graph.tensors[number], allowed, what)


def _read_types(op: Op, from_outside: bool) -> tuple[str, ...]:
    """Float32 and uint8 come in only from outside, through QUANTIZE."""
    return ("int8", *_RIM_TYPES) if op.kind == "QUANTIZE" and from_outside else ("int8",)


def _expect_type(tensor: Tensor, allowed: tuple[str, ...], what: str) -> None:
    if tensor.dtype not in allowed:
        raise UnsupportedOpError(
            f"{what}: {label(tensor.number, tensor.name)} is {tensor.dtype}, supported is {' or '.join(allowed)} here; "
            f"convert the model in full int8"
        )


def _check_quantisation(op: Op, graph: Graph, what: str) -> None:
    tensors = [graph.tensors[number] for role, number in roles(op, what) if role in "xwc"]
    for tensor in (*tensors, *(graph.tensors[number] for number in op.outputs)):
        if not tensor.scales and tensor.dtype != "float32" and not KINDS[op.kind].moves_only:
            raise SpecError(f"{what}: {label(tensor.number, tensor.name)} has no scale and zero point")
        _check_axis(op, tensor, what)
    outputs = [graph.tensors[number] for number in op.outputs]
    if op.kind in _SAME_QUANTISATION:
        for tensor in tensors[-1:] if op.kind == "PADV2" else tensors:
            _expect_same(op, tensor, outputs[0], what)
    scales = _OUTPUT_SCALES.get(op.kind, outputs[0].scales)
    zero_points = _OUTPUT_ZERO_POINTS.get(op.kind, outputs[0].zero_points)
    if (outputs[0].scales, outputs[0].zero_points) != (scales, zero_points):
        found = f"scale {outputs[0].scales}, zero point {outputs[0].zero_points}"
        raise UnsupportedOpError(f"{what}: {found}, supported is scale {scales}, zero point {zero_points}")


def _check_axis(op: Op, tensor: Tensor, what: str) -> None:
    """Only weights have several scales, one per output channel."""
    axis = 3 if op.kind == "DEPTHWISE_CONV_2D" else 0
    is_weights = tensor.data is not None and "w" in KINDS[op.kind].reads and tensor.number == op.inputs[1]
    if len(tensor.scales) > 1 and not (is_weights and tensor.axis == axis):
        raise UnsupportedOpError(
            f"{what}: {label(tensor.number, tensor.name)} has {len(tensor.scales)} scales along axis {tensor.axis}, "
            f"supported is {f'1, or one along axis {axis}' if is_weights else 1}"
        )


def _expect_same(op: Op, tensor: Tensor, output: Tensor, what: str) -> None:
    """TFLite Micro requantises neither what is joined, pooled, nor padded with; pools' scales may differ by a hair."""
    tolerance = _POOL_SCALE_TOLERANCE if op.kind.endswith("POOL_2D") else 0.0
    near = all(abs(one - other) <= tolerance for one, other in zip(tensor.scales, output.scales, strict=False))
    exact = (tensor.zero_points, len(tensor.scales)) == (output.zero_points, len(output.scales))
    if not (near and exact):
        raise UnsupportedOpError(
            f"{what}: {label(tensor.number, tensor.name)} has scale {tensor.scales}, zero point {tensor.zero_points}, "
            f"supported are the output's: {output.scales}, {output.zero_points}"
        )
