"""Which bytes a graph needs when: buffers with lifetimes for the planner, and where each tensor lies in the end."""

from collections.abc import Iterator
from dataclasses import dataclass

from firmware_export.engine.graph import Graph
from firmware_export.engine.layer import Layer
from firmware_export.engine.lower import alias_roots
from firmware_export.engine.plan import Buffer, Share, live_bytes, plan


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Offsets in the arena."""

    tensors: dict[int, int]
    """By the number of a tensor, aliases among them; constants have none."""
    scratch: dict[int, int]
    """By the place of a layer."""
    nbytes: int
    bound_bytes: int
    """No plan takes less."""
    live: tuple[int, ...]
    """Bytes in use while each layer runs, allowed overlaps made the most of; no more than `bound_bytes`."""


def lifetimes(graph: Graph, layers: tuple[Layer, ...]) -> tuple[dict[int, Buffer], dict[int, Buffer]]:
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
        number: Buffer(size=graph.tensors[number].nbytes, first=min(steps), last=max(steps))
        for number, steps in spans.items()
        if graph.tensors[number].data is None
    }
    scratch = {
        step: Buffer(size=layer.scratch_bytes, first=step, last=step)
        for step, layer in enumerate(layers)
        if layer.scratch_bytes
    }
    return tensors, scratch


def lay_out(graph: Graph, layers: tuple[Layer, ...]) -> Memory:
    """Give every tensor and every layer's scratch its place."""
    tensors, scratch = lifetimes(graph, layers)
    buffers, shares = [*tensors.values(), *scratch.values()], list(_shares(graph, layers, tensors))
    found = plan(buffers, shares)
    by_tensor = dict(zip(tensors, found.offsets, strict=False))
    by_layer = dict(zip(scratch, found.offsets[len(tensors) :], strict=True))
    return Memory(
        tensors={number: by_tensor[root] for number, root in alias_roots(graph).items() if root in by_tensor},
        scratch=by_layer,
        nbytes=found.arena_bytes,
        bound_bytes=found.bound_bytes,
        live=_live(buffers, shares, len(layers)),
    )


def _live(buffers: list[Buffer], shares: list[Share], steps: int) -> tuple[int, ...]:
    """At a step that no buffer begins or ends with, all lie apart."""
    known = live_bytes(buffers, shares)
    apart = [sum(buffer.room for buffer in buffers if buffer.first <= step <= buffer.last) for step in range(steps)]
    return tuple(known.get(step, nbytes) for step, nbytes in enumerate(apart))


def _shares(graph: Graph, layers: tuple[Layer, ...], tensors: dict[int, Buffer]) -> Iterator[Share]:
    """Where a layer of one call may write over what it alone still reads."""
    roots, places = alias_roots(graph), {number: place for place, number in enumerate(tensors)}
    for step, layer in enumerate(layers):
        for leave in layer.calls[0].in_place if len(layer.calls) == 1 else ():
            reader, writer = roots[layer.calls[0].reads[leave.read]], roots[layer.calls[0].writes[0]]
            if reader in places and reader != writer and tensors[reader].last == step == tensors[writer].first:
                yield Share(reader=places[reader], writer=places[writer], lowest=leave.lowest, highest=leave.highest)
