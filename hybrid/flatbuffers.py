"""Int8 flatbuffers read and edited: named outputs in a known order, quantisations, and a bridge between two nets.

The outputs of each net on the device are ``logits``, ``features`` and, where a later net goes on from it, ``trunk``.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.artifacts import Affine, Floats
from hybrid.errors import UnsupportedOpError
from hybrid.schema import schema

OUTPUTS = ("logits", "features", "trunk")
"""In this order; ``trunk`` may be missing."""


@dataclass(frozen=True, kw_only=True)
class EdgeOutputs:
    """Tensor numbers and quantisation of an edge flatbuffer's outputs; `trunk` is None where there is none."""

    logits: int
    features: int
    trunk: int | None
    logits_affine: Affine
    features_affine: Affine
    trunk_affine: Affine | None


class Graph:
    """A flatbuffer of one subgraph, unpacked."""

    def __init__(self, flatbuffer: bytes) -> None:
        self._s = schema()
        self._model = self._s.ModelT.InitFromObj(self._s.Model.GetRootAsModel(flatbuffer, 0))
        self._subgraph = self._model.subgraphs[0]

    def edge_outputs(self) -> EdgeOutputs:
        """Find the outputs by the names in the signature.

        Raises: UnsupportedOpError where the model has no ``logits`` or no ``features``.
        """
        signatures = self._model.signatureDefs or []
        found = {o.name.decode(): o.tensorIndex for signature in signatures for o in signature.outputs}
        logits, features, trunk = (
            next((number for name, number in found.items() if name.endswith(wanted)), None) for wanted in OUTPUTS
        )
        if logits is None or features is None:
            raise UnsupportedOpError(f"edge model: outputs {sorted(found)}, expected logits and features")
        return EdgeOutputs(
            logits=logits,
            features=features,
            trunk=trunk,
            logits_affine=self.affine(logits),
            features_affine=self.affine(features),
            trunk_affine=None if trunk is None else self.affine(trunk),
        )

    @property
    def input(self) -> int:
        """Number of the only input."""
        (number,) = self._subgraph.inputs
        return int(number)

    def affine(self, tensor: int) -> Affine:
        """Quantisation of a per-tensor quantised tensor."""
        quantization = self._subgraph.tensors[tensor].quantization
        return Affine(scale=float(quantization.scale[0]), zero_point=int(quantization.zeroPoint[0]))

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Shape of a tensor."""
        return tuple(int(size) for size in self._subgraph.tensors[tensor].shape)

    def quantize_input(self, affine: Affine) -> None:
        """Let the model read another quantisation: a QUANTIZE operator in front brings it to the former one."""
        former = self.input
        tensor = self._s.TensorT()
        tensor.name, tensor.shape, tensor.type = "requantised_input", list(self.shape(former)), self._s.TensorType.INT8
        tensor.buffer, tensor.hasRank = 0, True
        tensor.quantization = self._s.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = [affine.scale], [affine.zero_point]
        self._subgraph.tensors.append(tensor)
        fresh = len(self._subgraph.tensors) - 1
        self._subgraph.operators.insert(0, self._quantize(former, fresh))
        self._subgraph.inputs = [fresh]
        for signature in self._model.signatureDefs or []:
            signature.inputs[0].tensorIndex = fresh

    def _quantize(self, output: int, source: int) -> Any:
        operator = self._s.OperatorT()
        operator.opcodeIndex = self._opcode(self._s.BuiltinOperator.QUANTIZE, 2)
        operator.inputs, operator.outputs = [source], [output]
        operator.builtinOptionsType = self._s.BuiltinOptions.QuantizeOptions
        operator.builtinOptions = self._s.QuantizeOptionsT()
        return operator

    def _opcode(self, code: int, version: int) -> int:
        for index, known in enumerate(self._model.operatorCodes):
            if known.builtinCode == code:
                known.version = max(known.version, version)
                return index
        new = self._s.OperatorCodeT()
        new.builtinCode, new.deprecatedBuiltinCode, new.version = code, min(code, 127), version
        self._model.operatorCodes.append(new)
        return len(self._model.operatorCodes) - 1

    def latest_first(self) -> None:
        """Number the tensors from the last one written to the first, then the rest; the net stays what it was.

        Of tensors of one size TFLite Micro's memory planner places the last one first. Where it begins at the net's
        end, a chain of shortcuts takes four of its tensors at a time; from the input on, three.
        """
        tensors, operators = self._subgraph.tensors, self._subgraph.operators
        written = {number: place for place, operator in enumerate(operators) for number in operator.outputs}
        order = sorted(range(len(tensors)), key=lambda number: -written.get(number, -1))
        place_of = {number: place for place, number in enumerate(order)} | {-1: -1}  # -1: an input that is left out
        self._subgraph.tensors = [tensors[number] for number in order]
        for part in (self._subgraph, *operators):
            part.inputs = [place_of[number] for number in part.inputs]
            part.outputs = [place_of[number] for number in part.outputs]
        for signature in self._model.signatureDefs or []:
            for entry in (*signature.inputs, *signature.outputs):
                entry.tensorIndex = place_of[entry.tensorIndex]

    def finish(self, outputs: dict[str, int] | None = None) -> bytes:
        """Serialise; with these outputs, in this order, under these names, where they are given."""
        import flatbuffers

        if outputs is not None:
            self._rename(outputs)
        builder = flatbuffers.Builder(0)
        builder.Finish(self._model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def _rename(self, outputs: dict[str, int]) -> None:
        """Name the outputs; the converter's names of all other tensors, up to 300 bytes each, are dropped."""
        self._subgraph.outputs = list(outputs.values())
        for tensor in self._subgraph.tensors:
            tensor.name = None
        for name, number in outputs.items():
            self._subgraph.tensors[number].name = name
        for signature in self._model.signatureDefs or []:
            signature.outputs = [self._map(name, number) for name, number in outputs.items()]

    def _map(self, name: str, number: int) -> Any:
        entry = self._s.TensorMapT()
        entry.name, entry.tensorIndex = name, number
        return entry


def named_outputs(flatbuffer: bytes) -> bytes:
    """Give the same net with its outputs in a known order under their names: logits, features and, if any, trunk.

    Its tensors come in the order in which TFLite Micro plans its memory better.
    """
    graph = Graph(flatbuffer)
    graph.latest_first()
    found = graph.edge_outputs()
    numbers = {"logits": found.logits, "features": found.features, "trunk": found.trunk}
    return graph.finish({name: number for name, number in numbers.items() if number is not None})


def continuing(flatbuffer: bytes, before: bytes) -> bytes:
    """Let an early exit's continuation read the stored trunk of the net `before` it, byte for byte.

    A QUANTIZE operator comes in front where the two are quantised differently.
    Raises: UnsupportedOpError where `before` gives no trunk, or one of another shape.
    """
    earlier, graph = Graph(before), Graph(flatbuffer)
    outputs = earlier.edge_outputs()
    if outputs.trunk is None or outputs.trunk_affine is None:
        raise UnsupportedOpError("continuation: the net before it has no output trunk; give it one")
    made, read = earlier.shape(outputs.trunk), graph.shape(graph.input)
    if made != read:
        raise UnsupportedOpError(f"continuation: reads a trunk of shape {read}, the net before it makes {made}")
    if graph.affine(graph.input) == outputs.trunk_affine:
        return flatbuffer
    graph.quantize_input(outputs.trunk_affine)
    return graph.finish()


def dequantise(stored: NDArray[np.int8], affine: Affine) -> Floats:
    """``scale * (stored - zero_point)``."""
    return ((stored.astype(np.float32) - affine.zero_point) * np.float32(affine.scale)).astype(np.float32)
