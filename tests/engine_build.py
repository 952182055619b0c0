"""Models written down as graphs of plain values and packed into flatbuffers, without TensorFlow."""

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np

from firmware_export.engine.graph import Graph, Op, Tensor
from hybrid.schema import schema

OPTIONS = {
    "ADD": "Add",
    "AVERAGE_POOL_2D": "Pool2D",
    "CONCATENATION": "Concatenation",
    "CONV_2D": "Conv2D",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2D",
    "DEQUANTIZE": "Dequantize",
    "EXPAND_DIMS": "ExpandDims",
    "FULLY_CONNECTED": "FullyConnected",
    "HARD_SWISH": "HardSwish",
    "LEAKY_RELU": "LeakyRelu",
    "MAX_POOL_2D": "Pool2D",
    "MEAN": "Reducer",
    "MUL": "Mul",
    "PAD": "Pad",
    "PADV2": "PadV2",
    "QUANTIZE": "Quantize",
    "RESHAPE": "Reshape",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighbor",
    "SOFTMAX": "Softmax",
    "SPLIT": "Split",
    "SQUEEZE": "Squeeze",
    "STRIDED_SLICE": "StridedSlice",
    "SUB": "Sub",
    "TRANSPOSE": "Transpose",
}
"""Kinds of operators whose options have a table; others (such as RELU) have none."""
_ENUMS = {
    "padding": "Padding",
    "fused_activation_function": "ActivationFunctionType",
    "weights_format": "FullyConnectedOptionsWeightsFormat",
    "quantized_bias_type": "TensorType",
}


class Draft:
    """A graph in the making; tensors are named by their numbers."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.ops: list[Op] = []
        self.inputs: list[int] = []

    def tensor(self, shape: Sequence[int], dtype: str = "int8", **more: Any) -> int:
        """Add a tensor with the fields of `Tensor`; ``scale`` and ``zero_point`` stand for one of each."""
        if "scale" in more:
            more["scales"] = (float(np.float32(more.pop("scale"))),)
            more["zero_points"] = (int(more.pop("zero_point", 0)),)
        number = len(self.tensors)
        shape = tuple(int(size) for size in shape)
        name = more.pop("name", f"t{number}")
        self.tensors.append(Tensor(number=number, name=name, shape=shape, dtype=dtype, **more))
        return number

    def input(self, shape: Sequence[int], dtype: str = "int8", **more: Any) -> int:
        """Add an input of the graph."""
        self.inputs.append(self.tensor(shape, dtype, **more))
        return self.inputs[-1]

    def constant(self, values: Any, dtype: str = "int32", **more: Any) -> int:
        """Add a constant."""
        data = np.asarray(values, dtype)
        return self.tensor(data.shape, dtype, data=data, **more)

    def op(self, kind: str, inputs: Sequence[int], outputs: Sequence[int] | int, **options: Any) -> Any:
        """Add an operator with options by the schema's names; gives the outputs back."""
        made = (outputs,) if isinstance(outputs, int) else tuple(outputs)
        self.ops.append(Op(number=len(self.ops), kind=kind, inputs=tuple(inputs), outputs=made, options=options))
        return outputs

    def graph(self, outputs: Sequence[int] | int) -> Graph:
        """Give the finished graph."""
        outputs = (outputs,) if isinstance(outputs, int) else tuple(outputs)
        return Graph(tensors=tuple(self.tensors), ops=tuple(self.ops), inputs=tuple(self.inputs), outputs=outputs)

    def flatbuffer(self, outputs: Sequence[int] | int) -> bytes:
        """Give the finished graph as a flatbuffer."""
        return flatbuffer(self.graph(outputs))


def single_op(kind: str, inputs: Sequence[dict[str, Any]], output: dict[str, Any], **options: Any) -> bytes:
    """Pack a model of one operator; each tensor is given by the arguments of `Draft.tensor`, constants by ``data``."""
    draft = Draft()
    numbers = []
    for given in inputs:
        data = given.get("data")
        numbers.append(draft.input(**given) if data is None else draft.tensor(**{"shape": data.shape, **given}))
    return draft.flatbuffer(draft.op(kind, numbers, draft.tensor(**output), **options))


def two_layers() -> Graph:
    """A convolution (1, 4, 4, 2) to (1, 2, 2, 3), per channel and with a bias, then RELU."""
    draft = Draft()
    x = draft.input((1, 4, 4, 2), scale=0.5, zero_point=-3, name="image")
    three = {"scales": (0.5, 0.25, 0.125), "zero_points": (0, 0, 0)}
    weights = draft.tensor((3, 3, 3, 2), data=np.ones((3, 3, 3, 2), np.int8), name="weights", **three)
    bias = draft.constant([1, 2, 3], name="bias", **three)
    y = draft.tensor((1, 2, 2, 3), scale=2.0, name="middle")
    draft.op("CONV_2D", [x, weights, bias], y, padding="VALID", stride_w=1, stride_h=1)
    return draft.graph(draft.op("RELU", [y], draft.tensor((1, 2, 2, 3), scale=2.0, zero_point=-128, name="last")))


def flatbuffer(graph: Graph) -> bytes:
    """Pack a graph; what `firmware_export.engine.reader.read` turns back into an equal one."""
    return packed(model_object(graph))


def packed(model: Any) -> bytes:
    """Pack the schema's object form of a model."""
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def model_object(graph: Graph) -> Any:
    """Give a graph in the schema's object interface, for tests that damage it before they pack it."""
    s = schema()
    model, subgraph = s.ModelT(), s.SubGraphT()
    model.version, model.subgraphs, model.buffers = 3, [subgraph], [s.BufferT()]
    kinds = list(dict.fromkeys(op.kind for op in graph.ops))
    model.operatorCodes = [_code(kind) for kind in kinds]
    subgraph.tensors = [_tensor(tensor, model.buffers) for tensor in graph.tensors]
    subgraph.operators = [_operator(op, kinds.index(op.kind)) for op in graph.ops]
    subgraph.inputs, subgraph.outputs = list(graph.inputs), list(graph.outputs)
    return model


def _code(kind: str) -> Any:
    code = schema().OperatorCodeT()
    code.builtinCode = getattr(schema().BuiltinOperator, kind)
    code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1
    return code


def _tensor(tensor: Tensor, buffers: list[Any]) -> Any:
    s = schema()
    made = s.TensorT()
    made.name, made.shape, made.hasRank = tensor.name, list(tensor.shape), True
    made.type, made.buffer = getattr(s.TensorType, tensor.dtype.upper()), 0
    if tensor.data is not None:
        made.buffer = len(buffers)
        buffers.append(s.BufferT())
        buffers[-1].data = np.frombuffer(tensor.data.tobytes(), np.uint8)
    if tensor.scales:
        made.quantization = s.QuantizationParametersT()
        made.quantization.scale, made.quantization.zeroPoint = list(tensor.scales), list(tensor.zero_points)
        made.quantization.quantizedDimension = tensor.axis
    return made


def _operator(op: Op, opcode: int) -> Any:
    s = schema()
    made = s.OperatorT()
    made.opcodeIndex, made.inputs, made.outputs = opcode, list(op.inputs), list(op.outputs)
    if op.kind in OPTIONS:
        table = f"{OPTIONS[op.kind]}Options"
        made.builtinOptionsType = getattr(s.BuiltinOptions, table)
        made.builtinOptions = getattr(s, f"{table}T")()
        for name, value in op.options.items():
            _set(made.builtinOptions, name, value)
    return made


def _set(options: Any, name: str, value: Any) -> None:
    first, *more = name.split("_")
    field = first + "".join(part.capitalize() for part in more)
    if not hasattr(options, field):
        raise AttributeError(f"{type(options).__name__} has no {field}")
    value = getattr(getattr(schema(), _ENUMS[name]), value) if name in _ENUMS else value
    setattr(options, field, list(value) if isinstance(value, tuple) else value)
