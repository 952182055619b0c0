"""Which bytes a graph needs when: buffers with lifetimes for the planner, and where each tensor lies in the end."""

from dataclasses import dataclass

from firmware_export.engine.graph import DType, Graph
from firmware_export.engine.layer import Layer
from firmware_export.engine.lower import alias_roots

ALIGNMENT = 4
_SIZES: dict[DType, int] = {"int8": 1, "uint8": 1, "bool": 1, "int16": 2, "int32": 4, "float32": 4, "int64": 8}


@dataclass(frozen=True)
class Lifetime:
    """Bytes that are in use from the step `first` to the step `last`, both included; steps are places of layers."""

    nbytes: int
    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Offsets in the arena."""

    tensors: dict[int, int]
    """By the number of a tensor, aliases among them; constants have none."""
    scratch: dict[int, int]
    """By the place of a layer."""
    nbytes: int


def lifetimes(graph: Graph, layers: tuple[Layer, ...]) -> tuple[dict[int, Lifetime], dict[int, Lifetime]]:
    """Lifetimes of tensors (by the number of the tensor that owns the bytes) and of scratch (by the layer's place).

    The model's inputs live from before its first layer, its outputs beyond the last one.
    """
    roots = alias_roots(graph)
    spans: dict[int, list[int]] = {roots[number]: [-1] for number in graph.inputs}
    for step, layer in enumerate(layers):
        for call in layer.calls:
            for number in (*call.reads, *call.writes):
                spans.setdefault(roots[number], []).append(step)
    for number in graph.outputs:
        spans.setdefault(roots[number], []).append(len(layers))
    tensors = {
        number: Lifetime(_nbytes(graph, number), min(steps), max(steps))
        for number, steps in spans.items()
        if graph.tensors[number].data is None
    }
    needs = {step: _aligned(layer.scratch_bytes) for step, layer in enumerate(layers)}
    scratch = {step: Lifetime(nbytes, step, step) for step, nbytes in needs.items() if nbytes}
    return tensors, scratch


def lay_out(graph: Graph, layers: tuple[Layer, ...]) -> Memory:
    """Give every tensor and every layer's scratch its place."""
    tensors, scratch = lifetimes(graph, layers)
    offsets, nbytes = _place([*tensors.values(), *scratch.values()])
    by_tensor = dict(zip(tensors, offsets, strict=False))
    by_layer = dict(zip(scratch, offsets[len(tensors) :], strict=True))
    roots = alias_roots(graph)
    every = {number: by_tensor[root] for number, root in roots.items() if root in by_tensor}
    return Memory(tensors=every, scratch=by_layer, nbytes=nbytes)


def _place(buffers: list[Lifetime]) -> tuple[list[int], int]:
    """Give the largest buffer first the lowest place that is free during its life."""
    offsets = [0] * len(buffers)
    placed: list[int] = []
    for index in sorted(range(len(buffers)), key=lambda i: (-buffers[i].nbytes, i)):
        offsets[index] = _lowest(buffers[index], [(offsets[i], buffers[i]) for i in placed])
        placed.append(index)
    return offsets, max((offsets[i] + b.nbytes for i, b in enumerate(buffers)), default=0)


def _lowest(buffer: Lifetime, placed: list[tuple[int, Lifetime]]) -> int:
    at = 0
    for offset, other in sorted((p for p in placed if _overlap(p[1], buffer)), key=lambda p: p[0]):
        if at + buffer.nbytes <= offset:
            break
        at = max(at, offset + other.nbytes)
    return at


def _overlap(a: Lifetime, b: Lifetime) -> bool:
    return a.first <= b.last and b.first <= a.last


def _nbytes(graph: Graph, number: int) -> int:
    tensor = graph.tensors[number]
    return _aligned(tensor.size * _SIZES[tensor.dtype])


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
