"""How much scratch a layer may take without making the arena larger, estimated before any memory is planned."""

from firmware_export.engine.graph import ABSENT, Graph, Op


def room_beside(graph: Graph, op: Op) -> int:
    """Bytes that the operator with the largest tensors alive needs beyond those alive at `op`, at least 0.

    Outputs count as written over the largest input that ends there, as they often are: the peak may be higher.
    """
    live = _live_bytes(graph)
    return max(live.values(), default=0) - live[op.number]


def _live_bytes(graph: Graph) -> dict[int, int]:
    spans: dict[int, list[int]] = {number: [-1] for number in graph.inputs}
    for step, op in enumerate(graph.ops):
        for number in (*op.inputs, *op.outputs):
            if number != ABSENT and graph.tensors[number].data is None:
                spans.setdefault(number, []).append(step)
    for number in graph.outputs:
        spans.setdefault(number, []).append(len(graph.ops))
    live = {}
    for step, op in enumerate(graph.ops):
        sizes = {n: graph.tensors[n].size for n, steps in spans.items() if min(steps) <= step <= max(steps)}
        ended = [size for number, size in sizes.items() if max(spans[number]) == step and number in op.inputs]
        written = sum(sizes.get(number, 0) for number in op.outputs)
        live[op.number] = sum(sizes.values()) - min(max(ended, default=0), written)
    return live
