"""How much scratch a layer may take without making the arena larger, estimated before any memory is planned."""

from functools import lru_cache
from itertools import accumulate

from firmware_export.engine.graph import ABSENT, Graph, Op


def room_beside(graph: Graph, op: Op) -> int:
    """Bytes that the operator with the largest tensors alive needs beyond those alive at `op`, at least 0.

    Outputs count as written over the largest input that ends there, as they often are: the peak may be higher.
    """
    live = _live_bytes(graph)
    return max(live.values(), default=0) - live[op.number]


@lru_cache(maxsize=1)
def _live_bytes(graph: Graph) -> dict[int, int]:
    """By the number of the operator; every layer of a graph asks for them."""
    first, last = _lifetimes(graph)
    changes = [0] * (len(graph.ops) + 1)
    for number, step in first.items():
        changes[step] += graph.tensors[number].size
        changes[last[number] + 1] -= graph.tensors[number].size
    live = {}
    for step, (op, alive) in enumerate(zip(graph.ops, accumulate(changes), strict=False)):
        ended = (graph.tensors[number].size for number in op.inputs if last.get(number) == step)
        written = sum(graph.tensors[number].size for number in op.outputs)
        live[op.number] = alive - min(max(ended, default=0), written)
    return live


def _lifetimes(graph: Graph) -> tuple[dict[int, int], dict[int, int]]:
    """The first and the last step at which each tensor is there, constants apart."""
    first, last = dict.fromkeys(graph.inputs, 0), dict.fromkeys(graph.inputs, 0)
    for step, op in enumerate(graph.ops):
        for number in (*op.inputs, *op.outputs):
            if number != ABSENT and graph.tensors[number].data is None:
                first.setdefault(number, step)
                last[number] = step
    return first, last | dict.fromkeys(graph.outputs, len(graph.ops) - 1)
