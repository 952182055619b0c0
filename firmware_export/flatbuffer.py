"""A .tflite as plain values: operators in order, tensors with shape, type and quantisation, the bytes of weights.

The format is TensorFlow's ``schema.fbs`` (version 3, file identifier ``TFL3``), read with the
classes of `hybrid.schema`.
"""

import struct
from dataclasses import dataclass
from typing import Any

from hybrid.errors import BundleError, UnsupportedOpError
from hybrid.flatbuffers import OUTPUTS
from hybrid.schema import schema


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One tensor; `scales` and `zero_points` have one entry, or one per channel."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    buffer: int
    """Constants of equal content may share one."""
    constant_bytes: int
    """Size of its constant data; 0 for an activation."""

    @property
    def num_values(self) -> int:
        """Number of values, the product of `shape`."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One step of the graph; an absent optional input is None."""

    name: str
    """Name in schema.fbs, such as ``CONV_2D``; a custom operator's own name."""
    version: int
    is_custom: bool
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """The only subgraph of a flatbuffer."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def op_names(self) -> tuple[str, ...]:
        """The operators used, each once, sorted."""
        return tuple(sorted({op.name for op in self.operators}))

    @property
    def weight_bytes(self) -> int:
        """Bytes of all constants, a shared buffer once."""
        return sum({tensor.buffer: tensor.constant_bytes for tensor in self.tensors}.values())


@dataclass(frozen=True, kw_only=True)
class StageSignature:
    """What a stage's net reads and says; its outputs come in the order of `OUTPUTS`, `trunk` may be missing."""

    input: Tensor
    logits: Tensor
    features: Tensor
    trunk: Tensor | None


def read_graph(flatbuffer: bytes) -> Graph:
    """Read the graph of a .tflite.

    Raises: BundleError where the bytes are no .tflite; UnsupportedOpError where it has several subgraphs.
    """
    model = _unpack(flatbuffer)
    if len(model.subgraphs) != 1:
        raise UnsupportedOpError(
            f"model: has {len(model.subgraphs)} subgraphs, allowed 1; convert without control flow"
        )
    graph = model.subgraphs[0]
    tensors = tuple(_tensor(t, model.buffers) for t in graph.tensors)
    return Graph(
        tensors=tensors,
        operators=tuple(_operator(op, model.operatorCodes, tensors) for op in graph.operators),
        inputs=tuple(tensors[i] for i in graph.inputs),
        outputs=tuple(tensors[i] for i in graph.outputs),
    )


def stage_signature(graph: Graph) -> StageSignature:
    """Find what a stage's net reads and says.

    Raises: BundleError where the model has not one int8 input ``(1, ...)`` and int8 outputs ``(1, ...)`` named as
    `hybrid.flatbuffers.named_outputs` does.
    """
    inputs, outputs = graph.inputs, graph.outputs
    if len(inputs) != 1 or inputs[0].shape[:1] != (1,):
        shapes = [tensor.shape for tensor in inputs]
        raise BundleError(f"model: inputs {shapes}, expected one (1, height, width, channels) or one trunk (1, ...)")
    names = tuple(tensor.name for tensor in outputs)
    if names not in (OUTPUTS[:2], OUTPUTS) or any(tensor.shape[:1] != (1,) for tensor in outputs):
        found = [f"{tensor.name} {tensor.shape}" for tensor in outputs]
        raise BundleError(f"model: outputs {found}, expected logits, features and perhaps trunk, each (1, ...)")
    for tensor in (*inputs, *outputs):
        if tensor.dtype != "INT8":
            raise BundleError(f"model: tensor {tensor.name} is {tensor.dtype}, expected INT8; quantise in full int8")
    logits, features, *trunk = outputs
    return StageSignature(input=inputs[0], logits=logits, features=features, trunk=trunk[0] if trunk else None)


def _unpack(flatbuffer: bytes) -> Any:
    s = schema()
    if flatbuffer[4:8] != b"TFL3":
        raise BundleError(f"model: bytes 4..7 are {flatbuffer[4:8]!r}, expected b'TFL3'; give a .tflite file")
    try:
        return s.ModelT.InitFromObj(s.Model.GetRootAsModel(flatbuffer, 0))
    except (struct.error, IndexError, ValueError, TypeError) as exc:
        raise BundleError(f"model: damaged .tflite ({exc}); convert it again") from exc


def _names(enum: type) -> dict[int, str]:
    return {value: name for name, value in vars(enum).items() if isinstance(value, int)}


def _text(raw: Any) -> str:
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw or "")


def _tensor(raw: Any, buffers: Any) -> Tensor:
    quantisation, data = raw.quantization, buffers[raw.buffer].data
    return Tensor(
        name=_text(raw.name),
        shape=() if raw.shape is None else tuple(int(size) for size in raw.shape),
        dtype=_names(schema().TensorType)[raw.type],
        scales=_tuple(quantisation and quantisation.scale, float),
        zero_points=_tuple(quantisation and quantisation.zeroPoint, int),
        buffer=raw.buffer,
        constant_bytes=0 if data is None else len(data),
    )


def _tuple(values: Any, kind: type) -> tuple[Any, ...]:
    return () if values is None else tuple(kind(value) for value in values)


def _operator(raw: Any, codes: Any, tensors: tuple[Tensor, ...]) -> Operator:
    code = codes[raw.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    builtins = schema().BuiltinOperator
    is_custom = number == builtins.CUSTOM
    return Operator(
        name=_text(code.customCode) if is_custom else _names(builtins)[number],
        version=code.version,
        is_custom=is_custom,
        inputs=tuple(None if i < 0 else tensors[i] for i in _tuple(raw.inputs, int)),
        outputs=tuple(tensors[i] for i in _tuple(raw.outputs, int)),
    )
