"""Put a router onto an int8 flatbuffer: the edge's own operators stay byte for byte, the router's follow them.

Grafting, rather than converting edge and router together, keeps the promise that the router was fitted on exactly the
int8 features and logits that the device computes. The result has the outputs ``logits`` and ``router_score``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.artifacts import Affine, Floats, NetOutputs
from hybrid.errors import UnsupportedOpError
from hybrid.router import MaxSoftmax, Router, RouterNet
from hybrid.schema import schema

PROBABILITY = Affine(scale=1.0 / 256.0, zero_point=-128)
"""The only quantisation that TFLite allows for the output of an int8 SOFTMAX."""

SCORE_TAIL = 0.002
"""Share of scores at either end that may saturate, so that the int8 steps are spent where scores lie."""


@dataclass(frozen=True, kw_only=True)
class EdgeOutputs:
    """Tensor numbers and quantisation of an edge flatbuffer's two outputs."""

    logits: int
    features: int
    logits_affine: Affine
    features_affine: Affine


class Graph:
    """A flatbuffer under construction: one subgraph that tensors and operators are appended to."""

    def __init__(self, flatbuffer: bytes) -> None:
        self._s = schema()
        self._model = self._s.ModelT.InitFromObj(self._s.Model.GetRootAsModel(flatbuffer, 0))
        self._subgraph = self._model.subgraphs[0]

    def edge_outputs(self) -> EdgeOutputs:
        """Find ``logits`` and ``features`` by the names in the signature.

        Raises: UnsupportedOpError where the model has no such outputs.
        """
        signatures = self._model.signatureDefs or []
        found = {o.name.decode(): o.tensorIndex for signature in signatures for o in signature.outputs}
        numbers = {
            wanted: [number for name, number in found.items() if name.endswith(wanted)]
            for wanted in ("logits", "features")
        }
        if not all(numbers.values()):
            raise UnsupportedOpError(f"edge model: outputs {sorted(found)}, expected logits and features")
        logits, features = numbers["logits"][0], numbers["features"][0]
        return EdgeOutputs(
            logits=logits,
            features=features,
            logits_affine=self.affine(logits),
            features_affine=self.affine(features),
        )

    def affine_of(self, name: str) -> Affine:
        """Quantisation of the tensor with this name, such as ``router_score``."""
        names = [tensor.name.decode() for tensor in self._subgraph.tensors]
        return self.affine(names.index(name))

    def affine(self, tensor: int) -> Affine:
        """Quantisation of a per-tensor quantised tensor."""
        quantization = self._subgraph.tensors[tensor].quantization
        return Affine(scale=float(quantization.scale[0]), zero_point=int(quantization.zeroPoint[0]))

    def variable(self, name: str, width: int, affine: Affine) -> int:
        """Append an int8 activation of shape ``(1, width)``; returns its number."""
        return self._tensor(name, (1, width), self._s.TensorType.INT8, affine, buffer=0)

    def constant(self, name: str, values: NDArray[Any], affine: Affine | None) -> int:
        """Append constant `values` (int8 or int32); returns the tensor's number."""
        kind = {"int8": self._s.TensorType.INT8, "int32": self._s.TensorType.INT32}[values.dtype.name]
        buffer = self._s.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self._model.buffers.append(buffer)
        return self._tensor(name, values.shape, kind, affine, buffer=len(self._model.buffers) - 1)

    def _tensor(self, name: str, shape: Sequence[int], kind: int, affine: Affine | None, *, buffer: int) -> int:
        tensor = self._s.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), kind, buffer
        tensor.hasRank = True
        if affine is not None:
            tensor.quantization = self._s.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [affine.scale], [affine.zero_point]
        self._subgraph.tensors.append(tensor)
        return len(self._subgraph.tensors) - 1

    def operator(self, name: str, version: int, inputs: Sequence[int], output: int, **options: Any) -> None:
        """Append an operator by its upper-case schema name with the fields of its options table."""
        code = getattr(self._s.BuiltinOperator, name)
        kind = {"REDUCE_MAX": "ReducerOptions"}.get(name) or _camel(name) + "Options"
        operator = self._s.OperatorT()
        operator.opcodeIndex = self._opcode(code, version)
        operator.inputs, operator.outputs = list(inputs), [output]
        operator.builtinOptionsType = getattr(self._s.BuiltinOptions, kind)
        operator.builtinOptions = getattr(self._s, kind + "T")()
        for key, value in options.items():
            setattr(operator.builtinOptions, key, value)
        self._subgraph.operators.append(operator)

    def _opcode(self, code: int, version: int) -> int:
        for index, known in enumerate(self._model.operatorCodes):
            if known.builtinCode == code:
                known.version = max(known.version, version)
                return index
        new = self._s.OperatorCodeT()
        new.builtinCode, new.deprecatedBuiltinCode, new.version = code, min(code, 127), version
        self._model.operatorCodes.append(new)
        return len(self._model.operatorCodes) - 1

    def finish(self, outputs: dict[str, int]) -> bytes:
        """Serialise with these outputs, in this order, under these names."""
        import flatbuffers

        self._subgraph.outputs = list(outputs.values())
        for name, number in outputs.items():
            self._subgraph.tensors[number].name = name
        for signature in self._model.signatureDefs or []:
            signature.outputs = [self._map(name, number) for name, number in outputs.items()]
        builder = flatbuffers.Builder(0)
        builder.Finish(self._model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def _map(self, name: str, number: int) -> Any:
        entry = self._s.TensorMapT()
        entry.name, entry.tensorIndex = name, number
        return entry


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def two_outputs(flatbuffer: bytes) -> bytes:
    """The edge alone with its outputs in a known order, ``logits`` then ``features``."""
    graph = Graph(flatbuffer)
    outputs = graph.edge_outputs()
    return graph.finish({"logits": outputs.logits, "features": outputs.features})


def dequantise(stored: NDArray[np.int8], affine: Affine) -> Floats:
    """``scale * (stored - zero_point)``."""
    return ((stored.astype(np.float32) - affine.zero_point) * np.float32(affine.scale)).astype(np.float32)


def graft(flatbuffer: bytes, router: Router, outputs: NetOutputs) -> bytes:
    """Append `router` to an edge flatbuffer; its int8 ranges are those on the int8 edge's dequantised `outputs`."""
    graph = Graph(flatbuffer)
    edge = graph.edge_outputs()
    if isinstance(router, MaxSoftmax):
        axis = _reduction_axis(graph)
        score = _max_probability(graph, "router_score", edge.logits, outputs.logits.shape[1], router.beta, axis)
    else:
        score = _net(graph, edge, router, outputs)
    return graph.finish({"logits": edge.logits, "router_score": score})


def _net(graph: Graph, edge: EdgeOutputs, router: RouterNet, outputs: NetOutputs) -> int:
    """FULLY_CONNECTED on features and on confidences, ADD with ReLU, FULLY_CONNECTED to the score."""
    confidence = _confidences(graph, edge.logits, outputs.logits.shape[1], router.betas)
    left, right = router.hidden(outputs)
    hidden = _spanning(np.maximum(left + right, 0.0))
    zeros = np.zeros_like(router.hidden_bias)
    summands = [
        _dense(graph, "router/features", (edge.features, edge.features_affine), router.feature_weights, zeros, left),
        _dense(
            graph, "router/confidences", (confidence, PROBABILITY), router.confidence_weights, router.hidden_bias, right
        ),
    ]
    total = graph.variable("router/hidden", router.out.size, hidden)
    graph.operator("ADD", 2, summands, total, fusedActivationFunction=schema().ActivationFunctionType.RELU)
    span = np.quantile(router.score(outputs), [SCORE_TAIL, 1.0 - SCORE_TAIL])
    bias = np.array([router.out_bias], np.float32)
    return _dense(graph, "router_score", (total, hidden), router.out[:, None], bias, span)


def score_threshold(flatbuffer: bytes, stored: int) -> float:
    """The real score at which a grafted model's int8 score reaches `stored`."""
    affine = Graph(flatbuffer).affine_of("router_score")
    return affine.scale * (stored - 0.5 - affine.zero_point)


def _confidences(graph: Graph, logits: int, num_classes: int, betas: Sequence[float]) -> int:
    axis = _reduction_axis(graph)
    parts = [
        _max_probability(graph, f"router/confidence_{index}", logits, num_classes, beta, axis)
        for index, beta in enumerate(betas)
    ]
    joined = graph.variable("router/confidences_joined", len(parts), PROBABILITY)
    graph.operator("CONCATENATION", 2, parts, joined, axis=1)
    return joined


def _reduction_axis(graph: Graph) -> int:
    return graph.constant("router/axis", np.array([1], np.int32), None)


def _max_probability(graph: Graph, name: str, logits: int, num_classes: int, beta: float, axis: int) -> int:
    probabilities = graph.variable(f"{name}/softmax", num_classes, PROBABILITY)
    graph.operator("SOFTMAX", 2, [logits], probabilities, beta=beta)
    largest = graph.variable(name, 1, PROBABILITY)
    graph.operator("REDUCE_MAX", 2, [probabilities, axis], largest, keepDims=True)
    return largest


def _dense(graph: Graph, name: str, source: tuple[int, Affine], weights: Floats, bias: Floats, spanned: Floats) -> int:
    """FULLY_CONNECTED, symmetric per-tensor int8 weights ``(inputs, outputs)``, output range that of `spanned`."""
    scale = max(float(np.abs(weights).max()), 1e-9) / 127.0
    bias_scale = scale * source[1].scale
    stored = np.clip(np.rint(weights.T / scale), -127, 127).astype(np.int8)
    output = graph.variable(name, weights.shape[1], _spanning(spanned))
    inputs = [
        source[0],
        graph.constant(f"{name}/weights", stored, Affine(scale=scale, zero_point=0)),
        graph.constant(
            f"{name}/bias", np.rint(bias / bias_scale).astype(np.int32), Affine(scale=bias_scale, zero_point=0)
        ),
    ]
    graph.operator("FULLY_CONNECTED", 4, inputs, output)
    return output


def _spanning(values: Floats) -> Affine:
    """The int8 quantisation that spans `values` and represents zero exactly."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    scale = max(high - low, 1e-6) / 255.0
    return Affine(scale=scale, zero_point=int(np.clip(np.rint(-128.0 - low / scale), -128, 127)))
